"""Where every number of an exercise stands on a spreadsheet, and each cell's formula as a spreadsheet has it.

Writes no file and works nothing out: `workbook.py` does the one, `graph.py` the other.

Given numbers stand at the left, each beside the first quantity that needs it; then comes a block of columns for each
time step. A quantity has the same rows in every block, and every cell of it two columns: itself, and its check. The
sheets Exercise, Key and Exact share these places.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from longshort.byhand.formulas import Index, Tree, refs
from longshort.byhand.graph import Cell, Exercise, Given, Numbers, Quantity, Step

MINUS_INFINITY = -1e300
"""What stands for minus infinity, an empty memory's stabiliser: a spreadsheet has no infinity."""
OVERFLOW = "overflow"
"""What a cell shows whose number is too large for a spreadsheet."""
RIGHT, EXACT, FOLLOWS, WRONG, NO_NUMBER = "✓", "✓ exact", "→ ✓", "✗", "number?"
"""What a check cell says; an empty answer gets none of these."""
MINUS_INFINITY_WORDS = ("−∞", "minus infinity", "-∞", "-inf")
"""What is read as it. In Excel only the first two can be typed: with a hyphen in front, it takes a formula to begin."""


# ---- places ----------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A cell of a sheet; row and column are counted from 0."""

    row: int
    column: int

    @property
    def address(self) -> str:
        """As spreadsheets write it.

        >>> Place(0, 0).address, Place(9, 27).address
        ('A1', 'AB10')
        """
        return f"{column_letters(self.column)}{self.row + 1}"

    @property
    def fixed(self) -> str:
        """The same with dollar signs, so that copying a formula does not move it."""
        return f"${column_letters(self.column)}${self.row + 1}"

    def right(self, columns: int) -> "Place":
        return Place(self.row, self.column + columns)


def column_letters(column: int) -> str:
    letters = ""
    while column >= 0:
        letters = chr(ord("A") + column % 26) + letters
        column = column // 26 - 1
    return letters


class Block(NamedTuple):
    """The columns of one time step: a label, then pairs of a cell and its check."""

    label: int
    pairs: int

    @property
    def first(self) -> int:
        return self.label + 1

    @property
    def last(self) -> int:
        return self.label + 2 * self.pairs


class TitleRow(NamedTuple):
    row: int
    steps: tuple[Step, ...]
    """The steps that begin here, one a block."""


DECIMALS = Place(1, 2)
HEADER_ROW = 5
"""The row that names the time steps; it is printed on every page."""

LEGEND_ROWS = 4
"""What the colours mean stands at the left of the inputs."""


