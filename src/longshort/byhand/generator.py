"""New exercises from a seed: numbers drawn anew for a built-in kind, then repaired until nobody can round them wrongly.

A drawn exercise is worked through cell by cell. Where a result lies next to a rounding tie, or is too large to write, a
weight, an input, a start or a target that feeds it is changed, one that disturbs little of what stands already. Not the
arithmetic: every number is worked out by the exercise's own formulas.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from random import Random
from typing import Any, NamedTuple

from longshort.byhand.exercises import EXERCISES
from longshort.byhand.formulas import Index, Tree, compute, indices
from longshort.byhand.graph import LARGEST, Cell, Exercise, Given, Numbers, Rounding
from longshort.byhand.recipes import SIGNS
from longshort.config import divisors, suggest

BEST, LEAST = 1 / 20, 1 / 100
"""How far every result is from a rounding tie, in units of its last place: where it can be had, and at least."""
WRITABLE = 100.0
"""Every number stays below, so that it fits a cell of the sheet."""
AGREED = 0.2
"""How far h may be from the h of another way of working it, which rounding alone keeps apart."""
TINY = 1e-9
MOST_CELLS = 2500
"""More are no work for a pencil, and to find their numbers would take too long."""
OPEN = {"sigmoid": (1 / 2, "sigmoid gates"), "exp": (1 / 5, "stabilised exponential gates"), "tanh": (1 / 2, "outputs")}
"""The least share that is neither shut nor open. Of the two stabilised exponentials one is always 1."""
# Even tenths: times a number of the sheet, their last digit is never a lone 5, so no linear transform ends on a tie.
WEIGHTS = tuple(tenth / 10 for tenth in range(-10, 11, 2) if tenth)
BIASES = tuple(tenth / 10 for tenth in range(-6, 7, 2))
INPUTS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
TENTHS = tuple(tenth / 10 for tenth in range(-10, 11))
FULL_ROW = 4
"""About how many weights of a row are not 0."""
LADDER = ((BEST, 60), (1 / 50, 40), (LEAST, 100))
"""For each margin, how often each cell may be worked out before the next margin is taken."""
SMALL, EARLY, BRIEF = 400, 5, ((BEST, 25),)
"""Where so few cells are, the first so many starts go no further than this."""
MOST = 500_000
"""Cells worked out before it is given up, in about ten seconds."""

Key = tuple[str, int, Index]
"""An entry of the sheet: of a given or a quantity, at a step, where in it."""
OWN = "own"

ABOUT: dict[str, tuple[str, ...]] = {
    "rnn": (
        "The whole memory is the last output h. Each step mixes it with the new input and squashes the sum.",
        "In code: longshort.RNN, cells/rnn.py.",
    ),
    "lstm": (
        "The gates decide what the memory C keeps, what is written to it, and what shows.",
        "In code: longshort.LSTM, cells/lstm.py; PyTorch's gate order is i f g o, and its g is C̃ here.",
    ),
    "slstm": (
        "Exponential gates, a normaliser n, a stabiliser m, and memory mixing within each head.",
        "The last step of each time step works without the stabiliser: the same h, but for rounding.",
        "In code: longshort.sLSTM, cells/slstm.py (the equation numbers are the paper's, arXiv 2405.04517).",
    ),
    "mlstm": (
        "A memory that is a matrix: keys write values into it, queries read them out.",
        "Three ways to the same h, but for rounding: as a recurrence, with the stabiliser m, and in parallel.",
        "In code: longshort.mLSTM, cells/mlstm.py, which stores keys without the factor 1/√K and multiplies the query "
        "by it instead.",
    ),
    "xlstm": (
        "A residual stack: an mLSTM block, then an sLSTM block, in the frame of xLSTM-7B. Both memories start empty.",
        "In code: longshort.xLSTM with block='7b', blocks.py.",
    ),
    "lstm-backward": (
        "The loss is half the squared distance of h from its target y, added up over the steps.",
        "δ before a name is the derivative of the loss by it; δh← and δC← are what a step hands back to the one "
        "before.",
        "In code: autograd.",
    ),
    "slstm-backward": (
        "The loss is half the squared distance of h from its target y, added up over the steps.",
        "δ before a name is the derivative of the loss by it; δc← and δn← are what a step hands back to the one "
        "before. m carries no gradient: h does not depend on it.",
        "In code: autograd.",
    ),
}


def generate(kind: str, seed: int = 0, *, decimals: int | str | None = OWN, **sizes: int) -> Exercise:
    """A new exercise of a built-in kind: the same arguments give the same numbers, on every machine.

    No result lies within 1/20 of a unit of its last place from a rounding tie; in large sheets, where that cannot be
    had, within 1/50 or 1/100, and the sheet says so. Not all gates are saturated, and every number stays below 100.
    Weights are even tenths, inputs small whole numbers, starts and targets tenths.

    Args:
        kind: a name in `EXERCISES`.
        seed: which of the many.
        decimals: what every number is rounded to, 1 to 9; None is exact arithmetic; "own" is the kind's own.
        sizes: of the kind's named sizes those to be changed, such as `H=3, T=4`.

    Raises:
        ValueError: for a kind, a size, a seed or decimals that cannot be; and where no such numbers were found.

    >>> new = generate("lstm", 7, H=3)
    >>> new.sizes, check_quality(new, BEST)
    ({'D': 3, 'H': 3, 'T': 3}, [])
    """
    skeleton = skeleton_of(kind, seed, decimals, sizes)
    if (cells := len(skeleton.cells)) > MOST_CELLS:
        raise ValueError(
            f"{kind} with {spelt(skeleton.sizes)} has {cells} numbers to work out, more than {MOST_CELLS}: "
            "take fewer steps (T) or smaller sizes"
        )
    plan = Plan.of(skeleton)
    random = Random(f"longshort {kind} {seed}")
    worked = starts = 0
    while worked < MOST:
        early = starts < EARLY and len(plan.cells) < SMALL
        starts += 1
        search = Search(plan, drawn(skeleton, random), random, BRIEF if early else LADDER)
        whole = search.run()
        worked += search.worked
        if whole:
            found = search.exercise()
            if not check_quality(found, search.margin):
                return introduced(found, kind, seed, search.margin)
    more = "" if skeleton.decimals is None else f", more decimals (now {skeleton.decimals})"
    raise ValueError(
        f"no numbers without rounding ties were found for {kind} with {spelt(skeleton.sizes)}, {cells} cells, and "
        f"seed={seed}. Take fewer steps (T) or smaller sizes{more}, or another seed"
    )


# ---- what was asked for ----------------------------------------------------------------------------------------------


def skeleton_of(kind: str, seed: Any, decimals: Any, sizes: dict[str, Any]) -> Exercise:
    """The exercise of the kind and sizes asked for, not drawn yet."""
    if kind not in EXERCISES:
        raise ValueError(f"no exercise {kind!r}.{suggest(kind, EXERCISES)} There are: {', '.join(EXERCISES)}")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed={seed!r}: a whole number from 0 on, such as 7")
    template = EXERCISES[kind]()
    if decimals == OWN:
        decimals = template.decimals
    elif isinstance(decimals, str):
        raise ValueError(f"decimals={decimals!r}: a whole number from 1 to 9, None for exact arithmetic, or {OWN!r}")
    Rounding(decimals)
    if decimals == 0:
        raise ValueError("decimals=0: rounded to whole numbers every gate is 0 or 1; take 1 to 9, or None")
    for name, length in sizes.items():
        check_size(kind, template.sizes, name, length)
    sizes = {**template.sizes, **sizes}
    if kind == "xlstm" and sizes["D"] == 1:
        raise ValueError("size D=1: a norm over a single number leaves nothing of it; xlstm takes D from 2 to 12")
    heads, units = sizes.get("N", 1), sizes.get("H", sizes.get("N", 1))
    if units % heads:
        fine = ", ".join(map(str, divisors(units)))
        raise ValueError(f"N={heads} heads do not divide H={units} units; numbers of heads that do: {fine}")
    # What a template says of a weight is about its own numbers.
    givens = tuple(replace(each, about="") if each.role in ("weight", "bias") else each for each in template.givens)
    values = {given.name: filled(given, sizes, first_of(template.values[given.name])) for given in givens}
    return replace(template, sizes=sizes, decimals=decimals, givens=givens, values=values)


def check_size(kind: str, known: Any, name: str, length: Any) -> None:
    if name not in known:
        raise ValueError(f"{kind} has no size {name!r}.{suggest(name, known)} Its sizes are {', '.join(known)}")
    most = LARGEST.get(name, 12)
    if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= most:
        raise ValueError(f"size {name}={length!r}: a whole number from 1 to {most} belongs here")


def spelt(sizes: Any) -> str:
    return ", ".join(f"{name}={length}" for name, length in sizes.items())


def introduced(exercise: Exercise, kind: str, seed: int, margin: float) -> Exercise:
    """The exercise with a title and a text that say where it came from."""
    template = EXERCISES[kind]()
    command = f"longshort hand {kind} --new {seed}"
    command += "".join(f" --size {n}={length}" for n, length in exercise.sizes.items() if length != template.sizes[n])
    if exercise.decimals != template.decimals:
        command += f" --decimals {'exact' if exercise.decimals is None else exercise.decimals}"
    made = f"Generated with new numbers, seed {seed}: {spelt(exercise.sizes)}. Again: {command}"
    ties = (
        f"No result lies nearer to a rounding tie than 1/{round(1 / margin)} of a unit of its last place, so that a "
        "last digit is never a matter of luck.",
    )
    return replace(
        exercise,
        title=f"{template.title}: new numbers, seed {seed}",
        about=(
            made,
            *ABOUT[kind],
            *SIGNS[kind.removesuffix("-backward")],
            *(ties if exercise.decimals is not None else ()),
        ),
    )


# ---- drawing ---------------------------------------------------------------------------------------------------------


def pick(random: Random, among: Sequence[Any]) -> Any:
    """One of them. Only `Random.random` keeps its sequence in every version of Python, so nothing else is used."""
    return among[int(random.random() * len(among))]


def may_change(given: Given) -> bool:
    """Whether its numbers are drawn. Norm weights stay 1, and so do ε and a start that is a matrix, n or m."""
    if given.role == "start":
        return given.shape == ("H",) and given.name in ("h0", "c0", "C0")
    return given.role in ("weight", "bias", "input", "target") and "_g_" not in given.name


def draw(random: Random, given: Given, fan_in: int) -> float:
    """A number for an entry of a given; `fan_in` is how many there are in its row."""
    if given.role == "weight":
        sparse = random.random() >= min(3 / 4, FULL_ROW / fan_in)
        return 0.0 if sparse else pick(random, WEIGHTS)
    return pick(random, {"bias": BIASES, "input": INPUTS}.get(given.role, TENTHS))


def entries_of(exercise: Exercise, given: Given) -> Iterator[Key]:
    """All entries of a given that exist."""
    for t in range(1, exercise.sizes["T"] + 1) if given.each_step else (0,):
        for index in exercise.indices(given.name):
            yield given.name, t, index


def drawn(exercise: Exercise, random: Random) -> dict[Key, float]:
    """Every entry of every given: drawn anew, or as it stands."""
    numbers: dict[Key, float] = {}
    for given in exercise.givens:
        fan_in = (exercise.shape(given.name) or (1,))[-1]
        for key in entries_of(exercise, given):
            numbers[key] = draw(random, given, fan_in) if may_change(given) else exercise.given_value(*key)
    return numbers


def first_of(value: Any) -> float:
    return first_of(value[0]) if isinstance(value, list | tuple) else float(value)


def filled(given: Given, sizes: dict[str, int], number: float) -> Any:
    """A given's numbers, all alike; 0 where there is no entry."""
    shape = tuple(sum(sizes[part] for part in length.split("+")) for length in given.shape)
    value = nested(shape, {index: 0.0 if given.blocks else number for index in indices(shape)})
    return [value for _ in range(sizes["T"])] if given.each_step else value


