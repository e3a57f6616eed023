"""A layer as it ran: one direction of one layer, in float64, with all that an exercise is made from.

Not yet an exercise: what of it is shown is chosen in `shown`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from longshort.layers.frame import Layer
    from longshort.tracing import Part


@dataclass(frozen=True, kw_only=True)
class Source:
    """One direction of one layer, as it ran: all that an exercise is made from, in float64."""

    cell: str
    label: str
    part: "Part"
    """Its quantities, in the order of the input's steps."""
    reverse: bool = False
    R: "Tensor | None" = None
    """(G, N, H, P)"""
    proj: "Tensor | None" = None
    """(N, P, H)"""
    W: "Tensor | None" = None
    """(rows, D): the input's weights; None where the input is not shown."""
    b: "Tensor | None" = None
    x: "Tensor | None" = None
    """(T, D): what it read."""
    on_top: bool = False
    """Whether that is what a layer below put out."""
    rows: tuple[int, ...] = ()
    """Of the mLSTM: how many rows of W make q, k, v, i, f and o."""
    forget: str = ""
    nonlinearity: str = "tanh"
    norm: "Tensor | None" = None
    """(N, V): the mLSTM's head-wise norm."""
    eps: float = 0.0
    notes: tuple[str, ...] = ()

    def steps(self, name: str) -> "Tensor":
        """A quantity of the one row, in the direction's own time: (T, N, ...)."""
        value = self.part[name][0].detach()
        return value.flip(0) if self.reverse else value

    def flat(self, name: str, units: list[int]) -> "Tensor":
        """Chosen units of a quantity, heads side by side: (T, units)."""
        return self.steps(name).flatten(1)[:, units]

    def before(self, name: str, units: list[int]) -> "Tensor":
        """The same one step before; at the first step the start's."""
        first = self.part.start[name][0].detach().flatten()[units]
        return first.new_tensor([first.tolist(), *self.flat(name, units)[:-1].tolist()])

    @property
    def heads(self) -> int:
        return next(iter(self.part.values())).shape[2]

    def width(self, name: str) -> int:
        """How many units there are, all heads together."""
        return self.part[name].shape[2] * self.part[name].shape[3]


# ---- a layer, run -------------------------------------------------------------------------------------------------


def source_of(layer: Any, x: Any, part: int | str, state: Any) -> Source:
    """Run a copy of the layer, and keep what one direction of one layer did."""
    import torch

    from longshort.tracing import trace

    ours = float64_copy(layer)
    read = one_sequence(ours, x)
    with torch.no_grad():
        seen = trace(ours, read, None if state is None else widened(state))
    at = place_of(ours, part)
    here = ours.parts[at]
    name = here.suffix[1:]
    below = [seen[each.suffix[1:]] for each in ours.parts if each.layer == here.layer - 1]
    outputs = [(each["y"] if "y" in each else each["h"])[0].flatten(1) for each in below]
    sequence = torch.cat(outputs, -1) if outputs else read.reshape(-1, ours.input_size)
    w = {key: value.detach() for key, value in ours.weights_of(here).items()}
    kind = seen[name].cell
    shapes: dict[str, Any] = {}
    if kind in ("rnn", "lstm"):
        shapes["R"] = ours.recurrent(w)  # type: ignore[operator]
        if "weight_hr" in w:
            shapes["proj"] = w["weight_hr"].unflatten(0, (ours.num_heads, -1))
    elif kind == "slstm":
        shapes["R"] = w["weight_hh"]
    elif "weight_norm" in w:
        shapes["norm"] = w["weight_norm"].unflatten(0, (ours.num_heads, -1))
    bias_of = w.get("bias")
    return Source(
        cell=kind,
        label=f"{type(ours).__name__}({ours.extra_repr()}), {name}",
        part=seen[name],
        reverse=here.reverse,
        W=w["weight_ih"],
        b=w["bias_ih"] + w["bias_hh"] if "bias_ih" in w else bias_of,
        x=sequence.flip(0) if here.reverse else sequence,
        rows=tuple(getattr(ours, "rows", ())),
        on_top=bool(outputs),
        forget=getattr(ours, "forget", ""),
        nonlinearity=getattr(ours, "nonlinearity", "tanh"),
        eps=1e-6 if "norm" in shapes else 0.0,
        notes=notes_of(layer, here.reverse),
        **shapes,
    )


