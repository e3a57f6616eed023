"""Slips: formulas that fit their place, differ from the right one, and carry the right name."""

import json
import math
from random import Random
from typing import Any

import pytest

from longshort.byhand import EXERCISES, Cell, Exercise, exact, exercise
from longshort.byhand.formulas import compute
from longshort.byhand.slips import SLIPS, slip_trees, used_cells


def with_random_numbers(ours: Exercise, seed: int = 0) -> Exercise:
    """The same exercise with other numbers, none of them 0."""
    random = Random(seed)

    def other(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [other(each) for each in value]
        return round(random.uniform(0.1, 1.2), 2) * random.choice((-1, 1))

    values = {}
    for given in ours.givens:
        value = ours.values[given.name]
        if given.name != "eps" and not given.name.endswith("n0"):
            value = other(value)
        if given.blocks:
            value = [
                [number if ours.exists(given.name, (i, j)) else 0 for j, number in enumerate(row)]
                for i, row in enumerate(value)
            ]
        values[given.name] = value
    return ours.changed(values=values)


def named(name: str, quantity: str) -> dict[str, list]:
    """The slips of a quantity: trees by clause."""
    found: dict[str, list] = {}
    for clause, tree in slip_trees(exercise(name))[quantity]:
        found.setdefault(clause, []).append(tree)
    return found


@pytest.mark.parametrize("name", EXERCISES)
def test_slip_trees_fit_their_place_and_need_only_what_stands_by_then(name):
    ours = exercise(name)
    slips = slip_trees(ours)
    assert list(slips) == [each.name for each in ours.quantities]
    assert json.loads(json.dumps(slips)) == {key: [list(each) for each in value] for key, value in slips.items()}
    order = {cell: at for at, cell in enumerate(ours.cells)}
    for cell in ours.cells:
        for clause, tree in slips[cell.name]:
            assert ours.scope.shape(tree) == ours.shape(cell.name), (cell, clause)
            for used in used_cells(ours.scope.cell_tree(tree, cell.index, cell.t)):
                assert ours.given(used[0]) or order[Cell(*used)] < order[cell], (cell, clause, used)


@pytest.mark.parametrize("name", EXERCISES)
def test_slip_trees_give_other_numbers_than_the_formula(name):
    """Each can be told from the right formula somewhere: none is the same thing written differently."""
    unseen = {(quantity, at) for quantity, slips in slip_trees(exercise(name)).items() for at in range(len(slips))}
    for seed in range(20):
        ours = with_random_numbers(exercise(name), seed)
        numbers, slips = ours.work(exact), slip_trees(ours)
        for cell in ours.cells:
            for at, (_, tree) in enumerate(slips[cell.name]):
                if (cell.name, at) in unseen:
                    number = compute(ours.scope.cell_tree(tree, cell.index, cell.t), numbers.at)
                    if not math.isclose(number, numbers.found[cell], rel_tol=1e-9, abs_tol=1e-12):
                        unseen.remove((cell.name, at))
        if not unseen:
            return
    assert not unseen


def test_every_rule_of_the_table_applies_somewhere():
    found = {clause for name in EXERCISES for slips in slip_trees(exercise(name)).values() for clause, _ in slips}
    assert found == {clause for clause, _ in SLIPS}


def test_slips_of_the_lstm_are_those_of_the_lesson():
    z_f = named("lstm", "z_f")
    x, h = ["ref", "x", 0], ["ref", "h", 1]
    zero = ["num", 0.0]
    added = ["+", ["concat", x, ["*", zero, h]], ["concat", h, ["*", zero, x]]]
    assert z_f["x and h are added, not put one below the other"] == [
        ["+", ["@", ["ref", "W_f", 0], added], ["ref", "b_f", 0]]
    ]
    assert z_f["the bias is forgotten"] == [["@", ["ref", "W_f", 0], ["ref", "xh", 0]]]
    assert z_f["i and f are swapped"] == [["+", ["@", ["ref", "W_i", 0], ["ref", "xh", 0]], ["ref", "b_i", 0]]]
    assert named("lstm", "input_term")["o is used for i"] == [["*", ["ref", "o", 0], ["ref", "C_cand", 0]]]
    assert named("lstm", "h")["tanh is left out"] == [["*", ["ref", "o", 0], ["ref", "C", 0]]]
    assert named("lstm", "o_cand")["the number of the step before is used, not this step's"] == [
        ["tanh", ["ref", "C", 1]]
    ]


def test_slips_of_the_slstm_know_the_stabiliser_and_the_two_matrices():
    assert named("slstm", "i")["the stabiliser is skipped"] == [["exp", ["ref", "i_pre", 0]]]
    assert ["exp", ["ref", "log_f", 0]] in named("slstm", "f")["the stabiliser is skipped"]
    assert ["exp", ["-", ["ref", "kept", 0], ["ref", "m", 0]]] in named("slstm", "i")["i and f are swapped"]
    x, h, w = ["ref", "B_norm", 0], ["ref", "B_h", 1], ["ref", "B_W_i", 0]
    assert named("xlstm", "B_i_pre")["x and h are added before they are multiplied"] == [
        ["+", ["@", w, ["+", x, h]], ["ref", "B_b_i", 0]]
    ]


def test_slips_never_touch_the_next_step_but_where_something_comes_back():
    for name in ("rnn", "lstm", "slstm", "mlstm", "xlstm"):
        assert "-1]" not in json.dumps(slip_trees(exercise(name))).replace(" ", "")
    assert named("lstm-backward", "dC")["what the later step hands back is left out"]
