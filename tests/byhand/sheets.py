"""Spreadsheets filled in, recalculated without Excel, and compared cell by cell with the exercise's graph.

The learner imagined here works every cell from their own earlier answers, with slips planted on the way; what the
sheet should say of each answer is worked out from the graph alone.
"""

import math
import re
import warnings
from pathlib import Path
from typing import Any

import openpyxl
from openpyxl.cell import MergedCell

from longshort.byhand import Cell, Exercise, Rounding
from longshort.byhand.cells_in_sheets import OVERFLOW, Layout, cells_in, risky_quantities
from longshort.byhand.formulas import compute
from longshort.byhand.workbook_sheets import FOLLOW, FOLLOW_HEADER

Values = dict[tuple[str, str], Any]
"""What stands in each cell, by sheet (in capitals) and address."""
Answers = dict[Cell, float | None]
INFINITE = 1e300
OVER = math.inf
"""The answer "overflow"."""


# ---- small exercises -------------------------------------------------------------------------------------------------


def cut(exercise: Exercise, **sizes: int) -> Exercise:
    """An exercise with fewer rows, columns and steps: a recalculation without Excel takes its time."""
    smaller = {**exercise.sizes, **sizes}

    def part(value: Any, lengths: list[int]) -> Any:
        return [part(each, lengths[1:]) for each in value[: lengths[0]]] if lengths else value

    values = {}
    for given in exercise.givens:
        shape = [sum(smaller[name] for name in length.split("+")) for length in given.shape]
        values[given.name] = part(exercise.values[given.name], [smaller["T"]] * given.each_step + shape)
    return exercise.changed(sizes=smaller, values=values)


# ---- filling in ------------------------------------------------------------------------------------------------------


def fill(path: Path, answers: Answers, exercise: Exercise) -> None:
    """Type answers into the sheet; infinities in words."""
    book = openpyxl.load_workbook(path)
    layout = Layout(exercise)
    for cell, value in answers.items():
        if value is not None:
            words = {math.inf: OVERFLOW, -math.inf: "−∞"}
            book["Exercise"][layout.place(*cell).address] = words.get(value, value)
    book.save(path)


def filled(path: Path, exercise: Exercise, every: int) -> Answers:
    """Fill in a sheet as a learner might: of every so many cells one is wrong, one exact, one blank."""
    carried, exact, rounding = exercise.work(), exercise.work(Rounding(None)), Rounding(exercise.decimals)
    risky = risky_quantities(exercise)
    answers: Answers = {}

    def own(name: str, t: int, index) -> float:
        if exercise.given(name):
            return exercise.given_value(name, t, index)
        value = answers[Cell(name, t, tuple(index))]
        return carried.at(name, t, index) if value is None else value

    for at, cell in enumerate(exercise.cells):
        value = rounding(compute(exercise.cell_tree(cell), own))
        if math.isfinite(value):
            answers[cell] = {0: value + 2, 2: exact.at(*cell), 3: None}.get(at % every, value)
        elif cell.name in risky:
            answers[cell] = OVER
        else:  # minus infinity is an answer; after a division by zero there is none
            answers[cell] = value if value == carried.at(*cell) else None
    fill(path, answers, exercise)
    return answers


def verdicts(exercise: Exercise, answers: Answers) -> tuple[dict[Cell, float], dict[Cell, str]]:
    """What each cell comes to from the learner's earlier answers, and the verdict on it."""
    carried, exact, rounding = exercise.work(), exercise.work(Rounding(None)), Rounding(exercise.decimals)
    half = 0.005 if exercise.decimals is None else 0.5 * 10**-exercise.decimals
    follow: dict[Cell, float] = {}
    found: dict[Cell, str] = {}

    def own(name: str, t: int, index) -> float:
        if exercise.given(name):
            return exercise.given_value(name, t, index)
        value = answers.get(Cell(name, t, tuple(index)))
        return carried.at(name, t, index) if value is None else value

    def near(a: float, b: float) -> bool:
        if not (math.isfinite(a) and math.isfinite(b)):
            return a == b or (a == OVER and math.isnan(b))
        if exercise.decimals is None and abs(b) > 1e-15 and a * b <= 0:  # 0 is not -0.00009
            return False
        return abs(a - b) <= half + 1e-9 * max(1.0, abs(b))

    for cell in exercise.cells:
        follow[cell] = rounding(compute(exercise.cell_tree(cell), own))
        value = answers.get(cell)
        rests = any(found.get(other) in ("✗", "→ ✓") for other in cells_in(exercise.cell_tree(cell)))
        if value is None:
            found[cell] = ""
        elif near(value, carried.at(*cell)):
            found[cell] = "✓"
        elif near(value, follow[cell]):
            found[cell] = "→ ✓" if rests else "✓"
        else:
            found[cell] = "✓ exact" if near(value, exact.at(*cell)) else "✗"
    return follow, found


