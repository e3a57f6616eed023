"""Residual blocks: the paper's sLSTM and mLSTM blocks, xLSTM-7B's, and any other mixer in the same frame.

A *mixer* moves information along time: `forward(x, state, lengths=, reset=) -> (y, state)` on (B, T, D). A *block*
puts it in a residual stream: x + mixer(norm(x)), and for most x + feed_forward(norm(x)). To add a kind of mixer,
write one class and give it a line in `MIXERS`. Not here: embeddings, heads, training.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longshort.cells.loop import carried, clean, steps_within
from longshort.config import suggest, xLSTMConfig
from longshort.functional import lstm, mlstm, rnn, slstm
from longshort.ops.conv import CausalConv
from longshort.ops.linear import BlockLinear, GatedFeedForward
from longshort.ops.norm import HeadNorm, LayerNorm, RMSNorm, soft_cap
from longshort.shapes import Bool, Float, Int


@carried
class MixerState(NamedTuple):
    """What a mixer carries: the convolution's window (None without one) and the cell's state."""

    conv: Float[Tensor, "B W D"] | None
    cell: Any


EMPTY = MixerState(None, None)


class Mixer(Protocol):
    """What `Block` asks of a mixer, an nn.Module."""

    def __call__(self, x: Tensor, state: MixerState | None, **cuts: Any) -> tuple[Tensor, MixerState]: ...
    def init_weights(self) -> None: ...
    def flops(self, steps: int) -> int: ...


# ---- initialisation: std of "small init" (Nguyen & Salazar 2019), and of the down-projections (Wang & Komatsuzaki) ---


def small_init(weight: Tensor, dim: int) -> None:
    nn.init.normal_(weight, std=math.sqrt(2 / (5 * dim)))


def wang_init(weight: Tensor, dim: int, num_blocks: int) -> None:
    nn.init.normal_(weight, std=2 / (num_blocks * math.sqrt(dim)))


def powerlaw_bias(H: int, block: int, num_blocks: int) -> Float[Tensor, "H"]:
    """The sLSTM's forget bias: from +5 down to -7 over the units of a head, steeper in later blocks."""
    ratio = block / (num_blocks - 1) if num_blocks > 1 else 0.0
    units = torch.arange(H) / max(H - 1, 1)
    return 5 - 12 * units ** (0.3 + 1.3 * ratio)


# ---- mixers ----------------------------------------------------------------------------------------------------------


