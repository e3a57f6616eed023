"""Causal depthwise convolution over time, with carried state, lengths and resets. Not a general convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longshort.shapes import Bool, Float, Int


class CausalConv(nn.Module):
    """Each channel's output is a weighted sum of its last `width` inputs, this one included.

    The state is the window of the last width - 1 inputs, zeros where there were none. A reset empties the window
    before that step; a row's window stops at its length.

    Shapes: x (B, T, D), state (B, width - 1, D) -> (B, T, D), state.
    """

    def __init__(self, dim: int, width: int):
        super().__init__()
        if width < 1:
            raise ValueError(f"a causal convolution of width {width}: it sees at least the present step, width 1")
        self.width = width
        self.weight = nn.Parameter(torch.empty(dim, 1, width))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The start of `nn.Conv1d`: uniform within 1/sqrt(width)."""
        bound = self.width**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: Float[Tensor, "B W D"] | None = None,
        *,
        lengths: Int[Tensor, "B"] | None = None,
        reset: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B W D"]]:
        B, T, D = x.shape
        if lengths is not None:  # what stands past the end is never multiplied, NaN included
            x = torch.where((torch.arange(T, device=x.device) < lengths[:, None])[..., None], x, 0)
        if state is not None and state.shape != (B, self.width - 1, D):
            raise ValueError(
                f"the convolution's state is {tuple(state.shape)}; this batch takes {(B, self.width - 1, D)}"
            )
        past = x.new_zeros(B, self.width - 1, D) if state is None else state.to(x.dtype)
        seen = torch.cat([past, x], 1)
        if T == 0:
            return x, past
        if reset is None or self.width == 1:
            return self._whole(seen), self._window(seen, lengths, T)
        # Steps of one piece share a number; what was carried in is of piece 0.
        piece = F.pad(reset.long().cumsum(1), (self.width - 1, 0))
        last = (lengths if lengths is not None else piece.new_full((B,), T)) + self.width - 2
        same = self._window(piece[..., None], lengths, T) == piece.gather(1, last[:, None])[..., None]
        return self._in_pieces(seen, piece, T), torch.where(same, self._window(seen, lengths, T), 0)

    def _whole(self, seen: Tensor) -> Tensor:
        """The convolution of one unbroken piece."""
        if self._is_step(seen):
            return (seen * self.weight[:, 0].t()).sum(1, keepdim=True) + self.bias
        y = F.conv1d(seen.transpose(1, 2), self.weight, self.bias, groups=self.weight.shape[0])
        return y.transpose(1, 2)

    def _is_step(self, seen: Tensor) -> bool:
        """Whether it is one step on the CPU, for which torch's convolution takes long, and nobody records."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return False
        if seen.device.type != "cpu":
            return False
        if seen.dtype is not self.weight.dtype or seen.dtype not in (torch.float32, torch.float64):
            return False  # to be refused, or summed in more bits than its own
        return seen.shape[1] == self.width and not torch.is_autocast_enabled("cpu")

    def _in_pieces(self, seen: Tensor, piece: Tensor, T: int) -> Tensor:
        """The convolution where a step sees only its own piece."""
        now = piece[:, self.width - 1 :, None]
        taps = (
            torch.where(piece[:, j : j + T, None] == now, seen[:, j : j + T], 0) * self.weight[:, 0, j]
            for j in range(self.width)
        )
        return sum(taps, start=self.bias)

    def _window(self, seen: Tensor, lengths: Tensor | None, T) -> Tensor:
        """The last width - 1 entries of `seen` before each row's end. T may be one that `torch.jit.trace` follows."""
        if lengths is None:
            return seen[:, T:]
        index = lengths[:, None] + torch.arange(self.width - 1, device=seen.device)
        return seen.gather(1, index[..., None].expand(-1, -1, seen.shape[-1]))