# ---- recalculating ---------------------------------------------------------------------------------------------------


def stripped(path: Path) -> None:
    """Drop every stored result, so that no comparison can be with one."""
    openpyxl.load_workbook(path).save(path)
    stored = openpyxl.load_workbook(path, data_only=True)
    assert {cell.value for row in stored["Follow"]["D6:K20"] for cell in row} == {None}


def recalculated_values(path: Path) -> Values:
    """What a program that recalculates has stored in a file."""
    book = openpyxl.load_workbook(path, data_only=True)
    return {
        (sheet.title.upper(), cell.coordinate): cell.value
        for sheet in book
        for row in sheet.iter_rows()
        for cell in row
    }


def recalculated_by_formulas(path: Path) -> Values:
    """A workbook recalculated by the Python library `formulas`."""
    with warnings.catch_warnings():  # its own, on import and where an exponential overflows
        warnings.simplefilter("ignore")
        import formulas

        slim = path.with_name(f"slim-{path.name}")
        book = openpyxl.load_workbook(path)
        del book["longshort"]
        for title in {"Key", "Exact", "Follow"} & set(book.sheetnames):  # no formula looks at a label
            for row in book[title].iter_rows():
                for cell in row:
                    if cell.data_type == "s" and not isinstance(cell, MergedCell):
                        cell.value = None
        book.save(slim)
        solution = formulas.ExcelModel().loads(str(slim)).finish().calculate()
    found: Values = {}
    for key, ranges in solution.items():
        match = re.fullmatch(r"'\[.*\](.*)'!([A-Z]+\d+)", str(key))
        if match:
            value = ranges.value[0, 0]
            found[match[1], match[2]] = value.item() if hasattr(value, "item") else value
    return found


# ---- comparing -------------------------------------------------------------------------------------------------------


def apart(got: Any, want: float, risky: bool = False) -> float:
    """relative to the larger of 1 and the number; infinite where one is a number and the other none"""
    if want == -math.inf and not risky:
        return apart(got, -INFINITE) if isinstance(got, int | float) else apart(got, math.nan)
    if not math.isfinite(want):
        no_number = got == OVERFLOW if risky else str(got) in ("#DIV/0!", "#NUM!")
        return 0.0 if no_number else math.inf
    if isinstance(got, bool) or not isinstance(got, int | float):
        return math.inf
    return abs(got - want) / max(1.0, abs(want))


def compare(exercise: Exercise, values: Values, answers: Answers) -> dict[str, float]:
    """The largest difference of each sheet from the graph; of the verdicts, how many differ."""
    layout, carried, exact = Layout(exercise), exercise.work(), exercise.work(Rounding(None))
    follow, judged = verdicts(exercise, answers)
    risky = risky_quantities(exercise)
    found = dict.fromkeys(("Key", "worked", "Exact", "Follow", "verdicts"), 0.0)

    def own(name: str, t: int, index) -> float:
        if exercise.given(name):
            return exercise.given_value(name, t, index)
        value = answers.get(Cell(name, t, tuple(index)))
        return carried.at(name, t, index) if value is None else value

    for at, cell in enumerate(exercise.cells):
        place, row = layout.place(*cell), FOLLOW_HEADER + 2 + at
        wanted = {
            ("Key", "KEY", place.address): carried.at(*cell),
            ("worked", "KEY", place.right(1).address): carried.unrounded(cell),
            ("Exact", "EXACT", place.address): exact.at(*cell),
            ("Follow", "FOLLOW", f"{FOLLOW['own']}{row}"): own(*cell),
            ("Follow", "FOLLOW", f"{FOLLOW['worked']}{row}"): compute(exercise.cell_tree(cell), own),
            ("Follow", "FOLLOW", f"{FOLLOW['follow']}{row}"): follow[cell],
        }
        for (sheet, title, address), want in wanted.items():
            found[sheet] = max(found[sheet], apart(values.get((title, address)), want, cell.name in risky))
        for place_of_verdict in (("FOLLOW", f"{FOLLOW['verdict']}{row}"), ("EXERCISE", place.right(1).address)):
            found["verdicts"] += (values.get(place_of_verdict) or "") != judged[cell]
    return found