def nested(shape: Sequence[int], numbers: dict[Index, float], at: Index = ()) -> Any:
    """Numbers by index as nested lists; 0 where there is none."""
    if len(at) == len(shape):
        return numbers.get(at, 0.0)
    return [nested(shape, numbers, (*at, k)) for k in range(shape[len(at)])]


# ---- the plan: what depends on what ----------------------------------------------------------------------------------


class Plan(NamedTuple):
    """Which cells there are, in an order of work, and what depends on what. The same for all numbers."""

    exercise: Exercise
    cells: list[Cell]
    trees: list[Tree]
    users: dict[Key, list[int]]
    """The places in `cells` whose formulas use an entry."""
    reach: dict[Key, int]
    """Those that depend on it, at whatever remove: bit p stands for place p."""
    changeable: list[Key]
    by_name: dict[str, Given]

    @classmethod
    def of(cls, exercise: Exercise) -> "Plan":
        trees = {cell: exercise.cell_tree(cell) for cell in exercise.cells}
        cells = order_of_work(exercise, trees)
        users: dict[Key, list[int]] = {}
        for place, cell in enumerate(cells):
            for key in dict.fromkeys(leaves(trees[cell])):
                users.setdefault(key, []).append(place)
        reach: dict[Key, int] = {}

        def reached(key: Key) -> int:
            """A place and all that depends on it: those were gone through before, from the last one back."""
            found = 0
            for place in users.get(key, ()):
                found |= 1 << place | reach[cells[place]]
            return found

        for cell in reversed(cells):
            reach[cell] = reached(cell)
        changeable = [
            key for given in exercise.givens if may_change(given) for key in entries_of(exercise, given) if key in users
        ]
        reach |= {key: reached(key) for key in changeable}
        by_name = {given.name: given for given in exercise.givens}
        return cls(exercise, cells, [trees[cell] for cell in cells], users, reach, changeable, by_name)


