"""Rounding, steps, checks of what an exercise is given, and exercises as plain data."""

import json
import math
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshort.byhand import EXERCISES, Cell, Exercise, Rounding, by_hand, exact, exercise


@pytest.mark.parametrize(
    ("value", "decimals", "rounded"),
    [(0.25, 1, 0.3), (-0.25, 1, -0.3), (0.05, 1, 0.1), (-0.04, 1, 0.0), (5.8, 1, 5.8), (2.5, 0, 3.0), (-0.5, 0, -1.0),
     (1.005, 2, 1.01), (0.15 - 1e-14, 1, 0.2), (0.15 - 1e-11, 1, 0.1), (1e300, 3, 1e300), (123456.75, 1, 123456.8)],
)  # fmt: skip
def test_rounding_takes_halves_away_from_zero_and_ties_at_twelve_digits(value, decimals, rounded):
    assert Rounding(decimals)(value) == rounded


def test_rounding_never_gives_minus_zero():
    for value in (-0.0, -0.04, -1e-300):
        assert math.copysign(1, by_hand(value)) == 1


def test_rounding_leaves_what_is_not_finite():
    assert by_hand(math.inf) == math.inf and by_hand(-math.inf) == -math.inf and math.isnan(by_hand(math.nan))


@given(st.integers(-(10**7), 10**7), st.integers(0, 4))
def test_rounding_agrees_with_decimal_arithmetic(thousandths, decimals):
    wanted = Decimal(thousandths).scaleb(-3).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)
    assert Rounding(decimals)(thousandths / 1000) == float(wanted)


@given(st.floats(-1e6, 1e6), st.integers(0, 6))
def test_rounding_twice_is_rounding_once(value, decimals):
    rounding = Rounding(decimals)
    assert rounding(rounding(value)) == rounding(value)
    assert abs(rounding(value) - value) <= 0.5 * 10**-decimals * (1 + 1e-9) + abs(value) * 1e-11


def test_rounding_exact_changes_nothing():
    assert exact(1 / 3) == 1 / 3


@pytest.mark.parametrize("decimals", [-1, 10, 1.5, True, "1"])
def test_rounding_refuses_other_than_few_decimals(decimals):
    with pytest.raises(ValueError, match="decimals="):
        Rounding(decimals)


def test_rounding_says_its_rule():
    assert "1 decimal " in str(by_hand) and "2 decimals" in str(Rounding(2)) and "Exact" in str(exact)
    assert "whole number" in str(Rounding(0))


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise_is_the_same_after_plain_data(name):
    before = exercise(name)
    after = Exercise.from_dict(json.loads(before.to_json()))
    assert after == before
    assert after.work().found == before.work().found


@pytest.mark.parametrize("name", EXERCISES)
def test_every_quantity_is_worked_once_at_each_of_its_steps(name):
    each = exercise(name)
    assert len(set(each.cells)) == len(each.cells)
    for quantity in each.quantities:
        times = {cell.t for cell in each.cells if cell.name == quantity.name}
        assert times == (set(range(1, each.sizes["T"] + 1)) if quantity.each_step else {0}), quantity.name


@pytest.mark.parametrize("name", EXERCISES)
def test_shapes_that_are_written_are_those_of_the_formulas(name):
    each = exercise(name)
    for quantity in each.quantities:
        assert each.scope.shape(quantity.tree) == each.shape(quantity.name), quantity.name


def test_steps_go_backwards_where_gradients_do():
    steps = exercise("lstm-backward").steps
    assert [step.t for step in steps if step.title == "Back into the memory"] == [2, 1]
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))


def test_numbers_value_has_none_where_there_is_no_cell():
    D = exercise("mlstm").work().value("D")
    assert D[0][1] is None and D[0][0] is not None and D[1] == [x for x in D[1] if x is not None]


def test_cell_names_its_place_in_words():
    assert str(Cell("W", 0, (0, 2))) == "W, row 1, column 3"


def test_changed_numbers_leave_the_original_alone():
    each = exercise("lstm")
    other = each.changed(values={"h0": [0, 0]})
    assert each.values["h0"] == [1, 1] and other.values["h0"] == [0, 0] and other.values["C0"] == each.values["C0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": {"D": 0, "H": 2, "T": 3}}, "size D=0: a whole number from 1 to 12"),
        ({"sizes": {"D": 3, "H": 1000, "T": 3}}, "size H=1000"),
        ({"sizes": {"D": 3, "H": 2, "T": 17}}, "from 1 to 16"),
        ({"sizes": {"D": 3, "H": 2.5, "T": 3}}, "size H=2.5"),
        ({"values": {"h0": [1]}}, "h0: 2 entries belong here, not 1"),
        ({"values": {"h0": [1, math.nan]}}, r"h0\[1\]: nan"),
        ({"values": {"W_f": [[0, -1, 0, 0, math.inf], [-2, 0, -2, -2, 0]]}}, r"W_f\[0\]\[4\]: inf"),
        ({"values": {"b_f": [0, "x"]}}, r"b_f\[1\]: a number belongs here, not 'x'"),
        ({"values": {"b_f": [0, True]}}, "a number belongs here, not True"),
        ({"values": {"b_f": 3}}, "b_f: 2 entries belong here, not 3"),
        ({"values": {"q": [1]}}, "unknown: q"),
        ({"decimals": 12}, "decimals=12"),
    ],
)
def test_exercise_refuses_numbers_that_do_not_fit_and_says_which(changes, message):
    with pytest.raises(ValueError, match=message):
        exercise("lstm").changed(**changes)


def test_exercise_refuses_weights_between_heads_and_heads_that_do_not_divide():
    each = exercise("slstm")
    R = [list(row) for row in each.values["R_f"]]
    R[0][3] = 1
    with pytest.raises(ValueError, match=r"R_f\[0, 3\] lies between two heads"):
        each.changed(values={"R_f": R})
    with pytest.raises(ValueError, match="3 heads do not divide 4 units"):
        each.changed(sizes={**each.sizes, "N": 3})


@pytest.mark.parametrize("data", [None, [], {}, {"format": "longshort exercise 2"}, {"format": "longshort exercise 1"}])
def test_from_dict_refuses_other_data_in_words(data):
    with pytest.raises(ValueError, match="exercise"):
        Exercise.from_dict(data)


def test_from_dict_refuses_a_field_too_many():
    data = exercise("rnn").to_dict()
    data["givens"][0]["colour"] = "red"
    with pytest.raises(ValueError, match="not whole"):
        Exercise.from_dict(data)
