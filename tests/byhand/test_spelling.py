"""Formulas and cells spelt out: the numbers in them are the graph's, and every formula has a spelling."""

import re

import pytest

from longshort.byhand import EXERCISES, Cell, exercise
from longshort.byhand.spelling import LATEX, TEXT, TYPST, Speller, show

FIRST = Cell("z_f", 1, (0,))


def test_hints_tell_more_and_more():
    lstm = exercise("lstm")
    assert Speller(lstm).hints(FIRST, lstm.work()) == (
        "z_f₁ = W_f [x₁; h₀] + b_f", "0·1 + (−1)·2 + 0·1 + 0·1 + (−2)·1 + 0", "−4",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "quantity", "t", "text"),
    [
        ("lstm", "C", 1, "C₁ = f₁ ⊙ C₀ + i₁ ⊙ C̃₁"),
        ("lstm", "forget_term", 2, "f₂ ⊙ C₁"),
        ("lstm", "h", None, "h = o ⊙ õ"),
        ("lstm-backward", "dh", 2, "δh₂ = e₂ + 0"),
        ("lstm-backward", "dh", 1, "δh₁ = e₁ + δh←₂"),
        ("slstm", "m", 1, "m₁ = max(log f₁ + m₀, ĩ₁)"),
        ("mlstm", "ratio", 1, "h̃₁ = C₁ q₁ / max(|n₁·q₁|, 1)"),
        ("mlstm", "key", 2, "k₂ = W_k x₂ / √K + b_k"),
    ],
)
def test_equation_reads_as_printed(name, quantity, t, text):
    assert Speller(exercise(name)).equation(quantity, t) == text


@pytest.mark.parametrize("dialect", [TEXT, LATEX, TYPST])
@pytest.mark.parametrize("name", EXERCISES)
def test_every_cell_has_a_spelling_in_every_dialect(name, dialect):
    each = exercise(name)
    numbers, speller = each.work(), Speller(each, dialect)
    for cell in each.cells:
        formula, row, result = speller.hints(cell, numbers)
        assert formula and row and result
        for text in (formula, row):
            assert text.count("(") == text.count(")") and text.count("{") == text.count("}"), text


@pytest.mark.parametrize("name", ["rnn", "lstm", "lstm-backward", "slstm"])
def test_rows_laid_out_work_out_to_the_cell(name):
    """Read as Python, a laid-out row of sums and products gives the unrounded number."""
    each = exercise(name)
    numbers, read = each.work(), 0
    for cell in each.cells:
        row = Speller(each).worked(cell, numbers).replace("−", "-").replace("·", "*")
        if re.fullmatch(r"[-+*/(). \d]+", row):
            assert eval(row) == pytest.approx(numbers.unrounded(cell), abs=1e-9), cell
            read += 1
    assert read > len(each.cells) / 3


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(0.7, 1, "0.7"), (-4.0, 1, "−4"), (-0.04, 1, "0"), (10.0, 0, "10"), (100.0, None, "100"), (1 / 3, None, "0.33333"),
     (float("inf"), 1, "∞"), (float("-inf"), None, "−∞"), (float("nan"), 1, "not a number"), (-1e-7, None, "−1e−07")],
)  # fmt: skip
def test_show_prints_what_a_person_writes(value, decimals, text):
    assert show(value, decimals) == text