def leaves(tree: Tree) -> Iterator[Key]:
    """The entries a cell's formula uses."""
    if tree[0] == "cell":
        yield tree[1], tree[2], tree[3]
    else:
        for part in tree[1:]:
            if isinstance(part, list):
                yield from leaves(part)


def order_of_work(exercise: Exercise, trees: dict[Cell, Tree]) -> list[Cell]:
    """The cells, each after those it needs; within a time step unit by unit, so that a bad one is met early."""
    order: list[Cell] = []
    placed: set[Key] = set()

    def place(cell: Cell) -> None:
        if cell in placed:
            return
        placed.add(cell)
        for key in leaves(trees[cell]):
            if not exercise.given(key[0]):
                place(Cell(*key))
        order.append(cell)

    for _, steps in groupby(exercise.steps, key=lambda step: step.t):
        group = [
            Cell(each.name, step.t, index)
            for step in steps
            for each in step.quantities
            for index in exercise.indices(each.name)
        ]
        for cell in sorted(group, key=lambda cell: cell.index[:1]):
            place(cell)
    return order


# ---- the search ------------------------------------------------------------------------------------------------------


class Search:
    """Numbers that are worked through and repaired until every cell is fine."""

    def __init__(self, plan: Plan, numbers: dict[Key, float], random: Random, ladder=LADDER):
        self.plan, self.numbers, self.random, self.ladder = plan, numbers, random, list(ladder)
        self.rounding = Rounding(plan.exercise.decimals)
        self.worked = 0
        self.relax()

    def relax(self) -> bool:
        """Take the next margin, if there is one."""
        if not self.ladder:
            return False
        self.margin, times = self.ladder.pop(0)
        self.end = self.worked + times * len(self.plan.cells)
        return True

    def run(self) -> bool:
        """Whether it came to an end with every cell fine."""
        for place, cell in enumerate(self.plan.cells):
            value = self.work(place, self.numbers)
            if value is not None:
                self.numbers[cell] = value
            elif not self.repair(place):
                return False
        return True

    def work(self, place: int, numbers: Any) -> float | None:
        """The number to be written in a cell; None if it is no good."""
        self.worked += 1
        value = compute(self.plan.trees[place], lambda *key: numbers[key])
        written = self.rounding(value)
        good = writable(written) and distance_from_tie(value, self.rounding) >= self.margin
        same = twin(self.plan.cells[place])
        if good and same is not None:
            good = abs(written - numbers[same]) < AGREED + TINY
        return written if good else None

    def repair(self, place: int) -> bool:
        """Change what feeds a cell until it is fine, and all before it still are."""
        feeding, weights = self.feeding(place)
        if not feeding:
            return False
        while True:
            if self.worked >= self.end and not self.relax():
                return False
            changes = {}
            while not changes or self.random.random() < 1 / 3:
                key = feeding[drawn_by(self.random, weights)]
                changes[key] = self.other(key)
            if self.holds(changes, place):
                return True

    def feeding(self, place: int) -> tuple[list[Key], list[float]]:
        """What may be changed for a cell, and running totals of how gladly: what disturbs little comes first."""
        before = (1 << place) - 1
        keys, totals, total = [], [], 0.0
        for key in self.plan.changeable:
            reach = self.plan.reach[key]
            if reach >> place & 1:
                total += 1 / (1 + (reach & before).bit_count()) ** 2
                keys.append(key)
                totals.append(total)
        return keys, totals

    def other(self, key: Key) -> float:
        """Another number for an entry."""
        given = self.plan.by_name[key[0]]
        fan_in = (self.plan.exercise.shape(given.name) or (1,))[-1]
        while (number := draw(self.random, given, fan_in)) == self.numbers[key]:
            pass
        return number

    def holds(self, changes: dict[Key, float], last: int) -> bool:
        """Make the changes if every cell before `last` is fine with them; and say whether it is too.

        If it is not, the next attempt at least sets out from elsewhere.
        """
        self.worked += 1
        new = Overlay(self.numbers, changes)
        waiting = sorted({place for key in changes for place in self.plan.users[key] if place <= last})
        done = -1
        while waiting:
            place = heapq.heappop(waiting)
            if place == done:
                continue
            done = place
            value = self.work(place, new)
            if value is None:
                if place == last:
                    self.numbers |= changes
                return False
            cell = self.plan.cells[place]
            if value != self.numbers.get(cell):
                changes[cell] = value
                for user in self.plan.users.get(cell, ()):
                    if user <= last:
                        heapq.heappush(waiting, user)
        self.numbers |= changes
        return self.plan.cells[last] in changes  # else nothing of it reached the cell

    def exercise(self) -> Exercise:
        """The exercise with the numbers found."""
        exercise, values = self.plan.exercise, {}
        for given in exercise.givens:
            shape, steps = exercise.shape(given.name), exercise.sizes["T"]
            entries = {key: self.numbers[key] for key in entries_of(exercise, given)}
            at = [
                {index: number for (_, t, index), number in entries.items() if t == step} for step in range(steps + 1)
            ]
            values[given.name] = [nested(shape, each) for each in at[1:]] if given.each_step else nested(shape, at[0])
        return exercise.changed(values=values)


