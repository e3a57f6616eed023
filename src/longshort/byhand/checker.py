"""Marks a learner's sheet cell by cell, with follow-through, and names the usual slips.

A cell is judged by the learner's own earlier cells: an early slip is marked once, and what follows rightly from it is
right method. What slips there are stands in `slips.py`; answers as files are read and written in `answers.py`.

    right                                   by the sheet's rounding rule
    right by exact arithmetic               not rounded on the way, or not at all
    right method on a wrong earlier value   what the formula gives with the learner's own earlier numbers
    wrong                                   and, where it can be told, how it came about
    unanswered
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

from longshort.byhand.answers import (
    answers_of,
    blank_answers,
    numbers_in,
    read_answer_file,
    spelt_number,
    write_answers,
)
from longshort.byhand.formulas import Tree, compute
from longshort.byhand.graph import Cell, Exercise, Numbers, Rounding, Step, exact
from longshort.byhand.slips import NOTHING, SLIPS, order_of, slip_trees, slips_of, used_cells
from longshort.byhand.spelling import Speller, show

__all__ = ["EXACT", "METHOD", "RIGHT", "SLIPS", "UNANSWERED", "VERDICTS", "WRONG", "Mark", "Report", "answers_of",
           "blank_answers", "check", "read_answer_file", "slip_trees", "write_answers"]  # fmt: skip

RIGHT = "right"
EXACT = "right by exact arithmetic"
METHOD = "right method on a wrong earlier value"
WRONG = "wrong"
UNANSWERED = "unanswered"
VERDICTS = (RIGHT, EXACT, METHOD, WRONG, UNANSWERED)
FEWEST, MOST = 2, 9
"""On a sheet without rounding an answer counts to its own last decimal, but to at least and at most so many."""
SLACK = 1e-9
"""Of a number's size: what binary fractions may be off."""
NOTHING_LEFT = 1e-15
"""What may be left of numbers that cancel."""
ROUNDED_WRONGLY = "rounded the wrong way"
GUESSES = 2
"""If more products than this could each explain a number, none does."""


class Mark(NamedTuple):
    """The verdict on one cell, and what it rests on."""

    cell: Cell
    verdict: str
    """One of `VERDICTS`."""
    answer: float | None
    carried: float
    """By the sheet's rounding rule: the key."""
    exact: float
    """In exact arithmetic."""
    follow: float
    """From the learner's own earlier answers (where there is none, from the key's), by the rounding rule."""
    slip: str
    """What a wrong number comes from, as a clause; several that give the same number are joined by "or"."""


def check(exercise: Exercise, answers: Mapping[str, Any]) -> "Report":
    """Mark a sheet.

    Args:
        exercise: the sheet, with its given numbers and its rounding rule.
        answers: by a quantity's name, nested lists of numbers; of a quantity with a value for each time step, a list
            over the steps. None where a cell, or a whole part, is blank. Numbers may be texts such as "−0,7".

    An answer matches a number that is not further off than half a unit of the sheet's last decimal; on a sheet without
    rounding, of the answer's own last decimal, of which 2 to 9 count; and 0 is right only for 0.

    Raises ValueError, naming the cell, for a name that is not asked for, a wrong shape, or what is no number.

    >>> from longshort.byhand import exercise
    >>> rnn = exercise("rnn")
    >>> print(check(rnn, answers_of(rnn.work())).score)
    All 27 cells are right.
    """
    return Report(exercise, tuple(Marker(exercise, numbers_in(exercise, answers)).marks()))


def near(answer: float, expected: float, places: int, small_too: bool = False) -> bool:
    """Whether two numbers are the same to half a unit of a decimal place.

    `small_too`, where nothing is rounded: and of the same sign, so that 0 is not −0.00009.
    """
    if math.isnan(answer) or math.isnan(expected):
        return math.isnan(answer) and math.isnan(expected)
    if math.isinf(answer) or math.isinf(expected):
        return answer == expected
    apart, half = abs(answer - expected), 0.5 * 10.0**-places
    if small_too:
        nothing = abs(expected) <= NOTHING_LEFT
        return apart <= half + SLACK * abs(expected) and (nothing or answer * expected > 0)
    return apart <= half + SLACK * max(1.0, abs(expected))


def places_of(answer: float) -> int:
    """How many decimals someone wrote, as far as they count."""
    exponent = Decimal(repr(float(answer))).as_tuple().exponent
    return max(FEWEST, min(MOST, -exponent)) if isinstance(exponent, int) else MOST


