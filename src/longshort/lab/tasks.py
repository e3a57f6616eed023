"""Tasks with a known answer, as pure functions of (seed, step): parity, and recall of pairs. Not corpora: see data.py.

A *task* is a source of training rows, a source of longer or fresh rows to test on, and the share that guessing gets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longshort.shapes import Int

UNSCORED = -100
"""The target of a position that asks nothing: what `cross_entropy` ignores."""


class Batch(NamedTuple):
    """Rows of a task: what the model reads, and what it should say at each position, or -100."""

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]


def parity(rows: int, *, shortest: int = 3, longest: int = 40, seed: int, step: int) -> Batch:
    """Running parity: at every position, whether the ones so far are odd in number.

    Each row has its own length, drawn from `shortest` to `longest`; beyond it nothing is scored.

        tokens    1  0  1  1  0  |  0    0
        targets   1  1  0  1  1  | -100 -100
    """
    rng = np.random.default_rng([seed, step])
    lengths = rng.integers(shortest, longest + 1, size=(rows, 1))
    inside = np.arange(longest) < lengths
    bits = rng.integers(0, 2, size=(rows, longest)) * inside
    targets = np.where(inside, bits.cumsum(1) % 2, UNSCORED)
    return Batch(torch.from_numpy(bits), torch.from_numpy(targets))


def recall(rows: int, *, pairs: int = 16, keys: int = 64, values: int = 64, seed: int, step: int) -> Batch:
    """Associative recall: pairs of key and value, then every key once more, to be answered with its value.

    A row's keys differ from each other; its values may repeat. Keys are the tokens below `keys`, values those from
    there on; the questions come in an order of their own. After MQAR (Arora et al. 2023, arXiv 2312.04927).

    With keys a b c and values X Y:

        tokens    a    X    b    Y    c    X   |  b  c  a
        targets  -100 -100 -100 -100 -100 -100 |  Y  X  X
    """
    rng = np.random.default_rng([seed, step])
    key = rng.permuted(np.tile(np.arange(keys), (rows, 1)), axis=1)[:, :pairs]
    value = keys + rng.integers(0, values, size=(rows, pairs))
    shown = np.stack([key, value], 2).reshape(rows, 2 * pairs)
    asked = rng.permuted(np.tile(np.arange(pairs), (rows, 1)), axis=1)
    tokens = np.concatenate([shown, np.take_along_axis(key, asked, 1)], 1)
    targets = np.concatenate([np.full_like(shown, UNSCORED), np.take_along_axis(value, asked, 1)], 1)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(targets))


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to train on, what to test on, and how to read the result."""

    name: str
    vocab_size: int
    chance: float
    """The accuracy of guessing."""
    train: Callable[..., Batch]
    """`train(rows, seed=, step=)`: training rows."""
    test: Callable[..., Batch]
    """`test(rows, seed=, step=)`: rows to test on."""
    spans: dict[str, tuple[int, int]]
    """Stretches of positions to average over, the first position being 1 and both ends included."""

    def scaled(self, accuracy: float) -> float:
        """The accuracy over guessing: 0 is chance, 1 is perfect."""
        return (accuracy - self.chance) / (1 - self.chance)


def parity_task(longest: int = 40, tested: int = 256) -> Task:
    """Train on lengths from 3 to `longest`; test on rows of `tested`, whose every prefix is a row of its length."""
    return Task(
        name="parity",
        vocab_size=2,
        chance=0.5,
        train=partial(parity, shortest=3, longest=longest),
        test=partial(parity, shortest=tested, longest=tested),
        spans={f"length 3-{longest}": (3, longest), f"length {longest + 1}-{tested}": (longest + 1, tested)},
    )


def recall_task(pairs: int = 16, keys: int = 64, values: int = 64) -> Task:
    """Train and test on rows of `pairs` pairs and as many questions."""
    rows = partial(recall, pairs=pairs, keys=keys, values=values)
    return Task(
        name="recall",
        vocab_size=keys + values,
        chance=1 / values,
        train=rows,
        test=rows,
        spans={f"{pairs} pairs": (2 * pairs + 1, 3 * pairs)},
    )
