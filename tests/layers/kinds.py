"""What the layers' tests share: every kind of layer, all its answers, and the same by hand, a piece at a time."""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from problems import content
from torch import Tensor, nn
from torch.func import functional_call

import longshort
from longshort import GRU, LSTM, RNN, Recurrent, functional, mLSTM, sLSTM

# ---- every kind ------------------------------------------------------------------------------------------------------


class PeepholeState(NamedTuple):
    h: Tensor
    c: Tensor


class Peephole(longshort.Cell):
    """An LSTM whose gates see the memory (Gers 2002): i and f the old one, o the new one."""

    gates = 4
    State = PeepholeState

    def __init__(self, hidden_size):
        super().__init__()
        self.recur = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.peep = nn.Parameter(torch.zeros(3, hidden_size))

    def step(self, x_pre, state):
        i, f, g, o = (x_pre + self.recur(state.h).unflatten(-1, (4, -1))).unbind(1)
        i, f = torch.sigmoid(i + self.peep[0] * state.c), torch.sigmoid(f + self.peep[1] * state.c)
        c = f * state.c + i * torch.tanh(g)
        h = torch.sigmoid(o + self.peep[2] * c) * torch.tanh(c)
        return h, self.State(h, c)


class LeakyState(NamedTuple):
    h: Tensor


class Leaky(longshort.Cell):
    """A leaky mean that learns where it starts."""

    gates = 1
    State = LeakyState

    def __init__(self, hidden_size):
        super().__init__()
        self.first = nn.Parameter(torch.ones(hidden_size))

    def start(self, zeros):
        return self.State(zeros + self.first)

    def step(self, x_pre, state):
        h = 0.6 * state.h + 0.4 * torch.tanh(x_pre[:, 0])
        return h, self.State(h)


KINDS = {
    "rnn-tanh": (RNN, {}),
    "rnn-relu": (RNN, {"nonlinearity": "relu"}),
    "lstm": (LSTM, {}),
    "lstm-1997": (LSTM, {"forget": "one"}),
    "lstm-proj": (LSTM, {"proj_size": 2}),
    "gru": (GRU, {}),
    "slstm": (sLSTM, {}),
    "slstm-exp": (sLSTM, {"forget": "exp"}),
    "mlstm": (mLSTM, {}),
    "mlstm-7b": (mLSTM, {"norm": "head", "qk_dim": 4, "chunk_size": 2}),
    "own": (partial(Recurrent, Peephole), {}),
    "own-start": (partial(Recurrent, Leaky), {}),
}
BUILT_IN = {"rnn": RNN, "lstm": LSTM, "gru": GRU, "slstm": sLSTM, "mlstm": mLSTM}
ONE = {}
DEEP = {"num_layers": 2, "num_heads": 2}
BOTH = {**DEEP, "bidirectional": True}
GATES = {"rnn": 1, "lstm": 2, "lstm-1997": 1, "gru": 2, "slstm": 2, "mlstm": 2, "own": 2, "own-start": 1}


def build(kind: str, input_size: int = 3, hidden_size: int = 6, **options):
    """A layer in float64 that reads (B, T, input), each of its weights moved away from its start value."""
    make, own = KINDS[kind]
    options = {"batch_first": True, "dtype": torch.float64} | own | options
    if kind.startswith("own"):
        options.pop("num_heads", None)
    layer = make(input_size, hidden_size, **options)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.add_(torch.randn_like(weight) * 0.4)
    return layer


def gate_rows(kind: str, layer) -> list[slice]:
    """The rows of `weight_ih` that make the input gate and the forget gate, or what is nearest to them."""
    first, width = (sum(layer.rows[:3]), layer.num_heads) if kind.startswith("mlstm") else (0, layer.hidden_size)
    count = GATES.get(kind, GATES[kind.partition("-")[0]])
    return [slice(first + n * width, first + (n + 1) * width) for n in range(count)]


def with_knobs(kind: str, big: float, **options):
    """A layer whose last two features move its input gate and its forget gate (or its one gate), and nothing else:
    by `big` times their value, so that a finite value makes an infinite gate."""
    layer = build(kind, 5, **options)
    gates = gate_rows(kind, layer)
    with torch.no_grad():
        layer.weight_ih_l0[:, -2:] = 0
        layer.weight_ih_l0[gates[0], -2] = big
        layer.weight_ih_l0[gates[-1], -1] = big
    return layer


