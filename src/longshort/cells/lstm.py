"""The LSTM, step by step: the reference. Input weights and biases are already in `x_pre`.

The gates stand in PyTorch's order i f g o; g is what the xLSTM paper calls z.

Hochreiter & Schmidhuber 1997 (`forget="one"`: the carousel, no forget gate);
forget gate from Gers, Schmidhuber & Cummins 2000 (`forget="learned"`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from longshort.cells.loop import recurrence, run
from longshort.shapes import Bool, Float, Int

GATES = {"learned": 4, "one": 3}


class LSTMState(NamedTuple):
    """What an LSTM carries from step to step: its output h and its memory c."""

    h: Float[Tensor, "B N P"]
    c: Float[Tensor, "B N H"]


def lstm_start(B: int, N: int, H: int, P: int, *, dtype: torch.dtype, device: torch.device) -> LSTMState:
    """The empty state."""
    zeros = torch.zeros(B, N, H + P, dtype=dtype, device=device)
    return LSTMState(h=zeros[..., :P], c=zeros[..., P:])


def lstm_update(pre: Float[Tensor, "B G N H"], c: Float[Tensor, "B N H"]) -> tuple[Tensor, Tensor]:
    """One step from the pre-activations W x + R h + b: the output before any projection, and the new memory."""
    if pre.shape[1] == 4:
        i, f, g, o = pre.unbind(1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    else:
        i, g, o = pre.unbind(1)
        c = c + torch.sigmoid(i) * torch.tanh(g)  # forget = 1: the constant error carousel of 1997
    return torch.sigmoid(o) * torch.tanh(c), c


def lstm(
    x_pre: Float[Tensor, "B T G N H"],
    R: Float[Tensor, "G N H P"],
    state: LSTMState,
    *,
    proj: Float[Tensor, "N P H"] | None = None,
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B T N P"], LSTMState]:
    """Run the recurrence over a sequence. G = 4 gates, or 3 without a forget gate."""
    recur = recurrence(R)

    def step(x, state):
        h, c = lstm_update(x + recur(state.h), state.c)
        if proj is not None:
            h = torch.einsum("nph,bnh->bnp", proj, h)
        return h, LSTMState(h, c)

    B, N, P = state.h.shape
    start = lstm_start(B, N, state.c.shape[-1], P, dtype=state.h.dtype, device=state.h.device)
    return run(step, [x_pre], state, start, lengths, reset)
