"""A recurrent cell of your own as a layer: write one step, and the frame of the built-in layers does the rest."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longshort.cells.loop import detached, run
from longshort.functional import Call, watchers
from longshort.layers.frame import Layer, Part, whole_number
from longshort.shapes import Float


class Cell(nn.Module):
    """One step of a recurrent network of your own, for `Recurrent`: its weights beyond the input's, and `step`.

    Give `gates`, how many pre-activations of hidden_size each step takes, and `State`, a NamedTuple of what is carried,
    with a field h for the output. Fields are (B, hidden_size) and start at 0 unless `start` says otherwise.
    """

    gates: int
    State: Any
    _shown: dict[str, Tensor]

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        state: Any = cls.__dict__.get("State")
        if hasattr(state, "_fields"):  # states travel, and are detached, as the built-in ones
            if "." not in state.__qualname__ and not hasattr(sys.modules[cls.__module__], state.__qualname__):
                state.__qualname__ = f"{cls.__qualname__}.State"  # NamedTuple("Any name", ...): where pickle finds it
            torch.serialization.add_safe_globals([state])
            state.detach = detached

    def __init__(self, hidden_size: int | None = None):
        super().__init__()
        self._shown = {}

    def start(self, zeros: Float[Tensor, "B H"]) -> Any:
        """The empty state, made from `zeros` (B, hidden_size): its shapes are what the state's fields always have."""
        return self.State(*[zeros] * len(self.State._fields))

    def step(self, x_pre: Float[Tensor, "B G H"], state: Any) -> tuple[Float[Tensor, "B H"], Any]:
        """One time step: the output h, which is the new state's h too, and that state. `x_pre` is W x + b."""
        raise NotImplementedError(f"{type(self).__name__} must define step(self, x_pre, state)")

    def show(self, **quantities: Tensor) -> None:
        """Name quantities of this step, (B, ...), for `longshort.trace`."""
        if watchers():
            for name in quantities:
                if name in ("x_pre", *self.State._fields):
                    raise ValueError(f"show({name}=...): a trace has {name} already; take another name")
            self._shown |= quantities


