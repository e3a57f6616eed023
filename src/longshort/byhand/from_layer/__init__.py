"""Exercises from one's own model: a trained layer, or a block of a language model, on chosen units and steps.

Every number of such an exercise is the layer's own. A small layer is shown whole. Of a large one some units are shown,
and what everything else contributes (inputs, biases, the other units) is folded into numbers that are given at every
step. Not a trainer, and no arithmetic of its own beyond that folding: the numbers come from `longshort.trace`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from longshort.byhand.from_layer.checkpoint import source_of_checkpoint
from longshort.byhand.from_layer.memory import of_mlstm
from longshort.byhand.from_layer.recurrent import of_lstm, of_rnn, of_slstm
from longshort.byhand.from_layer.shown import NAMES, chosen
from longshort.byhand.from_layer.sources import Source, source_of
from longshort.byhand.graph import Exercise, Rounding

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__all__ = ["exercise_from", "exercise_from_checkpoint"]


def exercise_from(
    layer: "nn.Module",
    x: Any,
    *,
    units: Sequence[int] | None = None,
    steps: int | None = None,
    head: int | None = None,
    part: int | str = 0,
    state: Any = None,
    keys: Sequence[int] | None = None,
    decimals: int | None = None,
) -> Exercise:
    """An exercise whose numbers are a layer's own: `torch.nn.RNN`, `LSTM`; longshort's `RNN`, `LSTM`, `sLSTM`, `mLSTM`.

    A layer of at most 3 units and 6 inputs is shown whole, with its weights; so is one of whose units all are chosen.
    Of any other the chosen units are shown, and what the rest contributes is given at every step. The layer itself is
    left as it is: a copy runs, in float64 and in evaluation mode, whatever precision the layer has.

    Args:
        x: one sequence, as the layer reads it: (T, input_size), or a batch of one; a tensor or nested lists.
        units: the hidden units shown, counted from 0 through the layer, or within `head` if that is given. Of an mLSTM
            they are the columns of a head's values. None: all if there are at most 3, else the first 2.
        steps: how many time steps, up to 16; None: the first 3. A reversed direction begins with the last input.
        head: which head; needed for an mLSTM with several, whose first is taken otherwise.
        part: which layer and direction: its place among them, or its name in a trace, such as "l1_reverse".
        state: where to start, as the layer takes it; None is empty.
        keys: of an mLSTM, which entries of its keys and queries are shown.
        decimals: what is rounded to when worked; None: exact arithmetic.

    Raises:
        ValueError: for a module that is no such layer, a choice that is not there, and weights that are no numbers.

    >>> import torch
    >>> made = exercise_from(torch.nn.LSTM(10, 64), torch.zeros(5, 10), units=[3, 40])
    >>> made.title, made.sizes
    ('Your LSTM by hand: units 3 and 40 of 64', {'H': 2, 'T': 3})
    """
    Rounding(decimals)
    source = source_of(layer, x, part, state)
    return built(source, units, steps, head, keys, decimals)


def exercise_from_checkpoint(
    path: "Path | str",
    *,
    block: int | str | None = None,
    text: str | None = None,
    x: Any = None,
    units: Sequence[int] | None = None,
    steps: int | None = None,
    head: int | None = None,
    keys: Sequence[int] | None = None,
    decimals: int | None = None,
) -> Exercise:
    """An exercise from a saved language model's block that reads a text, or from a saved layer.

    Args:
        path: what `longshort.load` reads, a run's folder or a checkpoint; or a .safetensors file with the state dict of
            a `torch.nn.RNN` or `LSTM`, or of longshort's sLSTM. Pickles are refused.
        block: which block, by its number or as in a trace, "blocks.1.mixer"; None: the first sLSTM, else the first
            LSTM, else mLSTM, else RNN. Of a file with several layers, what stands before their weights' names.
        text: what the model reads, a token a step; None: "The".
        x: what a layer reads, (T, input_size); None: made up, and the exercise says so.
        units, steps, head, keys, decimals: as for `exercise_from`.

    Raises:
        ValueError: as `exercise_from`; and CheckpointError or DataError, which are ValueErrors, for files that are not
            what they should be.
    """
    Rounding(decimals)
    return built(source_of_checkpoint(path, block, text, x, steps), units, steps, head, keys, decimals)


def built(source: Source, units: Any, steps: Any, head: Any, keys: Any, decimals: int | None) -> Exercise:
    """The exercise of a source and what is to be shown of it."""
    if source.cell == "mlstm":
        return of_mlstm(source, units, steps, head, keys, decimals)
    if keys is not None:
        raise ValueError(f"keys={keys!r} are an mLSTM's; this is an {NAMES[source.cell]}: leave them out")
    choice = chosen(source, units, steps, head)
    return {"rnn": of_rnn, "lstm": of_lstm, "slstm": of_slstm}[source.cell](source, choice, decimals)
