"""The lesson of the stabiliser: exponential gates overflow float32 without m, and never with it."""

import math
from typing import TYPE_CHECKING, Any

from longshort.lessons.frame import BLACK, GREY, RED, Lesson, generator, one_thread, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

STEPS, KEYS = 8, 4
LARGEST = 2.0**128 * (1 - 2.0**-24)
"""float32's largest number, 3.4e38."""
CELLS = {
    "sLSTM": "sLSTM, f = σ(f~)",
    "sLSTM, exp f": "sLSTM, f = exp(f~)",
    "mLSTM": "mLSTM",
}


@one_thread
def overflow(*, largest: int = 1000, seed: int = 0) -> Lesson:
    """Exponential gates at growing pre-activations, in float32, with the stabiliser m and without.

    With it: the library's own cells. Without: `textbook_slstm` and `textbook_mlstm`, the paper's equations (8)-(10) and
    (19)-(21) as they stand. Both run over 8 steps with i~ = f~ = a at each, for a from 1 to `largest`.

    Args:
        largest: the largest pre-activation.
        seed: of the other inputs.
    """
    whole("largest", largest, 20, 100_000)
    asked = sorted({a for a in (1, 10, 11, 12, 50, 86, 87, 88, 89, 100, 1000, largest) if a <= largest})
    curve = {round(math.exp(math.log(largest) * k / 60)) for k in range(61)}
    sizes = sorted({*asked, *curve, *range(1, 101 if largest > 100 else largest)})
    cells = {name: compared(name, sizes, seed) for name in CELLS}
    rows = []
    for name, found in cells.items():
        for a in asked:
            at = sizes.index(a)
            rows.append((name, a, *(found[column][at] for column in ("without", "with", "m", "h without", "h with"))))
    first = {name: next((a for a, x in zip(sizes, found["without"], strict=True) if not math.isfinite(x)), None)
             for name, found in cells.items()}  # fmt: skip
    worst = max(found["difference"] for found in cells.values())
    breaks = ", ".join(f"{name} at a = {a}" for name, a in first.items() if a) or "none here"
    return Lesson(
        name="overflow",
        title="Exponential gates: overflow without the stabiliser m, none with it",
        settings=(
            f"float32, {STEPS} steps, pre-activations i~ = f~ = a at every step, other inputs random (seed {seed}). "
            f"Memory: the largest number in c and n (mLSTM: C and n) on the way; h: the last output."
        ),
        look=(
            f"What to see: without m the memory grows as e^a and leaves float32 ({breaks}); h is then wrong, or nan. "
            "With m the memory stays small however large the gate: the size is kept in m, as a "
            f"logarithm. Where both are finite, h differs by at most {worst:.0e}."
        ),
        columns=("cell", "a", "memory without m", "memory with m", "m", "h without m", "h with m"),
        rows=tuple(rows),
        series={"sizes": sizes, "cells": cells, "first": first},
        draw=draw_overflow,
        size=(8.4, 5.0),
    )


def compared(name: str, sizes: list[int], seed: int, dtype: Any = None) -> dict[str, Any]:
    """One cell at every gate size, with m and without: the largest number in its memory, m, h; how far h differs."""
    import torch

    dtype = dtype or torch.float32
    gate = torch.tensor(sizes, dtype=dtype)[:, None].expand(-1, STEPS)  # a row of the batch for each size
    random = generator(seed)
    plain, steady = mlstm_both(gate, random) if name == "mLSTM" else slstm_both(name, gate, random)
    both = plain["memory"].isfinite() & plain["h"].isfinite()
    difference = (plain["h"] - steady["h"])[both].abs()
    return {
        "without": plain["memory"].tolist(),
        "with": steady["memory"].tolist(),
        "m": steady["m"].tolist(),
        "h without": plain["h"].tolist(),
        "h with": steady["h"].tolist(),
        "difference": difference.max().item() if len(difference) else 0.0,
    }


