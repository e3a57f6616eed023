"""The lesson of the gates over time: a number remembered until asked for, or any layer of the user's own."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from longshort.config import suggest
from longshort.lessons.frame import BLACK, GREY, LINES, PALE, RED, Lesson, generator, label_ends, one_thread, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from longshort.tracing import Part

STEPS, STORE, ASK = 12, (3, 7), 11
"""The sequence shown: its length, where numbers are marked, where the last one is asked for; steps count from 1."""

PANELS: "dict[str, tuple[tuple[str, str, Callable[[Part], Tensor]], ...]]" = {
    "lstm": (
        ("i", "input gate i", lambda part: part["i"]),
        ("f", "forget gate f", lambda part: part["f"]),
        ("o", "output gate o", lambda part: part["o"]),
        ("c", "memory c", lambda part: part["c"]),
    ),
    "slstm": (
        ("i", "input gate i", lambda part: part["i_pre"].double().exp()),
        ("f", "forget gate f", lambda part: part["log_f"].exp()),
        ("o", "output gate o", lambda part: part["o"]),
        ("c/n", "memory c/n", lambda part: part["c"] / part["n"]),
    ),
    "mlstm": (
        ("i", "input gate i", lambda part: part["i_pre"].double().exp()),
        ("f", "forget gate f", lambda part: part["log_f"].exp()),
        ("o", "output gate o", lambda part: part["o"]),
        ("|C|", "size of C e⁻ᵐ", lambda part: part["C"].flatten(-2).norm(dim=-1)),
    ),
    "gru": (
        ("r", "reset gate r", lambda part: part["r"]),
        ("z", "update gate z", lambda part: part["z"]),
        ("h", "memory h", lambda part: part["h"]),
    ),
    "rnn": (("h", "memory h", lambda part: part["h"]),),
}
"""What is shown of each cell: short name, label, and how to read it off a trace. The gates are the plain ones, exp(i~)
and f, not the stabilised weights."""


@one_thread
def gates(
    layer: "nn.Module | None" = None,
    x: Any = None,
    *,
    part: str | None = None,
    units: Sequence[int] | None = None,
    row: int = 0,
    seed: int = 1,
) -> Lesson:
    """The gates of a cell over time: when it stores, keeps and speaks.

    Without a layer: an LSTM and an sLSTM of one unit each, trained here for a few seconds, remember the number that was
    marked last until it is asked for. With one: its own gates, seen by `longshort.trace`.

    Args:
        layer: a layer or model of longshort, or an `nn.LSTM`, `nn.GRU` or `nn.RNN`.
        x: what it reads: (T, D), or a batch as the layer takes it; numbers, nested lists or a tensor. None: 20 steps of
            random numbers.
        part: which part of the trace, such as "l1" or "l0_reverse"; None: the first.
        units: which units to show; None: the first three.
        row: which row of the batch.
        seed: of the training, or of the random numbers.

    Raises:
        ValueError: for what is no layer, input that does not fit or is not finite, and what is not there to be shown.
    """
    if layer is None:
        if x is not None or part is not None or units is not None or row:
            raise ValueError("x, part, units and row choose what to show of a layer of yours: give the layer too")
        return trained_gates(seed)
    return own_gates(layer, x, part, units, row, seed)


def trained_gates(seed: int) -> Lesson:
    """The built-in exercise: one unit, one number to remember."""
    import torch

    from longshort.tracing import trace

    random = generator(seed)
    value = (torch.randint(-9, 10, (STEPS,), generator=random) / 10).tolist()
    value[STORE[0] - 1], value[STORE[1] - 1] = -0.6, 0.7  # far enough from 0, and from each other, to be seen
    flags = [[float(t in at) for t in range(1, STEPS + 1)] for at in (STORE, (ASK,))]
    x = torch.tensor([value, *flags], dtype=torch.float64).T[None]
    columns, series, error = ["step", "number", "flag"], [], {}
    flag = {**dict.fromkeys(STORE, "store"), ASK: "ask"}
    rows: list[list[Any]] = [[t, value[t - 1], flag.get(t, "")] for t in range(1, STEPS + 1)]
    for name in ("LSTM", "sLSTM"):
        layer, readout, error[name] = train_to_remember(name, seed)
        with torch.no_grad():
            seen = trace(layer, x)
            answer = readout(seen.output)[0, :, 0].tolist()
        panels = panels_of(seen.parts["l0"], None, 0)
        panels.append({"name": "y", "label": "answer y", "lines": {"": answer}})
        for panel in panels:
            columns.append(f"{name} {panel['name']}")
            for line, number in zip(rows, panel["lines"][next(iter(panel["lines"]))], strict=True):
                line.append(number)
        series.append({"title": f"{name}, one unit", "panels": panels})
    return Lesson(
        name="gates",
        title="Gates over time: remember the number marked last until asked",
        settings=(
            f"One unit each, reading a number and two flags, store and ask; trained on {TRAINING['steps']} batches of "
            f"{TRAINING['rows']} random rows (seed {seed}); the forget gate starts at a bias of 3. Root mean square "
            "error when asked, on fresh rows: "
            + ", ".join(f"{name} {each:.2f}" for name, each in error.items())
            + " (always 0 would give 0.58)."
        ),
        look=(
            f"What to see: at steps {STORE[0]} and {STORE[1]} the input gate opens and the forget gate closes: the old "
            "memory goes, the marked number comes in. In between the memory stays, whatever numbers pass by, and only "
            f"at step {ASK} does the output gate open. The sLSTM's input gate is exponential: it goes far beyond 1."
        ),
        columns=tuple(columns),
        rows=tuple(map(tuple, rows)),
        series={"input": value, "store": list(STORE), "ask": ASK, "columns": series},
        draw=draw_gates,
        size=(7.2, 7.6),
    )


TRAINING: dict[str, Any] = {"steps": 400, "rows": 48, "lr": 0.05}


def train_to_remember(name: str, seed: int) -> tuple[Any, Any, float]:
    """A layer of one unit and its readout, and the root mean square error on fresh rows when asked."""
    import torch

    import longshort

    random = generator(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # float64: the sLSTM's i and n may grow together unseen, and Adam would follow float32's rounding there.
        layer = getattr(longshort, name)(3, 1, batch_first=True, dtype=torch.float64)
        readout = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        if name == "LSTM":
            layer.bias_ih_l0[1], layer.bias_hh_l0[1] = 3.0, 0.0  # as the sLSTM starts by itself
    weights = [*layer.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(weights, lr=TRAINING["lr"])
    for step in range(TRAINING["steps"]):
        x, wanted = rows_to_remember(TRAINING["rows"], random)
        wrong = (readout(layer(x)[0])[..., 0] - wanted).square()
        asked = x[..., 2] == 1
        loss = wrong[asked].mean() + wrong[~asked].mean()  # apart: silence alone must not look like success
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.param_groups[0]["lr"] = TRAINING["lr"] * min(1, 2 * (1 - step / TRAINING["steps"]))
        optimizer.step()
    with torch.no_grad():
        x, wanted = rows_to_remember(512, random)
        wrong = (readout(layer(x)[0])[..., 0] - wanted).square()
        return layer, readout, wrong[x[..., 2] == 1].mean().sqrt().item()


def rows_to_remember(rows: int, random: Any) -> "tuple[Tensor, Tensor]":
    """Rows of (number, store, ask) and what to answer: 0, but when asked the number that was marked last."""
    import torch
    from torch.nn.functional import one_hot

    number = torch.rand(rows, STEPS, generator=random, dtype=torch.float64) * 2 - 1
    until = 2 * STEPS // 3
    store = torch.rand(rows, until, generator=random).argsort(1)[:, :2]  # two steps, never the same
    ask = torch.randint(until, STEPS, (rows,), generator=random)
    flags = [one_hot(store, STEPS).sum(1).double(), one_hot(ask, STEPS).double()]
    return torch.stack([number, *flags], -1), flags[1] * number.gather(1, store.amax(1, keepdim=True))


def own_gates(layer: Any, x: Any, part: str | None, units: Sequence[int] | None, row: int, seed: int) -> Lesson:
    """The gates of the user's own layer."""
    import torch

    from longshort.tracing import trace

    layer = as_ours(layer)
    given = "random input" if x is None else "the input given"
    x = as_input(layer, x, seed)
    with torch.no_grad():
        seen = trace(layer, x)
    names = list(seen.parts)
    if part is not None and part not in names:
        raise ValueError(f"part={part!r} is not there.{suggest(part, names)} There are: {', '.join(names)}")
    name = part or names[0]
    panels = panels_of(seen.parts[name], units, row)
    title = f"{name} ({seen.parts[name].cell})"
    shown = [(panel["name"], line, values) for panel in panels for line, values in panel["lines"].items()]
    steps = len(shown[0][2])
    return Lesson(
        name="gates",
        title=f"Gates over time: {title}",
        settings=f"{type(layer).__name__}, part {title}, row {row}, {steps} steps of {given}.",
        look=LOOK.get(seen.parts[name].cell, "What to see: what each unit lets in, keeps and shows, step by step."),
        columns=("step", *(f"{name} {line.split()[-1]}" for name, line, _ in shown)),
        rows=tuple((t + 1, *(values[t] for _, _, values in shown)) for t in range(steps)),
        series={"columns": [{"title": "", "panels": panels}]},
        draw=draw_gates,
        size=(7.2, 0.8 + 1.25 * len(panels)),
    )


