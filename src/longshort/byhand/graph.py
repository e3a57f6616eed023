"""An exercise: given numbers, named quantities with their formulas, and the numbered steps in which they are worked.

Every rendering (terminal, page, spreadsheet, paper) is made from an `Exercise`, and none computes on its own.
`Exercise.work` gives the numbers under a rounding rule. Needs neither torch nor numpy.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import cached_property
from typing import Any, NamedTuple

from longshort.byhand.formulas import Index, Named, Scope, Shape, Tree, compute, indices, parse, refs

FORMAT = "longshort exercise 1"
LARGEST = {"T": 16}
"""The most steps; no other size is over 12."""
ROLES = ("weight", "bias", "input", "start", "target", "rest")


# ---- rounding --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rounding:
    """What is done to every number before it is written down and carried on. `decimals=None`: nothing.

    Halves go away from zero. What counts as a half is decided after rounding to 12 significant digits, so that
    Python, JavaScript and a spreadsheet agree.

    >>> by_hand(0.25), by_hand(-0.25), by_hand(0.15 + 1e-15), by_hand(-0.04)
    (0.3, -0.3, 0.2, 0.0)
    """

    decimals: int | None

    def __post_init__(self):
        whole = isinstance(self.decimals, int) and not isinstance(self.decimals, bool)
        if self.decimals is not None and not (whole and 0 <= self.decimals <= 9):
            raise ValueError(f"decimals={self.decimals!r}: a whole number from 0 to 9; or none, for exact arithmetic")

    def __call__(self, value: float) -> float:
        if self.decimals is None or not math.isfinite(value):
            return value
        short = TWELVE_DIGITS.create_decimal(value)
        return float(short.quantize(Decimal(1).scaleb(-self.decimals), ROUND_HALF_UP, WIDE)) + 0.0

    def __str__(self) -> str:
        if self.decimals is None:
            return "Exact arithmetic: carry every number on as it is."
        places = "a whole number" if self.decimals == 0 else f"{self.decimals} decimal{'s' * (self.decimals > 1)}"
        return f"Round every number to {places} when you write it down (halves away from zero), and carry on with that."


TWELVE_DIGITS = Context(prec=12, rounding=ROUND_HALF_UP)
WIDE = Context(prec=400)
exact = Rounding(None)
by_hand = Rounding(1)
"""One decimal, as in the article."""


# ---- what an exercise is made of -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Given:
    """Numbers the exercise states. `shape` is in named sizes, such as ("H", "D+H")."""

    name: str
    symbol: str
    shape: tuple[str, ...]
    role: str
    """weight, bias, input, start, target, or rest: what the units not shown contribute."""
    each_step: bool = False
    blocks: str | None = None
    """A size: the matrix has so many blocks along its diagonal, and nothing between them (heads)."""
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Numbers the learner works out: one operation, rounded once, when it is written down."""

    name: str
    formula: str
    symbol: str
    """As printed: base, ~ for a tilde, ′ for a prime, _x for an index. Empty: the formula is its own name."""
    shape: tuple[str, ...]
    each_step: bool = True
    blocks: str | None = None
    """As of a given."""
    lower: bool = False
    """A matrix of which only the cells on and below the diagonal exist."""
    start: str = ""
    """What stands before the first step, as a formula; when empty, the given called like this one with a 0 after it."""
    traced: str = ""
    """The name of the same numbers in `longshort.trace`."""
    about: str = ""

    @cached_property
    def tree(self) -> Tree:
        return parse(self.formula)

    @cached_property
    def start_tree(self) -> Tree:
        return parse(self.start or f"{self.name}0")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step, as it recurs: at the first time step, at the later ones, at each, backwards, or once."""

    at: str
    title: str
    quantities: tuple[str, ...]
    about: str = ""


class Step(NamedTuple):
    """A numbered step of the sheet."""

    number: int
    t: int
    """The time step; 0: of the whole sequence."""
    title: str
    quantities: tuple[Quantity, ...]
    about: str


class Cell(NamedTuple):
    """One number of the sheet: of which quantity or given, at which step (0: none), where in it."""

    name: str
    t: int
    index: Index

    def __str__(self) -> str:
        """In words.

        >>> str(Cell("z_f", 2, (0,)))
        'z_f at t = 2, row 1'
        """
        place = [f"{axis} {at + 1}" for axis, at in zip(("row", "column"), self.index, strict=False)]
        return f"{self.name}" + f" at t = {self.t}" * (self.t > 0) + "".join(f", {each}" for each in place)


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """Given numbers, quantities, and the steps in which they are worked. Immutable; `changed` gives another.

    `values` has the numbers of every given, as nested lists; of one with `each_step` a list with an entry a step.
    `sizes` has the length of every named size; T is the number of steps. `decimals` is the rounding the sheet asks for.
    Raises ValueError, with the name of what is wrong, for numbers that do not fit.
    """

    name: str
    title: str
    about: tuple[str, ...]
    sizes: Mapping[str, int]
    decimals: int | None
    givens: tuple[Given, ...]
    quantities: tuple[Quantity, ...]
    stages: tuple[Stage, ...]
    values: Mapping[str, Any] = field(repr=False)

    def __post_init__(self):
        Rounding(self.decimals)
        check_sizes(self)
        check_values(self)

    # ---- looking things up ----

    @cached_property
    def by_name(self) -> dict[str, Given | Quantity]:
        return {each.name: each for each in (*self.givens, *self.quantities)}

    def given(self, name: str) -> bool:
        return isinstance(self.by_name[name], Given)

    def shape(self, name: str) -> Shape:
        """The lengths of a given or quantity at one time step."""
        return tuple(sum(self.sizes[part] for part in length.split("+")) for length in self.by_name[name].shape)

    def exists(self, name: str, index: Index) -> bool:
        """Whether there is such a cell: not above the diagonal of a triangle, nor between two heads."""
        each = self.by_name[name]
        if isinstance(each, Quantity) and each.lower:
            return index[1] <= index[0]
        if not each.blocks:
            return True
        rows, columns = (length // self.sizes[each.blocks] for length in self.shape(name))
        return index[0] // rows == index[1] // columns

    def indices(self, name: str) -> list[Index]:
        """The indices of all cells that exist, row by row."""
        return [index for index in indices(self.shape(name)) if self.exists(name, index)]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The numbered steps, over all time steps, in the order in which they are worked."""
        found: list[Step] = []
        for way, stages in in_runs(self.stages):
            times = {"forward": range(1, self.sizes["T"] + 1), "back": range(self.sizes["T"], 0, -1), "once": [0]}[way]
            for t in times:
                for stage in stages:
                    if way == "forward" and stage.at not in ("each", "first" if t == 1 else "later"):
                        continue
                    quantities = tuple(self.by_name[name] for name in stage.quantities)
                    found.append(Step(len(found) + 1, t, stage.title, quantities, stage.about))  # type: ignore[arg-type]
        return tuple(found)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell to be worked out, in order."""
        return tuple(
            Cell(quantity.name, step.t, index)
            for step in self.steps
            for quantity in step.quantities
            for index in self.indices(quantity.name)
        )

    # ---- the formula of a cell, and the numbers ----

    @cached_property
    def scope(self) -> Scope:
        named = {
            each.name: Named(
                self.shape(each.name),
                each.each_step,
                lambda index, name=each.name: self.exists(name, index),
                each.start_tree if isinstance(each, Quantity) else None,
            )
            for each in self.by_name.values()
        }
        return Scope(named, self.sizes["T"], dict(self.sizes))

    def cell_tree(self, cell: Cell) -> Tree:
        """The formula of one cell, over the cells it needs."""
        quantity = self.by_name[cell.name]
        assert isinstance(quantity, Quantity), f"{cell.name} is given"
        return self.scope.cell_tree(quantity.tree, cell.index, cell.t)

    def given_value(self, name: str, t: int, index: Index) -> float:
        value = self.values[name]
        if self.by_name[name].each_step:
            value = value[t - 1]
        for at in index:
            value = value[at]
        return float(value)

    def work(self, rounding: Rounding | None = None) -> "Numbers":
        """Every number of the exercise; by the sheet's own rounding rule, if no other is given."""
        rounding = Rounding(self.decimals) if rounding is None else rounding
        found: dict[Cell, float] = {}
        numbers = Numbers(self, rounding, found)
        for cell in self.cells:
            found[cell] = rounding(compute(self.cell_tree(cell), numbers.at))
        return numbers

    def changed(self, **changes: Any) -> "Exercise":
        """A copy with other numbers: `values` are merged, name by name."""
        if "values" in changes:
            changes["values"] = {**self.values, **changes["values"]}
        return replace(self, **changes)

    # ---- as plain data ----

    def to_dict(self) -> dict[str, Any]:
        """The whole exercise as plain data; formulas as trees too, so that a reader needs no parser."""
        return {
            "format": FORMAT,
            **{key: getattr(self, key) for key in ("name", "title", "decimals")},
            "about": list(self.about),
            "sizes": dict(self.sizes),
            "givens": [plain(given) for given in self.givens],
            "quantities": [
                plain(quantity)
                | {"tree": quantity.tree, "start_tree": quantity.start_tree if self.starts(quantity) else None}
                for quantity in self.quantities
            ],
            "stages": [plain(stage) for stage in self.stages],
            "values": {name: spelt(value) for name, value in self.values.items()},
        }

    def starts(self, quantity: Quantity) -> bool:
        """Whether some formula looks at this quantity one step before."""
        return any((quantity.name, 1) in refs(each.tree) for each in self.quantities)

    def to_json(self, **options: Any) -> str:
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False, **options)

    @classmethod
    def from_dict(cls, data: Any) -> "Exercise":
        """From what `to_dict` gave. Raises ValueError, in words, for anything else."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"this is no exercise of ours: format {FORMAT!r} is expected, not {found!r}")
        try:
            check_texts(data)
            return cls(
                name=data["name"],
                title=data["title"],
                about=tuple(data["about"]),
                sizes=data["sizes"],
                decimals=data["decimals"],
                givens=tuple(Given(**tupled(each)) for each in data["givens"]),
                quantities=tuple(
                    Quantity(**tupled({k: v for k, v in each.items() if k not in ("tree", "start_tree")}))
                    for each in data["quantities"]
                ),
                stages=tuple(Stage(**tupled(each)) for each in data["stages"]),
                values={name: unspelt(value) for name, value in data["values"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this exercise is not whole: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Numbers:
    """All numbers of an exercise under one rounding rule."""

    exercise: Exercise
    rounding: Rounding
    found: Mapping[Cell, float] = field(repr=False)

    def at(self, name: str, t: int, index: Index) -> float:
        """The number in a cell, given or worked out."""
        if self.exercise.given(name):
            return self.exercise.given_value(name, t, index)
        return self.found[Cell(name, t, tuple(index))]

    def unrounded(self, cell: Cell) -> float:
        """What a cell's formula comes to, before it is rounded and written down."""
        return compute(self.exercise.cell_tree(cell), self.at)

    def value(self, name: str, t: int = 0) -> Any:
        """A given or quantity at a time step, as nested lists; None where a cell does not exist."""

        def part(index: Index, rest: Shape) -> Any:
            if rest:
                return [part((*index, at), rest[1:]) for at in range(rest[0])]
            return self.at(name, t, index) if self.exercise.exists(name, index) else None

        return part((), self.exercise.shape(name))


