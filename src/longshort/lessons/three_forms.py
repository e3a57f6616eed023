"""The lesson of the three forms: the mLSTM step by step, in chunks and all at once gives the same h."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from longshort.lessons.frame import BLACK, BLUE, GREY, RED, Lesson, generator, label_ends, one_thread, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

FORMS = {"reference": "recurrent", "chunkwise": "chunkwise", "parallel": "parallel"}
"""The kernels of `longshort.functional.mlstm`, and what they are called in class."""
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
SHORT = 8
"""Steps of the sequence whose matrices are shown."""
DASHES = {"recurrent": (BLACK, "-", "o"), "chunkwise": (BLUE, "--", "s"), "parallel": (RED, ":", "^")}


@one_thread
def parallel(*, longest: int = 1024, heads: int = 2, width: int = 16, seed: int = 0) -> Lesson:
    """The mLSTM as a recurrence, chunkwise and in parallel on the same input: how far they differ, how long they take.

    Times are of this machine at this moment, the best of five runs in float32 without gradients; nothing depends on
    them. The picture adds the two matrices of the parallel form for a sequence of eight steps.

    Args:
        longest: the longest sequence; lengths double from 16 up to it.
        heads, width: heads, and the width of a head's keys and values.
        seed: of the input.
    """
    whole("longest", longest, 16, 4096)
    whole("heads", heads, 1, 16)
    whole("width", width, 1, 128)
    lengths = sorted({*(T for T in LENGTHS if longest > T), longest})
    rows, points = [], []
    for T in lengths:
        point = measured(T, heads, width, seed)
        points.append(point)
        differences = [point["difference"][kind][form] for kind in ("float64", "float32") for form in tuple(DASHES)[1:]]
        rows.append((T, *differences, *(point["ms"][form] for form in DASHES)))
    worst = {kind: max(max(p["difference"][kind].values()) for p in points) for kind in ("float64", "float32")}
    return Lesson(
        name="parallel",
        title="One mLSTM, three ways to compute it",
        settings=(
            f"longshort.functional.mlstm, kernel='reference' (recurrent), 'chunkwise' (chunks of 64) and 'parallel'; "
            f"one row, {heads} heads of width {width}, random input (seed {seed}). Δ: the largest difference of any h "
            "from the recurrent form in the same precision, over the largest |h|. "
            "Times in ms on this machine, float32, forward, best of 5."
        ),
        look=(
            f"What to see: all three give the same h, to {worst['float64']:.0e} in float64 and {worst['float32']:.0e} "
            "in float32; rounding is all that differs. The recurrence goes step by step, the parallel form takes T × T "
            "numbers at once, the chunkwise form a little of both: linear in T, and still parallel."
        ),
        columns=("T", *(f"Δ {form}, {kind}" for kind in ("float64", "float32") for form in tuple(DASHES)[1:]),
                 *(f"{form}, ms" for form in DASHES)),
        rows=tuple(rows),
        series={"lengths": lengths, "points": points, "short": short_matrices(seed)},
        draw=draw_parallel,
        size=(8.6, 7.2),
    )  # fmt: skip


def problem(T: int, heads: int, width: int, seed: int) -> "list[Tensor]":
    """q, k, v (1, T, N, width) and gates i~, f~ (1, T, N), float64; f~ is near 3, so that the memory reaches back."""
    import torch

    random = generator(seed)
    q, k, v = (torch.randn(1, T, heads, width, generator=random, dtype=torch.float64) for _ in "qkv")
    i_pre, f_pre = (torch.randn(1, T, heads, generator=random, dtype=torch.float64) for _ in "if")
    return [q, k, v, i_pre, f_pre + 3]


def measured(T: int, heads: int, width: int, seed: int) -> dict[str, Any]:
    """The differences from the recurrent form in both precisions, and the milliseconds of each form."""
    import torch

    from longshort.functional import mlstm

    inputs = problem(T, heads, width, seed)
    difference: dict[str, dict[str, float]] = {}
    ms: dict[str, float] = {}
    with torch.no_grad():
        for kind, dtype in (("float64", torch.float64), ("float32", torch.float32)):
            q, k, v, i_pre, f_pre = (x.to(dtype) for x in inputs)
            outputs = {}
            for kernel, form in FORMS.items():
                call = partial(mlstm, q, k, v, i_pre, f_pre, kernel=kernel)
                outputs[form] = call()[0]
                if dtype == torch.float32:  # after one run, so that none pays for warming up
                    ms[form] = 1000 * min(seconds(call) for _ in range(5))
            difference[kind] = {
                form: ((h - outputs["recurrent"]).abs().max() / outputs["recurrent"].abs().max()).item()
                for form, h in outputs.items()
                if form != "recurrent"
            }
    return {"difference": difference, "ms": ms}


def seconds(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def short_matrices(seed: int) -> dict[str, Any]:
    """D, q kᵀ / √K and their product for a short sequence, as `cells.mlstm.mlstm_parallel` forms them; one head."""
    import torch
    import torch.nn.functional as F

    from longshort.cells.mlstm import segment_sums

    q, k, _, i_pre, f_pre = (x[0, :, 0] for x in problem(SHORT, 1, 4, seed))
    log_D = segment_sums(F.logsigmoid(f_pre)) + i_pre
    m = log_D.amax(-1).clamp(min=0)  # from an empty memory
    D = torch.exp(log_D - m[:, None])
    match = q @ k.T * k.shape[-1] ** -0.5
    return {"D": D.tolist(), "match": match.tolist(), "S": (D * match).tolist(), "m": m.tolist()}


def draw_parallel(figure: "Figure", lesson: Lesson) -> None:
    axes = figure.subplots(2, 2, height_ratios=(1.3, 1))
    short = lesson.series["short"]
    draw_matrix(axes[0, 0], short["D"], "D: what is left of step j at step t")
    draw_matrix(axes[0, 1], short["S"], "q kᵀ/√K ⊙ D: what t reads of j")
    lengths, points = lesson.series["lengths"], lesson.series["points"]
    ends: tuple[list[tuple[float, str, str]], ...] = ([], [])
    for form, (colour, dash, mark) in DASHES.items():
        style = {"color": colour, "linestyle": dash, "marker": mark, "markersize": 4, "linewidth": 1.6}
        times = [point["ms"][form] for point in points]
        axes[1, 1].plot(lengths, times, **style)
        ends[1].append((times[-1], form, colour))
        for kind in ("float64", "float32") if form != "recurrent" else ():
            differences = [max(point["difference"][kind][form], 1e-18) for point in points]
            axes[1, 0].plot(lengths, differences, **style)
            ends[0].append((differences[-1], f"{form}, {kind}", colour))
    for axis, names in zip(axes[1], ends, strict=True):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.minorticks_off()
        axis.set_xlabel("length of the sequence, T (steps)")
        axis.grid(axis="y", color="#dddddd", linewidth=0.5)
        axis.set_xticks(lengths, [str(T) for T in lengths])
        label_ends(axis, lengths[-1], names, apart=0.07)
    axes[1, 0].set_ylabel("largest difference / largest |h|")
    axes[1, 0].set_title("The same h, but for rounding")
    axes[1, 1].set_ylabel("time (ms), this machine")
    axes[1, 1].set_title("Not the same time")


def draw_matrix(axis: Any, matrix: list[list[float]], title: str) -> None:
    """Shades of grey by size, the numbers written in: the sign can be read in black and white."""
    size = max(abs(x) for row in matrix for x in row) or 1.0
    axis.imshow([[abs(x) / size for x in row] for row in matrix], cmap="Greys", vmin=0, vmax=1.25)
    for t, row in enumerate(matrix):
        for j, x in enumerate(row[: t + 1]):
            shade = "white" if abs(x) / size > 0.65 else BLACK
            axis.text(
                j, t, f"{round(x, 2) + 0.0:.2f}".replace("-", "−"), ha="center", va="center", fontsize=6.5, color=shade
            )
    steps = range(len(matrix))
    axis.set_xticks(steps, [str(t + 1) for t in steps])
    axis.set_yticks(steps, [str(t + 1) for t in steps])
    axis.tick_params(length=0)
    axis.set_xlabel("step j that wrote")
    axis.set_ylabel("step t that reads")
    axis.set_title(title)
    for side in axis.spines.values():
        side.set_visible(True)
        side.set_color(GREY)
