"""The GRU, step by step: the reference. Input weights and biases are already in `x_pre`; gates r z n.

Cho et al. 2014 (1406.1078), in the form PyTorch and cuDNN compute: the reset gate r acts on the candidate's recurrent
product, its bias included: n = tanh(x_n + r (R_n h + b)).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from longshort.cells.loop import carried, detached, recurrence, run
from longshort.shapes import Bool, Float, Int


@carried
class GRUState(NamedTuple):
    """What a GRU carries from step to step."""

    h: Float[Tensor, "B N H"]
    detach = detached


class GRUStep(NamedTuple):
    """Every quantity of one step; `recurrent` is R_n h + b, what the reset gate r scales."""

    r_pre: Float[Tensor, "B N H"]
    z_pre: Float[Tensor, "B N H"]
    recurrent: Float[Tensor, "B N H"]
    n_pre: Float[Tensor, "B N H"]
    r: Float[Tensor, "B N H"]
    z: Float[Tensor, "B N H"]
    n: Float[Tensor, "B N H"]
    h: Float[Tensor, "B N H"]


def gru_start(B: int, N: int, H: int, *, dtype: torch.dtype, device: torch.device) -> GRUState:
    """The empty state."""
    return GRUState(torch.zeros(B, N, H, dtype=dtype, device=device))


def gru_update(
    x: Float[Tensor, "B 3 N H"],
    recurrent: Float[Tensor, "B 3 N H"],
    h: Float[Tensor, "B N H"],
    bias: Float[Tensor, "N H"] | None,
) -> GRUStep:
    """One step from what the input gives, W x + b, what the last output gives, R h, and that output."""
    r_pre, z_pre = (x[:, :2] + recurrent[:, :2]).unbind(1)
    r, z = torch.sigmoid(r_pre), torch.sigmoid(z_pre)
    candidate = recurrent[:, 2] if bias is None else recurrent[:, 2] + bias
    n_pre = x[:, 2] + r * candidate
    n = torch.tanh(n_pre)
    return GRUStep(r_pre, z_pre, candidate, n_pre, r, z, n, h=z * h + (1 - z) * n)


def gru(
    x_pre: Float[Tensor, "B T 3 N H"],
    R: Float[Tensor, "3 N H H"],
    state: GRUState,
    *,
    bias: Float[Tensor, "N H"] | None = None,
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    seen: list[GRUStep] | None = None,
) -> tuple[Float[Tensor, "B T N H"], GRUState]:
    """Run the recurrence over a sequence. `bias` (of R_n h) may be None. `seen` as for `rnn`."""
    recur = recurrence(R)

    def step(x, state):
        now = gru_update(x, recur(state.h), state.h, bias)
        if seen is not None:
            seen.append(now)
        return now.h, GRUState(now.h)

    start = gru_start(*state.h.shape, dtype=state.h.dtype, device=state.h.device)
    return run(step, [x_pre], state, start, lengths, reset, whole=seen is not None)