class Recurrent(Layer):
    """A cell of your own as a layer: called like `torch.nn.LSTM`, with all that the built-in layers do.

    `Recurrent(MyCell, input_size, hidden_size, ...)` makes one `MyCell(hidden_size)` for every direction of every layer
    (`cell_l0`, `cell_l0_reverse`, ...), and maps the input to its gates with `weight_ih_l0` (gates * hidden, input) and
    `bias_l0`. The state is the cell's own `State` with a leading axis num_layers * directions.

    It runs the cell's `step` in a Python loop, so torch.compile unrolls it: each new length compiles anew. It computes
    in the weights' dtype: in 16 bits the state is kept in 16 bits too.

    >>> from typing import NamedTuple
    >>> class Leaky(Cell):
    ...     gates, State = 1, NamedTuple("State", [("h", Tensor)])
    ...     def step(self, x_pre, state):
    ...         h = 0.9 * state.h + 0.1 * torch.tanh(x_pre[:, 0])
    ...         return h, self.State(h)
    >>> y, state = Recurrent(Leaky, 3, 5, batch_first=True)(torch.zeros(2, 7, 3), lengths=[7, 4])
    >>> y.shape, state.h.shape
    (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]))
    """

    gates: int
    cell: Callable[[int], Cell]

    def __init__(
        self,
        cell: Callable[[int], Cell],
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype, cell=cell
        )

    def add_weights(self, device, dtype) -> None:
        with torch.device(device) if device is not None else nullcontext():
            if not callable(self.cell) or isinstance(self.cell, nn.Module):
                got = f"a {type(self.cell).__name__}" if isinstance(self.cell, nn.Module) else repr(self.cell)
                raise ValueError(f"cell must be a class of cells, called with hidden_size, got {got}")
            try:
                cells = [self.cell(self.hidden_size) for _ in self.parts]
            except TypeError as error:
                told = f"cell must make a cell from hidden_size alone (functools.partial sets the rest): {error}"
                raise ValueError(told) from error
        kind = cells[0]
        if not isinstance(kind, Cell):
            raise ValueError(f"cell must make longshort.Cell objects, got a {type(kind).__name__}")
        fields = getattr(getattr(kind, "State", None), "_fields", ())
        if "h" not in fields:
            raise ValueError(f"{type(kind).__name__}.State must be a NamedTuple with a field h, the output")
        whole_number(f"{type(kind).__name__}.gates", getattr(kind, "gates", None), at_least=1)
        self.gates, self.state_type = kind.gates, kind.State
        super().add_weights(device, dtype)
        for part, cell in zip(self.parts, cells, strict=True):
            self.add_module("cell" + part.suffix, cell.to(dtype))

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        rows = self.gates * self.hidden_size
        return {"weight_ih": (rows, input_size)} | ({"bias": (rows,)} if self.bias else {})

    def weights_of(self, part: Part) -> dict[str, Any]:
        return super().weights_of(part) | {"cell": self.get_submodule("cell" + part.suffix)}

    def reset_parameters(self) -> None:
        """The input's weights as `nn.LSTM`'s; a cell draws its own, in its `reset_parameters` if it has one."""
        bound = self.hidden_size**-0.5
        for weight in self.parameters(recurse=False):
            nn.init.uniform_(weight, -bound, bound)
        for cell in self.children():
            if draw := getattr(cell, "reset_parameters", None):
                draw()

    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        weight: Any = self.weight_ih_l0
        zeros = torch.zeros(1, self.hidden_size, dtype=weight.dtype, device=weight.device)
        return tuple(field.shape[1:] for field in self.weights_of(self.parts[0])["cell"].start(zeros))

    def run(self, w: dict[str, Any], x, state, lengths, reset):
        x_pre = F.linear(x, w["weight_ih"], w.get("bias")).unflatten(-1, (self.gates, self.hidden_size))
        cell: Cell = w["cell"]
        zeros = x_pre.new_zeros(x.shape[0], self.hidden_size, dtype=w["weight_ih"].dtype)  # autocast rounds no state
        start = cell.start(zeros)
        state = start if state is None else state
        if 0 in x.shape[:2]:
            return x_pre.new_zeros(*x.shape[:2], self.hidden_size) + 0 * x_pre.sum(), state
        seen = [] if watchers() else None

        def step(x_pre, state):
            cell._shown = {}
            h, after = checked(cell, cell.step(x_pre, state), x_pre, state)
            if seen is not None:
                seen.append(with_one_head({"x_pre": x_pre, **cell._shown, **after._asdict(), "h": h}))
            return h, after

        y, last = run(step, [x_pre], state, start, lengths, reset, whole=seen is not None)
        cell._shown = {}
        for calls in watchers():
            calls.append(Call(type(cell).__name__, with_one_head(state._asdict()), x.shape[1], lengths, seen or []))
        return y.to(x_pre.dtype), last


def checked(cell: Cell, answer: Any, x_pre: Float[Tensor, "B G H"], state: Any) -> tuple[Tensor, Any]:
    """What a step of someone's own gave, once it is what it should be."""
    name, shape = type(cell).__name__, x_pre[:, 0].shape
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], cell.State)):
        parts = ", ".join(type(x).__name__ for x in answer) if type(answer) is tuple else type(answer).__name__
        raise ValueError(f"{name}.step must return (h, {name}.State(...)), got {parts}")
    h, after = answer
    if not isinstance(h, Tensor) or h.shape != shape:
        got = tuple(h.shape) if isinstance(h, Tensor) else type(h).__name__
        raise ValueError(f"{name}.step must return h of shape (B, hidden_size) = {tuple(shape)}, got {got}")
    if after.h is not h:
        raise ValueError(f"{name}.step must return the new state's h as its output: return h, {name}.State(h, ...)")
    for field, new, old in zip(state._fields, after, state, strict=True):
        if new.shape != old.shape:
            raise ValueError(f"{name}.step gave state.{field} of shape {tuple(new.shape)}; it was {tuple(old.shape)}")
    return h, after


def with_one_head(quantities: dict[str, Tensor]) -> dict[str, Tensor]:
    """(B, ...) as (B, N, ...): what a trace looks at has heads."""
    return {name: each.unsqueeze(1) for name, each in quantities.items()}
