"""A learner's answers: blank, filled in, checked for form, and as files. Not whether they are right: see `checker.py`.

{"format": "longshort answers 1",
 "answers": {"z_f": [[-4, null], ...], ...},    by name; of what has a value for each step, a list over the steps
 "exercise": {...} or "lstm"}                   the whole exercise, or the name of one of ours
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from longshort.byhand.exercises import EXERCISES
from longshort.byhand.exercises import exercise as by_name
from longshort.byhand.formulas import Index, Shape
from longshort.byhand.graph import Cell, Exercise, Numbers
from longshort.byhand.spelling import Speller
from longshort.config import suggest

FORMAT = "longshort answers 1"
KEYS = ("format", "note", "answers", "exercise")
NOTE = "Put your numbers in place of null; what stays null is unanswered. Then: longshort hand check THIS_FILE"
LARGEST_FILE = 5_000_000
"""Bytes. The largest exercise, with all its answers, takes a tenth."""
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d{1,3})?", re.ASCII | re.IGNORECASE)
WORDS = {"-inf": -math.inf, "-∞": -math.inf, "inf": math.inf, "∞": math.inf, "overflow": math.inf,
         "nan": math.nan, "not a number": math.nan}  # fmt: skip
"""What an answer may be where there is no number: an overflow, the logarithm of nothing."""


# ---- blank, and filled in --------------------------------------------------------------------------------------------


def blank_answers(exercise: Exercise) -> dict[str, Any]:
    """Answers to be filled in: None in every cell."""
    return laid_out(exercise, lambda cell: None)


def answers_of(numbers: Numbers) -> dict[str, Any]:
    """Answers that are all as these numbers; None where a cell does not exist.

    >>> answers_of(by_name("rnn").work())["h"]
    [[-0.9, 0.8], [-0.8, -1.0], [0.9, -0.1]]
    """
    return laid_out(numbers.exercise, lambda cell: numbers.at(*cell))


def laid_out(exercise: Exercise, number: Callable[[Cell], float | None]) -> dict[str, Any]:
    """Numbers as nested lists by name."""
    cells = set(exercise.cells)

    def part(name: str, t: int, index: Index, rest: Shape) -> Any:
        if rest:
            return [part(name, t, (*index, at), rest[1:]) for at in range(rest[0])]
        cell = Cell(name, t, index)
        return number(cell) if cell in cells else None

    def whole(name: str, each_step: bool) -> Any:
        shape = exercise.shape(name)
        if not each_step:
            return part(name, 0, (), shape)
        return [part(name, t, (), shape) for t in range(1, exercise.sizes["T"] + 1)]

    return {each.name: whole(each.name, each.each_step) for each in exercise.quantities}


# ---- the numbers in answers ------------------------------------------------------------------------------------------


def numbers_in(exercise: Exercise, answers: Any, where: str = "answers") -> dict[Cell, float]:
    """The number in each cell that is answered. Raises ValueError, naming the cell, for what cannot be one."""
    if not isinstance(answers, Mapping):
        raise ValueError(f"{where}: answers by the name of their quantity belong here, not {short(answers)}")
    names, cells = [each.name for each in exercise.quantities], set(exercise.cells)
    found: dict[Cell, float] = {}
    for name, value in answers.items():
        if name not in names:
            given = any(name == each.name for each in exercise.givens)
            why = f"{name} is given, not asked for" if given else f"there is no quantity {short(name)}"
            raise ValueError(f"{where}: {why}.{suggest(name, names)} Answers go by the names {', '.join(names)}")
        for cell, number in leaves(exercise, name, value, where):
            if cell in cells:
                found[cell] = number
            elif number:
                raise ValueError(f"{where}: {cell} does not exist: leave it blank, or 0")
    return found


def leaves(exercise: Exercise, name: str, value: Any, where: str) -> list[tuple[Cell, float]]:
    """The numbers of a quantity, each with its cell."""
    shape = exercise.shape(name)
    if not exercise.by_name[name].each_step:
        return numbers_below(Cell(name, 0, ()), value, shape, where)
    steps = entries(value, exercise.sizes["T"], f"{where}: {name}", "a list over the time steps")
    return [
        each for t, part in enumerate(steps, 1) for each in numbers_below(Cell(name, t, ()), part, shape, where)
    ]  # fmt: skip


def numbers_below(at: Cell, value: Any, rest: Shape, where: str) -> list[tuple[Cell, float]]:
    if not rest:
        number = number_of(value, f"{where}: {at}")
        return [] if number is None else [(at, number)]
    parts = entries(value, rest[0], f"{where}: {at}", "a list")
    return [
        each
        for k, part in enumerate(parts)
        for each in numbers_below(at._replace(index=(*at.index, k)), part, rest[1:], where)
    ]


def entries(value: Any, length: int, where: str, what: str) -> list[Any]:
    """The parts of a list of a given length; of a blank one, blanks."""
    if value is None:
        return [None] * length
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: {what} with {length} entries belongs here, not {short(value)}")
    if len(value) != length:
        raise ValueError(f"{where}: {what} with {length} entries belongs here, not with {len(value)}")
    return list(value)


def number_of(value: Any, where: str) -> float | None:
    """The number that someone wrote; None for a blank."""
    if value is None:
        return None
    if isinstance(value, str):
        return number_typed(value, where)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{where}: a number belongs here, not {short(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{where}: {short(value)} is too large to reckon with") from None


def number_typed(text: str, where: str) -> float | None:
    """A number written as text, with a point or a comma, and with any minus sign."""
    plain = text.strip().replace("−", "-").replace("–", "-")
    if not plain:
        return None
    if plain in WORDS:
        return WORDS[plain]
    dotted = plain.replace(",", ".") if plain.count(",") == 1 and "." not in plain else plain
    if not NUMBER.fullmatch(dotted):
        raise ValueError(
            f"{where}: {short(text)} is no number. Write one such as -0.7 or -0,7, null for a blank, and -inf or "
            "overflow where the number is infinite"
        )
    number = float(dotted)
    if math.isinf(number):
        raise ValueError(f"{where}: {short(text)} is too large to reckon with")
    return number


def short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of thousands of digits; a list that holds itself
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


# ---- files -----------------------------------------------------------------------------------------------------------


def read_answer_file(path: str | Path) -> tuple[Exercise, dict[str, Any]]:
    """The exercise and the answers of an .xlsx file written by us, or of a .json file as described above.

    Raises ValueError, naming the file and what is wrong in it, for anything else.
    """
    path = Path(path)
    if path.suffix.lower() not in (".json", ".xlsx"):
        near = suggest(path.suffix.lower(), [".json", ".xlsx"])
        raise ValueError(f"{path}: answers are read from .xlsx and .json files, not from {path.suffix!r}.{near}")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file" if not path.exists() else f"{path} is no file")
    if path.suffix.lower() == ".xlsx":
        from longshort.byhand.workbook import read_answers

        return read_answers(path)
    return read_json(path)


def read_json(path: Path) -> tuple[Exercise, dict[str, Any]]:
    data = loaded(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = short(data.get("format")) if isinstance(data, dict) else f"a {type(data).__name__}"
        blank = "An exercise alone has no answers. " if found == "'longshort exercise 1'" else ""
        raise ValueError(
            f"{path}: format {FORMAT!r} is expected, not {found}. {blank}"
            "Write a blank one with: longshort hand lstm --out answers.json"
        )
    for key in data:
        if key not in KEYS:
            raise ValueError(f"{path}: what is {short(key)}?{suggest(key, KEYS)} The file has {', '.join(KEYS)}")
    for key in ("exercise", "answers"):
        if key not in data:
            raise ValueError(f"{path}: {key!r} is missing")
    exercise = exercise_of(data["exercise"], path)
    numbers_in(exercise, data["answers"], str(path))
    return exercise, data["answers"]


def exercise_of(data: Any, path: Path) -> Exercise:
    """The exercise of a file: whole, or by the name of one of ours."""
    if isinstance(data, str) and data in EXERCISES:
        return by_name(data)
    if isinstance(data, str):
        raise ValueError(f"{path}: no exercise {short(data)}.{suggest(data, EXERCISES)} Ours: {', '.join(EXERCISES)}")
    try:
        exercise = Exercise.from_dict(data)
        check_formulas(exercise)
        exercise.work()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (LookupError, TypeError, AttributeError, AssertionError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: its exercise cannot be worked ({type(error).__name__}: {error})") from error
    return exercise


def check_formulas(exercise: Exercise) -> None:
    """Raises ValueError for a formula of the wrong shape, and whatever it raises for one that means nothing."""
    for each in exercise.quantities:
        found, wanted = exercise.scope.shape(each.tree), exercise.shape(each.name)
        if found != wanted:
            raise ValueError(f"the formula of {each.name}, {each.formula}, gives {found} cells, not {wanted}")
        assert Speller(exercise).label(each.name, 1), f"{each.name} has neither a symbol nor a formula"


def loaded(path: Path) -> Any:
    """What a JSON file holds; a number too large for any cell stays the text it is, and so does NaN."""
    try:
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise ValueError(f"{path} has {size:,} bytes; answers never need more than {LARGEST_FILE:,}")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return json.loads(text, object_pairs_hook=once_each, parse_constant=str, parse_float=fraction, parse_int=whole)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no whole JSON: {error.msg} in line {error.lineno}, column {error.colno}. "
            "Decimals take a point, and a blank is null"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: too many brackets within brackets to be answers") from error


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{short(max(names, key=names.count))} stands there twice")
    return found


def fraction(text: str) -> float | str:
    return number if math.isfinite(number := float(text)) else text


def whole(text: str) -> int | str:
    return int(text) if len(text) < 300 else text


def write_answers(path: str | Path, exercise: Exercise, answers: Mapping[str, Any]) -> Path:
    """Write answers, with their exercise, as a .json file that can be filled in and read again; return its path.

    Raises ValueError, naming the cell, for answers that do not fit the exercise, and where the disk refuses.
    """
    from longshort.files import write_atomically, write_text

    path, found = Path(path), numbers_in(exercise, answers)
    rows = laid_out(exercise, lambda cell: spelt_number(found.get(cell)))  # type: ignore[return-value]
    lines = [f"    {dumped(name)}: {dumped(value)}" for name, value in rows.items()]
    text = ",\n".join([
        f'{{\n  "format": {dumped(FORMAT)}',
        f'  "note": {dumped(NOTE)}',
        '  "answers": {\n' + ",\n".join(lines) + "\n  }",
        f'  "exercise": {exercise.to_json()}\n}}\n',
    ])  # fmt: skip
    write_atomically(path, lambda file: write_text(file, text))
    return path


def dumped(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def spelt_number(value: float | None) -> float | int | str | None:
    """A number as JSON has it; what is not finite as text."""
    if value is None or isinstance(value, str):
        return value
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return int(value) if value == int(value) and abs(value) < 1e15 else value
