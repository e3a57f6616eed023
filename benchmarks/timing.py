"""Timing side by side: contenders take turns in one process, and ratios are of medians. No case is here."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass
class Case:
    """One piece of work, ours and theirs."""

    group: str
    work: str
    """Shape and direction, in words."""
    ours: Callable[[], object]
    theirs: dict[str, Callable[[], object]]
    aim: float | None = None
    """The least ratio wanted, theirs over ours."""
    agree: Callable[[], float] | None = None
    """The largest difference between the answers, relative to the largest answer."""
    operations: float = 0.0
    """Floating-point operations of ours, for the share of the machine's limit; 0: not of interest."""
    share: float | None = None
    """The least share of the limit wanted."""
    block: int = 1
    """Calls a timing takes: several where one is over in microseconds."""
    steps: int = 1
    """Time steps of a call."""


@dataclass
class Result:
    """What a case took."""

    group: str
    work: str
    ours: float
    """Median seconds of a call."""
    spread: tuple[float, float]
    """The fastest and the slowest."""
    theirs: dict[str, float]
    ratio: float | None
    """The fastest of theirs over ours, of medians; above 1 ours is faster."""
    best: str | None
    aim: float | None
    agree: float | None
    share: float | None
    """Of the machine's matrix-product limit."""
    wanted_share: float | None
    steps: int
    notes: list[str] = field(default_factory=list)

    @property
    def lost(self) -> bool:
        return self.ratio is not None and self.ratio < 1


def seconds(call: Callable[[], object], block: int) -> float:
    began = time.perf_counter()
    for _ in range(block):
        call()
    return (time.perf_counter() - began) / block


def take_turns(calls: list[Callable[[], object]], block: int, budget: float) -> list[list[float]]:
    """Seconds of every call, in rounds of one each, the order turned around from round to round: 3 to 15 rounds."""
    once = [seconds(call, 1) for call in calls]
    once = [seconds(call, block) for call in calls]
    rounds = max(3, min(15, int(budget / max(sum(once) * block, 1e-9))))
    times: list[list[float]] = [[] for _ in calls]
    order = list(range(len(calls)))
    for _ in range(rounds):
        for at in order:
            times[at].append(seconds(calls[at], block))
        order.reverse()
    return times


def run(case: Case, limit: float, budget: float) -> Result:
    """Check that the answers agree, and time."""
    agree = case.agree() if case.agree else None
    times = take_turns([case.ours, *case.theirs.values()], case.block, budget)
    ours, *theirs = (statistics.median(each) for each in times)
    named = dict(zip(case.theirs, theirs, strict=True))
    best = min(named, key=named.__getitem__) if named else None
    notes = [f"the answers DISAGREE by {agree:.0e}"] if agree is not None and not agree < 1e-3 else []
    return Result(
        case.group, case.work, ours, (min(times[0]), max(times[0])), named, named[best] / ours if best else None, best,
        case.aim, agree, case.operations / ours / limit if case.operations else None, case.share, case.steps, notes,
    )  # fmt: skip


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()
