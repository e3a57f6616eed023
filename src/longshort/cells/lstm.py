"""The LSTM, step by step: the reference. Input weights and biases are already in `x_pre`.

The gates stand in PyTorch's order i f g o; g is what the xLSTM paper calls z.

Hochreiter & Schmidhuber 1997 (`forget="one"`: the carousel, no forget gate);
forget gate from Gers, Schmidhuber & Cummins 2000 (`forget="learned"`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from longshort.cells.loop import carried, detached, recurrence, run
from longshort.shapes import Bool, Float, Int

GATES = {"learned": 4, "one": 3}


@carried
class LSTMState(NamedTuple):
    """What an LSTM carries from step to step: its output h and its memory c."""

    h: Float[Tensor, "B N P"]
    c: Float[Tensor, "B N H"]
    detach = detached


class LSTMStep(NamedTuple):
    """Every quantity of one step; without a forget gate f_pre is None and f is 1."""

    i_pre: Float[Tensor, "B N H"]
    f_pre: Float[Tensor, "B N H"] | None
    g_pre: Float[Tensor, "B N H"]
    o_pre: Float[Tensor, "B N H"]
    i: Float[Tensor, "B N H"]
    f: Float[Tensor, "B N H"] | float
    g: Float[Tensor, "B N H"]
    o: Float[Tensor, "B N H"]
    c: Float[Tensor, "B N H"]
    tanh_c: Float[Tensor, "B N H"]
    h: Float[Tensor, "B N P"]  # o * tanh_c, projected if there is a projection


def lstm_start(B: int, N: int, H: int, P: int, *, dtype: torch.dtype, device: torch.device) -> LSTMState:
    """The empty state."""
    zeros = torch.zeros(B, N, H + P, dtype=dtype, device=device)
    return LSTMState(h=zeros[..., :P], c=zeros[..., P:])


def lstm_update(pre: Float[Tensor, "B G N H"], c: Float[Tensor, "B N H"]) -> LSTMStep:
    """One step from the pre-activations W x + R h + b and the memory c."""
    if pre.shape[1] == 4:
        i_pre, f_pre, g_pre, o_pre = pre.unbind(1)
        f = torch.sigmoid(f_pre)
    else:
        i_pre, g_pre, o_pre = pre.unbind(1)
        f_pre, f = None, 1.0  # the constant error carousel of 1997
    i, g, o = torch.sigmoid(i_pre), torch.tanh(g_pre), torch.sigmoid(o_pre)
    c = f * c + i * g
    tanh_c = torch.tanh(c)
    return LSTMStep(i_pre, f_pre, g_pre, o_pre, i, f, g, o, c, tanh_c, h=o * tanh_c)


def lstm(
    x_pre: Float[Tensor, "B T G N H"],
    R: Float[Tensor, "G N H P"],
    state: LSTMState,
    *,
    proj: Float[Tensor, "N P H"] | None = None,
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    seen: list[LSTMStep] | None = None,
) -> tuple[Float[Tensor, "B T N P"], LSTMState]:
    """Run the recurrence over a sequence. G = 4 gates, or 3 without a forget gate. `seen` as for `rnn`."""
    recur = recurrence(R)

    def step(x, state):
        now = lstm_update(x + recur(state.h), state.c)
        if proj is not None:
            now = now._replace(h=torch.einsum("nph,bnh->bnp", proj, now.h))
        if seen is not None:
            seen.append(now)
        return now.h, LSTMState(now.h, now.c)

    B, N, P = state.h.shape
    start = lstm_start(B, N, state.c.shape[-1], P, dtype=state.h.dtype, device=state.h.device)
    return run(step, [x_pre], state, start, lengths, reset, whole=seen is not None)
