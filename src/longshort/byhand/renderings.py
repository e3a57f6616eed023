"""An exercise as a file: a page, a spreadsheet, paper, Markdown or JSON, by the ending of the file's name."""

import os
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from longshort.byhand.graph import Exercise
from longshort.config import suggest


class Rendering(NamedTuple):
    """What a kind of file is, and what writes it: (path, exercise, with the answers in, paper)."""

    what: str
    write: Callable[[Path, Exercise, bool, str], object]


def page(path: Path, exercise: Exercise, key: bool, paper: str) -> None:
    from longshort.byhand.exercises import EXERCISES
    from longshort.byhand.exercises import exercise as by_name
    from longshort.byhand.page import write_page

    others = [by_name(name) for name in EXERCISES if name != exercise.name]
    write_page(path, [exercise, *others])


def spreadsheet(path: Path, exercise: Exercise, key: bool, paper: str) -> None:
    from longshort.byhand.workbook import write_workbook

    write_workbook(path, exercise, key=key)


def pdf(path: Path, exercise: Exercise, key: bool, paper: str) -> None:
    from longshort.byhand.paper import write_paper

    write_paper(path, exercise, key=key, paper=paper)


def markdown(path: Path, exercise: Exercise, key: bool, paper: str) -> None:
    from longshort.byhand.markdown import to_markdown
    from longshort.files import write_atomically, write_text

    text = to_markdown(exercise, key=key)
    write_atomically(path, lambda file: write_text(file, text))


def answers(path: Path, exercise: Exercise, key: bool, paper: str) -> None:
    from longshort.byhand.checker import answers_of, blank_answers, write_answers

    write_answers(path, exercise, answers_of(exercise.work()) if key else blank_answers(exercise))


RENDERINGS = {
    ".html": Rendering("the page: step through, change any number, answer and check; needs no Python", page),
    ".xlsx": Rendering("a spreadsheet with live formulas that checks what is filled in", spreadsheet),
    ".pdf": Rendering("paper, to fill in with a pencil", pdf),
    ".md": Rendering("Markdown", markdown),
    ".json": Rendering("answers to fill in, with the whole exercise", answers),
}

HOLD_ANSWERS = (".xlsx", ".json")


def write_exercise(
    path: Path | str, exercise: Exercise, *, key: bool = False, paper: str = "a4", overwrite: bool = False
) -> Path:
    """Write an exercise to a file, in the format its ending names; whole, or not at all.

    Args:
        path: ending in .html, .xlsx, .pdf, .md or .json.
        exercise: what to write.
        key: with the answers in it; else to be filled in.
        paper: "a4" or "letter", of a .pdf.
        overwrite: write over a .xlsx or .json that is there, though somebody's answers may be in it.

    Raises ValueError for another ending, a missing extra, a file that may hold answers, or that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in RENDERINGS:
        near = suggest(path.suffix.lower(), RENDERINGS)
        raise ValueError(
            f"{path}: cannot write a file ending in {path.suffix!r}.{near} There are: {', '.join(RENDERINGS)}"
        )
    if path.suffix.lower() in HOLD_ANSWERS and path.exists() and not overwrite:
        raise ValueError(f"{path} is there already and may hold answers: give another name, or --overwrite it")
    RENDERINGS[path.suffix.lower()].write(path, exercise, key, paper)
    return path


def open_page(exercise: Exercise) -> Path:
    """Write the page where the system keeps what can be made again, and show it in the browser; says where it is."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = write_exercise(Path(cache) / "longshort" / "hand.html", exercise)
    shown = webbrowser.open(path.as_uri())
    print(f"{'The page' if shown else 'No browser was found here. Open this file in one'}: {path}")
    print("To keep or give away: longshort hand --out workbook.html (it needs no Python and no network).")
    return path
