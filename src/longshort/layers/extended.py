"""`sLSTM` and `mLSTM`: the cells of xLSTM (Beck et al. 2024, arXiv 2405.04517) as layers called like torch.nn.LSTM."""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longshort.cells.loop import carried, detached
from longshort.cells.mlstm import MLSTMState
from longshort.cells.slstm import FORGET, SLSTMState
from longshort.functional import mlstm, note, one_of, slstm, watchers
from longshort.kernels import check_name
from longshort.layers.frame import Layer, does_not_split, last_of, whole_number
from longshort.ops.norm import head_norm
from longshort.shapes import Float


class sLSTM(Layer):
    """The sLSTM as a layer: exponential gates, normaliser, stabiliser (Beck et al. 2024, 2405.04517, (8)-(17)).

    Called as `torch.nn.LSTM` is. Weights, with gates in the paper's order i f z o: `weight_ih_l0` (4 * hidden, input),
    `weight_hh_l0` (4, N, H, H), (out, in) within each gate and head, and `bias_l0` (4 * hidden). The state is
    (h, c, n, m), each (num_layers * directions, B, hidden); the memory means c e^m and n e^m.

    >>> y, state = sLSTM(3, 6, num_heads=2, batch_first=True)(torch.zeros(2, 7, 3))
    >>> y.shape, state.h.shape
    (torch.Size([2, 7, 6]), torch.Size([1, 2, 6]))
    """

    state_type = SLSTMState
    defaults: ClassVar = {"forget": "sigmoid"}
    forget: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device=None,
        dtype=None,
        *,
        num_heads: int = 1,
        forget: str = "sigmoid",
        kernel: str = "auto",
    ):
        one_of("forget", forget, FORGET)
        check_name("slstm", kernel)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype,
            num_heads=num_heads, forget=forget, kernel=kernel,
        )  # fmt: skip

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        D, N = self.hidden_size, self.num_heads
        shapes = {"weight_ih": (4 * D, input_size), "weight_hh": (4, N, D // N, D // N)}
        return shapes | ({"bias": (4 * D,)} if self.bias else {})

    def reset_parameters(self) -> None:
        """Weights as `nn.LSTM`'s; biases 0, but f starts at sigmoid(3) to sigmoid(6) over the units of a head."""
        D, H = self.hidden_size, self.hidden_size // self.num_heads
        for name, weight in self.named_parameters():
            if name.startswith("weight"):
                nn.init.uniform_(weight, -(D**-0.5), D**-0.5)
            else:
                nn.init.zeros_(weight)
                open_gate = torch.linspace(3, 6, H)
                if self.forget == "exp":  # the same weight, as the logarithm that this gate takes
                    open_gate = F.logsigmoid(open_gate)
                with torch.no_grad():
                    weight[D : 2 * D] = open_gate.repeat(self.num_heads)

    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.hidden_size,),) * 4

    def run(self, w, x, state, lengths, reset):
        N = self.num_heads
        x_pre = self.linear(x, w["weight_ih"], w.get("bias"))
        if done := self.at_once("slstm", x_pre, w["weight_hh"], state, lengths, reset, forget=self.forget):
            return done
        start = None if state is None else SLSTMState(*(each.unflatten(-1, (N, -1)) for each in state))
        h, last = slstm(
            x_pre.unflatten(-1, (4, N, -1)), w["weight_hh"], start,
            forget=self.forget, lengths=lengths, reset=reset, kernel=self.kernel,
        )  # fmt: skip
        return h.flatten(-2), SLSTMState(*(each.flatten(-2) for each in last))


@carried
class MLSTMLayerState(NamedTuple):
    """What an mLSTM layer carries: its last output h, and memory C, normaliser n, stabiliser m. L: layers * directions.

    h is there to be read, as every layer's: the next call does not depend on it.
    """

    h: Float[Tensor, "L B D"]
    C: Float[Tensor, "L B N K V"]
    n: Float[Tensor, "L B N K"]
    m: Float[Tensor, "L B N"]
    detach = detached