def notes_of(layer: Any, reverse: bool) -> tuple[str, ...]:
    """What a reader of the exercise should know of the layer."""
    dtype = str(next(layer.parameters()).dtype).removeprefix("torch.")
    notes = [f"Worked in float64; the layer itself has {dtype} and rounds a little differently."] * (dtype != "float64")
    if reverse:
        notes.append("This direction reads the sequence from its end: t = 1 is the last input.")
    return tuple(notes)


def float64_copy(layer: Any) -> "Layer":
    """The layer as one of ours, in float64, on the CPU, in evaluation mode. Says what is wrong with it otherwise."""
    import warnings
    from copy import deepcopy

    import torch
    from torch import nn

    from longshort.layers import GRU, LSTM, RNN, mLSTM, sLSTM

    if not isinstance(layer, nn.Module):
        raise ValueError(f"a layer is needed, an nn.Module, got a {type(layer).__name__}")
    if isinstance(layer, nn.GRU | GRU | nn.GRUCell):
        raise ValueError("there is no GRU exercise yet; there are RNN, LSTM, sLSTM and mLSTM")
    kinds = {nn.RNN: RNN, nn.LSTM: LSTM}
    known = (nn.RNN, nn.LSTM, RNN, LSTM, sLSTM, mLSTM)
    if not isinstance(layer, known):
        raise ValueError(no_layer(layer, known))
    check_weights(layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a dropout without effect: the layer was built with it
        ours = next((to.from_torch(layer) for of, to in kinds.items() if isinstance(layer, of)), None)
        return (ours or deepcopy(layer)).to("cpu", torch.float64).requires_grad_(False).eval()  # type: ignore


def check_weights(module: Any) -> None:
    """Every weight is a number."""
    import torch

    for name, value in module.named_parameters():
        if value.is_meta:
            raise ValueError(f"{name} is on the meta device and holds no numbers: load the weights first")
        if not (good := torch.isfinite(value.detach())).all():
            at = (~good).nonzero()[0].tolist()
            raise ValueError(f"{name} holds {value[tuple(at)].item()} at {at}: with such weights there is no exercise")


def no_layer(module: Any, known: tuple[type, ...]) -> str:
    """What is wrong with a module that is no recurrent layer: what it holds, or what would be right."""
    inside = {name: type(each).__name__ for name, each in module.named_modules() if name and isinstance(each, known)}
    kind = type(module).__name__
    if not inside:
        more = " of a saved language model make one with exercise_from_checkpoint(folder)" * kind.startswith("xLSTM")
        return (
            f"{kind} is no recurrent layer, and holds none that an exercise can be made from; those are torch.nn.RNN "
            f"and LSTM, and longshort.RNN, LSTM, sLSTM and mLSTM" + (f";{more}" if more else "")
        )
    listed = ", ".join(f"{name} ({each})" for name, each in inside.items())
    return (
        f"{kind} is not a recurrent layer but holds {len(inside)}: {listed}. Give one of them, such as "
        f"model.{next(iter(inside))}, and the sequence that it reads"
    )


def one_sequence(ours: "Layer", x: Any) -> "Tensor":
    """The input in float64: one sequence, with or without a batch axis."""
    import torch

    if isinstance(x, torch.nn.utils.rnn.PackedSequence):
        raise ValueError("x is a PackedSequence; give one row of it as a tensor (T, input_size)")
    try:
        read = torch.as_tensor(x).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"x should be a tensor or nested lists of numbers, (T, input_size): {error}") from None
    ours.check_x(read)
    batch = 0 if ours.batch_first else 1
    if read.dim() == 3 and read.shape[batch] != 1:
        raise ValueError(f"x has {read.shape[batch]} rows, and an exercise is of one: give one, (T, input_size)")
    if not torch.isfinite(read).all():
        raise ValueError(f"x holds {read[~torch.isfinite(read)][0].item()}: there is no exercise on it")
    return read


def widened(state: Any) -> Any:
    """A state in float64."""
    import torch

    if isinstance(state, torch.Tensor):
        return state.detach().as_subclass(torch.Tensor).to("cpu", torch.float64)
    if isinstance(state, list | tuple):
        parts = [widened(each) for each in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


def place_of(ours: "Layer", part: Any) -> int:
    names = [each.suffix[1:] for each in ours.parts]
    if part in names:
        return names.index(part)
    if isinstance(part, int) and not isinstance(part, bool) and 0 <= part < len(names):
        return part
    raise ValueError(f"part={part!r} is not there; the layer has {', '.join(names)} (0 to {len(names) - 1})")
