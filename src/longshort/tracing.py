"""`longshort.trace`: every named quantity of a run, by layer, direction, head and step; a dict, a table, JSON, a plot.

The run itself is traced: the reference records each step as it computes it, and nothing here computes on its own.
Where nobody traces, nothing is recorded.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from longshort.cells.loop import clean, steps_within
from longshort.functional import Call, watch
from longshort.layers.frame import Layer, backwards

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Part(Mapping[str, Tensor]):
    """What one direction of one layer did: quantities by name, each (B, T, N, ...), N heads.

    Time runs as in the input, for a reversed direction too. Past a row's length everything is 0. In sLSTM and mLSTM i
    and f are what the stabilised memory is multiplied with, the paper's i' and f'; the gates by themselves are
    exp(i_pre) and exp(log_f).
    """

    cell: str
    """"lstm", "slstm", ..., or the class of a cell of your own."""
    start: dict[str, Tensor]
    """The state it began with: the last of the reversed direction's time axis."""
    quantities: dict[str, Tensor]
    lengths: Tensor | None = None

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.items())
        return f"Part({self.cell}: {shapes})"

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.quantities:
            raise KeyError(f"{self.cell} has no quantity {name!r}; it has {', '.join(self.quantities)}")
        return self.quantities[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.quantities)

    def __len__(self) -> int:
        return len(self.quantities)


@dataclass(frozen=True, repr=False)
class Trace:
    """A run seen from inside: `trace["l0"]["i"]` is the input gate of layer 0 at every step, (B, T, N, H).

    The parts of a layer are named "l0", "l0_reverse", "l1", ...; those of a model by its modules, "blocks.0.mixer".
    """

    output: Any
    """What the module returned first: y, or a model's logits."""
    state: Any
    """What it returned besides: the last state."""
    parts: dict[str, Part]

    def __repr__(self) -> str:
        return "Trace(" + "\n      ".join(f"{name}: {part}" for name, part in self.parts.items()) + ")"

    def __getitem__(self, part: str) -> Part:
        if part not in self.parts:
            raise KeyError(f"this trace has no part {part!r}; it has {', '.join(self.parts)}")
        return self.parts[part]

    def to_dict(self) -> dict[str, dict[str, Tensor]]:
        """Every part's quantities by name."""
        return {name: dict(part) for name, part in self.parts.items()}

    def to_json(self, **options: Any) -> str:
        """The same as text, with each part's cell and start; options are `json.dumps`'s. What is not finite is text."""
        parts = {
            name: {"cell": part.cell, "start": plain(part.start), "quantities": plain(part.quantities)}
            for name, part in self.parts.items()
        }
        return json.dumps({"parts": parts, "output": plain(self.output)}, allow_nan=False, **options)

    def table(
        self,
        part: str | None = None,
        *,
        names: list[str] | None = None,
        steps: int | None = None,
        row: int = 0,
        head: int = 0,
        digits: int = 4,
    ) -> str:
        """One row of the batch and one head as text: a line for each quantity of each step, a column for each unit.

        Args:
            part: which; None is the first.
            names: which quantities; None: all.
            steps: only the first so many.
            row: of the batch.
            head: of the cell.
            digits: after the point.
        """
        shown = self.look(part, row, head, names)
        lines = []
        for t in range(len(next(iter(shown.values()))[:steps])):
            for name, value in shown.items():
                for label, numbers in lines_of(name, value[t]):
                    lines.append((str(t), label, *(f"{x:.{digits}f}" for x in numbers)))
        columns = max((len(line) for line in lines), default=2)
        lines = [("step", "quantity", *(f"unit {i}" for i in range(columns - 2))), *lines]
        widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(columns)]
        return "\n".join(
            " ".join(x.ljust(w) if i == 1 else x.rjust(w) for i, (x, w) in enumerate(zip(line, widths, strict=False)))
            for line in lines
        )

    def plot(self, names: list[str] | None = None, part: str | None = None, *, row: int = 0, head: int = 0) -> "Figure":
        """Quantities over time, one picture each: time to the right, a line of colour for each unit. Needs matplotlib.

        Args:
            names: which quantities; None: the gates and the memory.
            part, row, head: as for `table`.
        """
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("plotting needs matplotlib: pip install 'longshort[plot]'") from error
        shown = self.look(part, row, head, names)
        hidden = ("q", "k", "v")
        names = names or [n for n in shown if not n.endswith("_pre") and n not in hidden and shown[n].dim() < 3]
        figure = Figure(figsize=(8, 0.6 + 1.1 * len(names)), layout="constrained")
        axes = figure.subplots(len(names), squeeze=False, sharex=True)[:, 0]
        for axis, name in zip(axes, names, strict=True):
            value = shown[name].reshape(len(shown[name]), -1).float().T
            around = bool((value < 0).any())
            size = value[value.isfinite()].abs().max().item() if value.isfinite().any() else 1.0
            image = axis.imshow(
                value.numpy(),
                aspect="auto",
                interpolation="nearest",
                cmap="RdBu_r" if around else "viridis",
                vmin=-size if around else 0,
                vmax=size or 1,
            )
            axis.set_ylabel(name, rotation=0, ha="right", va="center")
            axis.set_yticks([])
            figure.colorbar(image, ax=axis, pad=0.01)
        axes[-1].set_xlabel("step")
        label = part or next(iter(self.parts))
        figure.suptitle(f"{label} ({self.parts[label].cell}), row {row}, head {head}")
        return figure

    def look(self, part: str | None, row: int, head: int, names: list[str] | None) -> dict[str, Tensor]:
        """One row and one head of a part's quantities, up to the row's end, (T, ...) each, off the graph."""
        chosen = self[part or next(iter(self.parts))]
        if not chosen:
            raise ValueError("there is nothing to show: the traced run took no step")
        B, _, N = next(iter(chosen.values())).shape[:3]
        for name, index, size in (("row", row, B), ("head", head, N)):
            if not -size <= index < size:
                raise ValueError(f"{name}={index} is not there: this part has {size}")
        for name in names or []:
            if name not in chosen:
                raise ValueError(f"there is no quantity {name!r} to show; there are {', '.join(chosen)}")
        end = None if chosen.lengths is None else int(chosen.lengths[row])
        if end == 0:
            raise ValueError(f"there is nothing to show: row {row} has length 0")
        return {name: chosen[name][row, :end, head].detach().cpu() for name in names or chosen}


