"""Timing side by side: contenders take turns in one process, and ratios are of medians. No case is here.

A turn is a few calls in a row. The first of them comes after all the others' turns and a cold cache, and is told apart.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

LONG, SLOWER = 10.0, 4.0  # seconds of a call, and times the fastest peer's, over which a peer is not timed further
SHORT, AGAIN = 0.1, 3  # seconds, below which a turn's first call is followed by so many more
SAME = 1e-3  # the largest difference between answers that are called the same


class Limits(NamedTuple):
    """What this machine reaches."""

    products: float
    """Float32 operations a second in matrix products."""
    copying: float
    """Bytes a second, read and written."""


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
    same: dict[str, Callable[[], float]] = field(default_factory=dict)
    """For each peer, the largest difference between the answers, relative to the largest answer."""
    learns: bool = False
    """Whether gradients are taken. If not, all of it runs under one `torch.no_grad()`, as inference does."""
    operations: float = 0.0
    """Floating-point operations of our matrix products, for the share of the machine's limit; 0: not of interest."""
    share: float | None = None
    """The least share of the limit wanted."""
    block: int = 1
    """Calls a timing takes: several where one is over in microseconds."""
    steps: int = 1
    """Time steps of a call."""
    moved: float = 0.0
    """Bytes that ours reads and writes, where memory is the limit and not products."""
    kept: Callable[[], int] | None = None
    """Bytes that ours keeps from the forward for the backward."""
    wish: float | None = None
    """The ratio hoped for beyond the aim."""
    rest: float = 0.0
    """Seconds of rest before each turn: where contenders have threads of their own, which spin a while."""


@dataclass
class Result:
    """What a case took."""

    group: str
    work: str
    ours: float
    """Median seconds of a call, in a row of them."""
    spread: tuple[float, float]
    """The fastest and the slowest."""
    theirs: dict[str, float]
    their_spread: dict[str, tuple[float, float]]
    first: float | None
    """Median seconds of a turn's first call; None where calls are not timed one by one."""
    their_first: dict[str, float]
    rounds: int
    left_out: dict[str, str]
    """Peers that are here and were not timed, and why."""
    ratio: float | None
    """The fastest of theirs over ours, of medians; above 1 ours is faster."""
    best: str | None
    aim: float | None
    wish: float | None
    differ: dict[str, float]
    """How far each peer's answer is from ours."""
    not_compared: dict[str, str]
    """Peers whose answer could not be compared, and why."""
    share: float | None
    """Of the machine's limit."""
    limit: str | None
    """Which limit."""
    wanted_share: float | None
    steps: int
    kept: int | None

    @property
    def first_ratio(self) -> float | None:
        """The fastest of their first calls over ours; None where nobody is timed but us, or a turn is one call."""
        if self.first is None or self.first >= SHORT or not self.their_first:
            return None
        return min(self.their_first.values()) / self.first

    @property
    def lost(self) -> bool:
        return self.ratio is not None and self.ratio < 1

    @property
    def short(self) -> bool:
        """Under its aim, of the ratio or of the share."""
        slow = self.ratio is not None and self.aim is not None and self.ratio < self.aim
        return slow or (self.share is not None and self.wanted_share is not None and self.share < self.wanted_share)

    @property
    def notes(self) -> list[str]:
        """What must not be silent."""
        apart = [f"{name} DISAGREES by {x:.0e}" for name, x in self.differ.items() if not x < SAME]
        apart += [
            f"{name} NOT COMPARED ({why})" for name, why in self.not_compared.items() if name not in self.left_out
        ]
        return apart + [f"left out: {name} ({why})" for name, why in self.left_out.items()]


class Turn(NamedTuple):
    """Seconds of a call."""

    first: float
    again: float
    """The median of those that follow at once; the first again where it is not short."""


def seconds(call: Callable[[], object], block: int) -> float:
    began = time.perf_counter()
    for _ in range(block):
        call()
    return (time.perf_counter() - began) / block


def turn(call: Callable[[], object], block: int, rest: float) -> Turn:
    """A turn, after a rest."""
    time.sleep(rest)
    first = seconds(call, block)
    again = first if first * block >= SHORT else statistics.median(seconds(call, block) for _ in range(AGAIN))
    return Turn(first, again)


def take_turns(
    calls: dict[str, Callable[[], object]], block: int, budget: float, rest: float = 0.0
) -> dict[str, list[Turn]]:
    """The turns of every contender, in rounds of one each, the order turned around from round to round: 3 to 15."""
    began = time.perf_counter()
    for call in calls.values():
        turn(call, block, rest)
    rounds = max(3, min(15, int(budget / (time.perf_counter() - began))))
    turns: dict[str, list[Turn]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        for name in order:
            turns[name].append(turn(calls[name], block, rest))
        order.reverse()
    return turns


def first_calls(theirs: dict[str, Callable[[], object]]) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """The peers to be timed, and for the others why not: they raise, or are so slow that they cannot be the fastest."""
    took, why = {}, {}
    for name, call in theirs.items():
        try:
            took[name] = seconds(call, 1)
        except Exception as error:  # whatever a stranger raises
            why[name] = raised(error)
    fastest = min(took, key=took.__getitem__, default=None)
    for name, each in took.items():
        if name != fastest and (each > LONG or each > max(1.0, SLOWER * took[fastest])):
            why[name] = f"{each:.1f} s in its first call"
    return {name: call for name, call in theirs.items() if name not in why}, why


def raised(error: Exception) -> str:
    return f"raises {type(error).__name__}: {str(error)[:100]}"


def differences(same: dict[str, Callable[[], float]]) -> tuple[dict[str, float], dict[str, str]]:
    """How far each peer's answer is from ours, and for the others why that is not known."""
    found, why = {}, {}
    for name, difference in same.items():
        try:
            found[name] = difference()
        except Exception as error:  # whatever a stranger raises
            why[name] = raised(error)
    return found, why


def run(case: Case, limits: Limits, budget: float) -> Result:
    """Check that the answers agree, and time."""
    with torch.set_grad_enabled(case.learns):
        return run_as_it_stands(case, limits, budget)


def run_as_it_stands(case: Case, limits: Limits, budget: float) -> Result:
    """The same, with gradients or without as they are."""
    differ, not_compared = differences(case.same)
    theirs, left_out = first_calls(case.theirs)
    turns = take_turns({"": case.ours} | theirs, case.block, budget, case.rest)
    medians = {name: statistics.median(x.again for x in each) for name, each in turns.items()}
    first = {name: statistics.median(x.first for x in each) for name, each in turns.items()}
    spread = {name: (min(x.again for x in each), max(x.again for x in each)) for name, each in turns.items()}
    ours, rounds, our_first = medians.pop(""), len(turns[""]), first.pop("")
    best = min(medians, key=medians.__getitem__, default=None)
    share, limit = None, None
    if case.operations:
        share, limit = case.operations / ours / limits.products, "products"
    elif case.moved:
        share, limit = case.moved / ours / limits.copying, "copying"
    return Result(
        case.group, case.work, ours, spread.pop(""), medians, spread, our_first if case.block == 1 else None,
        first, rounds, left_out,
        medians[best] / ours if best else None, best, case.aim, case.wish, differ, not_compared, share, limit,
        case.share, case.steps, case.kept() if case.kept else None,
    )  # fmt: skip


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


def bytes_kept(call: Callable[[], object]) -> int:
    """Bytes of the tensors that autograd keeps of a call, its inputs among them, each counted once."""
    sizes: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        sizes[x.data_ptr()] = max(sizes.get(x.data_ptr(), 0), x.numel() * x.element_size())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        call()
    return sum(sizes.values())
