"""The loop over time that every reference shares, with lengths and resets. Not a fast path: it defines the answer."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from longshort.shapes import Bool, Float, Int

State = TypeVar("State", bound=tuple)


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
    """
    steps = inputs[0].shape[1]
    resets = reset.unbind(1) if reset is not None else [None] * steps
    valid = steps_within(lengths, steps).unbind(1) if lengths is not None else [None] * steps
    outputs = []
    for t, x in enumerate(zip(*(each.unbind(1) for each in inputs), strict=True)):
        before = state if (cut := resets[t]) is None else pick(cut, start, state)
        h, after = step(*x, before)
        state = after if (keep := valid[t]) is None else pick(keep, after, state)
        outputs.append(h)
    return torch.stack(outputs, 1), state


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