# ---- checks and plain data -------------------------------------------------------------------------------------------


def in_runs(stages: tuple[Stage, ...]) -> list[tuple[str, list[Stage]]]:
    """The stages in runs that are gone through together: forward in time, backward, or once."""
    ways = {"each": "forward", "first": "forward", "later": "forward", "back": "back", "once": "once"}
    runs: list[tuple[str, list[Stage]]] = []
    for stage in stages:
        if not runs or runs[-1][0] != ways[stage.at]:
            runs.append((ways[stage.at], []))
        runs[-1][1].append(stage)
    return runs


def check_texts(data: Any) -> None:
    """Raise ValueError where a text, or a list of them, is something else."""
    entries = [each for kind in ("givens", "quantities", "stages") for each in data[kind]]
    texts = ("name", "title", "symbol", "formula", "start", "at", "role", "about", "traced")
    for each in [{key: data[key] for key in ("name", "title")}, *entries]:
        for key in texts:
            if key in each and not isinstance(each[key], str):
                raise ValueError(f"{key}: a text belongs here, not {each[key]!r}")
    for line in data["about"]:
        if not isinstance(line, str):
            raise ValueError(f"about: a text belongs here, not {line!r}")


def check_sizes(exercise: Exercise) -> None:
    for name, length in exercise.sizes.items():
        most = LARGEST.get(name, 12)
        if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= most:
            raise ValueError(f"size {name}={length!r}: a whole number from 1 to {most} belongs here")
    for given in exercise.givens:
        if given.blocks and any(length % exercise.sizes[given.blocks] for length in exercise.shape(given.name)):
            heads, units = exercise.sizes[given.blocks], exercise.shape(given.name)[0]
            raise ValueError(f"{given.name}: {heads} heads do not divide {units} units")