class Marker:
    """Goes through a sheet in order, and keeps what the learner may have carried on from each cell.

    Three ways of carrying on are followed, since nobody sees which one the learner took: `written`, the answers as they
    stand, with the key's number where there is none; `through`, the same, but blank cells are worked out from the
    learner's own; and `held`, where what was written down was rounded but the calculator went on unrounded.
    """

    def __init__(self, exercise: Exercise, answers: Mapping[Cell, float]):
        self.exercise, self.answers = exercise, answers
        self.rounding = Rounding(exercise.decimals)
        self.carried, self.exact = exercise.work(), exercise.work(exact)
        self.written, self.through, self.held = (Numbers(exercise, self.rounding, {}) for _ in range(3))
        self.sound: dict[Cell, bool] = {}
        """Whether a cell, and all it rests on, is right or blank."""

        self.order, self.slips = order_of(exercise), {}

    def slips_of(self, name: str) -> list[tuple[str, Tree]]:
        if name not in self.slips:
            quantity = next(each for each in self.exercise.quantities if each.name == name)
            self.slips[name] = list(slips_of(self.exercise, quantity, self.order))
        return self.slips[name]

    def marks(self) -> Iterator[Mark]:
        for cell in self.exercise.cells:
            tree = self.exercise.cell_tree(cell)
            before = all(self.sound.get(Cell(*used), True) for used in used_cells(tree))
            yield self.marked(cell, tree, before)

    def marked(self, cell: Cell, tree: Tree, before: bool) -> Mark:
        carried, precise = self.carried.found[cell], self.exact.found[cell]
        written, through, held = (compute(tree, each.at) for each in (self.written, self.through, self.held))
        follow, answer, slip = self.rounding(written), self.answers.get(cell), ""
        if answer is None:
            self.carry(cell, carried, self.rounding(through), held)
            self.sound[cell] = before
            return Mark(cell, UNANSWERED, None, carried, precise, follow, "")
        verdict = self.verdict(cell, (follow, self.rounding(through)), (written, through, held), before)
        kept = next((each for each in (held, precise) if self.same(answer, each)), answer)
        if verdict == WRONG:
            slip, kept = self.slip(cell, tree, kept, (written, through, held))
        self.carry(cell, answer, answer, kept)
        self.sound[cell] = before and verdict in (RIGHT, EXACT)
        return Mark(cell, verdict, answer, carried, precise, follow, slip)

    def carry(self, cell: Cell, written: float, through: float, held: float) -> None:
        for numbers, number in ((self.written, written), (self.through, through), (self.held, held)):
            numbers.found[cell] = number  # type: ignore[index]  # ours, and not read before it is filled

    def same(self, answer: float, expected: float) -> bool:
        decimals = self.exercise.decimals
        if decimals is None:
            return near(answer, expected, places_of(answer), small_too=True)
        return near(answer, expected, decimals)

    def verdict(self, cell: Cell, rounded: tuple[float, ...], unrounded: tuple[float, ...], before: bool) -> str:
        answer = self.answers[cell]
        if self.same(answer, self.carried.found[cell]):
            return RIGHT
        precise = self.same(answer, self.exact.found[cell])
        if any(self.same(answer, each) for each in rounded):
            return METHOD if not before else EXACT if precise else RIGHT
        if precise:
            return EXACT
        if any(self.same(answer, each) for each in unrounded):
            return EXACT if before else METHOD
        return WRONG

    # ---- what a wrong number comes from ----

    def slip(self, cell: Cell, tree: Tree, kept: float, unrounded: tuple[float, ...]) -> tuple[str, float]:
        """The slips that give the answer, in words; and what was carried on unrounded by whoever made the first."""
        answer = self.answers[cell]
        own, key = (self.written, self.through, self.held), (self.carried, self.exact)
        found = self.from_slips(cell, own) or self.from_slips(cell, key)
        if found:
            kept = next(iter(found.values()))
        clauses = [ROUNDED_WRONGLY] if self.rounded_wrongly(answer, unrounded) else []
        clauses += list(found) or ([] if clauses else self.from_products(cell, tree))
        return ", or ".join(clauses), kept

    def from_slips(self, cell: Cell, carriers: tuple[Numbers, ...]) -> dict[str, float]:
        """The clauses of the slips that give the answer, each with the number before rounding."""
        answer, found = self.answers[cell], {}
        for clause, formula in self.slips_of(cell.name):
            tree = self.exercise.scope.cell_tree(formula, cell.index, cell.t)
            for numbers in reversed(carriers):
                number = compute(tree, numbers.at)
                if clause not in found and (self.same(answer, number) or self.same(answer, self.rounding(number))):
                    found[clause] = number
        return found

    def rounded_wrongly(self, answer: float, unrounded: tuple[float, ...]) -> bool:
        """Whether the answer is the other of the two neighbours of what was to be rounded."""
        decimals = self.exercise.decimals
        if decimals is None or not near(answer, self.rounding(answer), MOST):
            return False
        return any(abs(answer - each) < 10.0**-decimals for each in unrounded)

    def from_products(self, cell: Cell, tree: Tree) -> list[str]:
        """One product of a sum taken with the wrong sign, or left out."""
        spell, answer, found = Speller(self.exercise), self.answers[cell], []
        for way, product in products_of(tree):
            for changed, clause in ((["neg", product], "the sign of {} is wrong"), (NOTHING, "{} is left out")):
                number = compute(way(changed), self.written.at)
                if compute(product, self.written.at) and self.same(answer, self.rounding(number)):
                    found.append(clause.format(spell.laid_out(product, self.written, 0)))
        found = list(dict.fromkeys(found))
        return found if len(found) <= GUESSES else []


