"""What of a layer is shown: chosen units, steps and heads, and the words for it. Not yet a formula."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longshort.byhand.from_layer.sources import Source
from longshort.byhand.graph import LARGEST, Given

if TYPE_CHECKING:
    from torch import Tensor

WHOLE, FIRST = 3, 2
"""A layer of so many units is shown whole; of a larger one the first so many."""
MOST_INPUTS, MOST_UNITS = 6, 12
NAMES = {"rnn": "RNN", "lstm": "LSTM", "slstm": "sLSTM", "mlstm": "mLSTM"}
FOLDED = "What is given as a holds all that is not shown: the inputs, the biases, and the other units, step by step."
FROM_INPUTS = "Query, key, value and gates are given as they come out of the inputs, which are not shown."
FROM_BELOW = "x is what the layer below puts out."
TWO_BIASES = "The layer keeps two biases, bias_ih and bias_hh; b is their sum."


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What of it is shown."""

    units: list[int]
    """Counted through all heads."""
    outputs: list[int]
    """What is shown of h: the units, or entries of the projection."""
    steps: int
    whole: bool
    """Whether nothing is left out, so that inputs and weights can be shown."""


def some(what: str, asked: Any, among: int) -> list[int]:
    """Chosen numbers below `among`: those asked for, or all of few, or the first."""
    if asked is None:
        return list(range(among if among <= WHOLE else FIRST))
    asked = list(asked) if isinstance(asked, list | tuple | range) else asked
    fine = isinstance(asked, list) and all(isinstance(u, int) and not isinstance(u, bool) for u in asked)
    if not fine or not asked or len(set(asked)) != len(asked):
        raise ValueError(f"{what}={asked!r}: a list of different whole numbers, such as [0, 1]")
    if outside := [each for each in asked if not 0 <= each < among]:
        raise ValueError(f"{what}: {outside[0]} is not there; there are {among}, 0 to {among - 1}")
    if len(asked) > MOST_UNITS:
        raise ValueError(f"{what}: {len(asked)} are no work for a pencil; choose at most {MOST_UNITS}")
    return asked


def steps_shown(source: Source, steps: Any) -> int:
    there = len(source.steps(next(iter(source.part))))
    if steps is None:
        return min(3, there)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps={steps!r}: a whole number from 1 on")
    if steps > there:
        raise ValueError(f"steps={steps}, and the sequence has {there}: give a longer one, or take fewer steps")
    if steps > LARGEST["T"]:
        raise ValueError(f"steps={steps}: at most {LARGEST['T']}; more are no work for a pencil")
    return steps


def head_of(source: Source, head: Any) -> int | None:
    if head is None:
        return None
    if not isinstance(head, int) or isinstance(head, bool) or not 0 <= head < source.heads:
        raise ValueError(f"head={head!r} is not there; there are {source.heads}, 0 to {source.heads - 1}")
    return head


def chosen(source: Source, units: Any, steps: Any, head: Any) -> Choice:
    """What is shown of an RNN, LSTM or sLSTM."""
    head = head_of(source, head)
    memory = "c" if "c" in source.part else "h"
    width, outputs = source.width(memory), source.width("h")
    each = width // source.heads
    offset, among = (0, width) if head is None else (head * each, each)
    shown = [offset + unit for unit in some("units", units, among)]
    projected = outputs != width
    per_head = outputs // source.heads
    h_shown = shown
    if projected:
        h_offset, h_among = (0, outputs) if head is None else (head * per_head, per_head)
        h_shown = [h_offset + k for k in some("outputs", None, h_among)]
    count = steps_shown(source, steps)
    small = source.x is not None and source.x.shape[-1] <= MOST_INPUTS
    whole = small and sorted(shown) == list(range(width)) and len(h_shown) == outputs
    return Choice(units=shown, outputs=h_shown, steps=count, whole=whole)


def dense(source: Source, gate: int) -> "Tensor":
    """A gate's recurrent matrix over all heads, (N * H, N * P): blocks along the diagonal."""
    import torch

    assert source.R is not None
    return torch.block_diag(*source.R[gate])


def listed(numbers: list[int]) -> str:
    words = [str(each) for each in numbers]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def title(source: Source, units: list[int], width: int) -> str:
    shown = "" if len(units) == width else f": unit{'s' * (len(units) > 1)} {listed(units)} of {width}"
    return f"Your {NAMES[source.cell]} by hand" + shown


def about(source: Source, choice: Choice, *more: str) -> tuple[str, ...]:
    """Where the numbers are from."""
    steps = "step 1" if choice.steps == 1 else f"steps 1 to {choice.steps}"
    from_where = f"From {source.label}: {steps}, units counted from 0. Every number is the layer's own."
    folded = FROM_INPUTS if source.cell == "mlstm" else FOLDED
    if not choice.whole:
        return (from_where, folded, *more, *source.notes)
    two = [TWO_BIASES] * (source.cell in ("rnn", "lstm") and source.b is not None)
    return (from_where, *more, *[FROM_BELOW] * source.on_top, *two, *source.notes)


def given_steps(name: str, *shape: str, symbol: str = "", about: str = "") -> Given:
    """Numbers given at every step: what is not shown contributes them."""
    return Given(name=name, symbol=symbol or name, shape=shape, role="rest", each_step=True, about=about)


def rest(source: Source, gate: int, traced: str, choice: Choice) -> "Tensor":
    """What a pre-activation is made of but for the shown units' h of the step before: (steps, units)."""
    R = dense(source, gate)[choice.units][:, choice.outputs]
    return (source.flat(traced, choice.units) - source.before("h", choice.outputs) @ R.T)[: choice.steps]


def starts(source: Source, names: Mapping[str, str], choice: Choice) -> dict[str, Any]:
    """The start of each shown unit, by the exercise's name for it."""
    values = {}
    for ours, traced in names.items():
        units = choice.outputs if traced == "h" else choice.units
        values[ours] = source.part.start[traced][0].detach().flatten()[units].tolist()
    return values