def check_values(exercise: Exercise) -> None:
    missing = [given.name for given in exercise.givens if given.name not in exercise.values]
    unknown = [name for name in exercise.values if name not in {given.name for given in exercise.givens}]
    if missing or unknown:
        what = f"missing: {', '.join(missing)}" if missing else f"unknown: {', '.join(unknown)}"
        raise ValueError(f"exercise {exercise.name!r}, given numbers {what}")
    for given in exercise.givens:
        shape = exercise.shape(given.name)
        whole = (exercise.sizes["T"], *shape) if given.each_step else shape
        check_numbers(given, exercise.values[given.name], whole, ())
        if given.blocks:
            for index in indices(shape):
                if not exercise.exists(given.name, index) and exercise.given_value(given.name, 0, index) != 0:
                    raise ValueError(f"{given.name}{list(index)} lies between two heads and must be 0: heads never mix")


def check_numbers(given: Given, value: Any, shape: Shape, at: Index) -> None:
    where = given.name + "".join(f"[{each}]" for each in at)
    if shape:
        if not isinstance(value, list | tuple) or len(value) != shape[0]:
            got = f"{len(value)}" if isinstance(value, list | tuple) else repr(value)
            raise ValueError(f"{where}: {shape[0]} entries belong here, not {got}")
        for each, part in enumerate(value):
            check_numbers(given, part, shape[1:], (*at, each))
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: a number belongs here, not {value!r}")
    elif math.isnan(value) or (math.isinf(value) and not (given.role == "start" and value < 0)):
        raise ValueError(f"{where}: {value} is no number to reckon with")


def plain(each: Given | Quantity | Stage) -> dict[str, Any]:
    fields = type(each).__dataclass_fields__
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, f in fields.items()
        if (value := getattr(each, name)) != f.default
    }


def tupled(data: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}


def spelt(value: Any) -> Any:
    """Numbers as JSON has them; minus infinity, an empty memory's stabiliser, is the text "-inf"."""
    if isinstance(value, list | tuple):
        return [spelt(each) for each in value]
    return "-inf" if value == -math.inf else value


def unspelt(value: Any) -> Any:
    if isinstance(value, list):
        return [unspelt(each) for each in value]
    return -math.inf if value == "-inf" else value