class Overlay(dict[Key, float]):
    """Numbers of which some are others."""

    def __init__(self, below: dict[Key, float], changes: dict[Key, float]):
        super().__init__()
        self.below, self.changes = below, changes

    def __getitem__(self, key: Key) -> float:
        return self.changes[key] if key in self.changes else self.below[key]


def drawn_by(random: Random, totals: list[float]) -> int:
    """A place drawn by running totals of weights."""
    at, low, high = random.random() * totals[-1], 0, len(totals) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if at < totals[middle] else (middle + 1, high)
    return low


# ---- how good an exercise is -----------------------------------------------------------------------------------------


def distance_from_tie(value: float, rounding: Rounding) -> float:
    """How far a result is from the middle between two neighbours, in units of the last place: 0 is a tie, 1/2 the most.

    >>> distance_from_tie(0.26, Rounding(1)), distance_from_tie(0.25, Rounding(1)), distance_from_tie(3, Rounding(1))
    (0.1, 0.0, 0.5)
    """
    if rounding.decimals is None or not math.isfinite(value):
        return 0.5
    units = abs(value) * 10**rounding.decimals
    return abs(round(units % 1 - 0.5, 6))  # so that the last bit of a machine's exp decides nothing


def twin(cell: Cell) -> Key | None:
    """The cell of h that this one, worked in another way, should come to."""
    if cell.name in ("h_raw", "h_s"):
        return "h", cell.t, cell.index
    return ("h", cell.index[0] + 1, cell.index[1:]) if cell.name == "H_p" else None


