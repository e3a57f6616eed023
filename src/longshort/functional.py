"""The doors to the cells: `rnn`, `lstm`, `gru`, `slstm`, `mlstm`, one step or a sequence.

Every door takes pre-activations (or q, k, v and gates) of shape (B, T, ...), a state or None, `lengths` and `reset`,
and returns `(h, state)`: h in the input's dtype, the state in float32 or wider. Not layers: they hold no weights.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor

from longshort.cells import native
from longshort.cells.derivatives import wants_gradients
from longshort.cells.gru import GRUState, gru_start
from longshort.cells.loop import Empty, check_within, readable
from longshort.cells.lstm import GATES, LSTMState, lstm_start
from longshort.cells.mlstm import MLSTMState, mlstm_start
from longshort.cells.rnn import NONLINEARITIES, RNNState, rnn_start
from longshort.cells.slstm import FORGET, SLSTMState, slstm_start
from longshort.kernels import KERNELS, all_float32, check_name, choose, recording, straight, under_transform
from longshort.operators import call_operator, run_cell
from longshort.shapes import Bool, Float, Int

__all__ = [
    "KERNELS",
    "GRUState",
    "LSTMState",
    "MLSTMState",
    "RNNState",
    "SLSTMState",
    "choose",
    "gru",
    "gru_step",
    "lstm",
    "lstm_step",
    "mlstm",
    "mlstm_step",
    "rnn",
    "rnn_step",
    "slstm",
    "slstm_step",
    "watch",
]

# ---- the doors -------------------------------------------------------------------------------------------------------


def rnn(
    x_pre: Float[Tensor, "B T N H"],
    R: Float[Tensor, "N H H"],
    state: RNNState | None = None,
    *,
    nonlinearity: str = "tanh",
    lengths: Int[Tensor, "B"] | Sequence[int] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    kernel: str = "auto",
) -> tuple[Float[Tensor, "B T N H"], RNNState]:
    """Run an Elman RNN over a sequence: h_t = tanh(x_pre_t + R h_{t-1}).

    Args:
        x_pre: what the input gives each unit, bias included.
        R: recurrent weights, (out, in) within each head.
        state: where to start; None is empty.
        nonlinearity: "tanh" or "relu".
        lengths: row b stops after lengths[b] steps: outputs beyond are 0, its last state is the one at its end.
        reset: where true, the state is emptied before that step.
        kernel: a name in `KERNELS["rnn"]`, or "auto".

    Returns:
        The output at every step, and the state after the last.

    >>> h, state = rnn(torch.zeros(2, 5, 1, 3), torch.zeros(1, 3, 3))
    >>> h.shape, state.h.shape
    (torch.Size([2, 5, 1, 3]), torch.Size([2, 1, 3]))
    """
    B, _, N, H = shape_of("x_pre", x_pre, "B T N H")
    expect("R", R, (N, H, H), "(N, H, H)")
    one_of("nonlinearity", nonlinearity, NONLINEARITIES)
    dtype = compute_dtype(RNNState, state, x_pre=x_pre, R=R)
    start = start_state(state, RNNState, rnn_start, (B, N, H), [(B, N, H)], dtype, x_pre.device)
    return drive("rnn", [x_pre], {"R": R}, start, lengths, reset, kernel, {"nonlinearity": nonlinearity})


def lstm(
    x_pre: Float[Tensor, "B T G N H"],
    R: Float[Tensor, "G N H P"],
    state: LSTMState | None = None,
    *,
    proj: Float[Tensor, "N P H"] | None = None,
    forget: str = "learned",
    lengths: Int[Tensor, "B"] | Sequence[int] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    kernel: str = "auto",
) -> tuple[Float[Tensor, "B T N P"], LSTMState]:
    """Run an LSTM over a sequence. Hochreiter & Schmidhuber 1997; forget gate Gers et al. 2000.

    Args:
        x_pre: the gates' pre-activations W x + b, in PyTorch's order i f g o (i g o with `forget="one"`).
        R: recurrent weights, (out, in) within each gate and head.
        state: where to start; None is empty.
        proj: projects each head's output to width P, as `nn.LSTM(proj_size=P)` does; without it P = H.
        forget: "learned", or "one": no forget gate, the carousel of 1997 (with tanh squashing).
        lengths, reset, kernel: as for `rnn`.

    >>> h, (h_last, c_last) = lstm(torch.zeros(2, 5, 4, 1, 3), torch.zeros(4, 1, 3, 3))
    >>> h.shape, c_last.shape
    (torch.Size([2, 5, 1, 3]), torch.Size([2, 1, 3]))
    """
    one_of("forget", forget, GATES)
    B, _, G, N, H = shape_of("x_pre", x_pre, "B T G N H")
    if GATES[forget] != G:
        raise ValueError(f"forget={forget!r} takes {GATES[forget]} gates, x_pre has {G}: (B, T, {GATES[forget]}, N, H)")
    P = H if proj is None else proj.shape[1]
    if proj is not None:
        expect("proj", proj, (N, P, H), "(N, P, H)")
    expect("R", R, (G, N, H, P), "(G, N, H, P)")
    dtype = compute_dtype(LSTMState, state, x_pre=x_pre, R=R, proj=proj)
    start = start_state(state, LSTMState, lstm_start, (B, N, H, P), [(B, N, P), (B, N, H)], dtype, x_pre.device)
    return drive("lstm", [x_pre], {"R": R, "proj": proj}, start, lengths, reset, kernel, {})


def gru(
    x_pre: Float[Tensor, "B T 3 N H"],
    R: Float[Tensor, "3 N H H"],
    state: GRUState | None = None,
    *,
    bias: Float[Tensor, "N H"] | None = None,
    lengths: Int[Tensor, "B"] | Sequence[int] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    kernel: str = "auto",
) -> tuple[Float[Tensor, "B T N H"], GRUState]:
    """Run a GRU over a sequence, as PyTorch and cuDNN compute it. Cho et al. 2014 (1406.1078).

    Args:
        x_pre: the gates' pre-activations W x + b, in PyTorch's order r z n.
        R: recurrent weights, (out, in) within each gate and head.
        state: where to start; None is empty.
        bias: the candidate's recurrent bias, which the reset gate scales: n = tanh(x_n + r (R_n h + bias)).
        lengths, reset, kernel: as for `rnn`.

    >>> h, state = gru(torch.zeros(2, 5, 3, 1, 3), torch.zeros(3, 1, 3, 3))
    >>> h.shape, state.h.shape
    (torch.Size([2, 5, 1, 3]), torch.Size([2, 1, 3]))
    """
    B, T, _, N, H = shape_of("x_pre", x_pre, "B T 3 N H")
    expect("x_pre", x_pre, (B, T, 3, N, H), "(B, T, 3, N, H)")
    expect("R", R, (3, N, H, H), "(3, N, H, H)")
    if bias is not None:
        expect("bias", bias, (N, H), "(N, H)")
    dtype = compute_dtype(GRUState, state, x_pre=x_pre, R=R, bias=bias)
    start = start_state(state, GRUState, gru_start, (B, N, H), [(B, N, H)], dtype, x_pre.device)
    return drive("gru", [x_pre], {"R": R, "bias": bias}, start, lengths, reset, kernel, {})


def slstm(
    x_pre: Float[Tensor, "B T 4 N H"],
    R: Float[Tensor, "4 N H H"],
    state: SLSTMState | None = None,
    *,
    forget: str = "sigmoid",
    lengths: Int[Tensor, "B"] | Sequence[int] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    kernel: str = "auto",
) -> tuple[Float[Tensor, "B T N H"], SLSTMState]:
    """Run an sLSTM over a sequence: exponential gates, normaliser, stabiliser (2405.04517, equations (8)-(17)).

    Args:
        x_pre: the gates' pre-activations W x + b, in the paper's order i f z o.
        R: recurrent weights, (out, in) within each gate and head.
        state: where to start; None is empty. Elements whose n is 0 count as empty.
        forget: "sigmoid" or "exp".
        lengths, reset, kernel: as for `rnn`.

    >>> h, state = slstm(torch.zeros(2, 5, 4, 1, 3), torch.zeros(4, 1, 3, 3))
    >>> h.shape, state.n.min()
    (torch.Size([2, 5, 1, 3]), tensor(1.9375))
    """
    one_of("forget", forget, FORGET)
    B, T, _, N, H = shape_of("x_pre", x_pre, "B T 4 N H")
    expect("x_pre", x_pre, (B, T, 4, N, H), "(B, T, 4, N, H)")
    expect("R", R, (4, N, H, H), "(4, N, H, H)")
    dtype = compute_dtype(SLSTMState, state, x_pre=x_pre, R=R)
    start = start_state(state, SLSTMState, slstm_start, (B, N, H), [(B, N, H)] * 4, dtype, x_pre.device)
    return drive("slstm", [x_pre], {"R": R}, start, lengths, reset, kernel, {"forget": forget})


def mlstm(
    q: Float[Tensor, "B T N K"],
    k: Float[Tensor, "B T N K"],
    v: Float[Tensor, "B T N V"],
    i_pre: Float[Tensor, "B T N"],
    f_pre: Float[Tensor, "B T N"],
    state: MLSTMState | None = None,
    *,
    chunk_size: int = 64,
    eps: float = 0.0,
    lengths: Int[Tensor, "B"] | Sequence[int] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    kernel: str = "auto",
) -> tuple[Float[Tensor, "B T N V"], MLSTMState]:
    """Run an mLSTM over a sequence: matrix memory, normaliser, stabiliser (2405.04517, equations (19)-(27)).

    Args:
        q, k, v: queries, keys and values. q is scaled by K**-0.5 here; k is stored as it is.
        i_pre, f_pre: pre-activations of the exponential input gate and the sigmoid forget gate.
        state: where to start; None is empty.
        chunk_size: steps a chunk of the chunkwise form holds. Changes speed, never results.
        eps: added to the denominator after its maximum, as NX-AI's and Hugging Face's models do (1e-6).
        lengths, reset: as for `rnn`.
        kernel: "chunkwise" (linear in T), "parallel" (quadratic), "reference" (step by step), or "auto".

    >>> q = k = torch.zeros(2, 5, 1, 3); v = torch.zeros(2, 5, 1, 4); gate = torch.zeros(2, 5, 1)
    >>> h, state = mlstm(q, k, v, gate, gate)
    >>> h.shape, state.C.shape
    (torch.Size([2, 5, 1, 4]), torch.Size([2, 1, 3, 4]))
    """
    B, T, N, K = shape_of("q", q, "B T N K")
    V = shape_of("v", v, "B T N V")[-1]
    expect("k", k, (B, T, N, K), "(B, T, N, K), q's shape")
    expect("v", v, (B, T, N, V), "(B, T, N, V)")
    expect("i_pre", i_pre, (B, T, N), "(B, T, N)")
    expect("f_pre", f_pre, (B, T, N), "(B, T, N)")
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: a chunk holds at least 1 step")
    dtype = compute_dtype(MLSTMState, state, q=q, k=k, v=v, i_pre=i_pre, f_pre=f_pre)
    shapes = [(B, N, K, V), (B, N, K), (B, N)]
    start = start_state(state, MLSTMState, mlstm_start, (B, N, K, V), shapes, dtype, q.device)
    inputs = [q, k, v, i_pre, f_pre]
    if lengths is None and reset is None and at_once(state, kernel) and T == 1:
        done = native.mlstm_step(q, k, v, i_pre, f_pre, state, eps, sequence=True)
        if done is not None:
            return done
    return drive("mlstm", inputs, {}, start, lengths, reset, kernel, {"chunk_size": chunk_size, "eps": eps})


def one_step(door: Callable, inputs: Sequence[Tensor], *args, reset: Tensor | None, **options):
    """Call a door for one time step: the inputs less T."""
    reset = None if reset is None else reset[:, None]
    h, state = door(*(x.unsqueeze(1) for x in inputs), *args, reset=reset, **options)
    return h.squeeze(1), state


def rnn_step(x_pre: Float[Tensor, "B N H"], R, state: RNNState | None = None, *, reset=None, **options):
    """One time step of `rnn`: the same arguments less T (and no lengths); returns h (B, N, H) and the state."""
    return one_step(rnn, [x_pre], R, state, reset=reset, **options)


def lstm_step(x_pre: Float[Tensor, "B G N H"], R, state: LSTMState | None = None, *, reset=None, **options):
    """One time step of `lstm`: the same arguments less T (and no lengths); returns h (B, N, P) and the state."""
    return one_step(lstm, [x_pre], R, state, reset=reset, **options)


def gru_step(x_pre: Float[Tensor, "B 3 N H"], R, state: GRUState | None = None, *, reset=None, **options):
    """One time step of `gru`: the same arguments less T (and no lengths); returns h (B, N, H) and the state."""
    return one_step(gru, [x_pre], R, state, reset=reset, **options)


def slstm_step(x_pre: Float[Tensor, "B 4 N H"], R, state: SLSTMState | None = None, *, reset=None, **options):
    """One time step of `slstm`: the same arguments less T (and no lengths); returns h (B, N, H) and the state."""
    return one_step(slstm, [x_pre], R, state, reset=reset, **options)


def mlstm_step(
    q: Float[Tensor, "B N K"],
    k: Float[Tensor, "B N K"],
    v: Float[Tensor, "B N V"],
    i_pre: Float[Tensor, "B N"],
    f_pre: Float[Tensor, "B N"],
    state: MLSTMState | None = None,
    *,
    eps: float = 0.0,
    reset: Bool[Tensor, "B"] | None = None,
    kernel: str = "auto",
    inplace: bool = False,
    **options,
) -> tuple[Float[Tensor, "B N V"], MLSTMState]:
    """One time step of `mlstm`: the same arguments less T (and no lengths); returns h and the state.

    Args:
        inplace: write the new state over the given one, and return that. For decoding: it asks for a state of the dtype
            the step computes in, and for no gradients. The C++ core does it where the state lies, of plain float32
            tensors, contiguous, without reset; elsewhere the new state is computed first and copied then.

    >>> q = k = torch.ones(2, 1, 3); v = torch.ones(2, 1, 4); gate = torch.zeros(2, 1)
    >>> h, state = mlstm_step(q, k, v, gate, gate)
    >>> with torch.no_grad():
    ...     h, same = mlstm_step(q, k, v, gate, gate, state, inplace=True)
    >>> same is state
    True
    """
    if reset is None and not options and at_once(state, kernel):
        done = native.mlstm_step(q, k, v, i_pre, f_pre, state, eps, inplace=inplace)
        if done is not None:
            return done
    if inplace:
        check_overwritable(state, q=q, k=k, v=v, i_pre=i_pre, f_pre=f_pre)
    inputs = [q, k, v, i_pre, f_pre]
    kept = MLSTMState(*(x.clone() for x in state)) if inplace and state and watchers() else state
    h, last = one_step(mlstm, inputs, kept, reset=reset, eps=eps, kernel=kernel, **options)
    if not inplace:
        return h, last
    assert state is not None
    for x, new in zip(state, last, strict=True):
        x.copy_(new)
    return h, state if isinstance(state, MLSTMState) else MLSTMState(*state)


def check_overwritable(state: MLSTMState | None, **inputs: Tensor) -> None:
    """Refuse to write a step's new state over this one where something would be lost by it."""
    if state is None:
        raise ValueError("inplace=True overwrites a state, and none was given: take the first step without it")
    dtype = compute_dtype(MLSTMState, state, **inputs)
    for name, x in zip(MLSTMState._fields, state, strict=True):
        if x.dtype != dtype:
            raise ValueError(f"inplace=True would round the state: state.{name} is {x.dtype}, the step gives {dtype}")
        if any(step == 0 and n > 1 for n, step in zip(x.shape, x.stride(), strict=True)):
            raise ValueError(
                f"inplace=True cannot overwrite state.{name}: it is expanded, its strides {x.stride()}; clone it"
            )
        if x.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(
                f"inplace=True cannot overwrite state.{name} here: it was made in inference mode; clone it"
            )
    if wants_gradients([*inputs.values(), *state]):
        raise ValueError(
            "inplace=True overwrites what gradients are computed from: use torch.no_grad(), or leave inplace out"
        )


