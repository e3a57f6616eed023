"""An exercise printed: the whole of it as text or to a console, and its first time step in short."""

import io
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from longshort.byhand.graph import Exercise
from longshort.byhand.spelling import show
from longshort.byhand.terminal.sheet import NARROWEST, WIDEST, Sheet
from longshort.byhand.terminal.signs import carries, cell_len, pad


def text(
    exercise: Exercise, *, width: int = 100, colour: bool = False, answers: bool = True, plain: bool = False
) -> str:
    """The whole exercise as text, from top to bottom.

    Args:
        exercise: what to print.
        width: columns; 80 to 120 read best, 40 are the least.
        colour: with the escape codes of a terminal.
        answers: with every number and how it comes about; else with blanks.
        plain: in ASCII alone.

    >>> from longshort.byhand import exercise
    >>> "⎡−4⎤ = 0·1 + (−1)·2 + 0·1 + 0·1 + (−2)·1 + 0" in text(exercise("lstm"))
    True
    """
    if width < NARROWEST:
        raise ValueError(f"width={width}: an exercise needs at least {NARROWEST} columns; 80 to 120 read best")
    lines = Sheet(exercise, width, plain=plain).lines(answers)
    if not colour:
        return "\n".join(line.plain for line in lines)
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", no_color=False, width=width)
    with console.capture() as captured:
        write(console, lines)
    return captured.get().rstrip("\n")


def print_all(exercise: Exercise, console: Console | None = None, *, answers: bool = True) -> None:
    """Print the whole exercise, as wide as the console allows; in ASCII where it carries nothing else."""
    console = console or Console(highlight=False)
    write(console, Sheet(exercise, columns(console), plain=not carries(console.encoding)).lines(answers))


def write(console: Console, lines: Sequence[Text]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def columns(console: Console) -> int:
    return max(NARROWEST, min(console.width, WIDEST))


def first_step(exercise: Exercise, *, encoding: str | None = None) -> str:
    """The first time step in short: each formula with its numbers by hand, and in exact arithmetic beside them.

    Plain text that `encoding` can carry; when not given, what standard output can.
    """
    carried = carries(encoding or getattr(sys.stdout, "encoding", None))
    sheet = Sheet(exercise, WIDEST, plain=not carried)
    digits = None if exercise.decimals is None else exercise.decimals + 2
    table = [("", "", "exact", "") if exercise.decimals is None else ("", "", "by hand", "exact")]
    for step in exercise.steps:
        for quantity in step.quantities if step.t == exercise.steps[0].t else ():
            title = sheet.say(f"{step.number} {step.title}") if quantity is step.quantities[0] else ""
            equation = sheet.say(sheet.speller.equation(quantity.name, step.t or None))
            hand = sheet.matrix(quantity.name, step.t, sheet.number)
            full = sheet.matrix(quantity.name, step.t, lambda cell: sheet.say(show(sheet.exact.at(*cell), digits)))
            table.append((title, equation, in_line(hand), "" if full == hand else in_line(full)))
    # What stands alone in its last columns may be longer than they are wide.
    widths = [max((cell_len(row[at]) for row in table if any(row[at + 1 :])), default=0) for at in range(3)]
    return "\n".join("  ".join((*(pad(row[at], widths[at]) for at in range(3)), row[3])).rstrip() for row in table)


def in_line(rows: Sequence[Sequence[str]]) -> str:
    """A matrix on one line."""
    return "[" + "; ".join(" ".join(row).strip() for row in rows) + "]"
