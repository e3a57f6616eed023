"""The cells on the CPU in C++ (`cpp/`): the same answers as the references, with exact gradients, many times faster.

Float32 inside. `core.py` loads the library. Differentiating a backward again goes through the reference.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from longshort.cells.core import (
    LARGE,
    MEMORY,
    MEMORY_STEP,
    PRODUCT,
    RECURRENCE,
    Chosen,
    as_is,
    contiguous,
    functions,
    pointer,
    room,
    side_by_side,
    threads,
    to_16,
)
from longshort.cells.derivatives import differentiable, looked_into, wants_gradients
from longshort.cells.gru import GRUState
from longshort.cells.gru import gru as gru_reference
from longshort.cells.loop import Empty, check_within, readable, without_autocast
from longshort.cells.lstm import LSTMState
from longshort.cells.lstm import lstm as lstm_reference
from longshort.cells.mlstm import MLSTMState, mlstm_chunkwise
from longshort.cells.rnn import RNNState
from longshort.cells.rnn import rnn as rnn_reference
from longshort.cells.slstm import SLSTMState
from longshort.cells.slstm import slstm as slstm_reference
from longshort.shapes import Bool, Float, Int

# ---- the recurrent cells ---------------------------------------------------------------------------------------------


class InCore(NamedTuple):
    """What the core knows of a cell: its number there, its gates, what a unit keeps of a step, and the reference."""

    number: int
    gates: int
    keeps: int
    differentiable: int
    """How many of its states carry gradients."""
    state: Any
    reference: Callable
    more: str = ""
    """The name of a weight beside R."""
    option: str = ""
    """The name of its option."""
    choices: tuple[str, ...] = ("",)
    """The values of that, as the core counts them."""


RECURRENT = {
    "rnn": InCore(0, 1, 0, 1, RNNState, rnn_reference, option="nonlinearity", choices=("tanh", "relu")),
    "lstm": InCore(1, 4, 5, 2, LSTMState, lstm_reference, "proj", option="forget", choices=("learned", "one")),
    "gru": InCore(2, 3, 4, 1, GRUState, gru_reference, "bias"),
    "slstm": InCore(3, 4, 6, 3, SLSTMState, slstm_reference, option="forget", choices=("sigmoid", "exp")),
}


def recurrent_forward(cell: str, option: int, lengths, reset, keep: bool, x_pre: Tensor, R, more, *state: Tensor):
    """h, the last states, and what the backward needs (None unless `keep`). No state: the empty one."""
    kind, (B, T, *_, N, H), P = RECURRENT[cell], x_pre.shape, R.shape[-1]
    x_pre = side_by_side(x_pre)
    h, last = room(B, T, N, P), [room(B, N, P), *[room(B, N, H) for _ in kind.state._fields[1:]]]
    saved = room(B * T * N * kind.keeps * to_16(H)) if keep and kind.keeps else None
    by_row, by_step, *by_gate, by_head, _ = x_pre.stride()
    strides = by_row, by_step, by_gate[0] if by_gate else 0, by_head
    launch(kind, (B, T, N, H, P), option, x_pre, strides, R, more, lengths, reset, state, last, h, saved)
    return h, last, saved


def launch(kind: InCore, sizes, option: int, x_pre, strides, R, more, lengths, reset, start, last, h, saved) -> None:
    """Have the core run a recurrent cell forward. Sizes are B, T, N, H, P; strides x_pre's of row, step, gate, head."""
    R, more, start = contiguous(R), contiguous(more), [contiguous(x) for x in start]
    call = RECURRENCE.pack(
        *sizes, threads(), option, x_pre.data_ptr(), *strides,
        R.data_ptr(), pointer(more), pointer(lengths), pointer(reset),
        *padded([x.data_ptr() for x in start], 4), *padded([x.data_ptr() for x in last], 4),
        h.data_ptr(), pointer(saved), *[0] * 13,
    )  # fmt: skip
    functions().longshort_recurrent(Chosen.variant, kind.number, 0, call)


