"""The LSTM and the RNN equal torch.nn's; heads equal a block-diagonal matrix; 1997 equals its equations."""

import pytest
import torch
from problems import problem
from torch import nn

from longshort.functional import LSTMState, RNNState, lstm, rnn

F64 = dict(dtype=torch.float64)


def both(module, ours, *tensors):
    """Outputs and gradients of torch.nn's module and of ours, on the same tensors."""
    answers = []
    for f in (module, ours):
        leaves = [x.detach().clone().requires_grad_() for x in tensors]
        module.zero_grad()
        outputs = f(*leaves)
        sum((x * torch.linspace(-1, 1, x.numel(), **F64).view_as(x)).sum() for x in outputs).backward()
        grads = [x.grad for x in leaves] + [p.grad.clone() for p in module.parameters()]
        answers.append([*outputs, *grads])
    return zip(*answers, strict=True)


@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize("T", [1, 2, 65])
def test_lstm_equals_nn_lstm(T, proj_size):
    D, H, B = 3, 5, 2
    P = proj_size or H
    module = nn.LSTM(D, H, batch_first=True, proj_size=proj_size, **F64)

    def theirs(x, h, c):
        y, (h, c) = module(x, (h[None], c[None]))
        return y, h[0], c[0]

    def ours(x, h, c):
        x_pre = x @ module.weight_ih_l0.T + module.bias_ih_l0 + module.bias_hh_l0
        proj = module.weight_hr_l0[None] if proj_size else None
        state = LSTMState(h[:, None], c[:, None])
        y, last = lstm(x_pre.unflatten(-1, (4, 1, H)), module.weight_hh_l0.view(4, 1, H, P), state, proj=proj)
        return y[:, :, 0], last.h[:, 0], last.c[:, 0]

    theirs.zero_grad, theirs.parameters = module.zero_grad, module.parameters
    pairs = both(theirs, ours, torch.randn(B, T, D, **F64), torch.randn(B, P, **F64), torch.randn(B, H, **F64))
    for want, got in pairs:
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_rnn_equals_nn_rnn(nonlinearity):
    D, H, B, T = 3, 5, 2, 17
    module = nn.RNN(D, H, batch_first=True, nonlinearity=nonlinearity, **F64)

    def theirs(x, h):
        y, h = module(x, h[None])
        return y, h[0]

    def ours(x, h):
        x_pre = x @ module.weight_ih_l0.T + module.bias_ih_l0 + module.bias_hh_l0
        y, last = rnn(x_pre[:, :, None], module.weight_hh_l0[None], RNNState(h[:, None]), nonlinearity=nonlinearity)
        return y[:, :, 0], last.h[:, 0]

    theirs.zero_grad, theirs.parameters = module.zero_grad, module.parameters
    for want, got in both(theirs, ours, torch.randn(B, T, D, **F64), torch.randn(B, H, **F64)):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", ["rnn-tanh", "lstm-2000", "lstm-1997", "slstm-sigmoid"])
def test_heads_are_blocks_on_the_diagonal_of_one_matrix(case):
    p = problem(case, T=6, N=3, H=2)
    R = p.weights["R"] if p.weights["R"].dim() == 4 else p.weights["R"][None]
    dense = torch.stack([torch.block_diag(*gate) for gate in R])[:, None]
    flat = p._replace(
        inputs={"x_pre": p.inputs["x_pre"].flatten(-2).unsqueeze(-2)},
        weights={"R": dense if p.weights["R"].dim() == 4 else dense[0]},
        state=type(p.state)(*(x.flatten(1)[:, None] for x in p.state)),
    )
    torch.testing.assert_close(p.run()[0].flatten(2), flat.run()[0].flatten(2), rtol=0, atol=1e-13)


def test_lstm_1997_equals_its_equations():
    p = problem("lstm-1997", T=5, B=1, N=1)
    h, c = p.state.h[0, 0], p.state.c[0, 0]
    for t in range(5):
        i, g, o = p.inputs["x_pre"][0, t, :, 0] + p.weights["R"][:, 0] @ h
        c = c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        torch.testing.assert_close(p.run()[0][0, t, 0], h, rtol=0, atol=1e-14)