KEEPS = "What to see: a large input gate stores something; while the forget gate is near 1, it stays."
LOOK = {
    "lstm": KEEPS,
    "slstm": KEEPS,
    "mlstm": KEEPS,
    "gru": "What to see: while z is near 1, the old h stays; where it is near 0, n takes its place, made with r of h.",
    "rnn": "What to see: no gate at all; every step makes h anew.",
}
"""What a traced cell shows."""


def as_ours(layer: Any) -> Any:
    """A layer that can be traced, with weights to trust."""
    import torch

    import longshort

    for name in ("LSTM", "GRU", "RNN"):
        if type(layer) is getattr(torch.nn, name):
            layer = getattr(longshort, name).from_torch(layer)
    if not isinstance(layer, torch.nn.Module):
        raise ValueError(
            f"layer: a layer or a model belongs here, such as longshort.sLSTM(3, 8), not a {type(layer).__name__}"
        )
    for name, weight in layer.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(
                f"the layer's weights are not all finite: {name} has NaN or inf, so no gate would mean much"
            )
    return layer


def as_input(layer: Any, x: Any, seed: int) -> "Tensor":
    """The input as a tensor that the layer takes; random numbers where there is none."""
    import torch

    weight = next(layer.parameters(), None)
    dtype = weight.dtype if weight is not None else torch.float32
    if x is None:
        size = getattr(layer, "input_size", None)
        if not isinstance(size, int):
            raise ValueError(
                f"a {type(layer).__name__} does not say how wide its input is: give x, what it should read"
            )
        return torch.randn(20, size, generator=generator(seed)).to(dtype)
    try:
        given = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"x: numbers belong here, (T, D) or a batch of such, not a {type(x).__name__}: {error}"
        ) from None
    if hasattr(layer, "input_size") and not given.is_complex():
        given = given.to(dtype)  # whole numbers are features here; to a language model they are tokens
    if not given.isfinite().all():
        raise ValueError("x has NaN or inf in it: from that step on every gate would be NaN. Fill or drop these values")
    return given if weight is None else given.to(weight.device)


