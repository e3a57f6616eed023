"""Forecasts with gaps: the next 24 hours' temperatures, against "as yesterday" and a tuned linear model.

One time step is one day. A day shows how much each hour changed since the day before, which hours were observed at all
(a mask, and 0 for what is missing), and what is known of the 24 hours to come. Days may begin at any hour: the year is
24 feeds, 24 rows of a batch, and a forecast starts at every hour.

Seattle's series is its normal year, each hour an average over 30 years: yesterday is an excellent forecast, and what is
left is small and regular. New York's is the weather of 2013; there the linear model wins.

python examples/05_temperatures.py              # Seattle
python examples/05_temperatures.py new-york
"""

import math
import sys

import torch
from real_data import temperatures
from torch import Tensor, nn

import longshort

place = sys.argv[1] if len(sys.argv) > 1 else "seattle"
hours, degrees = temperatures(place)
august, october = (next(i for i, hour in enumerate(hours) if hour.month == month) for month in (8, 10))

# Gaps: besides the hours that the file lacks, hide stretches of 3 to 24 hours, a tenth of all.
random = torch.Generator().manual_seed(0)
observed = ~degrees.isnan()
while observed.float().mean() > 0.9:
    start, length = torch.randint(len(hours), (), generator=random), torch.randint(3, 25, (), generator=random)
    observed[start : start + length] = False

# As yesterday: what each hour of the day last showed. The forecast to beat, and what the other two correct.
latest = torch.where(observed, degrees, torch.nan)
for i in range(24, len(hours)):
    if latest[i].isnan():
        latest[i] = latest[i - 24]
latest = torch.where(latest.isnan(), latest[:24].nanmean(), latest)  # an hour not seen on any day so far
change = torch.where(observed, degrees - latest.roll(24), 0.0)
change[:24] = 0.0

# Scales come from the months before August alone.
scale, level, spread = change[:august][observed[:august]].std(), latest[:august].mean(), latest[:august].std()
# The time of day, once and twice round, and the height of the noon sun, which autumn shares with spring.
turn = torch.tensor([(hour.hour / 24, (hour.timetuple().tm_yday + 10) / 365.25) for hour in hours]) * 2 * math.pi
day, year = turn.unbind(1)
calendar = torch.stack([day.cos(), day.sin(), (2 * day).cos(), (2 * day).sin(), year.cos()], 1)

DAYS = len(hours) // 24 - 1


def feeds(series: Tensor) -> Tensor:
    """(24 feeds, DAYS, 24 hours): the days of feed k begin at hour k."""
    return series[: DAYS * 24 + 23].unfold(0, 24, 1).unflatten(0, (DAYS, 24)).transpose(0, 1)


# What a day shows, and what is known of the next: the forecast "as yesterday", its place in the day and in the year.
tomorrow = calendar[24 : DAYS * 24].unflatten(0, (DAYS - 1, 24)).transpose(0, 1)
shown = [feeds(change / scale), feeds(observed.float()), feeds((latest - level) / spread)]
x = torch.cat([*(each[:, :-1] for each in shown), tomorrow], -1)
target, seen, hour = feeds(change / scale)[:, 1:], feeds(observed)[:, 1:], feeds(torch.arange(len(hours)))[:, 1:]

to_july, to_september = seen & (hour < august), seen & (hour < october)
validation = to_september & (hour[..., :1] >= august)
test = seen & (hour[..., :1] >= october)


def error(forecast: Tensor, scored: Tensor) -> float:
    """Mean absolute error in degrees, over observed hours only."""
    return (scale * (forecast - target).abs()[scored].mean()).item()


def ridge(days: int, penalties: list[float], known: Tensor) -> Tensor:
    """Linear in the last `days` days, for each hour ahead by itself; a forecast of the whole year for each penalty."""
    past = torch.cat([x.roll(k, 1) for k in range(days)] + [torch.ones_like(x[..., :1])], -1).double()
    known = known & (torch.arange(DAYS - 1) >= days - 1)[:, None]
    forecasts = []
    for k in range(24):
        a, b = past[known[..., k]], target[..., k][known[..., k]].double()
        shrink = torch.tensor(penalties).double()[:, None, None] * torch.eye(a.shape[1])
        forecasts.append(torch.linalg.solve(a.T @ a + shrink, a.T @ b) @ past.flatten(0, 1).T)
    return torch.stack(forecasts, -1).unflatten(1, (24, -1)).float()


class Forecaster(nn.Module):
    """A linear forecast from the last day, and what memory adds to it."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.memory = longshort.sLSTM(x.shape[-1], width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.from_memory, self.from_day = nn.Linear(width, 24), nn.Linear(x.shape[-1], 24)
        nn.init.zeros_(self.from_memory.weight)  # training starts from "as yesterday"
        nn.init.zeros_(self.from_day.weight)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.memory(self.dropout(x))
        return self.from_memory(self.dropout(y)) + self.from_day(x)


def network(dropout: float, known: Tensor, weeks: int = 4, steps: int = 400) -> Tensor:
    """Trained on four weeks at a time; a forecast of the whole year, each from the four weeks before it."""
    torch.manual_seed(0)
    model, length, feed = Forecaster(64, dropout), 7 * weeks, torch.arange(24)[:, None]
    end = int(known.any(-1).any(0).nonzero().max()) + 1
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        at = torch.randint(end - length + 1, (24, 1)) + torch.arange(length)
        loss = (model(x[feed, at]) - target[feed, at]).abs()[known[feed, at]].mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    before = x.unfold(1, length, 1).transpose(2, 3)  # (24, days, length, features)
    with torch.no_grad():
        last = model.eval()(before.flatten(0, 1))[:, -1].unflatten(0, (24, -1))
    return nn.functional.pad(last, (0, 0, length - 1, 0))


# August and September choose; then all that lies before October trains, and the rest of the year is scored, once.
penalties = [10.0**power for power in range(-1, 5)]
tried = [(days, *pair) for days in (1, 3, 7) for pair in zip(penalties, ridge(days, penalties, to_july), strict=True)]
days, penalty, _ = min(tried, key=lambda choice: error(choice[2], validation))
dropout = min((0.3, 0.5), key=lambda dropout: error(network(dropout, to_july), validation))

print(f"{place}, 1 to 24 hours ahead, October to December: mean absolute error in °F over the observed hours")
print(f"as yesterday                   {error(torch.zeros_like(target), test):.3f}")
print(f"ridge, {days} days, penalty {penalty:<7g} {error(ridge(days, [penalty], to_september)[0], test):.3f}")
print(f"sLSTM, dropout {dropout}             {error(network(dropout, to_september), test):.3f}")
