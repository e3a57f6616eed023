"""A live feed: train with truncated back-propagation, then read hour by hour with `.step` and a carried state.

What will New York's thermometer show in an hour? Between two hours the state is all that is kept, and where more than
three reports are missing, `reset` empties it.

python examples/06_streaming.py
"""

import math
import time

import torch
from real_data import temperatures
from torch import nn

import longshort

_, degrees = temperatures("new-york")
heard = (~degrees.isnan()).nonzero().squeeze(1)  # the hours that were reported, one after the other
september = int((heard < 243 * 24).sum())
degrees = degrees[heard]
angle = 2 * math.pi * heard / 24
x = torch.stack([(degrees - degrees[:september].mean()) / degrees[:september].std(), angle.cos(), angle.sin()], 1)
fresh = heard.diff(prepend=heard[:1]) > 4  # the first report after a longer silence
change = degrees.diff(append=degrees[-1:])  # to the next report


class Forecaster(nn.Module):
    """How many degrees the next hour differs."""

    def __init__(self):
        super().__init__()
        self.rnn = longshort.sLSTM(3, 32, batch_first=True)
        self.out = nn.Linear(32, 1)

    def forward(self, x, state=None, reset=None):
        y, state = self.rnn(x, state, reset=reset)
        return self.out(y).squeeze(-1), state

    def step(self, x, state=None, reset=None):
        y, state = self.rnn.step(x, state, reset=reset)
        return self.out(y).squeeze(-1), state


def days(series: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """January to August in 24 rows, of some ten days each, cut into pieces of 24 hours."""
    return series[: september // 24 * 24].unflatten(0, (24, -1)).split(24, 1)


torch.manual_seed(0)
model = Forecaster()
optimizer = torch.optim.Adam(model.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=20 * len(days(x)))
for _ in range(20):
    state = None
    for day, new, target in zip(days(x), days(fresh), days(change), strict=True):
        forecast, state = model(day, state, reset=new)
        loss = (forecast - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        state = state.detach()  # the state goes on into the next day, its gradient does not

# September to December as they come, one hour at a time; and the same in one call, and the last piece by itself.
x, fresh, change, heard = x[september:], fresh[september:], change[september:], heard[september:]
streamed, bytes_kept, took, state = torch.zeros(len(x)), [], [], None
with torch.no_grad():
    for hour, (report, new) in enumerate(zip(x, fresh, strict=True)):
        began = time.perf_counter()
        streamed[hour], state = model.step(report, state, reset=new)
        took.append(time.perf_counter() - began)
        bytes_kept.append(sum(field.nbytes for field in state))
    whole, _ = model(x, reset=fresh)
    last = int(fresh.nonzero()[-1])
    piece, _ = model(x[last:])

hourly = heard.diff() == 1
error, unchanged = ((guess - change)[:-1][hourly].abs().mean() for guess in (streamed, torch.zeros(len(x))))
print(f"one hour ahead, September to December: {error:.2f} °F off on average, {unchanged:.2f} if nothing changed")
print(f"{len(x)} steps and one call: at most {(streamed - whole).abs().max():.0e} °F apart")
print(f"from the last reset on, and that piece alone: at most {(streamed[last:] - piece).abs().max():.0e} °F apart")
print(f"kept between steps: {bytes_kept[0]} bytes after the first, {bytes_kept[-1]} after the last")
print(f"a step takes {1e6 * torch.tensor(took).median():.0f} µs")
