"""An exercise as a spreadsheet with live formulas, and the answers read back from it. Needs neither Excel nor macros.

    Exercise   the blank: given numbers to change, framed cells to fill in, and beside each a check
    Key        the answers: what is written down and carried on, and before rounding
    Exact      the same in exact arithmetic
    Follow     every number worked from the learner's own earlier answers, and the verdict on each
    longshort  always hidden: the exercise itself, and where its numbers stand

The formulas are those of the exercise, cell by cell (`cells_in_sheets.py`); the sheets are drawn in
`workbook_sheets.py` and `follow_sheet.py`. xlsxwriter writes and openpyxl reads; both are imported when used.
"""

import io
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from longshort.byhand.cells_in_sheets import DECIMALS, MINUS_INFINITY, MINUS_INFINITY_WORDS, OVERFLOW, given_cells
from longshort.byhand.follow_sheet import FollowSheet
from longshort.byhand.formulas import Index, Shape
from longshort.byhand.graph import Cell, Exercise
from longshort.byhand.workbook_sheets import FONT, ExactSheet, ExerciseSheet, KeySheet, Writer

INSTALL = "pip install 'longshort[hand]'"
FORMAT = "longshort workbook 1"
STORE = "longshort"
LONGEST = 30000
"""Characters of JSON in one cell; a spreadsheet allows 32767."""


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_workbook(path: str | Path, exercise: Exercise, *, key: bool = False) -> Path:
    """Write an exercise as an .xlsx file, and return its path.

    `key=False` is the learner's file: the sheets with the answers are in it, because the checks need them, but hidden.
    `key=True` is the teacher's: they are shown. In both the sheet Exercise is empty and marks what is typed into it.

    Raises ValueError without xlsxwriter, for numbers that no spreadsheet holds, and where the disk refuses.
    """
    try:
        import xlsxwriter
    except ModuleNotFoundError:
        raise ValueError(f"to write a spreadsheet, xlsxwriter is needed: {INSTALL}") from None
    from longshort.files import write_atomically

    held = io.BytesIO()
    with xlsxwriter.Workbook(held, {"in_memory": True, "default_format_properties": FONT}) as book:
        book.set_properties({"title": exercise.title, "author": "longshort"})
        writer = Writer(book, exercise, key)
        for kind in (ExerciseSheet, KeySheet, ExactSheet, FollowSheet):
            sheet = book.add_worksheet(kind.name)
            kind(writer, sheet).draw()
            # Without a password: it only keeps a slip of the hand from a formula.
            sheet.protect("", {"format_cells": True, "format_columns": True, "format_rows": True})
            if not key and kind is not ExerciseSheet:
                sheet.hide()
        store(book.add_worksheet(STORE), writer)
    write_atomically(path, lambda file: put(file, held.getvalue()))
    return Path(path)


