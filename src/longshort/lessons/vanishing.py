"""The lesson of the gradient: what reaches the first input from the last output, against the length of the sequence."""

import math
import statistics
import warnings
from typing import TYPE_CHECKING, Any

from longshort.lessons.frame import BLACK, BLUE, GREY, RED, Lesson, generator, label_ends, one_thread, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

CELLS: dict[str, tuple[str, float | tuple[float, float] | None, str]] = {
    "RNN": ("RNN", None, "tanh"),
    "LSTM": ("LSTM", None, "forget bias near 0, as torch.nn.LSTM starts"),
    "LSTM, b_f 1": ("LSTM", 1.0, "forget bias 1"),
    "LSTM, b_f 3 to 6": ("LSTM", (3.0, 6.0), "forget bias 3 to 6 over the units, as our sLSTM starts"),
    "sLSTM": ("sLSTM", None, "forget bias 3 to 6 over the units, as our sLSTM starts"),
}
"""Each cell shown: the layer, the bias its forget gate starts with (None: the layer's own), and that in words."""
DASHES = {
    "RNN": (RED, (0, (1, 1.2)), 2.0),
    "LSTM": (GREY, "-.", 1.6),
    "LSTM, b_f 1": (GREY, "--", 1.6),
    "LSTM, b_f 3 to 6": (BLUE, (0, (6, 2)), 2.0),
    "sLSTM": (BLACK, "-", 2.4),
}
LABELS = {
    "LSTM": "LSTM, forget bias near 0",
    "LSTM, b_f 1": "LSTM, forget bias 1",
    "LSTM, b_f 3 to 6": "LSTM, forget bias 3 to 6",
    "sLSTM": "sLSTM, forget bias 3 to 6",
}
SMALLEST = 2.0**-149
"""float32's smallest number above 0."""


@one_thread
def gradient(*, longest: int = 200, hidden: int = 16, features: int = 4, seeds: int = 5, seed: int = 0) -> Lesson:
    """How much the last output still depends on the first input, against length, for RNN, LSTM and sLSTM.

    The size is the largest factor by which a small change of x_1 reaches h_T: the 2-norm of dh_T/dx_1, in float64, of
    untrained layers reading standard normal numbers. It is computed in forward mode, which gives every length in one
    run; back-propagation gives the same numbers, and a test holds the two together.

    What a forget gate starts with matters more than the name of the cell, so the LSTM is shown with three starts.

    Args:
        longest: the longest sequence.
        hidden, features: units of each layer, and width of its input.
        seeds: how many starts, of weights and input; the median and the range are shown.
        seed: the first of them.
    """
    for name, value, low, high in (("longest", longest, 2, 1000), ("hidden", hidden, 1, 64)):
        whole(name, value, low, high)
    for name, value, low, high in (("features", features, 1, 64), ("seeds", seeds, 1, 50)):
        whole(name, value, low, high)
    generator(seed)
    curves: dict[str, Any] = {}
    for name, (kind, bias, _) in CELLS.items():
        runs = [reach(kind, bias, longest, hidden, features, each) for each in range(seed, seed + seeds)]
        by_length = list(zip(*runs, strict=True))
        curves[name] = {
            "median": [statistics.median(each) for each in by_length],
            "low": [min(each) for each in by_length],
            "high": [max(each) for each in by_length],
        }
    lengths = sorted({t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, longest) if t <= longest})
    ratio = [s / r if r else math.inf for s, r in zip(curves["sLSTM"]["median"], curves["RNN"]["median"], strict=True)]
    rows = [(t, *(curves[name]["median"][t - 1] for name in CELLS), ratio[t - 1]) for t in lengths]
    starts = "; ".join(f"{name}: {words}" for name, (_, _, words) in CELLS.items())
    return Lesson(
        name="gradient",
        title="How much of the gradient reaches the first step",
        settings=(
            f"The 2-norm of dh_T/dx_1 at the start of training, {hidden} units, {features} random inputs a step, "
            f"float64; median of {seeds} seeds from {seed} on. Weights uniform within 1/√{hidden}. {starts}."
        ),
        look=look(curves, longest),
        columns=("T", *CELLS, "sLSTM / RNN"),
        rows=tuple(rows),
        series={"lengths": list(range(1, longest + 1)), "curves": curves},
        draw=draw_gradient,
        size=(7.2, 4.6),
    )