@dataclass
class Layout:
    """Where all numbers of an exercise stand."""

    exercise: Exercise
    left: dict[str, Place] = field(default_factory=dict)
    """The top left cells of the given matrices, vectors and numbers that hold for all steps."""
    tops: dict[tuple[str, int], Place] = field(default_factory=dict)
    """The top left cells of what has a value for each step, by name and step; 0: of the whole sequence."""
    titles: list[TitleRow] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    last_row: int = 0

    def __post_init__(self):
        row = self.place_inputs()
        for name in self.order:
            row = self.place_quantity(name, row)
        self.last_row = row - 1
        missing = [each.name for each in self.exercise.givens if not each.each_step and each.name not in self.left]
        for name in missing:  # needed by no formula; shown all the same
            row = self.place_left([name], row) + 1
            self.last_row = row - 1

    # ---- columns ----

    @cached_property
    def order(self) -> list[str]:
        """The quantities in the order of their rows."""
        return list(dict.fromkeys(name for stage in self.exercise.stages for name in stage.quantities))

    @cached_property
    def beside(self) -> dict[str, list[str]]:
        """The given numbers that stand beside each quantity: those it is the first to need."""
        placed: set[str] = set()
        found: dict[str, list[str]] = {}
        for name in self.order:
            new = [other for other in self.needed(name) if other not in placed]
            found[name] = sorted(dict.fromkeys(new), key=lambda other: self.exercise.by_name[other].role == "start")  # type: ignore[union-attr]
            placed |= set(new)
        return found

    def needed(self, name: str) -> list[str]:
        """The given numbers in a quantity's formula, those that hold for all steps."""
        found = []
        quantity = self.exercise.by_name[name]
        assert isinstance(quantity, Quantity)
        for other, back in refs(quantity.tree):
            each = self.exercise.by_name[other]
            if isinstance(each, Given):
                found += [other] * (not each.each_step)
            elif back > 0:
                found += [start for start, _ in refs(each.start_tree) if self.exercise.given(start)]
        return found

    @cached_property
    def lying(self) -> set[str]:
        """The given vectors shown as a row: those that a formula takes the product with."""
        found: set[str] = set()

        def walk(tree: Tree) -> None:
            if tree[0] == "dot" and tree[1][0] == "ref" and self.exercise.given(tree[1][1]):
                found.add(tree[1][1])
            for part in tree[1:]:
                if isinstance(part, list):
                    walk(part)

        for quantity in self.exercise.quantities:
            walk(quantity.tree)
        return found

    def size(self, name: str) -> tuple[int, int]:
        """How many rows and columns of numbers something takes."""
        shape = self.exercise.shape(name)
        if len(shape) == 2:
            return shape[0], shape[1]
        length = shape[0] if shape else 1
        return (1, length) if name in self.lying else (length, 1)

    @cached_property
    def left_columns(self) -> int:
        """How many columns the given numbers at the left take."""
        return max([8, *(sum(1 + self.size(name)[1] for name in names) for names in self.beside.values())])

    @cached_property
    def blocks(self) -> dict[int, Block]:
        """The columns of every time step. What is worked once for the whole sequence stands in the first."""
        steps = self.exercise.sizes["T"]
        pairs = dict.fromkeys(range(1, steps + 1), 1)
        for each in (*self.exercise.givens, *self.exercise.quantities):
            if isinstance(each, Quantity) or each.each_step:
                for t in range(1, steps + 1) if each.each_step else [1]:
                    pairs[t] = max(pairs[t], self.size(each.name)[1])
        found, column = {}, self.left_columns + 1
        for t in range(1, steps + 1):
            found[t] = Block(column, pairs[t])
            column = found[t].last + 2
        return found

    @property
    def last_column(self) -> int:
        return max(block.last for block in self.blocks.values())

    # ---- rows ----

    def place_inputs(self) -> int:
        """The inputs and targets of every step, at the top of its block; returns the next free row."""
        row = HEADER_ROW + 1
        for each in self.exercise.givens:
            if each.each_step:
                for t, block in self.blocks.items():
                    self.tops[each.name, t] = Place(row, block.first)
                row += self.size(each.name)[0] + 1
                self.gaps.append(row - 1)
        return max(row, HEADER_ROW + 1 + len(self.gaps) + LEGEND_ROWS)

    def place_quantity(self, name: str, row: int) -> int:
        """A quantity in all its blocks, with the given numbers it needs beside it; returns the next free row."""
        begun = tuple(step for step in self.exercise.steps if step.quantities[0].name == name)
        if begun:
            self.titles.append(TitleRow(row, begun))
            row += 1
        for step in self.exercise.steps:
            if any(quantity.name == name for quantity in step.quantities):
                self.tops[name, step.t] = Place(row, self.blocks[step.t or 1].first)
        end = max(row + self.size(name)[0], self.place_left(self.beside[name], row))
        self.gaps.append(end)
        return end + 1

    def place_left(self, names: list[str], row: int) -> int:
        """Given numbers side by side at the left; returns the row below them."""
        column, end = 0, row
        for name in names:
            rows, columns = self.size(name)
            self.left[name] = Place(row, column + 1)
            column += 1 + columns
            end = max(end, row + rows)
        return end

    # ---- looking things up ----

    def place(self, name: str, t: int, index: Index) -> Place:
        """Where a number stands; `t` counts only for what has a value for each step."""
        lying = name in self.lying
        down, along = (0, index[0]) if lying and index else (*index, 0, 0)[:2]
        if name in self.left:
            return Place(self.left[name].row + down, self.left[name].column + along)
        top = self.tops[name, t]
        return Place(top.row + down, top.column + 2 * along)


def given_cells(exercise: Exercise) -> list[Cell]:
    """Every given number: of what has one for each step, at each step."""
    steps = range(1, exercise.sizes["T"] + 1)
    return [
        Cell(given.name, t, index)
        for given in exercise.givens
        for t in (steps if given.each_step else [0])
        for index in exercise.indices(given.name)
    ]


