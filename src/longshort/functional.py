"""The doors to the cells: `rnn`, `lstm`, `slstm`, `mlstm`, one step or a sequence. The only kernel dispatch there is.

Every door takes pre-activations (or q, k, v and gates) of shape (B, T, ...), a state or None, `lengths` and `reset`,
and returns `(h, state)`: h in the input's dtype, the state in float32 or wider. Not layers: they hold no weights.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from longshort.cells.loop import steps_within
from longshort.cells.lstm import GATES, LSTMState, lstm_start
from longshort.cells.mlstm import MLSTMState, mlstm_start
from longshort.cells.rnn import NONLINEARITIES, RNNState, rnn_start
from longshort.cells.slstm import FORGET, SLSTMState, slstm_start
from longshort.shapes import Bool, Float, Int

__all__ = [
    "KERNELS",
    "LSTMState",
    "MLSTMState",
    "RNNState",
    "SLSTMState",
    "choose",
    "lstm",
    "lstm_step",
    "mlstm",
    "mlstm_step",
    "rnn",
    "rnn_step",
    "slstm",
    "slstm_step",
]

# ---- which implementation runs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """One implementation of a cell: where it is, and what it needs."""

    module: str
    function: str
    device: str | None = None
    """The only device type it runs on; None: any."""
    dtypes: tuple[torch.dtype, ...] | None = None
    """The state dtypes it computes in; None: any."""
    needs: str | None = None
    """A module that must be importable."""
    auto_from: int = 0
    """`kernel="auto"` takes it from this many steps on: below, the next one is faster."""
    on_request: bool = False
    """Only ever taken by name."""
    transforms: bool = True
    """Whether vmap, forward-mode derivatives and other transforms can look inside."""

    def why_not(self, x: Tensor) -> str | None:
        """Why it cannot run on `x`, as a sentence; None if it can."""
        if self.device is not None and x.device.type != self.device:
            return f"it runs on {self.device}, and the input is on {x.device.type}"
        if self.dtypes is not None and x.dtype not in self.dtypes:
            return f"it computes in {', '.join(map(str, self.dtypes))}, and the input is {x.dtype}"
        if self.needs is not None and find_spec(self.needs) is None:
            return f"it needs the package {self.needs}, which is not installed"
        if not self.transforms and under_transform():
            return "vmap, jvp and other transforms of functions cannot look inside it"
        return None


def under_transform() -> bool:
    """Whether a functorch transform or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


KERNELS: dict[str, dict[str, Kernel]] = {  # fastest first; the last one takes anything and defines the answer
    "rnn": {"reference": Kernel("longshort.cells.rnn", "rnn")},
    "lstm": {"reference": Kernel("longshort.cells.lstm", "lstm")},
    "slstm": {"reference": Kernel("longshort.cells.slstm", "slstm")},
    "mlstm": {
        "chunkwise": Kernel("longshort.cells.mlstm", "mlstm_chunkwise", auto_from=2, transforms=False),
        "parallel": Kernel("longshort.cells.mlstm", "mlstm_parallel", on_request=True),
        "reference": Kernel("longshort.cells.mlstm", "mlstm_reference"),
    },
}


def choose(cell: str, x: Float[Tensor, "B T ..."], kernel: str = "auto") -> Callable:
    """The implementation of `cell` to run on `x`: the one asked for, or the fastest that can."""
    table = KERNELS[cell]
    if kernel == "auto":
        steps = x.shape[1]
        kernel = next(
            name for name, k in table.items() if not k.on_request and k.auto_from <= steps and k.why_not(x) is None
        )
    elif kernel not in table:
        raise ValueError(f"{cell} has no kernel {kernel!r}; it has {', '.join(table)}, and auto")
    elif reason := table[kernel].why_not(x):
        raise ValueError(f"{cell} cannot use kernel={kernel!r} here: {reason}. Try kernel='auto'.")
    return getattr(import_module(table[kernel].module), table[kernel].function)


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
    state = start_state(state, RNNState, rnn_start(B, N, H, dtype=dtype, device=x_pre.device))
    return drive("rnn", [x_pre], state, lengths, reset, kernel, R=R, options={"nonlinearity": nonlinearity})


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
    dtype = compute_dtype(LSTMState, state, x_pre=x_pre, R=R, **({} if proj is None else {"proj": proj}))
    empty = lstm_start(B, N, H, P, dtype=dtype, device=x_pre.device)
    state = start_state(state, LSTMState, empty)
    proj = None if proj is None else proj.to(dtype)
    return drive("lstm", [x_pre], state, lengths, reset, kernel, R=R, options={"proj": proj})


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
    state = start_state(state, SLSTMState, slstm_start(B, N, H, dtype=dtype, device=x_pre.device))
    return drive("slstm", [x_pre], state, lengths, reset, kernel, R=R, options={"forget": forget})


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
    empty = mlstm_start(B, N, K, V, dtype=dtype, device=q.device)
    state = start_state(state, MLSTMState, empty)
    inputs = [q, k, v, i_pre, f_pre]
    return drive("mlstm", inputs, state, lengths, reset, kernel, options={"chunk_size": chunk_size, "eps": eps})


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


