"""`RNN`, `LSTM` and `GRU`: torch.nn's, with the same names and weights, and lengths, resets, steps, any derivative."""

import warnings
from copy import deepcopy
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longshort.cells.gru import GRUState
from longshort.cells.lstm import GATES, LSTMState
from longshort.cells.rnn import NONLINEARITIES, RNNState
from longshort.functional import gru, lstm, one_of, rnn
from longshort.kernels import check_name
from longshort.layers.frame import Layer
from longshort.shapes import Float


class Hidden(Tensor):
    """The state of an RNN or a GRU: h_n itself, as `torch.nn` gives it, that answers `.h` like every other state."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # its results are plain

    @property
    def h(self) -> Tensor:
        return self.as_subclass(Tensor)

    def detach(self) -> "Hidden":
        """The same state, cut from the graph that computed it."""
        return super().detach().as_subclass(Hidden)

    def __deepcopy__(self, memo: dict) -> "Hidden":
        if not self.is_leaf:
            deepcopy(self.h, memo)  # raises, as for any tensor of a graph
        copy = deepcopy(self.h.detach(), memo).as_subclass(Hidden)
        for name, value in vars(self).items():  # nn.Parameter's mark, if it is one
            setattr(copy, name, deepcopy(value, memo))
        copy.requires_grad_(self.requires_grad)
        return copy


torch.serialization.add_safe_globals([Hidden])


class TorchLayer(Layer):
    """What `LSTM`, `RNN` and `GRU` share with their namesakes in `torch.nn`: weights, start values, conversion."""

    torch_type: ClassVar[Any]
    gates: int

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        rows, head = self.gates * self.hidden_size, (self.proj_size or self.hidden_size) // self.num_heads
        shapes = {"weight_ih": (rows, input_size), "weight_hh": (rows, head)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size // self.num_heads)
        return shapes

    def reset_parameters(self) -> None:
        """PyTorch's start: uniform within 1/sqrt(hidden_size), drawn in the same order, so the same seed agrees."""
        bound = self.hidden_size**-0.5
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)

    def recurrent(self, w: dict[str, Tensor]) -> Float[Tensor, "G N H P"]:
        """`weight_hh`, gates and heads apart."""
        return w["weight_hh"].unflatten(0, (self.gates, self.num_heads, -1))

    def gates_apart(self, x_pre: Float[Tensor, "B T D"]) -> Float[Tensor, "B T G N H"]:
        """What the input gives each gate of each head."""
        return x_pre.unflatten(-1, (self.gates, self.num_heads, -1))

    def both_biases(self, w: dict[str, Tensor]) -> Tensor | None:
        return w["bias_ih"] + w["bias_hh"] if self.bias else None

    def heads(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B N H"]:
        return x.unflatten(-1, (self.num_heads, -1))

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """Every direction's weights, as `torch.nn.LSTM.all_weights` lists them."""
        return [list(self.weights_of(part).values()) for part in self.parts]

    @classmethod
    def from_torch(cls, layer):
        """The same layer of ours: options and a copy of the weights of a `torch.nn` one."""
        if not isinstance(layer, cls.torch_type):
            raise ValueError(
                f"{cls.__name__}.from_torch takes a torch.nn.{cls.torch_type.__name__}, got {type(layer).__name__}"
            )
        names = ("num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size", "nonlinearity")
        options = {name: getattr(layer, name) for name in names if hasattr(layer, name)}
        return copied(layer, cls, **options)

    def to_torch(self):
        """The same layer of PyTorch's: options and a copy of the weights."""
        for name, value in {"num_heads": 1, "forget": "learned"}.items():
            if getattr(self, name, value) != value:
                raise ValueError(
                    f"torch.nn.{self.torch_type.__name__} has no {name}; this layer's is {getattr(self, name)!r}"
                )
        options: dict[str, Any] = {"num_layers": self.num_layers, "bias": self.bias, "batch_first": self.batch_first}
        options |= {"dropout": self.dropout, "bidirectional": self.bidirectional}
        options |= {"proj_size": self.proj_size} if self.proj_size else {}
        options |= {"nonlinearity": self.nonlinearity} if isinstance(self, RNN) else {}
        return copied(self, self.torch_type, **options)


def copied(source: Any, kind: Any, **options: Any) -> Any:
    """A layer of another kind with the weights and the mode of `source`."""
    weight = source.weight_ih_l0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a dropout without effect: `source` was built with it
        target = kind(source.input_size, source.hidden_size, device="meta", dtype=weight.dtype, **options)
    target.to_empty(device=weight.device)
    target.load_state_dict(source.state_dict())
    for name, weight in source.named_parameters():
        target.get_parameter(name).requires_grad_(weight.requires_grad)
    return target.train(source.training)


class PlainState(TorchLayer):
    """What `RNN` and `GRU` share: their state is h alone, handed out as the tensor h_n."""

    def hand_out(self, state) -> Any:
        """h_n with `.h`: a `Hidden` wherever a subclass of Tensor can stand, not in an exported program or a fake."""
        if exporting() or type(state.h) is not Tensor:
            h_n = state.h.view_as(state.h)
            h_n.h = state.h  # type: ignore[attr-defined]
            return h_n
        return state.h.as_subclass(Hidden)


def exporting() -> bool:
    """Whether torch.export is at work."""
    known = getattr(torch.compiler, "is_exporting", None)  # from torch 2.7
    return known() if known else torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


class RNN(PlainState):
    """`torch.nn.RNN`: the Elman network, h_t = tanh(W x_t + R h_{t-1} + b). Elman 1990.

    Same arguments, same parameter names, same results; state dicts load in both directions. Beyond it: any device and
    derivative, `lengths`, `reset`, `step`, T = 0, and heads (R block-diagonal). The state is h_n.

    >>> y, h_n = RNN(3, 5, batch_first=True)(torch.zeros(2, 7, 3))
    >>> y.shape, h_n.shape
    (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]))
    """

    torch_type = nn.RNN
    gates = 1
    state_type = RNNState
    defaults: ClassVar = {"nonlinearity": "tanh"}
    nonlinearity: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device=None,
        dtype=None,
        *,
        proj_size: int = 0,
        num_heads: int = 1,
        kernel: str = "auto",
    ):
        one_of("nonlinearity", nonlinearity, NONLINEARITIES)
        check_name("rnn", kernel)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype,
            num_heads=num_heads, nonlinearity=nonlinearity, kernel=kernel,
        )  # fmt: skip

    def run(self, w, x, state, lengths, reset):
        x_pre = self.linear(x, w["weight_ih"], self.both_biases(w))
        if done := self.at_once("rnn", x_pre, w["weight_hh"], state, lengths, reset, nonlinearity=self.nonlinearity):
            return done
        start = None if state is None else RNNState(self.heads(state.h))
        h, last = rnn(
            self.gates_apart(x_pre).squeeze(2),
            self.recurrent(w)[0],
            start,
            nonlinearity=self.nonlinearity,
            lengths=lengths,
            reset=reset,
            kernel=self.kernel,
        )
        return h.flatten(-2), RNNState(last.h.flatten(-2))


