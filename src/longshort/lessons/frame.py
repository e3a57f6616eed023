"""What every lesson is: a title, a table of numbers, a sentence that says what to see, a picture. No lesson itself."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")
BLACK, BLUE, RED, GREY, PALE = "#222222", "#2f5d9b", "#c8462b", "#777777", "#e6e6e6"
LINES = ((BLACK, "-"), (BLUE, "--"), (RED, ":"), (GREY, "-."))
"""Told apart by their dashes, so that a black and white print will do."""
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # it comes with matplotlib; an SVG falls back on any other
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.titlesize": 10,
    "axes.unicode_minus": True,
    "svg.fonttype": "none",  # text stays text: small files that can be searched
    "svg.hashsalt": "longshort",  # the same picture is the same file
    "pdf.fonttype": 42,
}


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A demonstration: `print` it for the numbers, `plot` it for the picture, `to_dict` for all of it as plain data."""

    name: str
    title: str
    settings: str
    """What was computed, with every choice that matters."""
    look: str
    """What to see."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    series: dict[str, Any] = field(repr=False)
    """What the picture shows, as plain data."""
    draw: "Callable[[Figure, Lesson], None]" = field(repr=False)
    size: tuple[float, float] = field(default=(7.2, 4.4), repr=False)
    """Of the picture, in inches."""

    def __str__(self) -> str:
        return "\n".join((self.title, self.settings, "", table(self.columns, self.rows), "", self.look))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the picture itself, as plain data. What is not finite is a float too: `inf`, `nan`."""
        plain = {name: getattr(self, name) for name in ("name", "title", "settings", "look", "series")}
        return plain | {"columns": list(self.columns), "rows": [list(row) for row in self.rows]}

    def plot(self, path: str | Path | None = None) -> "Figure":
        """The picture as a matplotlib figure, written to `path` too, if one is given: whole, or not at all.

        Raises ValueError without matplotlib, for a path that ends in none of .svg, .png, .pdf, and where the disk
        refuses.
        """
        kind = None if path is None else picture_format(path)
        try:
            from matplotlib import rc_context
            from matplotlib.figure import Figure
        except ImportError:
            raise ValueError("pictures need matplotlib: pip install 'longshort[plot]'") from None
        with rc_context(STYLE):
            figure = Figure(figsize=self.size, layout="constrained")
            self.draw(figure, self)
            figure.suptitle(self.title, fontsize=12, fontweight="bold")
            if path is not None and kind is not None:
                save(figure, path, kind, self.title)
        return figure


def picture_format(path: str | Path) -> str:
    kind = Path(path).suffix[1:].lower()
    if kind not in FORMATS:
        what = f"not .{kind}" if kind else "here there is none"
        raise ValueError(f"{path}: the ending says which picture to write: .svg, .png or .pdf, {what}")
    return kind


def save(figure: "Figure", path: str | Path, kind: str, title: str) -> None:
    from longshort.files import write_atomically

    undated = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}[kind]
    metadata = {"Title": title, **undated}

    def write(file: Path) -> None:
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)
        if kind == "svg":
            file.write_text(shortened(file.read_text(encoding="utf-8")), encoding="utf-8")

    write_atomically(path, write)


def shortened(svg: str) -> str:
    """An SVG of half the size that looks the same: two decimals, no indents, comments or automatic names."""

    def short(found: re.Match[str]) -> str:
        return re.sub(r"(\.\d\d)\d+", r"\1", found[0])

    svg = re.sub(r' (?:d|x|y|x1|x2|y1|y2|transform)="[^"]*"', short, svg)
    svg = re.sub(r"<!--.*?-->", "", svg)
    svg = re.sub(r' id="(?!clip)[A-Za-z.]+2?d?_\d+"', "", svg)
    return re.sub(r" *\n\s*", "\n", svg)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows of numbers under their names, aligned to the right."""
    lines = [list(columns), *([spelt(entry) for entry in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(entry.rjust(w) for entry, w in zip(line, widths, strict=True)) for line in lines)


def spelt(value: Any) -> str:
    """A number in about three digits.

    >>> spelt(0.7512), spelt(-12.0), spelt(0.00012), spelt(float("nan")), spelt(-0.0004), spelt(0.0)
    ('0.751', '-12', '1.2e-04', 'nan', '-4.0e-04', '0')
    """
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value) or (value == int(value) and abs(value) < 1e5):
        return f"{value + 0:.0f}"
    return f"{value:.1e}" if not 1e-3 <= abs(value) < 1e5 else f"{value:.3g}"


def label_ends(axis: "Axes", x: float, ends: Sequence[tuple[float, str, str]], apart: float) -> None:
    """Names to the right of the curves that end at (x, y), as (y, name, colour); moved apart where they would overlap.

    `apart` is a share of the axis's height; its limits and scales must be final.
    """
    axis.set_ylim(axis.get_ylim())
    into = axis.transData + axis.transAxes.inverted()
    placed = sorted(((into.transform((x, y))[1], name, colour) for y, name, colour in ends), reverse=True)
    at = math.inf
    for share, name, colour in placed:
        at = min(share, at - apart)
        axis.annotate(name, (1.02, at), xycoords="axes fraction", va="center", color=colour, fontsize=8)


def one_thread(make: "Callable[..., Lesson]") -> "Callable[..., Lesson]":
    """The lesson worked on one thread, as small tensors are fastest; the number of threads is put back afterwards."""

    @wraps(make)
    def run(*arguments: Any, **options: Any) -> Lesson:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return make(*arguments, **options)
        finally:
            torch.set_num_threads(before)

    return run


def whole(name: str, value: Any, low: int, high: int) -> None:
    """Raise ValueError unless `value` is a whole number in these bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name}={value!r}: a whole number from {low} to {high} belongs here")


def generator(seed: int) -> Any:
    """Torch's random numbers from a seed of their own: the user's are left alone."""
    import torch

    whole("seed", seed, 0, 2**32 - 1)
    return torch.Generator().manual_seed(seed)
