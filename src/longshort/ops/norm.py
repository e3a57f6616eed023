"""The norms of both block generations: over the whole width before a mixer, over each head after a cell."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longshort.shapes import Float


class LayerNorm(nn.Module):
    """Zero mean and unit variance over the width, times a weight, in float32 or wider. No bias. (..., D) -> (..., D)"""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), eps=self.eps)


class RMSNorm(LayerNorm):
    """Unit mean square over the width, times a weight; computed in float32 or wider. (..., D) -> (..., D)"""

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight.to(x.dtype)


class HeadNorm(LayerNorm):
    """LayerNorm over each head apart, then one weight for the whole width. (..., N, H) -> (..., N * H)"""

    def forward(self, x: Float[Tensor, "... N H"]) -> Float[Tensor, "... D"]:
        return head_norm(x, self.weight, self.eps).flatten(-2)


def head_norm(x: Float[Tensor, "... N H"], weight: Float[Tensor, "D"], eps: float) -> Float[Tensor, "... N H"]:
    """LayerNorm over each head apart, times its part of the weight."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * weight.to(x.dtype).unflatten(0, x.shape[-2:])


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(x / cap): about x where |x| is well below the cap, never beyond it. None: x itself."""
    return x if cap is None else cap * torch.tanh(x / cap)