class mLSTM(Layer):
    """The mLSTM as a layer: a matrix memory, parallel in training (Beck et al. 2024, 2405.04517, (18)-(27)).

    Called as `torch.nn.LSTM` is. q, k, v and the gates come from x; the output gate is a sigmoid, no convolution.
    Weights: `weight_ih_l0`, whose rows are q, k (`qk_dim` each), v (hidden), i, f (a row a head) and o (hidden), and
    `bias_l0`. The state is (h, C, n, m): h (L, B, hidden), C (L, B, N, K, V), n (L, B, N, K), m (L, B, N), with L =
    num_layers * directions; the memory means C e^m and n e^m.

    Args:
        qk_dim: width of q and of k, all heads together; None: hidden_size.
        norm: "head" norms each head's read-out (LayerNorm, eps 1e-6, `weight_norm_l0`) before the output gate, as
            xLSTM-7B does (2503.13427).
        chunk_size: steps a chunk of the chunkwise form holds. Changes speed, never results.

    >>> y, state = mLSTM(3, 6, num_heads=2, batch_first=True)(torch.zeros(2, 7, 3))
    >>> y.shape, state.C.shape
    (torch.Size([2, 7, 6]), torch.Size([1, 2, 2, 3, 3]))
    """

    state_type = MLSTMLayerState
    defaults: ClassVar = {"norm": None, "chunk_size": 64}
    qk_dim: int
    norm: str | None
    chunk_size: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device=None,
        dtype=None,
        *,
        num_heads: int = 1,
        qk_dim: int | None = None,
        norm: str | None = None,
        chunk_size: int = 64,
        kernel: str = "auto",
    ):
        check_name("mlstm", kernel)
        one_of("norm", norm, (None, "head"))
        qk_dim = hidden_size if qk_dim is None else qk_dim
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype,
            num_heads=num_heads, qk_dim=qk_dim, norm=norm, chunk_size=chunk_size, kernel=kernel,
        )  # fmt: skip

    def check_options(self, dtype) -> None:
        super().check_options(dtype)
        whole_number("chunk_size", self.chunk_size, at_least=1)
        whole_number("qk_dim", self.qk_dim, at_least=1)
        if self.qk_dim % self.num_heads:
            raise ValueError(does_not_split("qk_dim", self.qk_dim, self.num_heads))

    @property
    def rows(self) -> list[int]:
        """How many rows of `weight_ih` make q, k, v, i, f and o."""
        return [self.qk_dim, self.qk_dim, self.hidden_size, self.num_heads, self.num_heads, self.hidden_size]

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        shapes = {"weight_ih": (sum(self.rows), input_size)}
        shapes |= {"bias": (sum(self.rows),)} if self.bias else {}
        return shapes | ({"weight_norm": (self.hidden_size,)} if self.norm else {})

    def reset_parameters(self) -> None:
        """q, k, v, o: uniform within 1/sqrt(input), biases 0. i, f: weights 0, biases near 0 and 3 to 6 over heads."""
        for name, weight in self.named_parameters():
            if name.startswith("weight_norm"):
                nn.init.ones_(weight)
                continue
            q, k, v, i, f, o = weight.split(self.rows)
            bound = weight.shape[1] ** -0.5 if name.startswith("weight") else 0.0
            for part in (q, k, v, o):
                nn.init.uniform_(part, -bound, bound)
            nn.init.zeros_(i)
            nn.init.zeros_(f)
            if name.startswith("bias"):
                nn.init.normal_(i, std=0.1)
                with torch.no_grad():
                    f.copy_(torch.linspace(3, 6, self.num_heads))

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", qk_dim={self.qk_dim}" if self.qk_dim != self.hidden_size else "")

    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        N, K, V = self.num_heads, self.qk_dim // self.num_heads, self.hidden_size // self.num_heads
        return ((self.hidden_size,), (N, K, V), (N, K), (N,))

    def run(self, w, x, state, lengths, reset):
        q, k, v, i_pre, f_pre, o_pre = self.linear(x, w["weight_ih"], w.get("bias")).split(self.rows, -1)
        q, k, v = (each.unflatten(-1, (self.num_heads, -1)) for each in (q, k, v))
        start = None if state is None else MLSTMState(state.C, state.n, state.m)
        h, last = mlstm(
            q, k, v, i_pre, f_pre, start,
            chunk_size=self.chunk_size, lengths=lengths, reset=reset, kernel=self.kernel,
        )  # fmt: skip
        if self.norm:
            h = head_norm(h, w["weight_norm"], eps=1e-6)
        o = torch.sigmoid(o_pre)
        y = o * h.flatten(-2)
        if watchers():
            note(**{name: x.unflatten(-1, (self.num_heads, -1)) for name, x in dict(o_pre=o_pre, o=o, y=y).items()})
        before = last.C.new_zeros(y.shape[0], y.shape[-1]) if state is None else state.h.to(last.C.dtype)
        return y, MLSTMLayerState(last_of(y, before, lengths), *last)