def slstm_both(name: str, gate: "Tensor", random: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """One unit, memory c and n."""
    import torch

    from longshort.functional import slstm, watch

    draws = (torch.randn(STEPS, generator=random).to(gate).expand_as(gate) for _ in "zo")
    z_pre, o_pre = (each + 1 for each in draws)  # off 0, so that a wrong 0 shows
    forget = "exp" if "exp" in name else "sigmoid"
    x_pre = torch.stack([gate, gate, z_pre, o_pre], -1)[..., None, None]
    with torch.no_grad(), watch() as calls:
        h, state = slstm(x_pre, torch.zeros(4, 1, 1, 1, dtype=gate.dtype), forget=forget)
    memory = torch.stack([torch.maximum(step.c.abs(), step.n)[:, 0, 0] for step in calls[0].steps], 1)
    steady = {"memory": memory.amax(1), "m": state.m[:, 0, 0], "h": h[:, -1, 0, 0]}
    f = gate.exp() if forget == "exp" else gate.sigmoid()
    return textbook_slstm(gate.exp(), f, z_pre.tanh(), o_pre.sigmoid()), steady


def mlstm_both(gate: "Tensor", random: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """One head with keys of width four and one value, memory C and n."""
    import torch

    from longshort.functional import mlstm, watch

    draws = (torch.randn(STEPS, width, generator=random) for width in (KEYS, KEYS, 1))
    q, k, v = (each.to(gate).expand(len(gate), -1, -1) for each in draws)
    with torch.no_grad(), watch() as calls:
        h, state = mlstm(q[:, :, None], k[:, :, None], v[:, :, None], gate[..., None], gate[..., None])
    memory = [torch.maximum(step.C.abs().amax((1, 2, 3)), step.n.abs().amax((1, 2))) for step in calls[0].steps]
    steady = {"memory": torch.stack(memory, 1).amax(1), "m": state.m[:, 0], "h": h[:, -1, 0, 0]}
    return textbook_mlstm(q * KEYS**-0.5, k, v, gate.exp(), gate.sigmoid()), steady


def textbook_slstm(i: "Tensor", f: "Tensor", z: "Tensor", o: "Tensor") -> dict[str, Any]:
    """The sLSTM without a stabiliser, gates (B, T): the paper's equations as they stand. Here to fail, not for use."""
    import torch

    c = n = torch.zeros_like(i[:, 0])
    memory = []
    for t in range(i.shape[1]):
        c = f[:, t] * c + i[:, t] * z[:, t]  # (8)
        n = f[:, t] * n + i[:, t]  # (9)
        memory.append(torch.maximum(c.abs(), n))
    return {"memory": torch.stack(memory).amax(0), "h": o[:, -1] * (c / n)}  # (10)


def textbook_mlstm(q: "Tensor", k: "Tensor", v: "Tensor", i: "Tensor", f: "Tensor") -> dict[str, Any]:
    """The mLSTM without a stabiliser, q, k, v (B, T, K), gates (B, T). Here to fail, not for use."""
    import torch

    C, n = torch.zeros_like(k[:, 0, :, None] * v[:, 0, None, :]), torch.zeros_like(k[:, 0])
    memory = []
    for t in range(i.shape[1]):
        C = f[:, t, None, None] * C + i[:, t, None, None] * (k[:, t, :, None] * v[:, t, None, :])  # (19)
        n = f[:, t, None] * n + i[:, t, None] * k[:, t]  # (20)
        memory.append(torch.maximum(C.abs().amax((1, 2)), n.abs().amax(1)))
    read = (q[:, -1, :, None] * C).sum(1) / (q[:, -1] * n).sum(1, keepdim=True).abs().clamp(min=1)  # (21)
    return {"memory": torch.stack(memory).amax(0), "h": read[:, 0]}


def draw_overflow(figure: "Figure", lesson: Lesson) -> None:
    sizes, cells = lesson.series["sizes"], lesson.series["cells"]
    axes = figure.subplots(2, len(cells), sharex=True, height_ratios=(3, 2))
    for column, (name, found) in enumerate(cells.items()):
        above, below = axes[0, column], axes[1, column]
        above.set_title(CELLS[name])
        draw_memory(above, sizes, found, lesson.series["first"][name])
        draw_output(below, sizes, found)
        below.set_xlabel("pre-activation a of the gates")
        below.xaxis.set_major_formatter("{x:.0f}")
    axes[0, 0].set_ylabel("largest number in memory")
    axes[1, 0].set_ylabel("last output h")
    figure.align_ylabels(axes[:, 0])


def draw_memory(axis: Any, sizes: list[int], found: dict[str, Any], first: int | None) -> None:
    fine = [(a, x) for a, x in zip(sizes, found["without"], strict=True) if math.isfinite(x)]
    axis.plot(*zip(*fine, strict=True), color=RED, linestyle="--", linewidth=1.8)
    axis.plot(sizes, found["with"], color=BLACK, linewidth=2)
    axis.axhline(LARGEST, color=GREY, linewidth=0.8)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(1e-2, 1e46)
    axis.set_yticks([1, 1e10, 1e20, 1e30])
    axis.minorticks_off()
    axis.text(sizes[-1], LARGEST * 8, "float32 ends here", color=GREY, fontsize=8, va="bottom", ha="right")
    axis.text(sizes[-1], 1e2, "with m", ha="right", fontweight="bold")
    if first is not None:
        axis.plot([fine[-1][0]], [LARGEST], marker="x", color=RED, markersize=8, markeredgewidth=2, clip_on=False)
        axis.text(first, 1e24, f"  without m:\n  inf from\n  a = {first}", color=RED, va="center")


def draw_output(axis: Any, sizes: list[int], found: dict[str, Any]) -> None:
    fine = [(a, x) for a, x in zip(sizes, found["h without"], strict=True) if math.isfinite(x)]
    axis.plot(sizes, found["h with"], color=BLACK, linewidth=2)
    axis.plot(*zip(*fine, strict=True), color=RED, linestyle="--", linewidth=1.8)
    axis.axhline(0, color=GREY, linewidth=0.6)
    if len(fine) < len(sizes):
        axis.plot(*fine[-1], marker="x", color=RED, markersize=8, markeredgewidth=2)
        axis.annotate("then nan", fine[-1], xytext=(6, 5), textcoords="offset points", color=RED)
