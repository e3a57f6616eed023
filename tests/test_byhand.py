"""The exercise gives the article's numbers under its rounding rule, and the cell's in exact arithmetic."""

import pytest
import torch

from longshort.byhand import article_lstm, by_hand
from longshort.functional import lstm

# Every number the article and the post print for t = 1.
PRINTED = {"z_f": [-4, -6], "f": [0, 0], "z_i": [6, 4], "i": [1, 1], "z_o": [4, -5], "o": [1, 0], "z_c": [1, -6],
           "C~": [0.8, -1], "C": [0.8, -1], "tanh C": [0.7, -0.8]}  # fmt: skip


def test_by_hand_gives_every_number_the_article_prints():
    first = article_lstm().evaluate(by_hand)[0]
    assert {name: first[name] for name in PRINTED} == PRINTED


def test_by_hand_memory_path():
    assert [step["C"] for step in article_lstm().evaluate(by_hand)] == [[0.8, -1], [1.0, -0.7], [0.1, -0.2]]


def test_exact_exercise_equals_the_cell():
    exercise = article_lstm()
    x_pre, R, state = exercise.tensors()
    h, last = lstm(x_pre, R, state)
    for t, step in enumerate(exercise.evaluate()):
        torch.testing.assert_close(h[0, t, 0], torch.tensor(step["h"], dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(last.c[0, 0], torch.tensor(step["C"], dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("value", "rounded"), [(0.25, 0.3), (-0.25, -0.3), (0.05, 0.1), (-0.04, 0.0), (5.8, 5.8)])
def test_by_hand_rounds_half_away_from_zero(value, rounded):
    assert by_hand(value) == rounded
