"""The sLSTM, step by step: the reference. Input weights and biases are already in `x_pre`; gates i f z o.

Exponential gates, a normaliser n, a stabiliser m, and memory mixing within each head (R is block-diagonal).
Beck et al. 2024, "xLSTM" (arXiv 2405.04517), equations (8)-(17).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from longshort.cells.loop import recurrence, run
from longshort.shapes import Bool, Float, Int

FORGET = {"sigmoid": F.logsigmoid, "exp": lambda f_pre: f_pre}


class SLSTMState(NamedTuple):
    """What an sLSTM carries: output h, memory c, normaliser n, stabiliser m. The memory *means* c e^m and n e^m."""

    h: Float[Tensor, "B N H"]
    c: Float[Tensor, "B N H"]
    n: Float[Tensor, "B N H"]
    m: Float[Tensor, "B N H"]


def slstm_start(B: int, N: int, H: int, *, dtype: torch.dtype, device: torch.device) -> SLSTMState:
    """The empty state."""
    h, c, n = torch.zeros(3, B, N, H, dtype=dtype, device=device)
    # -inf, not 0: the first forget weight is then exactly 0, so an empty memory needs no branch on time.
    return SLSTMState(h, c, n, m=torch.full_like(n, -torch.inf))


def slstm_update(pre: Float[Tensor, "B 4 N H"], state: SLSTMState, forget: str) -> SLSTMState:
    """One step from the pre-activations W x + R h + b."""
    i_pre, f_pre, z_pre, o_pre = pre.unbind(1)
    log_f = FORGET[forget](f_pre) + state.m
    m = torch.maximum(log_f, i_pre).detach()  # (15); bookkeeping, no gradient
    empty = m == -torch.inf  # nothing written yet: both exponents below are -inf, so both weights 0
    scale = m.masked_fill(empty, 0)
    i = torch.exp(i_pre - scale)  # (16)
    f = torch.exp(log_f - scale)  # (17)
    c = f * state.c + i * torch.tanh(z_pre)  # (8)
    n = f * state.n + i  # (9); >= 1 once something was written, for i or f is exactly 1
    h = torch.sigmoid(o_pre) * (c / n.masked_fill(empty, 1))  # (10)
    return SLSTMState(h, c, n, m)


def slstm(
    x_pre: Float[Tensor, "B T 4 N H"],
    R: Float[Tensor, "4 N H H"],
    state: SLSTMState,
    *,
    forget: str = "sigmoid",
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B T N H"], SLSTMState]:
    """Run the recurrence over a sequence."""
    recur = recurrence(R)

    def step(x, state):
        state = slstm_update(x + recur(state.h), state, forget)
        return state.h, state

    # A carried state that holds nothing (n = 0) counts as empty, element by element: rows never see one another.
    state = state._replace(m=state.m.detach().masked_fill(state.n == 0, -torch.inf))
    start = slstm_start(*state.h.shape, dtype=state.h.dtype, device=state.h.device)
    return run(step, [x_pre], state, start, lengths, reset)