def at_once(state: Any, kernel: str) -> TypeGuard[MLSTMState]:
    """Whether one step of an mLSTM may go straight to the C++ core, as far as the tensors allow."""
    return type(state) is MLSTMState and straight(kernel, ()) and not WATCHING.lists


def heads_on_one_axis(
    cell: str,
    x_pre: Float[Tensor, "B T D"],
    R: Tensor,
    state: Any,
    *,
    heads: int,
    units: int,
    width: int,
    more: Tensor | None,
    kernel: str,
    **options: str,
) -> tuple[Tensor, Any] | None:
    """What a recurrent layer's cell gives without gradients, at once from the C++ core; None where it must take a door.

    Gates, heads and units lie on one axis, as a layer has them: to part them and bring them together again takes a
    small layer longer than its step.

    Args:
        units, width: of a gate and of h, all heads together.
        more: a GRU's bias or an LSTM's projection; or None.
        options: as the door takes them.
    """
    fields = () if state is None else state
    tensors = x_pre, R, more, *fields
    if not straight(kernel, tensors) or watchers() or wants_gradients(tensors):
        return None
    return native.heads_on_one_axis(cell, options, x_pre, R, more, heads, units, width, fields)


# ---- looking on ------------------------------------------------------------------------------------------------------


@dataclass
class Call:
    """One call of a door, seen from inside."""

    cell: str
    start: dict[str, Tensor]
    """The state it began with, by name."""
    length: int
    """The steps of its input, T."""
    lengths: Tensor | None
    steps: list[Any] = field(default_factory=list)
    """Every step's quantities, by name."""
    around: dict[str, Tensor] = field(default_factory=dict)
    """What the layer computed with its outputs: sequences (B, T, N, ...), by name."""


