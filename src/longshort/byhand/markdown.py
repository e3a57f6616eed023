"""An exercise as Markdown, as GitHub renders it: formulas in LaTeX, numbers in tables. Works nothing out."""

import re
from collections.abc import Iterable, Sequence

from longshort.byhand.formulas import Index
from longshort.byhand.graph import Cell, Exercise, Given, Numbers, Rounding, Step
from longshort.byhand.paper import printed_given, where_used
from longshort.byhand.spelling import LATEX, Speller, show

BLANK = "____"
ROLES = {"weight": "Weights, learnable", "bias": "Biases, learnable", "input": "Input",
         "start": "Before the first step", "target": "Target", "rest": "Other"}  # fmt: skip


def to_markdown(exercise: Exercise, *, key: bool = True) -> str:
    """The whole exercise as GitHub-flavoured Markdown that reads well as plain text too.

    Args:
        exercise: what to write.
        key: with the answers in it, and in brackets what came out before rounding, where that differs; else with
            `____` in every cell to be filled in.

    >>> from longshort.byhand import exercise
    >>> print(to_markdown(exercise("lstm")).splitlines()[0])
    # An LSTM by hand: key
    """
    numbers = exercise.work()
    steps = [line for step in exercise.steps for line in step_lines(exercise, numbers, step, key)]
    return "\n".join([*front(exercise, key), *given_lines(exercise), "## Steps", "", *steps]).rstrip() + "\n"


def front(exercise: Exercise, key: bool) -> list[str]:
    lines = [f"# {plain(exercise.title)}{': key' if key else ''}", ""]
    for paragraph in exercise.about:
        lines += [plain(paragraph), ""]
    lines += [f"**Rounding.** {Rounding(exercise.decimals)}", ""]
    if key and exercise.decimals is not None:
        lines += ["In the tables, brackets hold what came out before it was rounded, where that differs.", ""]
    return lines


# ---- what is given ---------------------------------------------------------------------------------------------------


def given_lines(exercise: Exercise) -> list[str]:
    lines = ["## Given", ""]
    for role, title in ROLES.items():
        givens = [given for given in exercise.givens if given.role == role]
        if givens:
            lines += [f"### {title}", "", *tables(exercise, columns_of_givens(exercise, givens))]
            notes = [f"- {name(exercise, given.name)}: {plain(given.about)}" for given in givens if given.about]
            lines += [*notes, ""] if notes else []
    return lines


class Column:
    """A matrix, a vector or a single number with its heading, and how each of its cells is written."""

    def __init__(self, heading: str, shape: Sequence[int], written: dict[Index, str]):
        self.heading, self.shape, self.written = heading, tuple(shape), written

    def row(self, row: int) -> list[str]:
        across = range(self.shape[1]) if len(self.shape) == 2 else [0]
        return [self.written.get((row, column)[: len(self.shape)], "") for column in across]


def columns_of_givens(exercise: Exercise, givens: Sequence[Given]) -> Iterable[Column]:
    for given in givens:
        for t in range(1, exercise.sizes["T"] + 1) if given.each_step else [0]:
            written = {
                index: printed_given(exercise.given_value(given.name, t, index))
                for index in exercise.indices(given.name)
            }
            where = where_used(exercise, given)
            heading = name(exercise, given.name, t) + (f" ({where})" if where else "")
            yield Column(heading, exercise.shape(given.name), written)


# ---- the steps -------------------------------------------------------------------------------------------------------


def step_lines(exercise: Exercise, numbers: Numbers, step: Step, key: bool) -> list[str]:
    when = f", t = {step.t}" if step.t else ""
    lines = [f"### {step.number}. {plain(step.title)}{when}", ""]
    if step.about:
        lines += [plain(step.about), ""]
    maths = Speller(exercise, LATEX)
    for quantity in step.quantities:
        about = f": {plain(quantity.about)}" if quantity.about else ""
        lines.append(f"- $`{maths.equation(quantity.name, step.t or None)}`${about}")
    columns = [
        Column(
            name(exercise, quantity.name, step.t),
            exercise.shape(quantity.name),
            {
                index: answer(numbers, Cell(quantity.name, step.t, index)) if key else BLANK
                for index in exercise.indices(quantity.name)
            },
        )
        for quantity in step.quantities
    ]
    return [*lines, "", *tables(exercise, columns), *(example(exercise, numbers, step) if key else [])]


def answer(numbers: Numbers, cell: Cell) -> str:
    carried, before = show(numbers.at(*cell), numbers.rounding.decimals), show(numbers.unrounded(cell))
    return carried if carried == before else f"{carried} ({before})"


def example(exercise: Exercise, numbers: Numbers, step: Step) -> list[str]:
    """One cell of a step with its numbers in place: the first that is no mere copy."""
    for quantity in step.quantities:
        for index in exercise.indices(quantity.name):
            cell = Cell(quantity.name, step.t, index)
            if exercise.cell_tree(cell)[0] in ("cell", "num"):
                continue
            place = "".join(f", {axis} {at + 1}" for axis, at in zip(("row", "column"), index, strict=False))
            worked, result = Speller(exercise).worked(cell, numbers), show(numbers.unrounded(cell))
            return [f"For example {name(exercise, quantity.name, step.t)}{place}: `{worked} = {result}`", ""]
    return []


# ---- tables and words ------------------------------------------------------------------------------------------------


def tables(exercise: Exercise, columns: Iterable[Column]) -> list[str]:
    """A table for each matrix, and one for each run of vectors of one length, side by side."""
    runs: list[list[Column]] = []
    for column in columns:
        if runs and len(column.shape) < 2 and column.shape == runs[-1][-1].shape:
            runs[-1].append(column)
        else:
            runs.append([column])
    return [line for run in runs for line in table(run)]


def table(columns: Sequence[Column]) -> list[str]:
    """Columns with the same number of rows as one table, with row numbers; a matrix names itself in the corner."""
    matrix = len(columns[0].shape) == 2
    shape = columns[0].shape
    heads = [f"column {at + 1}" for at in range(shape[1])] if matrix else [each.heading for each in columns]
    corner = columns[0].heading if matrix else ""
    rows = [
        [f"row {row + 1}" if shape else "", *(text for column in columns for text in column.row(row))]
        for row in range(shape[0] if shape else 1)
    ]
    lines = [[corner, *heads], [":--", *["--:"] * len(heads)], *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]


def name(exercise: Exercise, each: str, t: int = 0) -> str:
    """A given or quantity by its symbol, as mathematics."""
    return f"$`{Speller(exercise, LATEX).label(each, t or None)}`$"


def plain(text: str) -> str:
    r"""Words as Markdown has them: what it would read as mark-up is escaped, and an _ inside a word is left alone.

    >>> print(plain("W_o [x; h] costs *5* $ | <b>"))
    W_o [x; h] costs \*5\* \$ | \<b>
    """
    text = re.sub(r"([\\`*$~<&]|\](?=\()|^[#>+-]|(?<=^\d)[.)])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
