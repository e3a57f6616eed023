"""The loop over time that every reference shares, with lengths and resets. Not a fast path: it defines the answer."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree

from longshort.shapes import Bool, Float, Int

State = TypeVar("State", bound=tuple)


def carried(kind: type[State]) -> type[State]:
    """Make a state's NamedTuple known where states travel: to pytrees, exported programs and safe `torch.load`."""
    _pytree._register_namedtuple(kind, serialized_type_name=f"longshort.{kind.__name__}")
    torch.serialization.add_safe_globals([kind])
    return kind


def detached(state: State) -> State:
    """The same state, cut from the graph that computed it: the next call's gradients end there."""
    return type(state)(*(x.detach() for x in state))


def run(
    step: Callable[..., tuple[Tensor, State]],
    inputs: Sequence[Float[Tensor, "B T ..."]],
    state: State,
    start: State,
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    *,
    whole: bool = False,
) -> tuple[Float[Tensor, "B T ..."], State]:
    """Call `step(*inputs at t, state) -> (h, state)` for every t; return all h, stacked, and the last state.

    `start` is the empty state, taken where `reset` is true. From step `lengths` on a row keeps its state, h is 0, and
    what the inputs hold does not matter. Where the lengths can be read, a step takes only the rows that have not ended;
    `whole`: all rows, at every step.
    """
    if lengths is not None and readable(lengths) and int(lengths.min()) == inputs[0].shape[1]:
        lengths = None  # nobody ends early
    if lengths is not None and readable(lengths) and not whole and int(lengths.max()):
        return run_ragged(step, inputs, state, start, lengths, reset)
    steps = inputs[0].shape[1]
    resets = [None] * steps if reset is None else only_where_true(reset.unbind(1), reset)
    valid = [None] * steps
    if lengths is not None:
        within = steps_within(lengths, steps)
        inputs, valid = [clean(x, within) for x in inputs], within.unbind(1)
    outputs = []
    for cut, keep, *x in zip(resets, valid, *(each.unbind(1) for each in inputs), strict=True):
        h, after = step(*x, state if cut is None else pick(cut, start, state))
        state = after if keep is None else pick(keep, after, state)
        outputs.append(h)
    h = torch.stack(outputs, 1)
    return h if lengths is None else clean(h, within), state


def run_ragged(step, inputs, state: State, start: State, lengths, reset) -> tuple[Tensor, State]:
    """`run` with the longest row first: those that have ended are left out, so they cost nothing."""
    B, T = inputs[0].shape[:2]
    order = lengths.argsort(descending=True, stable=True)
    within = steps_within(lengths, T)
    t, rank = within[order].T.nonzero(as_tuple=True)
    place = order[rank] * T + t  # of the steps that run among all B T: time by time, the longest row first
    sizes = t.bincount().tolist()

    def take(x: Tensor) -> Sequence[Tensor]:
        return x.flatten(0, 1).index_select(0, place).split(sizes)

    resets = [None] * len(sizes) if reset is None else only_where_true(take(reset), reset & within)
    state, start = rows_of(state, order), rows_of(start, order)
    outputs, ended = [], []
    for n, cut, *x in zip(sizes, resets, *(take(each) for each in inputs), strict=True):
        if n < state[0].shape[0]:
            ended.append(rows_of(state, slice(n, None)))
            state, start = rows_of(state, slice(n)), rows_of(start, slice(n))
        h, state = step(*x, state if cut is None else pick(cut, start, state))
        outputs.append(h)
    h = torch.cat(outputs)
    whole = h.new_zeros(B * T, *h.shape[1:]).index_copy(0, place, h).unflatten(0, (B, T))
    last = type(state)(*(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True)))
    return whole, rows_of(last, order.argsort())


def rows_of(state: State, rows: slice | Int[Tensor, "B"]) -> State:
    """The state of some rows."""
    return type(state)(*(x[rows] if isinstance(rows, slice) else x.index_select(0, rows) for x in state))


def only_where_true(steps: Sequence[Tensor], reset: Bool[Tensor, "B T"]) -> list[Tensor | None]:
    """The resets of every step, None where no row has one, as far as that can be read."""
    if not readable(reset):
        return list(steps)
    return [cut if some else None for cut, some in zip(steps, reset.any(0).tolist(), strict=False)]


def readable(x: Tensor) -> bool:
    """Whether the values of `x` can be read at no cost: they are on the CPU, and nobody records or transforms."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return type(x) is Tensor and x.device.type == "cpu"


def clean(x: Float[Tensor, "B T ..."], within: Bool[Tensor, "B T"]) -> Tensor:
    """0 past each row's end, by `where`: whatever stands in the padding, NaN too, is never multiplied."""
    return torch.where(within.view(*within.shape, *[1] * (x.dim() - 2)), x, 0)


def steps_within(lengths: Int[Tensor, "B"], steps: int) -> Bool[Tensor, "B T"]:
    """True at the steps before each row's length."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def pick(rows: Bool[Tensor, "B"], yes: State, no: State) -> State:
    """The state `yes` in the chosen rows, `no` in the others. A `where`, so nothing crosses, NaN included."""
    return type(yes)(*(torch.where(rows.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(yes, no, strict=True)))


def recurrence(R: Float[Tensor, "G N H P"]) -> Callable[[Float[Tensor, "B N P"]], Float[Tensor, "B G N H"]]:
    """The map h -> R h: every gate's recurrent pre-activation, heads apart ("memory mixing within each head")."""
    G, N, H, P = R.shape
    weight = R.permute(1, 3, 0, 2).reshape(N, P, G * H)  # all gates of a head in one product
    return lambda h: torch.bmm(h.transpose(0, 1), weight).view(N, -1, G, H).permute(1, 2, 0, 3)


def without_autocast(device: str) -> AbstractContextManager:
    """No autocast inside, on the devices that know it."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