# ---- formulas --------------------------------------------------------------------------------------------------------

SUM, PRODUCT, ATOM = 1, 2, 3
Refer = Callable[[str, int, Index], str]
"""How a formula refers to a number."""


def excel(tree: Tree, refer: Refer, least: int = SUM) -> str:
    """A cell's formula as spreadsheets write it, in brackets where it binds less tightly than `least`.

    709 is the largest whole number of which a spreadsheet can take the exponential.

    >>> excel(["sigmoid", ["+", ["cell", "a", 1, (0,)], ["num", 2.0]]], lambda name, t, index: "B3")
    '1/(1+EXP(MIN(-(B3+2),709)))'
    """
    kind, parts = tree[0], tree[1:]
    if kind == "cell":
        return refer(*parts)
    if kind == "num":
        text, level = number(parts[0]), ATOM if parts[0] >= 0 else SUM
    elif kind == "sum":
        text, level = "+".join(excel(part, refer, PRODUCT if at else SUM) for at, part in enumerate(parts)), SUM
    elif kind in ("+", "-"):
        text, level = excel(parts[0], refer, SUM) + kind + excel(parts[1], refer, PRODUCT), SUM
    elif kind in ("*", "/"):
        text, level = excel(parts[0], refer, PRODUCT) + kind + excel(parts[1], refer, ATOM), PRODUCT
    elif kind == "neg":
        text, level = "-" + excel(parts[0], refer, PRODUCT), SUM
    else:
        text, level = function(kind, parts, refer)
    return f"({text})" if level < least else text


def function(kind: str, parts: list, refer: Refer) -> tuple[str, int]:
    """A function of numbers, and how tightly its text binds."""
    inside = ",".join(excel(part, refer) for part in parts)
    if kind in ("tanh", "exp", "sqrt", "abs", "max"):
        return f"{kind.upper()}({inside})", ATOM
    x = parts[0]
    if kind == "logsigmoid":  # the same as LN(sigmoid), without the overflow
        return f"MIN({inside},0)-LN(1+EXP(-ABS({inside})))", SUM
    over = "1" if kind == "sigmoid" else excel(x, refer, PRODUCT)
    assert kind in ("sigmoid", "silu"), f"a spreadsheet has no {kind}"
    return f"{over}/(1+EXP(MIN(-{excel(x, refer, PRODUCT)},709)))", PRODUCT


def number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value).upper()


def rounded(worked: str, decimals: str, may_be_empty: bool = False) -> str:
    """The sheet's rounding rule: halves away from zero, decided after rounding to 12 significant digits.

    The number is scaled first, so that it comes out alike where ROUND is a plain binary one. What stands for minus
    infinity stays as it is.
    """
    places = f"11-{decimals}-INT(LOG10(ABS({worked})))"
    whole = f"INT(ROUND(ABS({worked})*10^{decimals},{places})+0.5)"
    rule = f"IF(ABS({worked})<1E-10,0,SIGN({worked})*{whole}/10^{decimals})"
    if may_be_empty:
        rule = f"IF({worked}<-1E+299,{worked},{rule})"
    return f"IF(ISNUMBER({decimals}),{rule},{worked})"


def guarded(formula: str, risky: bool) -> str:
    """A formula that says "overflow" where its number is too large."""
    return f'IFERROR({formula},"{OVERFLOW}")' if risky else formula


def cells_in(tree: Tree) -> list[Cell]:
    """The cells a formula refers to, each once."""
    if tree[0] == "cell":
        return [Cell(tree[1], tree[2], tuple(tree[3]))]
    return list(dict.fromkeys(cell for part in tree[1:] if isinstance(part, list) for cell in cells_in(part)))


def risky_quantities(exercise: Exercise) -> set[str]:
    """The quantities that may overflow: those with an exponential of anything but a difference, and what needs them.

    The stabilised gates are exponentials of differences that are never over 0.
    """

    def explodes(tree: Tree) -> bool:
        raw = tree[0] == "exp" and tree[1][0] not in ("-", "neg")
        return raw or any(explodes(part) for part in tree[1:] if isinstance(part, list))

    trees = {
        each.name: [each.tree, each.start_tree] if exercise.starts(each) else [each.tree]
        for each in exercise.quantities
    }
    needed = {name: {other for tree in parts for other, _ in refs(tree)} for name, parts in trees.items()}
    risky = {name for name, parts in trees.items() if any(explodes(tree) for tree in parts)}
    while more := {name for name in needed if name not in risky and needed[name] & risky}:
        risky |= more
    return risky