class Watching(threading.local):
    """The lists that calls are told to: each thread has its own."""

    def __init__(self):
        self.lists: list[list[Call]] = []


WATCHING = Watching()


def watchers() -> list[list[Call]]:
    """Who watches here and now."""
    return [] if torch.compiler.is_compiling() else WATCHING.lists


@contextmanager
def watch() -> Iterator[list[Call]]:
    """A list of every call of a door by this thread, while this lasts. Each runs the reference and keeps its steps."""
    calls: list[Call] = []
    WATCHING.lists.append(calls)
    try:
        yield calls
    finally:
        WATCHING.lists[:] = [each for each in WATCHING.lists if each is not calls]


def run_watched(cell: str, inputs, weights: dict, state, lengths, reset, kernel: str, options: dict):
    """`run_cell` with the reference, for whoever watches."""
    call = Call(cell, state._asdict(), inputs[0].shape[1], lengths)
    h, last = run_cell(cell, inputs, weights, state, lengths, reset, "reference", options | {"seen": call.steps})
    for calls in watchers():
        calls.append(call)
    return h, last


def note(**sequences: Float[Tensor, "B T N ..."]) -> None:
    """Tell whoever watches what a layer computed around its last call."""
    for calls in watchers():
        calls[-1].around |= sequences


# ---- what every door does --------------------------------------------------------------------------------------------