def heads_on_one_axis(
    cell: str,
    options: dict[str, str],
    x_pre: Float[Tensor, "B T D"],
    R,
    more,
    heads: int,
    units: int,
    width: int,
    state,
) -> tuple[Tensor, Any] | None:
    """A recurrent cell without gradients, gates, heads and units on one axis; None where a size or option is amiss.

    h is (B, T, width), as the state's h is (B, width); its other fields are (B, units).
    """
    kind, (B, T, _) = RECURRENT[cell], x_pre.shape
    value = options.get(kind.option, "")
    if value not in kind.choices:
        return None
    option, H, P = kind.choices.index(value), units // heads, width // heads
    G = kind.gates - (cell == "lstm" and option)  # the carousel of 1997 has no forget gate
    as_it_lies = (G, heads, H, P) if cell == "slstm" else (G * units, P)
    if R.shape != as_it_lies or x_pre.shape[2] != G * units or x_pre.stride(2) != 1:
        return None
    if more is not None and more.shape != ((width, H) if kind.more == "proj" else (units,)):
        return None
    h, last = room(B, T, width), [room(B, width), *[room(B, units) for _ in kind.state._fields[1:]]]
    strides = *x_pre.stride()[:2], units, H
    launch(kind, (B, T, heads, H, P), option, x_pre, strides, R, more, None, None, state, last, h, None)
    return h, kind.state(*last)


def recurrent_backward(
    variant: int, cell: str, option: int, lengths, reset, x_pre, R, more, state, h, saved, dh, d_last, learns: bool
):
    """The gradients of x_pre, R, more and, if the start state `learns`, of its fields that have one."""
    B, T, N, H, P = *x_pre.shape[:2], *x_pre.shape[-2:], R.shape[-1]
    R, more, state = contiguous(R), contiguous(more), [contiguous(x) for x in state]
    lengths, reset, h, saved = map(contiguous, (lengths, reset, h, saved))
    as_saved(h, saved)
    dh = None if dh is None else side_by_side(dh)
    d_last = [contiguous(x) for x in d_last[: RECURRENT[cell].differentiable]]
    d_x_pre, d_R, d_more = room(*x_pre.shape), torch.zeros_like(R), None
    if more is not None:
        d_more = torch.zeros_like(more, memory_format=torch.contiguous_format)
    d_start = [room(*x.shape) for x in state[: RECURRENT[cell].differentiable]] if learns else []
    call = RECURRENCE.pack(
        B, T, N, H, P, threads(), option, 0, 0, 0, 0, 0, R.data_ptr(), pointer(more), pointer(lengths), pointer(reset),
        *padded([x.data_ptr() for x in state], 4), *[0] * 4, h.data_ptr(), pointer(saved),
        pointer(dh), *((0, 0, 0) if dh is None else dh.stride()[:3]), *padded([pointer(x) for x in d_last], 3),
        d_x_pre.data_ptr(), d_R.data_ptr(), pointer(d_more), *padded([x.data_ptr() for x in d_start], 3),
    )  # fmt: skip
    functions().longshort_recurrent(variant, RECURRENT[cell].number, 1, call)
    return d_x_pre, d_R, d_more, *d_start


def as_saved(*tensors: Tensor | None) -> None:
    """Whatever packed the saved tensors (`saved_tensors_hooks`) must have unpacked them as they were."""
    for x in tensors:
        if x is not None and (x.dtype != torch.float32 or not x.is_cpu):
            raise RuntimeError(
                f"a tensor saved for the backward came back as {x.dtype} on {x.device}, not float32 on cpu"
            )


def as_read(lengths: Tensor | None, T: int) -> Tensor | None:
    """`lengths` as the core reads them. Those that the doors could not look at are checked here: it trusts them."""
    if lengths is None:
        return None
    if not readable(lengths):
        check_within(lengths, T)
    return contiguous(lengths.detach().to("cpu", torch.long))


def padded(pointers: list[int], n: int) -> list[int]:
    return pointers + [0] * (n - len(pointers))


