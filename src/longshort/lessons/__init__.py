"""Four demonstrations for a class, each one call: gates over time, gradients, overflow, parallel equals recurrent.

Their numbers are the library's own cells' at work, not an exercise's. torch is needed when one is called, matplotlib
for its picture only.
"""

from collections.abc import Callable
from typing import Any

from longshort.config import suggest
from longshort.lessons.frame import Lesson, picture_format
from longshort.lessons.overflowing import overflow
from longshort.lessons.remembering import gates
from longshort.lessons.three_forms import parallel
from longshort.lessons.vanishing import gradient

__all__ = ["LESSONS", "Lesson", "gates", "gradient", "lesson", "overflow", "parallel", "picture_format"]

LESSONS: dict[str, Callable[..., Lesson]] = {
    "gates": gates,
    "gradient": gradient,
    "overflow": overflow,
    "parallel": parallel,
}


def lesson(name: str, **options: Any) -> Lesson:
    """A lesson by name: gates, gradient, overflow or parallel; with that function's options."""
    if name not in LESSONS:
        raise ValueError(f"no lesson {name!r}.{suggest(name, LESSONS)} There are: {', '.join(LESSONS)}")
    return LESSONS[name](**options)