def drive(cell: str, inputs: list[Tensor], weights: dict, state, lengths, reset, kernel: str, options: dict):
    """Check what every door takes, and run the cell: at once, or as one operator where a program is being recorded."""
    B, T = inputs[0].shape[:2]
    if lengths is None and reset is None:
        fields = () if isinstance(state, Empty) else state
        if straight(kernel, (*inputs, *weights.values(), *fields)) and not watchers():
            return KERNELS[cell]["native"].implementation(*inputs, **weights, state=state, **options)
    lengths, reset = check_lengths(lengths, B, T, inputs[0].device), check_reset(reset, (B, T), "(B, T)")
    call: Callable = run_cell
    if recording() and not under_transform():  # a transform looks inside: no operator
        call = call_operator
    elif watchers():
        call = run_watched
    if call is not run_cell:
        check_name(cell, kernel)
        state = state.made() if isinstance(state, Empty) else state
    return call(cell, inputs, weights, state, lengths, reset, kernel, options)


def compute_dtype(kind: type, state, **tensors: Tensor | None) -> torch.dtype:
    """The dtype of states and sums: float32, or wider if any tensor is. All must be floating point."""
    if state is None:
        fields = ()
    elif isinstance(state, tuple) and len(state) == len(kind._fields) and all(isinstance(x, Tensor) for x in state):
        fields = state
    else:
        raise ValueError(
            f"state must be a {kind.__name__}({', '.join(kind._fields)}) of tensors, or None, got {state!r}"
        )
    dtype = torch.float32
    if all_float32(*tensors.values(), *fields):
        return dtype
    named = tensors | {f"state.{name}": x for name, x in zip(kind._fields, fields, strict=False)}
    for name, x in named.items():
        if x is None:
            continue
        if not x.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {x.dtype}")
        dtype = torch.promote_types(dtype, x.dtype)
    return dtype


