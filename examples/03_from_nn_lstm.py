"""From nn.LSTM to sLSTM in one diff: the same model with either, on the same task; and an nn.LSTM's weights kept.

python examples/03_from_nn_lstm.py
"""

import difflib
import inspect

import torch
from real_data import speakers
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import longshort


class Before(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(12, 32, batch_first=True)
        self.out = nn.Linear(32, 9)

    def forward(self, x):
        _, (h_n, _) = self.rnn(x)
        return self.out(h_n[-1])


class After(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = longshort.sLSTM(12, 32, batch_first=True)
        self.out = nn.Linear(32, 9)

    def forward(self, x):
        _, state = self.rnn(x)
        return self.out(state.h[-1])


diff = difflib.ndiff(*(inspect.getsource(model).splitlines() for model in (Before, After)))
print("\n".join(line for line in diff if line[0] in "+-"))

# Which of nine men says "ae"? Utterances of 7 to 29 frames, packed as for nn.LSTM.
utterances, who = speakers("train")
unheard, truth = speakers("test")


def packed(utterances: list[torch.Tensor]) -> PackedSequence:
    return pack_sequence(utterances, enforce_sorted=False)


def train(kind: type, epochs: int = 30) -> nn.Module:
    torch.manual_seed(0)
    model = kind()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(who)).split(32):
            loss = cross_entropy(model(packed([utterances[i] for i in rows])), who[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


before, after = train(Before), train(After)
with torch.no_grad():
    for model in (before, after):
        right = (model(packed(unheard)).argmax(-1) == truth).float().mean()
        print(f"{type(model.rnn).__name__:5} names {right:.1%} of the speakers of {len(truth)} new utterances")

# What nn.LSTM has learned need not be learned again.
ours = longshort.LSTM.from_torch(before.rnn)
with torch.no_grad():
    difference = (ours(packed(unheard))[0].data - before.rnn(packed(unheard))[0].data).abs().max()
print(f"LSTM.from_torch: the same weights, outputs within {difference:.0e}")