def products_of(tree: Tree) -> Iterator[tuple[Any, Tree]]:
    """The products that a cell's formula adds up, each with a function that puts something else in its place."""
    for at, part in enumerate(tree):
        if not isinstance(part, list):
            continue

        def put(other: Tree, at: int = at) -> Tree:
            return [*tree[:at], other, *tree[at + 1 :]]

        if tree[0] == "sum" and part[0] == "*":
            yield put, part
        else:
            for way, product in products_of(part):
                yield (lambda other, put=put, way=way: put(way(other))), product


# ---- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """The marks of a sheet, in the order of its cells; `report[cell]` is the mark of one. Printed, it is a table."""

    exercise: Exercise
    marks: tuple[Mark, ...]

    @cached_property
    def by_cell(self) -> dict[Cell, Mark]:
        return {mark.cell: mark for mark in self.marks}

    def __getitem__(self, cell: Cell) -> Mark:
        return self.by_cell[cell]

    @cached_property
    def verdicts(self) -> dict[Cell, str]:
        """The verdict on each cell."""
        return {mark.cell: mark.verdict for mark in self.marks}

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many cells have each verdict."""
        found = [mark.verdict for mark in self.marks]
        return {verdict: found.count(verdict) for verdict in VERDICTS}

    @property
    def score(self) -> str:
        """The counts in words."""
        count, all_cells = self.counts, len(self.marks)
        right = count[RIGHT] + count[EXACT]
        by_exact = f", {count[EXACT]} of them by exact arithmetic" if count[EXACT] else ""
        if right == all_cells:
            return f"All {all_cells} cells are right{by_exact}."
        if count[UNANSWERED] == all_cells:
            return f"None of the {all_cells} cells is answered yet."
        parts = [f"{right} of {all_cells} cells {are(right)} right{by_exact}"]
        if count[METHOD]:
            parts.append(f"{count[METHOD]} {'follow' if count[METHOD] > 1 else 'follows'} rightly from a wrong number")
        if count[WRONG]:
            parts.append(f"{count[WRONG]} {are(count[WRONG])} wrong")
        if count[UNANSWERED]:
            parts.append(f"{count[UNANSWERED]} {are(count[UNANSWERED])} unanswered")
        return "; ".join(parts) + "."

    def table(self) -> str:
        """What is worth saying, step by step: all but the cells that are right or blank."""
        lines = []
        by_step: dict[tuple[str, int], list[Mark]] = {}
        for mark in self.marks:
            by_step.setdefault((mark.cell.name, mark.cell.t), []).append(mark)
        for step in self.exercise.steps:
            marks = [mark for each in step.quantities for mark in by_step[each.name, step.t]]
            told = [mark for mark in marks if mark.verdict in (EXACT, METHOD, WRONG)]
            if told:
                lines += ["", heading(step), *self.rows(told)]
        return "\n".join(lines).lstrip("\n")

    def rows(self, marks: list[Mark]) -> list[str]:
        decimals = self.exercise.decimals
        cells = [
            (self.place(mark.cell), written(mark.answer), show(mark.carried, decimals), self.words(mark))
            for mark in marks
        ]
        wide = [max(len(row[column]) for row in cells) for column in range(3)]
        return [
            f"  {place:{wide[0]}}  yours {own:>{wide[1]}}  key {key:>{wide[2]}}  {words}"
            for place, own, key, words in cells
        ]

    def place(self, cell: Cell) -> str:
        """A cell by its symbol.

        >>> from longshort.byhand import exercise
        >>> check(exercise("lstm"), {}).place(Cell("z_f", 2, (0,)))
        'z_f₂, row 1'
        """
        return Speller(self.exercise).label(cell.name, cell.t or None) + str(cell._replace(name="", t=0))

    def words(self, mark: Mark) -> str:
        if mark.verdict == WRONG and mark.slip:
            return f"wrong: {mark.slip}"
        if mark.verdict == METHOD:
            return f"{METHOD}: from your numbers {show(mark.follow, self.exercise.decimals)}"
        return mark.verdict

    def __str__(self) -> str:
        parts = [self.exercise.title, self.score, self.table()]
        if any(mark.slip for mark in self.marks):
            parts.append("A slip is a guess: one that gives the very number that is written.")
        return "\n\n".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON; what is no finite number is the text "inf", "-inf" or "nan"."""
        return {
            "exercise": self.exercise.name,
            "title": self.exercise.title,
            "decimals": self.exercise.decimals,
            "score": self.score,
            "counts": self.counts,
            "cells": [
                {"name": mark.cell.name, "t": mark.cell.t, "index": list(mark.cell.index), "verdict": mark.verdict}
                | {key: spelt_number(getattr(mark, key)) for key in ("answer", "carried", "exact", "follow")}
                | {"slip": mark.slip}
                for mark in self.marks
            ],
        }


def heading(step: Step) -> str:
    return f"Step {step.number}: {step.title}" + f", t = {step.t}" * (step.t > 0)


def are(count: int) -> str:
    return "is" if count == 1 else "are"


def written(answer: float | None) -> str:
    return "" if answer is None else show(answer, MOST)