class RecurrentCell(torch.autograd.Function):
    """A recurrent cell over a sequence, and its exact gradient."""

    @staticmethod
    def forward(ctx, cell, option, lengths, reset, options, empty, x_pre, R, more, *state):
        h, last, saved = recurrent_forward(cell, option, lengths, reset, True, x_pre, R, more, *state)
        ctx.cell, ctx.option, ctx.options, ctx.empty, ctx.variant = cell, option, options, empty, Chosen.variant
        ctx.save_for_backward(lengths, reset, h, saved, x_pre, R, more, *state)
        ctx.set_materialize_grads(False)
        if cell == "slstm":
            ctx.mark_non_differentiable(last[3])
        return h, *last

    @staticmethod
    def backward(ctx, dh, *d_last):  # type: ignore[override]
        lengths, reset, h, saved, x_pre, R, more, *state = ctx.saved_tensors
        given = (dh, *d_last)
        kind, none = RECURRENT[ctx.cell], (None,) * 6
        if all(x is None for x in given[: 1 + kind.differentiable]):
            return (*none, *[None] * (3 + len(state)))
        with without_autocast("cpu"):
            if looked_into(given):
                extra = [] if more is None else [more]

                def again(x_pre, R, *rest):
                    options = ctx.options | ({kind.more: rest[0]} if extra else {})
                    start = kind.state(*rest[len(extra) :]) if state else ctx.empty.made()
                    h, last = kind.reference(x_pre, R, state=start, lengths=lengths, reset=reset, **options)
                    return h, *last[: kind.differentiable]

                d = differentiable(again, [x_pre, R, *extra, *state], given[: 1 + kind.differentiable])
                return (*none, *d[:2], *([] if extra else [None]), *d[2:])
            learns = any(ctx.needs_input_grad[len(none) + 3 :])
            d = recurrent_backward(
                ctx.variant, ctx.cell, ctx.option, lengths, reset, x_pre, R, more, state, h, saved, dh, d_last, learns
            )
        return (*none, *d, *[None] * (3 + len(state) - len(d)))


def recurrent(cell: str, option: int, options: dict, x_pre, R, more, state, lengths, reset):
    lengths, reset = as_read(lengths, x_pre.shape[1]), contiguous(reset)
    empty, state = (state, ()) if isinstance(state, Empty) else (None, state)
    tensors = [x_pre, R, more, *state]
    if wants_gradients(tensors):
        h, *last = RecurrentCell.apply(cell, option, lengths, reset, options, empty, *tensors)  # type: ignore[misc]
    else:
        h, last, _ = recurrent_forward(cell, option, lengths, reset, False, *tensors)
    return h, RECURRENT[cell].state(*last)