class mLSTMMixer(nn.Module):
    """The mLSTM between an up- and a down-projection (2405.04517, figure 11).

    q and k see a causal convolution, v does not; all three are block-diagonal. A skip from the convolution joins
    the normed output; a SiLU gate, the other half of the up-projection, scales both.
    """

    def __init__(self, config: xLSTMConfig, block: int):
        super().__init__()
        D, inner, N = config.embedding_dim, config.mlstm_dim, config.num_heads
        self.config = config
        self.up = nn.Linear(D, 2 * inner, bias=False)
        self.conv = CausalConv(inner, config.conv1d_kernel_size) if config.conv1d_kernel_size else None
        self.q, self.k, self.v = (BlockLinear(inner, inner // config.qkv_proj_blocksize) for _ in range(3))
        self.i_gate, self.f_gate = nn.Linear(3 * inner, N), nn.Linear(3 * inner, N)
        self.norm = HeadNorm(inner, config.setting("norm_eps"))
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = nn.Linear(inner, D, bias=False)

    def init_weights(self) -> None:
        D, num_blocks = self.config.embedding_dim, len(self.config.kinds)
        for weight in (self.up.weight, self.q.weight, self.k.weight, self.v.weight):
            small_init(weight, D)
        if self.conv is not None:
            self.conv.reset_parameters()
        init_gates(self.i_gate, self.f_gate, self.config)
        nn.init.ones_(self.norm.weight)
        nn.init.ones_(self.skip)
        wang_init(self.down.weight, D, num_blocks)

    def forward(
        self, x: Float[Tensor, "B T D"], state: MixerState | None = None, *, lengths=None, reset=None
    ) -> tuple[Float[Tensor, "B T D"], MixerState]:
        state = state or EMPTY
        x, z = self.up(x).chunk(2, -1)
        seen, window = convolve(self.conv, x, state.conv, lengths, reset)
        q, k, v = self.q(seen), self.k(seen), self.v(x)
        qkv = torch.cat([q, k, v], -1)
        heads = (self.config.num_heads, -1)
        h, cell = mlstm(
            q.unflatten(-1, heads),
            k.unflatten(-1, heads),
            v.unflatten(-1, heads),
            self.i_gate(qkv),
            self.f_gate(qkv),
            state.cell,
            chunk_size=self.config.chunk_size,
            eps=self.config.eps,
            lengths=lengths,
            reset=reset,
        )
        y = (self.norm(h) + self.skip * seen) * F.silu(z)
        return self.down(y), MixerState(window, cell)

    def flops(self, steps: int) -> int:
        """Multiplications and additions of one forward pass over `steps` steps."""
        c = self.config
        inner, head = c.mlstm_dim, c.mlstm_dim // c.num_heads
        linear = 3 * c.embedding_dim * inner + 3 * inner * c.qkv_proj_blocksize + 6 * inner * c.num_heads
        linear += c.conv1d_kernel_size * inner
        return 2 * steps * linear + mlstm_flops(steps, c.num_heads, head, head, c.chunk_size)


class mLSTM7BMixer(nn.Module):
    """The mLSTM of xLSTM-7B (2503.13427): dense q, k, v and gates from x, soft-capped gates, sigmoid output gate."""

    def __init__(self, config: xLSTMConfig, block: int):
        super().__init__()
        D, N = config.embedding_dim, config.num_heads
        self.config = config
        self.q, self.k = (nn.Linear(D, config.qk_dim, bias=False) for _ in range(2))
        self.v, self.o_gate = (nn.Linear(D, config.v_dim, bias=False) for _ in range(2))
        self.i_gate, self.f_gate = nn.Linear(D, N), nn.Linear(D, N)
        self.norm = HeadNorm(config.v_dim, config.setting("norm_eps"))
        self.down = nn.Linear(config.v_dim, D, bias=False)

    def init_weights(self) -> None:
        D = self.config.embedding_dim
        for layer in (self.q, self.k, self.v):
            small_init(layer.weight, D)
        nn.init.zeros_(self.o_gate.weight)
        init_gates(self.i_gate, self.f_gate, self.config)
        nn.init.constant_(self.i_gate.bias, -10.0)
        nn.init.ones_(self.norm.weight)
        wang_init(self.down.weight, D, len(self.config.kinds))

    def forward(
        self, x: Float[Tensor, "B T D"], state: MixerState | None = None, *, lengths=None, reset=None
    ) -> tuple[Float[Tensor, "B T D"], MixerState]:
        state = state or EMPTY
        cap, heads = self.config.setting("gate_soft_cap") or None, (self.config.num_heads, -1)
        h, cell = mlstm(
            self.q(x).unflatten(-1, heads),
            self.k(x).unflatten(-1, heads),
            self.v(x).unflatten(-1, heads),
            soft_cap(self.i_gate(x), cap),
            soft_cap(self.f_gate(x), cap),
            state.cell,
            chunk_size=self.config.chunk_size,
            eps=self.config.eps,
            lengths=lengths,
            reset=reset,
        )
        return self.down(torch.sigmoid(self.o_gate(x)) * self.norm(h)), MixerState(None, cell)

    def flops(self, steps: int) -> int:
        """Multiplications and additions of one forward pass over `steps` steps."""
        c = self.config
        linear = c.embedding_dim * (2 * c.qk_dim + 3 * c.v_dim + 2 * c.num_heads)
        cell = mlstm_flops(steps, c.num_heads, c.qk_dim // c.num_heads, c.v_dim // c.num_heads, c.chunk_size)
        return 2 * steps * linear + cell


class sLSTMMixer(nn.Module):
    """The sLSTM (2405.04517, figure 10): i and f see a causal convolution, z and o the input; head-wise norm after."""

    def __init__(self, config: xLSTMConfig, block: int):
        super().__init__()
        D, N = config.embedding_dim, config.num_heads
        self.config, self.block = config, block
        self.conv = CausalConv(D, config.conv1d_kernel_size) if config.conv1d_kernel_size else None
        self.i_proj, self.f_proj, self.z_proj, self.o_proj = (BlockLinear(D, N) for _ in range(4))
        self.R = nn.Parameter(torch.empty(4, N, D // N, D // N))
        self.bias = nn.Parameter(torch.empty(4, N, D // N))
        self.norm = HeadNorm(D, config.setting("norm_eps"))

    def init_weights(self) -> None:
        if self.conv is not None:
            self.conv.reset_parameters()
        for layer in (self.i_proj, self.f_proj, self.z_proj, self.o_proj):
            small_init(layer.weight, self.config.embedding_dim)
        nn.init.zeros_(self.R)
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.bias[1] = powerlaw_bias(self.R.shape[-1], self.block, len(self.config.kinds))
        nn.init.ones_(self.norm.weight)

    def forward(
        self, x: Float[Tensor, "B T D"], state: MixerState | None = None, *, lengths=None, reset=None
    ) -> tuple[Float[Tensor, "B T D"], MixerState]:
        state = state or EMPTY
        seen, window = convolve(self.conv, x, state.conv, lengths, reset)
        gates = torch.stack([self.i_proj(seen), self.f_proj(seen), self.z_proj(x), self.o_proj(x)], -2)
        x_pre = gates.unflatten(-1, self.bias.shape[1:]) + self.bias
        forget = self.config.slstm_forget
        h, cell = slstm(x_pre, self.R, state.cell, forget=forget, lengths=lengths, reset=reset)
        return self.norm(h), MixerState(window, cell)

    def flops(self, steps: int) -> int:
        """Multiplications and additions of one forward pass over `steps` steps."""
        return 2 * steps * (2 * self.R.numel() + self.config.conv1d_kernel_size * self.config.embedding_dim)


class RecurrentMixer(nn.Module):
    """A classical cell as a mixer: dense input weights, recurrence within heads, head-wise norm. Subclasses: a cell."""

    gates: int

    def __init__(self, config: xLSTMConfig, block: int):
        super().__init__()
        D, N = config.embedding_dim, config.num_heads
        self.config = config
        self.proj = nn.Linear(D, self.gates * D)
        self.R = nn.Parameter(torch.empty(self.gates, N, D // N, D // N))
        self.norm = HeadNorm(D, config.setting("norm_eps"))

    def init_weights(self) -> None:
        small_init(self.proj.weight, self.config.embedding_dim)
        nn.init.zeros_(self.proj.bias)
        bound = self.R.shape[-1] ** -0.5
        nn.init.uniform_(self.R, -bound, bound)
        nn.init.ones_(self.norm.weight)

    def run_cell(self, x_pre: Float[Tensor, "B T G N H"], state: Any, **cuts: Any) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def forward(
        self, x: Float[Tensor, "B T D"], state: MixerState | None = None, *, lengths=None, reset=None
    ) -> tuple[Float[Tensor, "B T D"], MixerState]:
        x_pre = self.proj(x).unflatten(-1, self.R.shape[:3])
        h, cell = self.run_cell(x_pre, (state or EMPTY).cell, lengths=lengths, reset=reset)
        return self.norm(h), MixerState(None, cell)

    def flops(self, steps: int) -> int:
        """Multiplications and additions of one forward pass over `steps` steps."""
        return 2 * steps * (self.proj.weight.numel() + self.R.numel())


class LSTMMixer(RecurrentMixer):
    """The LSTM with a forget gate, whose bias starts at 1."""

    gates = 4

    def init_weights(self) -> None:
        super().init_weights()
        with torch.no_grad():
            self.proj.bias.view(4, -1)[1] = 1.0

    def run_cell(self, x_pre, state, **cuts):
        return lstm(x_pre, self.R, state, **cuts)


class RNNMixer(RecurrentMixer):
    """The Elman RNN."""

    gates = 1

    def run_cell(self, x_pre, state, **cuts):
        return rnn(x_pre.squeeze(2), self.R[0], state, **cuts)


MIXERS: dict[str, dict[str, Callable[[xLSTMConfig, int], Mixer]]] = {
    "paper": {"mlstm": mLSTMMixer, "slstm": sLSTMMixer, "lstm": LSTMMixer, "rnn": RNNMixer},
    "7b": {"mlstm": mLSTM7BMixer, "slstm": sLSTMMixer, "lstm": LSTMMixer, "rnn": RNNMixer},
}


def init_gates(i_gate: nn.Linear, f_gate: nn.Linear, config: xLSTMConfig) -> None:
    """The mLSTM's gates see nothing at first; its heads forget at rates from 0.05 down to 0.0025 a step."""
    nn.init.zeros_(i_gate.weight)
    nn.init.zeros_(f_gate.weight)
    nn.init.normal_(i_gate.bias, std=0.1)
    with torch.no_grad():
        f_gate.bias.copy_(torch.linspace(3, 6, config.num_heads))


def convolve(conv: CausalConv | None, x: Tensor, window: Tensor | None, lengths, reset) -> tuple[Tensor, Tensor | None]:
    """SiLU of the causal convolution, and its new window; x itself where there is no convolution."""
    if conv is None:
        return x, None
    y, window = conv(x, window, lengths=lengths, reset=reset)
    return F.silu(y), window


def mlstm_flops(steps: int, N: int, K: int, V: int, chunk_size: int) -> int:
    """Of the chunkwise cell: q k^T and S v within chunks, k^T v and q C between them."""
    L = min(steps, chunk_size)
    return 2 * steps * N * (L * (K + V) + 2 * K * V)


# ---- the frame -------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """x + mixer(norm(x)), then, but for the paper's mLSTM block, x + feed_forward(norm(x)).

    Shapes: (B, T, D), a state or None -> (B, T, D), state. Past a row's length the output is 0.
    """

    def __init__(self, config: xLSTMConfig, block: int):
        super().__init__()
        kind, table = config.kinds[block], MIXERS[config.block]
        if kind not in table:
            raise ValueError(f"no mixer {kind!r}.{suggest(kind, table)} There are: {', '.join(table)}")
        D, norm_eps = config.embedding_dim, config.setting("norm_eps")
        norm = RMSNorm if config.block == "7b" else LayerNorm
        self.config, self.kind = config, kind
        self.norm = norm(D, norm_eps)
        self.mixer: Mixer = table[kind](config, block)
        has_ffn = config.block == "7b" or kind != "mlstm"
        self.ffn_norm = norm(D, norm_eps) if has_ffn else None
        activation = "silu" if config.block == "7b" else "gelu"
        self.ffn = GatedFeedForward(D, config.ffn_dim, activation) if has_ffn else None
        self.dropout = nn.Dropout(config.dropout)

    def init_weights(self) -> None:
        """Fill every weight as the block's generation starts it."""
        D = self.config.embedding_dim
        nn.init.ones_(self.norm.weight)
        self.mixer.init_weights()
        if self.ffn is not None and self.ffn_norm is not None:
            nn.init.ones_(self.ffn_norm.weight)
            small_init(self.ffn.gate.weight, D)
            small_init(self.ffn.up.weight, D)
            wang_init(self.ffn.down.weight, D, len(self.config.kinds))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: MixerState | None = None,
        *,
        lengths: Int[Tensor, "B"] | None = None,
        reset: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], MixerState]:
        x = zero_past_end(x, lengths)  # NaN in the padding would reach the weights' gradients
        y, state = self.mixer(self.norm(x), state, lengths=lengths, reset=reset)
        x = x + self.dropout(y)
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return zero_past_end(x, lengths), state

    def flops(self, steps: int) -> int:
        """Multiplications and additions of one forward pass over `steps` steps; norms and activations left out."""
        ffn = 0 if self.ffn is None else 3 * self.config.embedding_dim * self.config.ffn_dim
        return self.mixer.flops(steps) + 2 * steps * ffn


def zero_past_end(x: Float[Tensor, "B T D"], lengths: Int[Tensor, "B"] | None) -> Float[Tensor, "B T D"]:
    return x if lengths is None else clean(x, steps_within(lengths, x.shape[1]))