def slstm_step(x_pre: Float[Tensor, "B 4 N H"], R, state: SLSTMState | None = None, *, reset=None, **options):
    """One time step of `slstm`: the same arguments less T (and no lengths); returns h (B, N, H) and the state."""
    return one_step(slstm, [x_pre], R, state, reset=reset, **options)


def mlstm_step(
    q: Float[Tensor, "B N K"], k, v, i_pre, f_pre, state: MLSTMState | None = None, *, reset=None, **options
):
    """One time step of `mlstm`: the same arguments less T (and no lengths); returns h (B, N, V) and the state."""
    return one_step(mlstm, [q, k, v, i_pre, f_pre], state, reset=reset, **options)


# ---- what every door does --------------------------------------------------------------------------------------------


def drive(
    cell: str, inputs: list[Tensor], state, lengths, reset, kernel: str, *, options: dict, R: Tensor | None = None
):
    """Clean the inputs, run the chosen kernel in the state's dtype, and hand back h in the input's dtype."""
    x = inputs[0]
    B, T = x.shape[:2]
    lengths, reset = check_lengths(lengths, B, T, x.device), check_reset(reset, B, T)
    compute = choose(cell, x, kernel)
    if 0 in (B, T):
        width = state.C.shape[-1] if cell == "mlstm" else state.h.shape[-1]
        return x.new_zeros(B, T, state[0].shape[1], width), state
    valid = None if lengths is None else steps_within(lengths, T)
    dtype = state[0].dtype
    inputs = [clean(each, valid).to(dtype) for each in inputs]
    weights = () if R is None else (R.to(dtype),)
    with without_autocast(x.device.type):  # gates, states and sums stay in the state's dtype
        h, state = compute(*inputs, *weights, state, lengths=lengths, reset=reset, **options)
    return clean(h, valid).to(x.dtype), state


def without_autocast(device: str) -> AbstractContextManager:
    """No autocast inside, on the devices that know it."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def clean(x: Float[Tensor, "B T ..."], valid: Bool[Tensor, "B T"] | None) -> Tensor:
    """Zero past each row's end, by `where`: whatever stands in the padding, NaN too, is never multiplied."""
    return x if valid is None else torch.where(valid.view(*valid.shape, *[1] * (x.dim() - 2)), x, 0)


def compute_dtype(kind: type, state, **tensors: Tensor) -> torch.dtype:
    """The dtype of states and sums: float32, or wider if any tensor is. All must be floating point."""
    if state is not None and not (
        isinstance(state, tuple) and len(state) == len(kind._fields) and all(isinstance(x, Tensor) for x in state)
    ):
        raise ValueError(
            f"state must be a {kind.__name__}({', '.join(kind._fields)}) of tensors, or None, got {state!r}"
        )
    tensors |= {} if state is None else {f"state.{name}": x for name, x in zip(kind._fields, state, strict=True)}
    dtype = torch.float32
    for name, x in tensors.items():
        if not x.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {x.dtype}")
        dtype = torch.promote_types(dtype, x.dtype)
    return dtype


def start_state(state, kind: type, empty):
    """The given state, its shapes checked, in the compute dtype; or the empty one."""
    if state is None:
        return empty
    for name, given, want in zip(kind._fields, state, empty, strict=True):
        if given.shape != want.shape:
            raise ValueError(f"state.{name} has shape {tuple(given.shape)}; these inputs take {tuple(want.shape)}")
    return kind(*(given.to(want.dtype) for given, want in zip(state, empty, strict=True)))


def shape_of(name: str, x: Tensor, axes: str) -> torch.Size:
    """The shape of `x`, once it has as many axes as it should."""
    if x.dim() != len(axes.split()):
        raise ValueError(f"{name} must be ({', '.join(axes.split())}), got shape {tuple(x.shape)}")
    return x.shape


def expect(name: str, x: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} must be {meaning} = {shape} here, got {tuple(x.shape)}")


def one_of(name: str, value: str, allowed) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")


def check_lengths(lengths, B: int, T: int, device: torch.device) -> Int[Tensor, "B"] | None:
    if lengths is None:
        return None
    lengths = torch.as_tensor(lengths)
    lengths = lengths if lengths.numel() else lengths.long()
    if lengths.shape != (B,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(
            f"lengths must be {B} whole numbers, one a row, got shape {tuple(lengths.shape)} of {lengths.dtype}"
        )
    # Reading values off an accelerator would stall it, and inside a transform there are none to read.
    readable = lengths.device.type == "cpu" and not torch._C._are_functorch_transforms_active()
    if readable and B and (int(lengths.min()) < 0 or int(lengths.max()) > T):
        raise ValueError(f"lengths must be between 0 and T={T}, got {lengths.min()} to {lengths.max()}")
    return lengths.to(device)


def check_reset(reset, B: int, T: int) -> Bool[Tensor, "B T"] | None:
    if reset is not None and not (isinstance(reset, Tensor) and reset.shape == (B, T) and reset.dtype == torch.bool):
        got = f"{tuple(reset.shape)} of {reset.dtype}" if isinstance(reset, Tensor) else repr(reset)
        raise ValueError(f"reset must be a bool tensor (B, T) = ({B}, {T}), got {got}")
    return reset