def panels_of(part: "Part", units: Sequence[int] | None, row: int) -> list[dict[str, Any]]:
    """What is shown of a part of a trace: for each panel its lines over time, one a unit."""
    if not len(part):
        raise ValueError("there is nothing to show: the layer took no step")
    some = next(iter(part.values()))
    if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < some.shape[0]:
        raise ValueError(f"row={row!r} is not there: the batch has rows 0 to {some.shape[0] - 1}")
    found = []
    for name, label, read in PANELS.get(part.cell, plain_panels(part)):
        if name not in ("i", "f", "o") or name in part:  # the LSTM of 1997 has no f, a bare mLSTM cell no o
            values = read(part)[row].flatten(1).double().cpu()
            found.append((name, label, values))
    widest = max(values.shape[1] for *_, values in found)
    if units is not None and not isinstance(units, Sequence):
        raise ValueError(f"units={units!r}: a list of units belongs here, such as [0, 2]")
    chosen = list(range(min(3, widest))) if units is None else list(units)
    for unit in chosen:
        whole("unit", unit, 0, widest - 1)
    if not 1 <= len(chosen) <= len(LINES):
        raise ValueError(f"units={chosen}: from 1 to {len(LINES)} can be told apart in one picture")
    panels = []
    for name, label, values in found:
        word = "unit" if values.shape[1] == widest else "head"  # the mLSTM's i and f
        lines = {f"{word} {unit}": values[:, unit].tolist() for unit in chosen if unit < values.shape[1]}
        panels.append({"name": name, "label": label, "lines": lines or {f"{word} 0": values[:, 0].tolist()}})
    return panels