def writable(value: float) -> bool:
    """Whether a number can be written down: -∞ can, which is the stabiliser of an empty memory."""
    return abs(value) < WRITABLE or value == -math.inf


def check_quality(exercise: Exercise, margin: float = LEAST) -> list[str]:
    """Why an exercise is poor, a sentence a reason; an empty list if it is good.

    Named are results nearer to a rounding tie than `margin` units of the last place, numbers of 100 and over, two ways
    to the same h that rounding leads apart, gates of which too few lie between 0.05 and 0.95, and a last output that is
    all 0 or ±1.
    """
    numbers = exercise.work()
    reasons = []
    for cell in exercise.cells:
        written, value = numbers.found[cell], numbers.unrounded(cell)
        if not writable(written):
            reasons.append(f"{cell} is {written:g}: too large to write (100 or more)")
        elif (distance := distance_from_tie(value, numbers.rounding)) < margin:
            near = "is a rounding tie" if distance == 0 else "is next to a rounding tie"
            reasons.append(f"{cell} {near}: {value:.12g}")
        elif (same := twin(cell)) and abs(written - numbers.at(*same)) >= AGREED + TINY:
            reasons.append(f"{cell} is {written:g} and should be as {Cell(*same)}, {numbers.at(*same):g}")
    return reasons + saturated(exercise, numbers)


