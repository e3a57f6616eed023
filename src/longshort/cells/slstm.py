"""The sLSTM, step by step: the reference. Input weights and biases are already in `x_pre`; gates i f z o.

Exponential gates, a normaliser n, a stabiliser m, and memory mixing within each head (R is block-diagonal).
Beck et al. 2024, "xLSTM" (arXiv 2405.04517), equations (8)-(17).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from longshort.cells.loop import carried, detached, recurrence, run
from longshort.shapes import Bool, Float, Int

FORGET = {"sigmoid": F.logsigmoid, "exp": lambda f_pre: f_pre}


@carried
class SLSTMState(NamedTuple):
    """What an sLSTM carries: output h, memory c, normaliser n, stabiliser m. The memory *means* c e^m and n e^m."""

    h: Float[Tensor, "B N H"]
    c: Float[Tensor, "B N H"]
    n: Float[Tensor, "B N H"]
    m: Float[Tensor, "B N H"]
    detach = detached


class SLSTMStep(NamedTuple):
    """Every quantity of one step. i and f are the stabilised weights, the paper's i' and f'."""

    i_pre: Float[Tensor, "B N H"]
    f_pre: Float[Tensor, "B N H"]
    z_pre: Float[Tensor, "B N H"]
    o_pre: Float[Tensor, "B N H"]
    log_f: Float[Tensor, "B N H"]
    i: Float[Tensor, "B N H"]
    f: Float[Tensor, "B N H"]
    z: Float[Tensor, "B N H"]
    o: Float[Tensor, "B N H"]
    h: Float[Tensor, "B N H"]
    c: Float[Tensor, "B N H"]
    n: Float[Tensor, "B N H"]
    m: Float[Tensor, "B N H"]


def slstm_start(B: int, N: int, H: int, *, dtype: torch.dtype, device: torch.device) -> SLSTMState:
    """The empty state."""
    h, c, n = torch.zeros(3, B, N, H, dtype=dtype, device=device)
    # -inf, not 0: the first forget weight is then exactly 0, so an empty memory needs no branch on time.
    return SLSTMState(h, c, n, m=torch.full_like(n, -torch.inf))


def slstm_update(pre: Float[Tensor, "B 4 N H"], state: SLSTMState, forget: str) -> SLSTMStep:
    """One step from the pre-activations W x + R h + b."""
    i_pre, f_pre, z_pre, o_pre = pre.unbind(1)
    log_f = FORGET[forget](f_pre)
    kept = log_f + state.m
    m = torch.maximum(kept, i_pre).detach()  # (15); bookkeeping, no gradient
    empty = m == -torch.inf  # nothing written yet: both exponents below are -inf, so both weights 0
    scale = m.masked_fill(empty, 0)
    i = torch.exp(i_pre - scale)  # (16)
    f = torch.exp(kept - scale)  # (17)
    z, o = torch.tanh(z_pre), torch.sigmoid(o_pre)
    c = f * state.c + i * z  # (8)
    n = f * state.n + i  # (9); >= 1 once something was written, for i or f is exactly 1
    h = o * (c / n.masked_fill(empty, 1))  # (10)
    return SLSTMStep(i_pre, f_pre, z_pre, o_pre, log_f, i, f, z, o, h, c, n, m)


def slstm(
    x_pre: Float[Tensor, "B T 4 N H"],
    R: Float[Tensor, "4 N H H"],
    state: SLSTMState,
    *,
    forget: str = "sigmoid",
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    seen: list[SLSTMStep] | None = None,
) -> tuple[Float[Tensor, "B T N H"], SLSTMState]:
    """Run the recurrence over a sequence. `seen` as for `rnn`."""
    recur = recurrence(R)

    def step(x, state):
        now = slstm_update(x + recur(state.h), state, forget)
        if seen is not None:
            seen.append(now)
        return now.h, SLSTMState(now.h, now.c, now.n, now.m)

    # A carried state that holds nothing (n = 0) counts as empty, element by element: rows never see one another.
    state = state._replace(m=state.m.detach().masked_fill(state.n == 0, -torch.inf))
    start = slstm_start(*state.h.shape, dtype=state.h.dtype, device=state.h.device)
    return run(step, [x_pre], state, start, lengths, reset, whole=seen is not None)