class LSTM(TorchLayer):
    """`torch.nn.LSTM`. Hochreiter & Schmidhuber 1997; forget gate from Gers, Schmidhuber & Cummins 2000.

    Same arguments, same parameter names, same results; state dicts load in both directions. Beyond it: any device and
    derivative, `lengths`, `reset`, `step`, T = 0, heads (R block-diagonal), and `forget="one"`, the carousel of 1997
    without a forget gate (three gates, i g o). The state is (h_n, c_n), each (num_layers * directions, B, ·).

    >>> y, (h, c) = LSTM(3, 5, batch_first=True)(torch.zeros(2, 7, 3))
    >>> y.shape, h.shape
    (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]))
    """

    torch_type = nn.LSTM
    state_type = LSTMState
    projects = True
    defaults: ClassVar = {"forget": "learned"}
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
        forget: str = "learned",
        kernel: str = "auto",
    ):
        one_of("forget", forget, GATES)
        check_name("lstm", kernel)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype,
            num_heads=num_heads, forget=forget, gates=GATES[forget], kernel=kernel,
        )  # fmt: skip

    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.proj_size or self.hidden_size,), (self.hidden_size,))

    def run(self, w, x, state, lengths, reset):
        x_pre = self.linear(x, w["weight_ih"], self.both_biases(w))
        R, proj = w["weight_hh"], w.get("weight_hr")
        if done := self.at_once("lstm", x_pre, R, state, lengths, reset, more=proj, forget=self.forget):
            return done
        proj = None if proj is None else proj.unflatten(0, (self.num_heads, -1))
        start = None if state is None else LSTMState(self.heads(state.h), self.heads(state.c))
        h, last = lstm(
            self.gates_apart(x_pre),
            self.recurrent(w),
            start,
            proj=proj,
            forget=self.forget,
            lengths=lengths,
            reset=reset,
            kernel=self.kernel,
        )
        return h.flatten(-2), LSTMState(*(each.flatten(-2) for each in last))


class GRU(PlainState):
    """`torch.nn.GRU`. Cho et al. 2014 (1406.1078).

    Same arguments, same parameter names, same results; state dicts load in both directions. Beyond it: any device and
    derivative, `lengths`, `reset`, `step`, T = 0, and heads (R block-diagonal). The state is h_n.

    >>> y, h_n = GRU(3, 5, batch_first=True)(torch.zeros(2, 7, 3))
    >>> y.shape, h_n.shape
    (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]))
    """

    torch_type = nn.GRU
    gates = 3
    state_type = GRUState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device=None,
        dtype=None,
        *,
        proj_size: int = 0,
        num_heads: int = 1,
        kernel: str = "auto",
    ):
        check_name("gru", kernel)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype,
            num_heads=num_heads, kernel=kernel,
        )  # fmt: skip

    def run(self, w, x, state, lengths, reset):
        bias, scaled = None, None
        if self.bias:  # r scales the candidate's recurrent bias: it cannot be added beforehand
            added, scaled = w["bias_hh"].split([2 * self.hidden_size, self.hidden_size])
            bias = w["bias_ih"] + F.pad(added, (0, self.hidden_size))
        x_pre = self.linear(x, w["weight_ih"], bias)
        if done := self.at_once("gru", x_pre, w["weight_hh"], state, lengths, reset, more=scaled):
            return done
        start = None if state is None else GRUState(self.heads(state.h))
        scaled = None if scaled is None else self.heads(scaled)
        h, last = gru(
            self.gates_apart(x_pre), self.recurrent(w), start,
            bias=scaled, lengths=lengths, reset=reset, kernel=self.kernel,
        )  # fmt: skip
        return h.flatten(-2), GRUState(last.h.flatten(-2))