def saturated(exercise: Exercise, numbers: Numbers) -> list[str]:
    """What is said of gates that are nearly all open or shut, and of a last output that says nothing."""
    kinds: dict[str, list[float]] = {"sigmoid": [], "exp": [], "tanh": []}
    for cell in exercise.cells:
        tree = exercise.by_name[cell.name].tree  # type: ignore[union-attr]
        if tree[0] in ("sigmoid", "tanh") or (tree[0] == "exp" and tree[1][0] == "-"):
            kinds[tree[0]].append(abs(numbers.found[cell]))
    if kinds["sigmoid"]:
        del kinds["tanh"]  # only an RNN is judged by it: where there are gates, they matter
    reasons = []
    for kind, values in kinds.items():
        least, gates = OPEN[kind]
        inside = sum(value < 0.95 and (value > 0.05 or kind == "tanh") for value in values)
        if inside < least * len(values):
            between = "-0.95 and 0.95" if kind == "tanh" else "0.05 and 0.95"
            reasons.append(f"saturated: {inside} of {len(values)} {gates} lie between {between}")
    reasons += [f"{name} is its argument wherever it stands: left out, tanh would not show" for name in idle(numbers)]
    output = "h" if "h" in exercise.by_name else exercise.cells[-1].name
    last = [numbers.at(output, exercise.sizes["T"], index) for index in exercise.indices(output)]
    if all(value in (-1, 0, 1) for value in last):
        reasons.append(f"saturated: the last {output} is {', '.join(f'{value:g}' for value in last)}")
    return reasons


def idle(numbers: Numbers) -> list[str]:
    """The quantities that are a tanh of another one, and the same as that one in every cell, once rounded."""
    found = []
    for quantity in numbers.exercise.quantities:
        if numbers.rounding.decimals is not None and quantity.tree[0] == "tanh" and quantity.tree[1][0] == "ref":
            cells = [cell for cell in numbers.exercise.cells if cell.name == quantity.name]
            if all(numbers.found[cell] == numbers.at(quantity.tree[1][1], cell.t, cell.index) for cell in cells):
                found.append(quantity.name)
    return found
