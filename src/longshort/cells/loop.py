"""The loop over time that every reference shares, with lengths and resets. Not a fast path: it defines the answer."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
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
) -> tuple[Float[Tensor, "B T ..."], State]:
    """Call `step(*inputs at t, state) -> (h, state)` for every t; return all h, stacked, and the last state.

    `start` is the empty state, taken where `reset` is true; a row keeps its state from step `lengths` on.
    Steps at which no row is reset or has ended cost nothing more, and steps past every row's end are not run, where
    the values can be read: on a CPU, outside transforms.
    """
    steps = total = inputs[0].shape[1]
    resets, valid = [None] * total, [None] * total
    if reset is not None:
        some = reset.any(0).tolist() if readable(reset) else [True] * total
        resets = [cut if here else None for cut, here in zip(reset.unbind(1), some, strict=True)]
    if lengths is not None:
        first = 0
        if readable(lengths):
            first, steps = int(lengths.min()), max(1, int(lengths.max()))
        valid = [None if t < first else keep for t, keep in enumerate(steps_within(lengths, total).unbind(1))]
    outputs = []
    for t, x in zip(range(steps), zip(*(each.unbind(1) for each in inputs), strict=True), strict=False):
        before = state if (cut := resets[t]) is None else pick(cut, start, state)
        h, after = step(*x, before)
        state = after if (keep := valid[t]) is None else pick(keep, after, state)
        outputs.append(h)
    h = torch.stack(outputs, 1)
    return F.pad(h, [0, 0] * (h.dim() - 2) + [0, total - steps]) if steps < total else h, state


def readable(x: Tensor) -> bool:
    """Whether the values of `x` can be read at no cost: they are on the CPU, and nobody records or transforms."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return type(x) is Tensor and x.device.type == "cpu"


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
