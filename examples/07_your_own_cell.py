"""A cell of your own: write one step, and get batching, layers, directions, lengths, resets, state, step and trace.

    python examples/07_your_own_cell.py

Two that people ask for: the LSTM with peepholes (Gers & Schmidhuber 2000), whose gates see the memory, and minLSTM
(Feng et al. 2024, "Were RNNs All We Needed?"), whose gates see the input alone.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

import longshort


class PeepholeLSTM(longshort.Cell):
    gates = 4  # x_pre is W x + b: (B, 4, hidden_size)

    class State(NamedTuple):
        h: Tensor
        c: Tensor

    def __init__(self, hidden_size: int):
        super().__init__()
        self.R = nn.Parameter(torch.randn(4, hidden_size, hidden_size) / hidden_size**0.5)
        self.peep = nn.Parameter(torch.zeros(3, hidden_size))

    def step(self, x_pre, state):
        i, f, g, o = (x_pre + torch.einsum("goh,bh->bgo", self.R, state.h)).unbind(1)
        i = torch.sigmoid(i + self.peep[0] * state.c)
        f = torch.sigmoid(f + self.peep[1] * state.c)
        c = f * state.c + i * torch.tanh(g)
        o = torch.sigmoid(o + self.peep[2] * c)  # the new memory
        h = o * torch.tanh(c)
        self.show(i=i, f=f, o=o)  # names for longshort.trace; costs nothing otherwise
        return h, self.State(h, c)


class MinLSTM(longshort.Cell):
    gates = 3

    class State(NamedTuple):
        h: Tensor

    def step(self, x_pre, state):  # no weights of its own: nothing recurrent in the gates
        f, i, new = x_pre.unbind(1)
        f, i = torch.sigmoid(f), torch.sigmoid(i)
        h = (f * state.h + i * new) / (f + i)
        return h, self.State(h)


if __name__ == "__main__":
    torch.manual_seed(0)
    for cell in (PeepholeLSTM, MinLSTM):
        layer = longshort.Recurrent(cell, 3, 8, num_layers=2, bidirectional=True, batch_first=True)
        y, state = layer(torch.randn(4, 10, 3), lengths=[10, 7, 3, 1])
        print(f"{cell.__name__}: y {tuple(y.shape)}, h {tuple(state.h.shape)}")
    streaming = longshort.Recurrent(PeepholeLSTM, 3, 8, batch_first=True)
    x = torch.randn(1, 5, 3)
    state = None
    for frame in x.unbind(1):
        y, state = streaming.step(frame, state)
    print("stepped = whole:", torch.allclose(y, streaming(x)[0][:, -1]))
    print(longshort.trace(streaming, x[:, :1]).table())
