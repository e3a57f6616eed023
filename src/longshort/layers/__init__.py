"""Recurrent layers called as `torch.nn.LSTM` is: `RNN`, `LSTM`, `GRU`, `sLSTM`, `mLSTM`; `Recurrent` for your own cell.

All take (T, B, input), (B, T, input) with `batch_first=True`, unbatched (T, input) or a `PackedSequence`, and return
`(y, state)`. Weights and layouts are here, the maths is in `cells/`.
"""

from longshort.layers.accelerated import Acceleration, accelerate
from longshort.layers.classic import GRU, LSTM, RNN
from longshort.layers.extended import MLSTMLayerState, mLSTM, sLSTM
from longshort.layers.frame import Layer
from longshort.layers.recurrent import Cell, Recurrent

__all__ = ["GRU", "LSTM", "RNN", "Acceleration", "Cell", "Layer", "MLSTMLayerState", "Recurrent", "accelerate", "mLSTM",
           "sLSTM"]  # fmt: skip