def rnn(
    x_pre: Float[Tensor, "B T N H"],
    R: Float[Tensor, "N H H"],
    state: RNNState | Empty,
    *,
    nonlinearity: str = "tanh",
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B T N H"], RNNState]:
    """`cells.rnn.rnn` in C++."""
    options = {"nonlinearity": nonlinearity}
    return recurrent(
        "rnn", RECURRENT["rnn"].choices.index(nonlinearity), options, x_pre, R, None, state, lengths, reset
    )


def lstm(
    x_pre: Float[Tensor, "B T G N H"],
    R: Float[Tensor, "G N H P"],
    state: LSTMState | Empty,
    *,
    proj: Float[Tensor, "N P H"] | None = None,
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B T N P"], LSTMState]:
    """`cells.lstm.lstm` in C++."""
    return recurrent("lstm", int(x_pre.shape[2] == 3), {}, x_pre, R, proj, state, lengths, reset)


def gru(
    x_pre: Float[Tensor, "B T 3 N H"],
    R: Float[Tensor, "3 N H H"],
    state: GRUState | Empty,
    *,
    bias: Float[Tensor, "N H"] | None = None,
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B T N H"], GRUState]:
    """`cells.gru.gru` in C++."""
    return recurrent("gru", 0, {}, x_pre, R, bias, state, lengths, reset)


def slstm(
    x_pre: Float[Tensor, "B T 4 N H"],
    R: Float[Tensor, "4 N H H"],
    state: SLSTMState | Empty,
    *,
    forget: str = "sigmoid",
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B T N H"], SLSTMState]:
    """`cells.slstm.slstm` in C++."""
    return recurrent(
        "slstm", RECURRENT["slstm"].choices.index(forget), {"forget": forget}, x_pre, R, None, state, lengths, reset
    )


# ---- what the input gives --------------------------------------------------------------------------------------------


class Linear(torch.autograd.Function):
    """x W^T + b over many rows, and its gradient."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return multiply(x, weight.t(), bias)

    @staticmethod
    def backward(ctx, dy):  # type: ignore[override]
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        flat, rows = dy.flatten(0, -2), x.flatten(0, -2)
        product = torch.matmul if looked_into((dy,)) else multiply
        dx = product(dy, weight) if needs_x else None
        return dx, product(flat.t(), rows) if needs_weight else None, flat.sum(0) if needs_bias else None


def multiply(x: Float[Tensor, "... K"], w: Float[Tensor, "K N"], bias: Tensor | None = None) -> Tensor:
    """x w + bias. Transposed matrices are read as they lie."""
    *lead, K = x.shape
    M, N = x.numel() // K, w.shape[1]
    x, w = as_is(x), as_is(w)
    x = x if x.dim() == 2 and 1 in x.stride() else x.contiguous().view(M, K)
    w = w if 1 in w.stride() else w.contiguous()
    y = room(*lead, N)
    call = PRODUCT.pack(
        M, N, K, threads(), x.data_ptr(), *x.stride(), w.data_ptr(), *w.stride(), pointer(bias), y.data_ptr()
    )
    functions().longshort_product(Chosen.variant, call)
    return y


def linear(x: Float[Tensor, "... K"], weight: Float[Tensor, "N K"], bias: Float[Tensor, "N"] | None) -> Tensor:
    """`F.linear` in C++, for float32 on the CPU."""
    bias = contiguous(bias)
    if wants_gradients((x, weight, bias)):
        return Linear.apply(x, weight, bias)  # type: ignore[no-any-return]
    return multiply(x, weight.t(), bias)


# ---- the mLSTM -------------------------------------------------------------------------------------------------------

SHORT_CHUNK, LONGEST_CHUNK = 32, 256
FLOAT32 = torch.float32


def memory_forward(L: int, eps: float, lengths, reset, keep: bool, q, k, v, i_pre, f_pre, *state: Tensor):
    """h, the last C, n and m, and the states that chunks began with (None unless `keep`). No state: the empty one."""
    B, T, N, K = q.shape
    V = v.shape[-1]
    q, k, v = map(side_by_side, (q, k, v))
    i_pre, f_pre, start = as_is(i_pre), as_is(f_pre), [contiguous(x) for x in state]
    h, last = room(B, T, N, V), [room(B, N, K, V), room(B, N, K), room(B, N)]
    saved = room(B * N * -(-T // L) * (K * to_16(V) + to_16(K) + 16)) if keep else None
    call = memory_call(L, eps, lengths, reset, q, k, v, i_pre, f_pre, start, last, h, saved, None, (), ())
    functions().longshort_memory(Chosen.variant, 0, call)
    return h, last, saved


def memory_call(L, eps, lengths, reset, q, k, v, i_pre, f_pre, start, last, h, saved, dh, d_last, d_inputs) -> bytes:
    B, T, N, K = q.shape
    strides = [stride for x in (q, k, v, i_pre, f_pre) for stride in x.stride()[:3]]
    return MEMORY.pack(
        B, T, N, K, v.shape[-1], threads(), L, eps, 0,
        q.data_ptr(), k.data_ptr(), v.data_ptr(), i_pre.data_ptr(), f_pre.data_ptr(), *strides,
        pointer(lengths), pointer(reset), *padded([x.data_ptr() for x in start], 3),
        *padded([x.data_ptr() for x in last], 3), h.data_ptr(), pointer(saved),
        pointer(dh), *((0, 0, 0) if dh is None else dh.stride()[:3]), *padded([pointer(x) for x in d_last], 2),
        *padded([x.data_ptr() for x in d_inputs], 7),
    )  # fmt: skip


class MatrixMemory(torch.autograd.Function):
    """The mLSTM over a sequence, chunk by chunk, and its exact gradient."""

    @staticmethod
    def forward(ctx, L, eps, lengths, reset, empty, *inputs):  # q, k, v, i_pre, f_pre; unless `empty` C, n, m
        h, last, saved = memory_forward(L, eps, lengths, reset, True, *inputs)
        ctx.L, ctx.eps, ctx.empty, ctx.variant = L, eps, empty, Chosen.variant
        ctx.save_for_backward(lengths, reset, h, saved, *inputs)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(last[2])
        return h, *last

    @staticmethod
    def backward(ctx, dh, dC, dn, _):  # type: ignore[override]
        lengths, reset, h, saved, *inputs = ctx.saved_tensors
        none = (None,) * 5
        if dh is None and dC is None and dn is None:
            return (*none, *[None] * len(inputs))
        gates, start = inputs[3:5], inputs[5:]
        with without_autocast("cpu"):
            if looked_into((dh, dC, dn)):

                def again(q, k, v, i_pre, f_pre, *C_n):
                    options: dict[str, Any] = {"chunk_size": ctx.L, "eps": ctx.eps, "lengths": lengths, "reset": reset}
                    state: Any = MLSTMState(*C_n, start[2]) if start else ctx.empty.made()  # type: ignore[call-arg]
                    h, last = mlstm_chunkwise(q, k, v, i_pre, f_pre, state, **options)
                    return h, last.C, last.n

                return (*none, *differentiable(again, inputs[:7], (dh, dC, dn)), *[None] * len(start[2:]))
            q, k, v = map(side_by_side, inputs[:3])
            i_pre, f_pre = map(as_is, gates)
            start = [contiguous(x) for x in start]
            lengths, reset, h, saved = map(contiguous, (lengths, reset, h, saved))
            as_saved(h, saved)
            dh = None if dh is None else side_by_side(dh)
            d_last = [contiguous(dC), contiguous(dn)]
            learns = any(ctx.needs_input_grad[len(none) + 5 :])
            d = [room(*x.shape) for x in (q, k, v, i_pre, f_pre, *(start[:2] if learns else ()))]
            args = (q, k, v, i_pre, f_pre, start, (), h, saved, dh, d_last, d)
            functions().longshort_memory(ctx.variant, 1, memory_call(ctx.L, ctx.eps, lengths, reset, *args))
        return (*none, *d, *[None] * (5 + len(start) - len(d)))


def mlstm(
    q: Float[Tensor, "B T N K"],
    k: Float[Tensor, "B T N K"],
    v: Float[Tensor, "B T N V"],
    i_pre: Float[Tensor, "B T N"],
    f_pre: Float[Tensor, "B T N"],
    state: MLSTMState | Empty,
    *,
    chunk_size: int = 64,
    eps: float = 0.0,
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B T N V"], MLSTMState]:
    """`cells.mlstm.mlstm_chunkwise` in C++, in chunks of at most `chunk_size` steps."""
    lengths, reset = as_read(lengths, q.shape[1]), contiguous(reset)
    empty, start = (state, ()) if isinstance(state, Empty) else (None, (state.C, state.n, state.m.detach()))
    inputs = [q, k, v, i_pre, f_pre, *start]
    learns = wants_gradients(inputs)
    # Short chunks make fewer products, long ones go less often through C: what is best depends on C's size.
    best = SHORT_CHUNK if not learns and q.shape[-1] * v.shape[-1] <= 64 * 64 else LONGEST_CHUNK
    L = min(chunk_size, q.shape[1], best)
    if learns:
        h, *last = MatrixMemory.apply(L, eps, lengths, reset, empty, *inputs)  # type: ignore[misc]
    else:
        h, last, _ = memory_forward(L, eps, lengths, reset, False, *inputs)
    return h, MLSTMState(*last)


def mlstm_step(
    q, k, v, i_pre, f_pre, state: MLSTMState, eps: float, *, sequence: bool = False, inplace: bool = False
) -> tuple[Tensor, MLSTMState] | None:
    """One step without gradients of plain tensors that fit, less T or, if a `sequence`, with T = 1; None if it cannot.

    The step itself takes two microseconds: what every tensor is asked is asked once, here. `inplace`: the new state is
    written over the given one; not if an input is a part of that.
    """
    C, n, m = state
    tensors = q, k, v, i_pre, f_pre, C, n, m
    for x in tensors:
        if type(x) is not Tensor or x.dtype is not FLOAT32 or not x.is_cpu or not x.is_contiguous() or x.is_neg():
            return None
    if C.dim() != 4 or wants_gradients(tensors):
        return None
    B, N, K, V = C.shape
    keys, values, gates = ((B, 1, N, K), (B, 1, N, V), (B, 1, N)) if sequence else ((B, N, K), (B, N, V), (B, N))
    if q.shape != keys or k.shape != keys or v.shape != values or i_pre.shape != gates or f_pre.shape != gates:
        return None
    size = B * N * K * V
    if n.shape != (B, N, K) or m.shape != (B, N) or not size:
        return None
    if inplace and C.is_inference() and not torch.is_inference_mode_enabled():
        return None
    h, last = torch.empty_like(v), state
    if not inplace:
        C1 = torch.empty_like(C) if 4 * size < LARGE else room(B, N, K, V)
        last = MLSTMState(C1, torch.empty_like(n), torch.empty_like(m))
    call = MEMORY_STEP.pack(
        B, N, K, V, threads(), eps, 0,
        q.data_ptr(), k.data_ptr(), v.data_ptr(), i_pre.data_ptr(), f_pre.data_ptr(),
        C.data_ptr(), n.data_ptr(), m.data_ptr(), *[x.data_ptr() for x in last], h.data_ptr(),
    )  # fmt: skip
    if functions().longshort_memory_step(Chosen.variant, call):
        return None
    if inplace:
        increment_version(state)  # for the graphs that have saved it
    return h, last