def put(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def store(sheet: Any, writer: Writer) -> None:
    """The hidden sheet: the exercise as JSON in pieces, and the address of every number; and what decimals may be."""
    exercise, text = writer.exercise, writer.exercise.to_json()
    rows: list[list[Any]] = [[FORMAT, "Written by longshort, which reads the answers back with it: leave it as it is."]]
    rows += [["json", text[at : at + LONGEST]] for at in range(0, len(text), LONGEST)]
    rows.append(["decimals", "", 0, "", DECIMALS.address])
    for kind, cells in (("given", given_cells(exercise)), ("answer", exercise.cells)):
        for cell in cells:
            place = writer.layout.place(*cell).address
            rows.append([kind, cell.name, cell.t, ",".join(str(at) for at in cell.index), place])
    for at, row in enumerate(rows):
        for column, value in enumerate(row):
            write = sheet.write_number if isinstance(value, int) else sheet.write_string
            write(at, column, value)
    sheet.write_string("H1", "exact")
    for decimals in range(10):
        sheet.write_number(decimals + 1, 7, decimals)
    sheet.protect()
    sheet.hide()


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_answers(path: str | Path) -> tuple[Exercise, dict[str, Any]]:
    """The exercise of a workbook, with its given numbers and decimals as they were edited, and the answers.

    The answers are nested lists by name; of what has a value for each step, a list over the steps. None where a cell
    is blank or does not exist. Numbers typed as text ("0,7", " −0.7 ") are read as numbers, "−∞" as minus infinity,
    "overflow" as infinity, or where the key itself is no number, as that.

    Raises ValueError, naming file, sheet and cell, for whatever else stands where a number belongs, and for a file that
    is no workbook of ours, or is not whole.
    """
    book = opened(Path(path))
    stored = read_store(book, path)
    sheet = sheet_called("Exercise", book, path)
    exercise = stored.exercise
    given = {cell: given_number(sheet, place, cell, path) for cell, place in stored.givens.items()}
    values = {each.name: nested(exercise, each.name, lambda cell: given.get(cell, 0.0)) for each in exercise.givens}
    decimals = decimals_in(sheet, stored.decimals, path)
    try:
        exercise = exercise.changed(values=values, decimals=decimals)
    except ValueError as error:
        raise ValueError(f"{path}: sheet Exercise, the given numbers: {error}") from error
    typed = {cell: number_in(sheet, place, str(cell), path) for cell, place in stored.answers.items()}
    if math.inf in typed.values():
        key = exercise.work().found
        typed = {
            cell: math.nan if value == math.inf and math.isnan(key[cell]) else value for cell, value in typed.items()
        }
    return exercise, {each.name: nested(exercise, each.name, typed.get) for each in exercise.quantities}


def nested(exercise: Exercise, name: str, number: Callable[[Cell], Any]) -> Any:
    """The numbers of a given or quantity as nested lists; of one with a value for each step, a list over the steps."""

    def part(t: int, index: Index, rest: Shape) -> Any:
        if rest:
            return [part(t, (*index, at), rest[1:]) for at in range(rest[0])]
        return number(Cell(name, t, index))

    shape = exercise.shape(name)
    if exercise.by_name[name].each_step:
        return [part(t, (), shape) for t in range(1, exercise.sizes["T"] + 1)]
    return part(0, (), shape)


# ---- what stands in a cell -------------------------------------------------------------------------------------------

NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")


def number_in(sheet: Any, address: str, what: str, path: str | Path) -> float | None:
    """The number in a cell, None where it is blank. Raises ValueError for anything else."""
    cell = sheet[address]
    value, kind = cell.value, cell.data_type
    where = f"{path}: sheet {sheet.title}, cell {address} ({what})"
    if value is None:
        return None
    if kind == "f":
        text = value if isinstance(value, str) else getattr(value, "text", "")
        raise ValueError(f"{where} holds the formula {text!r} where a number belongs: type what it comes to")
    if kind == "e":
        raise ValueError(f"{where} holds the error {value} where a number belongs: type the number, or leave it blank")
    if isinstance(value, date | datetime | time | timedelta):
        raise ValueError(f"{where} holds the date or time {value} where a number belongs: type it with a point, as 0.7")
    if isinstance(value, bool):
        raise ValueError(f"{where} holds {value} where a number belongs")
    if isinstance(value, str):
        return number_typed(value, where)
    return -math.inf if value <= MINUS_INFINITY / 10 else float(value)


def number_typed(text: str, where: str) -> float | None:
    """A number typed as text."""
    plain = text.strip().replace("−", "-").replace("–", "-")
    if not plain:
        return None
    if plain.lower() in [word.replace("−", "-") for word in MINUS_INFINITY_WORDS]:
        return -math.inf
    if plain.lower() == OVERFLOW:
        return math.inf
    if not NUMBER.fullmatch(plain):
        raise ValueError(f"{where} holds the text {text!r} where a number belongs, such as -0.7 or -0,7")
    number = float(plain.replace(",", "."))
    return -math.inf if number <= MINUS_INFINITY / 10 else number


def given_number(sheet: Any, address: str, cell: Cell, path: str | Path) -> float:
    value = number_in(sheet, address, str(cell), path)
    if value is None:
        raise ValueError(f"{path}: sheet {sheet.title}, cell {address} is empty, and gives {cell}: put a number back")
    return value


def decimals_in(sheet: Any, address: str, path: str | Path) -> int | None:
    value = sheet[address].value
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "exact")):
        return None
    number = number_in(sheet, address, "decimals", path)
    if number is None or number not in range(10):
        raise ValueError(
            f"{path}: sheet {sheet.title}, cell {address} holds {value!r}: "
            "decimals are a whole number from 0 to 9, or exact"
        )
    return int(number)


