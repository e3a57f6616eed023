"""A cell of one's own gets what the built-in layers have; the two of examples/07 compute what their papers say."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import longshort

EXAMPLE = Path(__file__).parents[2] / "examples" / "07_your_own_cell.py"
spec = importlib.util.spec_from_file_location("your_own_cell", EXAMPLE)
own = importlib.util.module_from_spec(spec)
spec.loader.exec_module(own)
B, T, D, H = 3, 7, 2, 4


def close(x, y):
    torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def layer(cell, **options):
    torch.manual_seed(1)
    return longshort.Recurrent(cell, D, H, batch_first=True, dtype=torch.float64, **options)


def test_a_peephole_lstm_is_its_equations():
    rnn = layer(own.PeepholeLSTM)
    cell, x = rnn.cell_l0, torch.randn(B, T, D, dtype=torch.float64)
    nn.init.normal_(cell.peep)
    y, (h_last, c_last) = rnn(x)
    h = c = torch.zeros(B, H, dtype=torch.float64)
    W, b = rnn.weight_ih_l0.view(4, H, D), rnn.bias_l0.view(4, H)
    for t in range(T):
        pre = [x[:, t] @ W[g].T + b[g] + h @ cell.R[g].T for g in range(4)]
        i, f = torch.sigmoid(pre[0] + cell.peep[0] * c), torch.sigmoid(pre[1] + cell.peep[1] * c)
        c = f * c + i * torch.tanh(pre[2])
        h = torch.sigmoid(pre[3] + cell.peep[2] * c) * torch.tanh(c)
        close(y[:, t], h)
    close(h_last[0], h)
    close(c_last[0], c)


def test_without_peepholes_it_is_the_lstm_with_every_option():
    options = {"num_layers": 2, "bidirectional": True}
    mine = layer(own.PeepholeLSTM, **options)
    theirs = longshort.LSTM(D, H, batch_first=True, dtype=torch.float64, **options)
    for part in theirs.parts:
        cell = mine.get_submodule("cell" + part.suffix)
        with torch.no_grad():
            theirs.get_parameter("weight_ih" + part.suffix).copy_(mine.get_parameter("weight_ih" + part.suffix))
            theirs.get_parameter("bias_ih" + part.suffix).copy_(mine.get_parameter("bias" + part.suffix))
            theirs.get_parameter("bias_hh" + part.suffix).zero_()
            theirs.get_parameter("weight_hh" + part.suffix).copy_(cell.R.flatten(0, 1))
    x, reset = torch.randn(B, T, D, dtype=torch.float64), torch.rand(B, T) < 0.3
    _, state = theirs(torch.randn(B, 3, D, dtype=torch.float64))
    given = {"lengths": [7, 3, 0], "reset": reset}
    want, want_state = theirs(x, state, **given)
    y, last = mine(x, mine.state_type(*state), **given)
    close(y, want)
    for a, b in zip(last, want_state, strict=True):
        close(a, b)


def test_a_min_lstm_is_a_weighted_mean_of_what_it_read():
    rnn = layer(own.MinLSTM)
    x = torch.randn(B, T, D, dtype=torch.float64)
    f, i, new = (x @ rnn.weight_ih_l0.T + rnn.bias_l0).view(B, T, 3, H).unbind(2)
    f, i = torch.sigmoid(f), torch.sigmoid(i)
    kept, written = f / (f + i), i / (f + i) * new
    want = sum(written[:, t] * kept[:, t + 1 :].prod(1) for t in range(T))
    close(rnn(x)[0][:, -1], want)


@pytest.mark.parametrize("cell", [own.PeepholeLSTM, own.MinLSTM])
def test_pieces_steps_packing_and_gradients(cell):
    rnn = layer(cell, num_layers=2)
    x = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    y, state = rnn(x)
    first, middle = rnn(x[:, :3])
    second, last = rnn(x[:, 3:], middle)
    close(torch.cat([first, second], 1), y)
    close(last.h, state.h)
    stepped = None
    for frame in x.unbind(1):
        out, stepped = rnn.step(frame, stepped)
    close(out, y[:, -1])
    packed = nn.utils.rnn.pack_padded_sequence(x, [7, 4, 2], batch_first=True)
    unpacked, _ = nn.utils.rnn.pad_packed_sequence(rnn(packed)[0], batch_first=True)
    close(unpacked, rnn(x, lengths=[7, 4, 2])[0])
    small = x[:1, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rnn(x)[0], small)
    assert torch.autograd.gradgradcheck(lambda x: rnn(x)[0], small)
    assert rnn(x[:, :0])[0].shape == (B, 0, H) and rnn(x[:0])[0].shape == (0, T, H)


class Start(longshort.Cell):
    """Starts from a learnt state."""

    gates = 1

    class State(NamedTuple):
        h: Tensor

    def __init__(self, hidden_size: int):
        super().__init__()
        self.first = nn.Parameter(torch.arange(1.0, hidden_size + 1))

    def start(self, zeros):
        return self.State(zeros + self.first)

    def step(self, x_pre, state):
        h = state.h + 0 * x_pre[:, 0]
        return h, self.State(h)


def test_a_cell_may_start_from_anything_and_a_reset_goes_back_there():
    rnn = layer(Start)
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[:, 3] = True
    carried = rnn.state_type(torch.zeros(1, B, H, dtype=torch.float64))
    y, _ = rnn(torch.zeros(B, T, D, dtype=torch.float64), carried, reset=reset)
    close(y[:, 2], torch.zeros(B, H, dtype=torch.float64))
    close(y[:, 3], rnn.cell_l0.first.expand(B, H))
    y.sum().backward()
    assert (rnn.cell_l0.first.grad == B * (T - 3)).all()


class NoGates(own.MinLSTM):
    gates = None


class NoState(own.MinLSTM):
    State = None


class WrongShape(own.MinLSTM):
    def step(self, x_pre, state):
        return x_pre[:, 0, :1], state


class OtherOutput(own.MinLSTM):
    def step(self, x_pre, state):
        return 2 * state.h, state


class NoStep(longshort.Cell):
    gates, State = 1, own.MinLSTM.State


class NoNewState(own.MinLSTM):
    def step(self, x_pre, state):
        return state.h, None


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (lambda hidden: nn.Linear(1, 1), "must make longshort.Cell objects, got a Linear"),
        (NoGates, r"NoGates.gates must be a whole number of at least 1, got None"),
        (NoState, "NoState.State must be a NamedTuple with a field h"),
        (WrongShape, r"WrongShape.step must return h of shape \(B, hidden_size\) = \(3, 4\), got \(3, 1\)"),
        (OtherOutput, r"OtherOutput.step must return the new state's h as its output"),
        (nn.LSTMCell, "cell must make a cell from hidden_size alone"),
        (NoNewState, r"NoNewState.step must return \(h, NoNewState.State\(...\)\), got Tensor, NoneType"),
    ],
)
def test_a_cell_that_is_none_says_what_is_wrong(cell, message):
    with pytest.raises(ValueError, match=message):
        layer(cell)(torch.zeros(B, T, D, dtype=torch.float64))


def test_a_cell_without_a_step_says_so():
    with pytest.raises(NotImplementedError, match=r"NoStep must define step\(self, x_pre, state\)"):
        layer(NoStep)(torch.zeros(B, T, D, dtype=torch.float64))