def trace(module: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Trace:
    """Call `module(x, *args, **kwargs)`, a layer or a model, and keep every quantity of its recurrent cells.

    Every cell runs step by step, whatever kernel it would otherwise take. Gradients are recorded as in any call, so
    a traced quantity can be differentiated.

    Raises:
        ValueError: for a `PackedSequence`: a trace shows rows as they were given, so pass them padded, with `lengths`.
            And for a module in which no cell of longshort ran.

    >>> import longshort
    >>> seen = trace(longshort.sLSTM(3, 5, batch_first=True), torch.zeros(2, 7, 3))
    >>> sorted(seen.parts), seen["l0"]["i"].shape
    (['l0'], torch.Size([2, 7, 1, 5]))
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"trace takes a layer or a model, an nn.Module, got a {type(module).__name__}")
    if isinstance(x, PackedSequence):
        raise ValueError("trace takes a padded batch and `lengths`, not a PackedSequence")
    with torch.compiler.set_stance("force_eager"), watch() as calls, labels(module, calls) as names:
        result = module(x, *args, **kwargs)
    if not calls:
        raise ValueError(
            f"no recurrent cell of longshort ran in this {type(module).__name__}; "
            "torch's own layers show nothing: longshort.LSTM.from_torch(layer) does"
        )
    output, state = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    parts: dict[str, Part] = {}
    counts: dict[str, int] = {}
    for call, name in zip(calls, names, strict=True):
        at = counts[name] = counts.get(name, -1) + 1
        inside = module.get_submodule(name)
        reverse = False
        if isinstance(inside, Layer):
            again, index = divmod(at, len(inside.parts))
            direction = inside.parts[index]
            name = f"{name}.{direction.suffix[1:]}" if name else direction.suffix[1:]
            reverse = direction.reverse
        else:
            again, name = at, name or "cell"
        parts[f"{name}@{again}" if again else name] = part_of(call, reverse)
    return Trace(output, state, parts)


@contextmanager
def labels(module: nn.Module, calls: list[Call]) -> Iterator[list[str]]:
    """The name of the innermost module that made each of `calls`, while this lasts."""
    names: list[str] = []
    inside: list[str] = []

    def book(name: str) -> None:
        names.extend([name] * (len(calls) - len(names)))

    def enter_as(name: str):
        def enter(*_):
            if inside:
                book(inside[-1])  # what the parent called before this child
            inside.append(name)

        return enter

    def leave(*_):
        book(inside.pop())

    hooks = [each.register_forward_pre_hook(enter_as(name)) for name, each in module.named_modules()]
    hooks += [each.register_forward_hook(leave) for each in module.modules()]
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


def part_of(call: Call, reverse: bool) -> Part:
    """A call's quantities, stacked over time, in the input's order."""
    steps = [step if isinstance(step, dict) else step._asdict() for step in call.steps]
    for t, step in enumerate(steps):
        if step.keys() != steps[0].keys():
            odd = ", ".join(sorted(step.keys() ^ steps[0].keys()))
            raise ValueError(f"{call.cell} shows {odd} at some steps and not at others (step {t} differs from step 0)")
    named = {name: [step[name] for step in steps] for name in (steps[0] if steps else [])}
    values = {name: torch.stack(each, 1) for name, each in named.items() if isinstance(each[0], Tensor)}
    values |= call.around
    if call.lengths is not None:
        valid = steps_within(call.lengths, call.length)
        values = {name: clean(value, valid) for name, value in values.items()}
    if reverse:
        values = {name: backwards(value, call.lengths) for name, value in values.items()}
    return Part(call.cell, call.start, values, call.lengths)


def plain(x: Any) -> Any:
    """Tensors, states and dicts of them as lists and numbers; what JSON has no number for, as a string."""
    if isinstance(x, Tensor):
        return plain(x.detach().tolist())
    if isinstance(x, dict):
        return {name: plain(each) for name, each in x.items()}
    if isinstance(x, list | tuple):
        return [plain(each) for each in x]
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x


def lines_of(name: str, value: Tensor) -> Iterator[tuple[str, list[float]]]:
    """A scalar or a vector is one line, a matrix one for each of its rows."""
    if value.dim() < 2:
        yield name, value.reshape(-1).tolist()
    else:
        for i, line in enumerate(value):
            yield from lines_of(f"{name}[{i}]", line)