# ---- numbers as a spreadsheet has them -------------------------------------------------------------------------------


def in_sheet(value: float) -> float:
    return MINUS_INFINITY if value == -math.inf else value


def shown(numbers: Numbers, risky: set[str]) -> dict[Cell, float | str]:
    """What every cell shows: its number, or "overflow". Raises ValueError for what is no number at all."""
    exercise = numbers.exercise
    empty = any("-inf" in str(exercise.values[given.name]) for given in exercise.givens)
    found: dict[Cell, float | str] = {}
    for cell in exercise.cells:
        value = numbers.found[cell]
        fine = math.isfinite(value) or (value == -math.inf and empty)
        if cell.name in risky:
            after = any(found.get(other) == OVERFLOW for other in cells_in(exercise.cell_tree(cell)))
            found[cell] = OVERFLOW if after or not fine else in_sheet(value)
        elif fine:
            found[cell] = in_sheet(value)
        else:
            how = "in exact arithmetic" if numbers.rounding.decimals is None else "by the sheet's rounding rule"
            raise ValueError(
                f"{cell} comes to {value} {how}, which no spreadsheet holds; it is "
                f"{excel(exercise.cell_tree(cell), lambda *at: str(Cell(*at)))}. More decimals or smaller weights help."
            )
    return found


# ---- marking ---------------------------------------------------------------------------------------------------------


def words_allowed(cell: Cell, risky: set[str], may_be_empty: Iterable[Cell]) -> tuple[str, ...]:
    """What an answer may be beside a number."""
    return MINUS_INFINITY_WORDS * (cell in may_be_empty) + (OVERFLOW,) * (cell.name in risky)


def is_answer(answer: str, words: tuple[str, ...]) -> str:
    """Whether a cell holds a number or one of the words."""
    if not words:
        return f"ISNUMBER({answer})"
    return f"OR(ISNUMBER({answer})," + ",".join(f'{answer}="{word}"' for word in words) + ")"


def own_number(answer: str, key: str, words: tuple[str, ...]) -> str:
    """The learner's number, or where there is none the key's."""
    rest = key
    if OVERFLOW in words:
        rest = f'IF({answer}="{OVERFLOW}",{answer},{rest})'
    if MINUS_INFINITY_WORDS[0] in words:
        test = ",".join(f'{answer}="{word}"' for word in MINUS_INFINITY_WORDS)
        rest = f"IF(OR({test}),{number(MINUS_INFINITY)},{rest})"
    return f"IF(ISNUMBER({answer}),{answer},{rest})"


class Marks(NamedTuple):
    """The cells that a verdict looks at."""

    answer: str
    own: str
    key: str
    exact: str
    follow: str
    rests_on_wrong: str
    tolerance: str
    decimals: str


def verdict(marks: Marks, words: tuple[str, ...]) -> str:
    """The formula of a check cell."""

    def near(other: str) -> str:
        # Without rounding an answer has the number's sign too, so that 0 is not -0.00009.
        apart = f"ABS({marks.own}-{other})<={marks.tolerance}+1E-9*MAX(1,ABS({other}))"
        sign = f"ISNUMBER({marks.decimals}),ABS({other})<=1E-15,{marks.own}*{other}>0"
        apart = f"AND({apart},OR({sign}))"
        return f"IFERROR({apart},IFERROR({marks.own}={other},FALSE))"

    follows = f'IF({marks.rests_on_wrong}>0,"{FOLLOWS}","{RIGHT}")'
    exact = f'IF({near(marks.exact)},"{EXACT}","{WRONG}")'
    judged = f'IF({near(marks.key)},"{RIGHT}",IF({near(marks.follow)},{follows},{exact}))'
    return f'IF({marks.answer}="","",IF({is_answer(marks.answer, words)},{judged},"{NO_NUMBER}"))'
