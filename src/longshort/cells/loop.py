"""The loop over time that every reference shares, with lengths and resets. Not a fast path: it defines the answer."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter
from torch.utils import _pytree

from longshort.shapes import Bool, Float, Int

State = TypeVar("State", bound=tuple)


def carried(kind: type[State]) -> type[State]:
    """Make a state's NamedTuple known where states travel: to pytrees, exported programs and safe `torch.load`."""
    _pytree._register_namedtuple(kind, serialized_type_name=f"longshort.{kind.__name__}")
    torch.serialization.add_safe_globals([kind])
    return kind


class Empty:
    """The empty state of a call, not made yet: the C++ core begins with it unseen."""

    def __init__(self, start: Callable[..., tuple], sizes: Sequence[int], dtype: torch.dtype, device: torch.device):
        self.start, self.sizes, self.dtype, self.device = start, sizes, dtype, device

    def made(self) -> Any:
        return self.start(*self.sizes, dtype=self.dtype, device=self.device)


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
    what the inputs hold does not matter. Where lengths and resets can be read and it pays, every piece between them is
    a row of its own (`run_pieces`); `whole`: all rows at every step, in the order they came in.
    """
    B, T = inputs[0].shape[:2]
    if lengths is not None and readable(lengths) and int(lengths.min()) == T:
        lengths = None  # nobody ends early
    cuts = [cut for cut in (lengths, reset) if cut is not None]
    if cuts and not whole and all(map(readable, cuts)):
        pieces = pieces_of(B, T, lengths, reset)
        longest = int(pieces.length[0])
        if longest and (lengths is not None or longest <= T / 2):
            return run_pieces(step, inputs, state, start, pieces)
    resets = [None] * T if reset is None else only_where_true(reset)
    valid = [None] * T
    if lengths is not None:
        within = steps_within(lengths, T)
        inputs, valid = [clean(x, within) for x in inputs], within.unbind(1)
    outputs = []
    for cut, keep, *x in zip(resets, valid, *(each.unbind(1) for each in inputs), strict=True):
        h, after = step(*x, state if cut is None else pick(cut, start, state))
        state = after if keep is None else pick(keep, after, state)
        outputs.append(h)
    h = torch.stack(outputs, 1)
    return h if lengths is None else clean(h, within), state


class Pieces(NamedTuple):
    """The stretches between resets and ends, the longest first."""

    row: Int[Tensor, "P"]
    """Of the batch."""
    begin: Int[Tensor, "P"]
    length: Int[Tensor, "P"]
    fresh: Bool[Tensor, "P"]
    """Whether it begins with a reset, and not with what the row carried in."""
    last: Bool[Tensor, "P"]
    """Whether its end is the row's."""


def pieces_of(B: int, T: int, lengths: Int[Tensor, "B"] | None, reset: Bool[Tensor, "B T"] | None) -> Pieces:
    """Cut every row at its resets; a row of no step at all is one piece of length 0."""
    ends = torch.full((B,), T, device="cpu") if lengths is None else lengths
    cuts = torch.zeros(B, T, dtype=torch.bool, device="cpu") if reset is None else reset & steps_within(ends, T)
    begins = cuts.clone()
    begins[:, 0] = True
    row, begin = begins.nonzero(as_tuple=True)
    last = F.pad(row.diff() != 0, (0, 1), value=True)
    length = torch.where(last, ends[row], begin.roll(-1)) - begin
    order = length.argsort(descending=True, stable=True)
    return Pieces(*(x[order] for x in (row, begin, length, cuts[row, begin], last)))


def run_pieces(step, inputs, state: State, start: State, pieces: Pieces) -> tuple[Tensor, State]:
    """`run` with every piece between resets and ends a row of its own: those that have ended cost nothing."""
    B, T = inputs[0].shape[:2]
    row, begin, length, fresh, last = pieces
    sizes = length.shape[0] - length.bincount().cumsum(0)[:-1]  # pieces that are longer than 0, 1, 2, ... steps
    t = torch.arange(sizes.shape[0], device=row.device).repeat_interleave(sizes)
    rank = torch.arange(t.shape[0], device=row.device) - (sizes.cumsum(0) - sizes)[t]
    place = row[rank] * T + begin[rank] + t  # of the steps that run among all B T: step by step, the longest first
    sizes = sizes.tolist()
    now = pick(fresh, rows_of(start, row), rows_of(state, row))
    outputs, ended = [], []
    for n, *x in zip(sizes, *(x.flatten(0, 1).index_select(0, place).split(sizes) for x in inputs), strict=True):
        if n < now[0].shape[0]:
            ended.append(rows_of(now, slice(n, None)))
            now = rows_of(now, slice(n))
        h, now = step(*x, now)
        outputs.append(h)
    h = torch.cat(outputs)
    whole = h.new_zeros(B * T, *h.shape[1:]).index_copy(0, place, h).unflatten(0, (B, T))
    ends = type(state)(*(torch.cat(parts) for parts in zip(now, *reversed(ended), strict=True)))
    of_row = last.nonzero().squeeze(1)
    return whole, rows_of(ends, of_row[row[of_row].argsort()])


def rows_of(state: State, rows: slice | Int[Tensor, "B"]) -> State:
    """The state of some rows."""
    return type(state)(*(x[rows] if isinstance(rows, slice) else x.index_select(0, rows) for x in state))


def only_where_true(reset: Bool[Tensor, "B T"]) -> list[Tensor | None]:
    """The resets of every step, None where no row has one, as far as that can be read."""
    steps = reset.unbind(1)
    some = reset.any(0).tolist() if readable(reset) else [True] * len(steps)
    return [cut if any_row else None for cut, any_row in zip(steps, some, strict=True)]


def readable(x: Tensor) -> bool:
    """Whether the values of `x` can be read at no cost: they are on the CPU, and nobody records or transforms."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return type(x) in (Tensor, Parameter) and x.device.type == "cpu"


def check_within(lengths: Int[Tensor, "B"], T: int) -> None:
    """No row is longer than the input."""
    if lengths.numel() and not 0 <= int(lengths.min()) <= int(lengths.max()) <= T:
        raise ValueError(f"lengths must be between 0 and T={T}, got {int(lengths.min())} to {int(lengths.max())}")


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
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()