def look(curves: dict[str, Any], longest: int) -> str:
    def lost(name: str) -> str:
        first, last = curves[name]["median"][0], curves[name]["median"][-1]
        return f"{math.log10(first / last):.1f}" if last > 0 else "all"

    return (
        f"What to see: what vanishes falls along a straight line, by a constant factor a step. Over {longest} steps "
        f"the RNN loses {lost('RNN')} powers of ten, the LSTM {lost('LSTM')}, the sLSTM {lost('sLSTM')}. The forget "
        f"gate's start does most of this: with the sLSTM's own start the LSTM loses {lost('LSTM, b_f 3 to 6')}."
    )


def reach(kind: str, bias: Any, longest: int, hidden: int, features: int, seed: int) -> list[float]:
    """The 2-norm of dh_T/dx_1 for T from 1 to `longest`."""
    import torch

    layer, x = start(kind, bias, longest, hidden, features, seed)

    def outputs(first: "Tensor") -> "Tensor":
        return layer(torch.cat([first[None], x[1:]])[None])[0][0]

    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # torch's own, at the first such call
        jacobian = torch.func.jacfwd(outputs)(x[0])  # (T, hidden, features)
    return torch.linalg.matrix_norm(jacobian, ord=2).tolist()


def start(kind: str, bias: Any, longest: int, hidden: int, features: int, seed: int) -> "tuple[Any, Tensor]":
    """An untrained layer and what it reads."""
    import torch

    import longshort

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = getattr(longshort, kind)(features, hidden, batch_first=True, dtype=torch.float64)
    if bias is not None:
        low, high = bias if isinstance(bias, tuple) else (bias, bias)
        with torch.no_grad():
            layer.bias_ih_l0[hidden : 2 * hidden] = torch.linspace(low, high, hidden)
            layer.bias_hh_l0[hidden : 2 * hidden] = 0.0
    return layer, torch.randn(longest, features, generator=generator(seed), dtype=torch.float64)


def draw_gradient(figure: "Figure", lesson: Lesson) -> None:
    axis = figure.subplots()
    lengths, curves = lesson.series["lengths"], lesson.series["curves"]
    lowest = min(x for each in curves.values() for x in each["low"] if x > 0)
    ends: list[tuple[float, str, str]] = []
    for name, each in curves.items():
        colour, dash, width = DASHES[name]
        axis.fill_between(lengths, each["low"], each["high"], color=colour, alpha=0.13, linewidth=0)
        axis.plot(lengths, each["median"], color=colour, linestyle=dash, linewidth=width)
        ends.append((max(each["median"][-1], lowest), str(LABELS.get(name, name)), colour))
    axis.set_yscale("log")
    axis.set_xlim(1, lengths[-1])
    decades = [each for each in range(-300, 1, 10) if each > math.log10(lowest) - 10]
    if len(decades) > 2:
        axis.set_yticks([10.0**each for each in decades])
    if lowest < SMALLEST:
        axis.axhline(SMALLEST, color=GREY, linewidth=0.8)
        axis.text(2, SMALLEST, "below this line a float32 is 0", va="top", color=GREY, fontsize=8)
    label_ends(axis, lengths[-1], ends, apart=0.05)
    axis.grid(axis="y", color="#dddddd", linewidth=0.5)
    axis.set_xlabel("length of the sequence, T (steps)")
    axis.set_ylabel("size of ∂h(T) / ∂x(1), 2-norm")