def numbers(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ---- states and answers ----------------------------------------------------------------------------------------------


def each(state, f):
    """The state with `f` of every field: a NamedTuple, or a tensor by itself (RNN, GRU)."""
    return f(state.as_subclass(Tensor)) if isinstance(state, Tensor) else type(state)(*map(f, state))


def fields(state) -> list[Tensor]:
    """The tensors of a state."""
    return [state] if isinstance(state, Tensor) else list(state)


def reached(layer, B: int, steps: int = 3):
    """A state that the layer reached over a few steps."""
    x = numbers(B, steps, layer.input_size, seed=99, dtype=layer.weight_ih_l0.dtype)
    with torch.no_grad():
        return layer(x if layer.batch_first else x.transpose(0, 1))[1]


def meaning(state) -> dict[str, Tensor]:
    """What a state means, whatever its stabiliser."""
    return {"h": state} if isinstance(state, Tensor) else content(state)


def everything(layer, call, x: Tensor, state=None) -> dict[str, Tensor]:
    """`call(x, state)`'s outputs, what its last state means, and the gradients of x, the state and every weight."""
    leaf = lambda x: x.detach().clone().requires_grad_()  # noqa: E731
    leaves = {"x": leaf(x)}
    if state is not None:
        state = each(state, leaf)
        if hasattr(state, "m"):  # a state is differentiated at fixed m
            state = state._replace(m=state.m.detach())
        fields = {"h": state} if isinstance(state, Tensor) else state._asdict()
        leaves |= {f"state.{name}": field for name, field in fields.items() if name != "m"}
    leaves |= dict(layer.named_parameters())
    y, last = call(leaves["x"], state)
    answers = {"y": y, **{f"last {name}": field for name, field in meaning(last).items()}}
    loss = sum((out * numbers(*out.shape, seed=n).to(out)).sum() for n, out in enumerate(answers.values()))
    slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {name: out.detach() for name, out in answers.items()} | {
        f"d {name}": slope for name, slope in zip(leaves, slopes, strict=True)
    }


# ---- by hand ---------------------------------------------------------------------------------------------------------


def alone(kind: str, layer, part):
    """One direction of one layer as a layer of its own, with the same weights."""
    size = layer.input_size if part.layer == 0 else layer.output_size * layer.directions
    names = ("bias", "num_heads", "qk_dim", *([] if kind.startswith("own") else ["proj_size"]))
    own = {name: getattr(layer, name) for name in names if hasattr(layer, name)}
    single = build(kind, size, layer.hidden_size, **own)
    weights = {name: layer.get_parameter(name.replace("_l0", part.suffix)) for name, _ in single.named_parameters()}
    return lambda x, state: functional_call(single, weights, (x, state))


def read(single, x: Tensor, state, pieces, reverse: bool):
    """One row's pieces, one call each: the first that is read starts from `state`, the others from nothing."""
    outputs = []
    for begin, end in pieces[::-1] if reverse else pieces:
        piece = x[:, begin:end]
        y, last = single(piece.flip(1) if reverse else piece, state)
        outputs.append(y.flip(1) if reverse else y)
        state = None
    return torch.cat(outputs[::-1] if reverse else outputs, 1), last


def by_hand(kind: str, layer, x: Tensor, state=None, lengths=None, reset=None):
    """Every row, layer, direction and piece between resets in a call of its own."""
    T, rows, lasts = x.shape[1], [], []
    singles = [alone(kind, layer, part) for part in layer.parts]
    for b in range(x.shape[0]):
        end = T if lengths is None else int(lengths[b])
        cuts = [t for t in range(end) if reset is not None and reset[b, t]]
        pieces = list(pairwise([0, *(t for t in cuts if t), end]))
        y, outputs = x[b : b + 1, :end], []
        for at, (part, single) in enumerate(zip(layer.parts, singles, strict=True)):
            fresh = state is None or (0 in cuts and not part.reverse)
            start = None if fresh else each(state, lambda field, at=at, b=b: field[at : at + 1, b : b + 1])
            out, last = read(single, y, start, pieces, part.reverse)
            outputs.append(out)
            lasts.append(last)
            if len(outputs) == layer.directions:
                y, outputs = torch.cat(outputs, -1), []
        rows.append(F.pad(y, (0, 0, 0, T - end)))
    kind_of_state, L = type(lasts[0]), len(layer.parts)
    whole = [
        torch.cat([torch.cat(field[n : n + L]) for n in range(0, len(field), L)], 1)
        for field in zip(*map(fields, lasts), strict=True)
    ]
    return torch.cat(rows), whole[0] if issubclass(kind_of_state, Tensor) else kind_of_state(*whole)


def reference(layer, x: Tensor, state=None):
    """What a layer of one direction computes, from its weights by their documented rows and its cell's reference."""
    pre = x @ layer.weight_ih_l0.T + layer.bias_l0
    N = layer.num_heads
    heads = lambda x: x.unflatten(-1, (N, -1))  # noqa: E731
    at = None if state is None else each(state, lambda field: field[0])
    if isinstance(layer, sLSTM):
        start = None if at is None else functional.SLSTMState(*map(heads, at))
        pre = pre.unflatten(-1, (4, N, -1))
        y, last = functional.slstm(pre, layer.weight_hh_l0, start, forget=layer.forget, kernel="reference")
        return y.flatten(2), layer.state_type(*(field.flatten(1)[None] for field in last))
    if isinstance(layer, mLSTM):
        K, V = layer.qk_dim, layer.hidden_size
        q, k, v, i, f, o = pre.split([K, K, V, N, N, V], -1)
        start = None if at is None else functional.MLSTMState(at.C, at.n, at.m)
        y, last = functional.mlstm(heads(q), heads(k), heads(v), i, f, start, kernel="reference")
        if layer.norm:
            y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
            y = y * heads(layer.weight_norm_l0)
        y = y.flatten(2) * torch.sigmoid(o)
        return y, layer.state_type(y[None, :, -1], *(field[None] for field in last))
    cell = layer.cell_l0
    at = cell.start(x.new_zeros(x.shape[0], layer.hidden_size)) if at is None else at
    outputs = []
    for x_pre in pre.unflatten(-1, (cell.gates, -1)).unbind(1):
        h, at = cell.step(x_pre, at)
        outputs.append(h)
    return torch.stack(outputs, 1), each(at, lambda field: field[None])
