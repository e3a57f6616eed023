"""Block-diagonal linear maps and gated feed-forward layers. No recurrence here."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longshort.shapes import Float


class BlockLinear(nn.Module):
    """`blocks` separate linear maps side by side: block n of the output sees block n of the input alone.

    `weight` is (blocks, out, in). Shapes: (..., blocks * in) -> (..., blocks * out).
    """

    def __init__(self, dim: int, blocks: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, dim // blocks, dim // blocks))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        blocks, _, size = self.weight.shape
        y = x.reshape(-1, blocks, size).transpose(0, 1) @ self.weight.mT  # (blocks, all steps, out)
        return y.transpose(0, 1).reshape(x.shape)


class GatedFeedForward(nn.Module):
    """down(act(gate x) * up x): GeLU-gated in the xLSTM paper, SwiGLU in xLSTM-7B. (B, T, D) -> (B, T, D)."""

    ACTIVATIONS: ClassVar = {"gelu": F.gelu, "silu": F.silu}

    def __init__(self, dim: int, hidden: int, activation: str):
        super().__init__()
        self.act = self.ACTIVATIONS[activation]
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down(self.act(self.gate(x)) * self.up(x))