# ---- the file and its hidden sheet -----------------------------------------------------------------------------------


class Stored(NamedTuple):
    """What the hidden sheet holds: the exercise as it was written, and the addresses of its numbers."""

    exercise: Exercise
    decimals: str
    givens: Mapping[Cell, str]
    answers: Mapping[Cell, str]


def opened(path: Path) -> Any:
    """An .xlsx file. Raises ValueError for a file that is none, or is not whole."""
    try:
        import openpyxl
    except ModuleNotFoundError:
        raise ValueError(f"to read a spreadsheet, openpyxl is needed: {INSTALL}") from None
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        with warnings.catch_warnings():  # about looks it cannot keep; none is written back
            warnings.simplefilter("ignore")
            return openpyxl.load_workbook(io.BytesIO(path.read_bytes()))
    except Exception as error:  # a zip that is none or is cut, XML that is none: each has its own
        raise ValueError(
            f"{path} is no whole .xlsx file ({type(error).__name__}: {error}). If another program wrote it, save it "
            "there as Excel workbook (.xlsx) once more."
        ) from error


def sheet_called(name: str, book: Any, path: str | Path) -> Any:
    if name not in book.sheetnames:
        raise ValueError(
            f"{path}: no sheet {name!r}; there are: {', '.join(book.sheetnames)}. "
            "Only workbooks that `longshort hand` has written can be read."
        )
    return book[name]


def read_store(book: Any, path: str | Path) -> Stored:
    """The hidden sheet. Raises ValueError where it is missing, of another version, or was changed."""
    rows = [
        ["" if value is None else value for value in (*row, *[None] * 5)[:5]]
        for row in sheet_called(STORE, book, path).iter_rows(max_col=5, values_only=True)
    ]
    if not rows or rows[0][0] != FORMAT:
        raise ValueError(f"{path}: sheet {STORE}, cell A1: {FORMAT!r} is expected, not {rows[0][0] if rows else ''!r}")
    text = "".join(str(row[1]) for row in rows if row[0] == "json")
    damaged = f"{path}: the hidden sheet {STORE} was changed, and the exercise cannot be read from it"
    try:
        exercise = Exercise.from_dict(json.loads(text))
        decimals = next(str(row[4]) for row in rows if row[0] == "decimals")
        givens, answers = (addresses(rows, kind) for kind in ("given", "answer"))
        expected = (set(given_cells(exercise)), set(exercise.cells))
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, StopIteration, RecursionError) as error:
        raise ValueError(f"{damaged}: {error or type(error).__name__}. Write the workbook anew.") from error
    places = [decimals, *givens.values(), *answers.values()]
    wrong = [place for place in places if not re.fullmatch(r"[A-Z]{1,3}[1-9]\d{0,6}", place)]
    if (set(givens), set(answers)) != expected or len(set(places)) != len(places) or wrong:
        raise ValueError(f"{damaged}: its addresses are not those of the exercise's numbers. Write the workbook anew.")
    return Stored(exercise, decimals, givens, answers)


def addresses(rows: list[list[Any]], kind: str) -> dict[Cell, str]:
    found = {}
    for _, name, t, index, address in (row for row in rows if row[0] == kind):
        at = tuple(int(part) for part in str(index).split(",") if part)
        found[Cell(str(name), int(t), at)] = str(address)
    return found