def start_state(state, kind: type, start: Callable, sizes: Sequence[int], shapes, dtype: torch.dtype, device) -> Any:
    """The given state, its `shapes` checked, in the compute dtype; or the empty one, yet to be made."""
    if state is None:
        return Empty(start, sizes, dtype, device)
    for name, given, want in zip(kind._fields, state, shapes, strict=True):
        if given.shape != want:
            raise ValueError(f"state.{name} has shape {tuple(given.shape)}; these inputs take {want}")
    return kind(*[x if x.dtype is dtype else x.to(dtype) for x in state])


def shape_of(name: str, x: Tensor, axes: str) -> torch.Size:
    """The shape of `x`, once it has as many axes as it should."""
    if x.dim() != axes.count(" ") + 1:
        raise ValueError(f"{name} must be ({', '.join(axes.split())}), got shape {tuple(x.shape)}")
    return x.shape


def expect(name: str, x: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    if x.shape != shape:
        raise ValueError(f"{name} must be {meaning} = {shape} here, got {tuple(x.shape)}")


def one_of(name: str, value: str | None, allowed) -> None:
    if value not in list(allowed):
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")


def whole_numbers(lengths) -> Tensor:
    """`lengths` as a tensor; a list's numbers on the CPU. (`as_tensor` would compile anew for each.)"""
    return lengths if isinstance(lengths, Tensor) else torch.tensor(lengths, device="cpu")


def check_lengths(lengths, B: int, T: int, device: torch.device) -> Int[Tensor, "B"] | None:
    if lengths is None:
        return None
    given = lengths
    try:
        lengths = whole_numbers(lengths)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"lengths must be {B} whole numbers, one a row, got {type(given).__name__} {given!r}"
        ) from None
    lengths = lengths if lengths.numel() else lengths.long()
    whole = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
    if lengths.shape != (B,) or not whole:
        raise ValueError(
            f"lengths must be {B} whole numbers, one a row, got shape {tuple(lengths.shape)} of {lengths.dtype}"
        )
    here = lengths.long()
    there = here.to(device)
    for each in (here, there):
        if readable(each):
            check_within(each, T)
            break
    return there


def check_reset(reset, shape: Sequence[int], meaning: str) -> Bool[Tensor, "..."] | None:
    """`reset`, once it is bool and has the one shape it can have here."""
    if reset is not None and not (isinstance(reset, Tensor) and reset.shape == shape and reset.dtype == torch.bool):
        got = f"{tuple(reset.shape)} of {reset.dtype}" if isinstance(reset, Tensor) else f"a {type(reset).__name__}"
        raise ValueError(f"reset must be a bool tensor {meaning} = {tuple(shape)}, got {got}")
    return reset
