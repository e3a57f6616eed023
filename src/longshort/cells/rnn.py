"""The Elman RNN, step by step: the reference. Input weights and biases are already in `x_pre`.

Elman 1990: h_t = tanh(x_pre_t + R h_{t-1}); heads are blocks on the diagonal of R.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from longshort.cells.loop import carried, detached, recurrence, run
from longshort.shapes import Bool, Float, Int

NONLINEARITIES = {"tanh": torch.tanh, "relu": torch.relu}


@carried
class RNNState(NamedTuple):
    """What an RNN carries from step to step."""

    h: Float[Tensor, "B N H"]
    detach = detached


class RNNStep(NamedTuple):
    """Every quantity of one step."""

    pre: Float[Tensor, "B N H"]
    h: Float[Tensor, "B N H"]


def rnn_start(B: int, N: int, H: int, *, dtype: torch.dtype, device: torch.device) -> RNNState:
    """The empty state."""
    return RNNState(torch.zeros(B, N, H, dtype=dtype, device=device))


def rnn(
    x_pre: Float[Tensor, "B T N H"],
    R: Float[Tensor, "N H H"],
    state: RNNState,
    *,
    nonlinearity: str = "tanh",
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    seen: list[RNNStep] | None = None,
) -> tuple[Float[Tensor, "B T N H"], RNNState]:
    """Run the recurrence over a sequence; every step's quantities are added to `seen`, if it is given."""
    recur, act = recurrence(R[None]), NONLINEARITIES[nonlinearity]

    def step(x, state):
        pre = x + recur(state.h).squeeze(1)
        h = act(pre)
        if seen is not None:
            seen.append(RNNStep(pre, h))
        return h, RNNState(h)

    start = rnn_start(*state.h.shape, dtype=state.h.dtype, device=state.h.device)
    return run(step, [x_pre], state, start, lengths, reset, whole=seen is not None)