def plain_panels(part: "Part") -> "tuple[tuple[str, str, Callable[[Part], Tensor]], ...]":
    """Of a cell we do not know: its quantities with a number or a vector a head, pre-activations aside."""
    names = [name for name, value in part.items() if value.dim() <= 4 and not name.endswith("_pre")]
    return tuple((name, name, lambda part, name=name: part[name]) for name in names)


def draw_gates(figure: "Figure", lesson: Lesson) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator

    columns = lesson.series["columns"]
    given = lesson.series.get("input")
    panels = len(columns[0]["panels"]) + (given is not None)
    axes = figure.subplots(panels, len(columns), squeeze=False, sharex=True)
    for at, column in enumerate(columns):
        below = list(axes[:, at])
        below[0].set_title(column["title"])
        if given is not None:
            draw_numbers(below.pop(0), given, lesson.series)
        for axis, panel in zip(below, column["panels"], strict=True):
            draw_panel(axis, panel, lesson.series if given is not None else None)
        axes[-1, at].set_xlabel("step")
        steps = range(1, len(given) + 1) if given is not None else None
        axes[-1, at].xaxis.set_major_locator(MaxNLocator(integer=True) if steps is None else FixedLocator(steps))
    for axis in axes[:-1].flat:
        axis.tick_params(bottom=False)
    for at in range(len(columns)):
        figure.align_ylabels(axes[:, at])


def draw_numbers(axis: "Axes", numbers: list[float], series: dict[str, Any]) -> None:
    """The numbers that pass by, those to remember in black."""
    steps = range(1, len(numbers) + 1)
    colours = [BLACK if t in series["store"] else "#bbbbbb" for t in steps]
    axis.bar(list(steps), numbers, color=colours, width=0.7)
    axis.axhline(0, color=GREY, linewidth=0.6)
    axis.set_ylim(-1.15, 1.6)
    axis.set_ylabel("number read")
    for t, name in flagged(series):
        axis.axvspan(t - 0.5, t + 0.5, color=PALE, zorder=0)
        axis.text(t, 1.58, name, ha="center", va="top", fontweight="bold")


def flagged(series: dict[str, Any]) -> list[tuple[int, str]]:
    return [*((t, "store") for t in series["store"]), (series["ask"], "ask")]


def draw_panel(axis: "Axes", panel: dict[str, Any], series: dict[str, Any] | None) -> None:
    finite = [x for values in panel["lines"].values() for x in values if math.isfinite(x)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    gate = panel["name"] in ("i", "f", "o", "r", "z") and high <= 1
    ends = []
    for (name, values), (colour, dash) in zip(panel["lines"].items(), LINES, strict=False):
        steps = range(1, len(values) + 1)
        axis.plot(list(steps), values, color=colour, linestyle=dash, marker="o", markersize=2.6, linewidth=1.3)
        ends.append((values[-1], name, colour))
    axis.set_ylabel(panel["label"])
    if gate and low >= 0:
        axis.set_ylim(-0.08, 1.08)
        axis.set_yticks([0, 0.5, 1])
    elif low > 0 and high > 50 * low:
        axis.set_yscale("log")
        axis.minorticks_off()
        axis.set_ylabel(f"{panel['label']}\n(log scale)")
    else:
        axis.axhline(0, color=GREY, linewidth=0.6)
    if len(ends) > 1:
        label_ends(axis, 1, [end for end in ends if math.isfinite(end[0])], apart=0.16)
    if series is not None:
        for t, _ in flagged(series):
            axis.axvspan(t - 0.5, t + 0.5, color=PALE, zorder=0)
        if panel["name"] == "y":
            wanted = series["input"][series["store"][-1] - 1]
            axis.plot(series["ask"], wanted, marker="o", markersize=8, markerfacecolor="none", color=RED)
            axis.annotate(
                "the last marked number", (series["ask"], wanted), xytext=(-7, 0), textcoords="offset points",
                ha="right", va="center", color=RED,
            )  # fmt: skip
            axis.set_ylim(-1.15, 1.15)
