"""The workbook as a web page: one HTML file that works offline and needs no Python.

`page.html` is the page; this puts the exercises into it, as data. Nothing is worked out here: the page has a reader of
the formulas of its own, a mirror of `formulas` and `graph`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longshort.byhand.exercises import EXERCISES
from longshort.byhand.graph import Exercise
from longshort.byhand.slips import slip_trees

EMPTY = '<script type="application/json" id="exercises">[]</script>'
"""Where the exercises go."""


def page(exercises: Sequence[Exercise] | None = None) -> str:
    """The page as HTML text, with these exercises in its tabs; all of ours when none are given.

    >>> from longshort.byhand import exercise
    >>> "An LSTM by hand" in page([exercise("lstm")])
    True
    """
    chosen = [make() for make in EXERCISES.values()] if exercises is None else exercises
    text = json.dumps([filled_in(each) for each in chosen], allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    html = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    assert html.count(EMPTY) == 1, "page.html has lost its place for the exercises"
    # "<" inside the text could end the script element or start a comment.
    return html.replace(EMPTY, EMPTY.replace("[]", text.replace("<", "\\u003c")))


def filled_in(exercise: Exercise) -> dict[str, Any]:
    """An exercise as the page reads it: with the usual slips, so that the page can name them."""
    found = slip_trees(exercise)
    names = list(dict.fromkeys(name for slips in found.values() for name, _ in slips))
    of = {quantity: [[names.index(name), tree] for name, tree in slips] for quantity, slips in found.items() if slips}
    return exercise.to_dict() | {"slips": {"names": names, "of": of}}


def write_page(path: str | Path, exercises: Sequence[Exercise] | None = None) -> Path:
    """Writes the page to a file, whole or not at all. Raises CheckpointError, a ValueError, where the disk refuses."""
    from longshort.files import write_atomically, write_text

    path, html = Path(path), page(exercises)
    write_atomically(path, lambda file: write_text(file, html))
    return path
