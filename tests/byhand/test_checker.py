"""The checker: right sheets of every kind are right, and a planted slip is found where it was planted, by its name."""

import json
import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshort.byhand import EXERCISES, Cell, Exercise, Numbers, Rounding, exact, exercise
from longshort.byhand.checker import (
    EXACT,
    METHOD,
    RIGHT,
    UNANSWERED,
    VERDICTS,
    WRONG,
    Report,
    answers_of,
    blank_answers,
    check,
    near,
    places_of,
    slip_trees,
)
from longshort.byhand.formulas import Tree, compute
from longshort.byhand.generator import generate

LSTM_BIASED = exercise("lstm").changed(values={"b_f": [1, -1], "b_i": [-4, 2], "b_c": [0.5, 3], "b_o": [-2, 4]})
SHEETS: dict[str, Callable[[], Exercise]] = {
    **EXERCISES,
    "lstm with biases": lambda: LSTM_BIASED,
    "lstm, exact": lambda: exercise("lstm").changed(decimals=None),
    "lstm, 3 decimals": lambda: exercise("lstm").changed(decimals=3),
    "new rnn": lambda: generate("rnn", 1, H=3),
    "new lstm": lambda: generate("lstm", 2, T=2),
    "new slstm": lambda: generate("slstm", 3, T=2, H=2, N=1),
    "new mlstm": lambda: generate("mlstm", 4),
}


def sheet(name: str) -> Exercise:
    return SHEETS[name]()


Slip = tuple[str, int, Tree]
"""In which quantity, at which step, and what is worked out instead."""


def worked(ours: Exercise, write: Callable[[Cell, float], float], slip: Slip | None = None) -> Numbers:
    """A sheet worked by someone: `write` says what of a number is written down and carried on."""
    found: dict[Cell, float] = {}
    numbers = Numbers(ours, exact, found)
    for cell in ours.cells:
        tree = ours.cell_tree(cell)
        if slip and slip[:2] == (cell.name, cell.t):
            tree = ours.scope.cell_tree(slip[2], cell.index, cell.t)
        found[cell] = write(cell, compute(tree, numbers.at))
    return numbers


def rule(decimals: int | None) -> Callable[[Cell, float], float]:
    rounding = Rounding(decimals)
    return lambda cell, number: rounding(number)


def written_rounded(numbers: Numbers, decimals: int | None) -> Numbers:
    """The numbers of someone who rounds on paper, but not in the calculator."""
    rounding = Rounding(decimals)
    return Numbers(numbers.exercise, exact, {cell: rounding(number) for cell, number in numbers.found.items()})


def changed(answers: dict, *changes: tuple[Cell, float | str | None]) -> dict:
    for cell, number in changes:
        value = answers[cell.name]
        for at in ((cell.t - 1,) if cell.t else ()) + cell.index[:-1]:
            value = value[at]
        value[cell.index[-1]] = number
    return answers


# ---- right sheets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHEETS)
def test_check_marks_a_sheet_by_the_rule_right(name):
    ours = sheet(name)
    report = check(ours, answers_of(ours.work()))
    assert set(report.verdicts.values()) == {RIGHT} and list(report.verdicts) == list(ours.cells)
    assert report.score == f"All {len(ours.cells)} cells are right." and report.table() == ""


@pytest.mark.parametrize("name", SHEETS)
def test_check_marks_an_exact_sheet_right(name):
    ours = sheet(name)
    numbers = ours.work(exact)
    for answers in (answers_of(numbers), answers_of(written_rounded(numbers, ours.decimals))):
        report = check(ours, answers)
        assert set(report.verdicts.values()) <= {RIGHT, EXACT}
        for mark in report.marks:
            if mark.verdict == RIGHT and ours.decimals is not None:
                assert mark.answer is not None and near(mark.answer, mark.carried, ours.decimals)


def test_check_tells_exact_arithmetic_from_the_rule():
    report = check(exercise("lstm"), answers_of(exercise("lstm").work(exact)))
    assert report[Cell("z_f", 1, (0,))].verdict == RIGHT
    mark = report[Cell("o_cand", 1, (0,))]
    assert (mark.verdict, mark.carried, round(mark.exact, 3)) == (EXACT, 0.7, 0.644)
    assert report.score.startswith("All 93 cells are right, ") and "by exact arithmetic" in report.score


@pytest.mark.parametrize("name", SHEETS)
@pytest.mark.parametrize("seed", range(2))
def test_check_marks_a_sheet_right_that_is_rounded_only_here_and_there(name, seed):
    ours, random = sheet(name), Random(seed)
    rounding = Rounding(ours.decimals)
    numbers = worked(ours, lambda cell, number: rounding(number) if random.random() < 0.5 else number)
    assert set(check(ours, answers_of(numbers)).verdicts.values()) <= {RIGHT, EXACT}
    switched = worked(ours, lambda cell, number: rounding(number) if cell.t < 2 else number)
    assert set(check(ours, answers_of(switched)).verdicts.values()) <= {RIGHT, EXACT}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), decimals=st.sampled_from([None, 0, 1, 2, 5]), blank=st.floats(0, 1))
def test_check_never_marks_right_numbers_wrong_whatever_is_blank(seed, decimals, blank):
    """Any numbers, any rule, any cells left blank, the key's and exact numbers mixed."""
    random = Random(seed)
    ours = exercise("lstm").changed(
        decimals=decimals,
        values={key: [[random.uniform(-2, 2) for _ in range(5)] for _ in range(2)] for key in ("W_f", "W_o", "W_c")}
        | {"b_i": [random.uniform(-1, 1), 0.5], "h0": [random.uniform(-1, 1), 0]},
    )
    keys = (ours.work(), ours.work(exact))
    mixed = {cell: random.choice(keys).found[cell] for cell in ours.cells}
    answers = changed(
        answers_of(Numbers(ours, exact, mixed)), *[(cell, None) for cell in ours.cells if random.random() < blank]
    )
    assert set(check(ours, answers).verdicts.values()) <= {RIGHT, EXACT, UNANSWERED}


# ---- planted slips ---------------------------------------------------------------------------------------------------


def planted(ours: Exercise, slip: Slip, clause: str, decimals: int | None, on_paper: bool = False) -> tuple[int, int]:
    """Plants a slip, works on by the rule, and looks at every mark: how many planted cells were named, and not seen.

    A planted number may be within what counts as right: nearer to a right number, by some way of carrying on, than
    half a unit. Then nothing can be said. And where the number on paper is given by several slips, or by none, nobody
    knows what went on in the calculator.
    """
    numbers = worked(ours, rule(decimals), slip)
    right = worked(ours, rule(decimals))
    report = check(ours, answers_of(written_rounded(numbers, ours.decimals) if on_paper else numbers))
    named = unseen = 0
    doubtful = on_paper and any(
        ", or " in mark.slip or mark.verdict != WRONG
        for mark in report.marks
        if (mark.cell.name, mark.cell.t) == slip[:2]
    )
    for mark in report.marks:
        if (mark.cell.name, mark.cell.t) != slip[:2]:
            assert doubtful or mark.verdict in (RIGHT, EXACT, METHOD), (slip, clause, mark)
        elif mark.verdict == WRONG:
            assert clause in mark.slip, (slip, clause, mark)
            named += 1
        elif not near(numbers.found[mark.cell], right.found[mark.cell], 9):
            assert mark.answer is not None
            unit = 10.0 ** -(2 if ours.decimals is None else ours.decimals)
            nearest = min(abs(mark.answer - each) for each in (mark.carried, mark.exact, mark.follow))
            assert nearest <= unit * (1 + 1e-9), (slip, clause, mark)
            unseen += 1
    return named, unseen


@pytest.mark.parametrize("name", SHEETS)
def test_check_names_a_planted_slip_and_follows_it_through(name):
    """Two of each kind that the sheet allows, in a quantity and at a step by chance; rounded by the rule, or exact."""
    ours, random = sheet(name), Random(name)
    slips = slip_trees(ours)
    kinds: dict[str, list[tuple[str, Tree]]] = {}
    for quantity, found in slips.items():
        for clause, tree in found:
            kinds.setdefault(clause, []).append((quantity, tree))
    named, unseen = 0, 0
    for clause in [*kinds, *kinds]:
        quantity, tree = random.choice(kinds[clause])
        t = random.choice(sorted({cell.t for cell in ours.cells if cell.name == quantity}))
        decimals = random.choice((ours.decimals, None))
        found = planted(ours, (quantity, t, tree), clause, decimals, on_paper=name.startswith("lstm") and t == 1)
        named, unseen = named + found[0], unseen + found[1]
    assert named > 2 * len(kinds) and unseen <= named / 3


@pytest.mark.parametrize("name", ["rnn", "lstm with biases"])
def test_check_names_every_slip_in_every_quantity(name):
    ours = sheet(name)
    for quantity, slips in slip_trees(ours).items():
        for clause, tree in slips:
            planted(ours, (quantity, 1, tree), clause, ours.decimals)


def slip_of(ours: Exercise, cell: Cell, number: float) -> str:
    """What is said of a number in an otherwise right sheet."""
    report = check(ours, changed(answers_of(ours.work()), (cell, number)))
    assert report[cell].verdict == WRONG
    return report[cell].slip


def test_check_names_the_slips_of_the_lesson():
    lstm, slstm = exercise("lstm"), exercise("slstm")
    # x + h' is [2, 3, 1]; 0·2 − 1·3 + 0·1
    assert "x and h are added" in slip_of(lstm, Cell("z_f", 1, (0,)), -3)
    assert "x and h are added" in slip_of(lstm, Cell("xh", 1, (1,)), 3)
    assert slip_of(LSTM_BIASED, Cell("z_f", 1, (0,)), -4) == "the bias is forgotten"
    assert "i and f are swapped" in slip_of(lstm, Cell("forget_term", 1, (0,)), 0.3)
    assert "i and f are swapped" in slip_of(lstm, Cell("z_f", 1, (0,)), 6)
    assert "o is used for i" in slip_of(lstm, Cell("input_term", 1, (1,)), 0)  # the post's: C̃ times o
    assert slip_of(lstm, Cell("o_cand", 1, (0,)), 0.8) == "tanh is left out"
    assert "tanh is left out" in slip_of(lstm, Cell("h", 1, (0,)), 0.8)
    assert slip_of(slstm, Cell("i", 2, (0,)), 121.5) == "the stabiliser is skipped"  # exp(4.8)
    assert "the number of the step before" in slip_of(lstm, Cell("o_cand", 2, (1,)), -0.8)
    assert "x and h are in the wrong order" in slip_of(lstm, Cell("xh", 1, (3,)), 2)


def test_check_joins_slips_that_give_the_same_number():
    assert slip_of(exercise("lstm"), Cell("z_f", 1, (0,)), -3) == (
        "x and h are added, not put one below the other, or x and h are in the wrong order"
    )


def test_check_names_a_number_rounded_the_wrong_way_and_a_product_with_the_wrong_sign():
    lstm, rnn = exercise("lstm"), exercise("rnn").changed(decimals=3)
    assert slip_of(rnn, Cell("h", 1, (0,)), -0.946) == "rounded the wrong way"  # tanh(-1.8) = -0.9468
    assert slip_of(rnn, Cell("h", 1, (0,)), -0.9461) == ""
    assert slip_of(lstm, Cell("z_i", 1, (0,)), 0) == "the sign of 3·1 is wrong"
    assert slip_of(lstm, Cell("C", 1, (0,)), 0.55) == ""


def test_check_says_only_wrong_where_nothing_explains_it():
    report = check(exercise("lstm"), changed(blank_answers(exercise("lstm")), (Cell("C", 2, (1,)), 77)))
    assert (report[Cell("C", 2, (1,))].verdict, report[Cell("C", 2, (1,))].slip) == (WRONG, "")
    assert "wrong" in report.table()


# ---- blanks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [{}, {"z_f": None, "h": [None, None, None]}, blank_answers(exercise("lstm"))])
def test_check_leaves_blank_cells_unanswered(answers):
    report = check(exercise("lstm"), answers)
    assert set(report.verdicts.values()) == {UNANSWERED}
    assert report.score == "None of the 93 cells is answered yet." and report.table() == ""
    assert report[Cell("z_f", 1, (0,))].follow == -4 and report[Cell("z_f", 1, (0,))].answer is None


def test_check_works_blank_cells_out_from_the_learners_own_numbers_and_from_the_key():
    lstm = exercise("lstm")
    # z_i is wrong: i = σ(−0.4) = 0.4, so i C̃ = 0.3 (0.32); with the key's i = 1 it is 0.8
    for input_term, verdict in ((0.3, METHOD), (0.8, RIGHT)):
        answers = {"z_i": [[-0.4, 4], None, None], "input_term": [[input_term, None], None, None]}
        report = check(lstm, answers)
        assert report[Cell("z_i", 1, (0,))].verdict == WRONG
        assert report[Cell("input_term", 1, (0,))].verdict == verdict


def test_check_takes_only_a_last_number():
    report = check(exercise("lstm"), {"h": [[0.632, -0.005], [None, None], None]})
    assert report[Cell("h", 1, (0,))].verdict == EXACT and report[Cell("h", 1, (1,))].verdict == RIGHT
    assert report.counts == {RIGHT: 1, EXACT: 1, METHOD: 0, WRONG: 0, UNANSWERED: 91}
    assert report.score == "2 of 93 cells are right, 1 of them by exact arithmetic; 91 are unanswered."


# ---- what counts as the same number ----------------------------------------------------------------------------------


def test_check_takes_half_a_unit_of_the_sheets_last_decimal():
    lstm, cell = exercise("lstm"), Cell("C", 1, (0,))
    for number, verdict in ((0.75, RIGHT), (0.85, RIGHT), (0.851, WRONG), (0.7, WRONG)):
        assert check(lstm, changed(answers_of(lstm.work()), (cell, number)))[cell].verdict == verdict


def test_check_takes_an_exact_sheets_answers_to_their_own_last_decimal():
    lstm, cell = exercise("lstm").changed(decimals=None), Cell("h", 1, (0,))
    right = lstm.work().found[cell]
    assert round(right, 6) == 0.632491
    for number, verdict in (
        (0.63, RIGHT), (0.64, WRONG), (0.6, WRONG), (0.632, RIGHT), (0.633, WRONG), (0.6325, RIGHT), (0.6324, WRONG),
        (round(right, 9), RIGHT), (round(right, 9) + 2e-9, WRONG), (right, RIGHT), (right + 1e-15, RIGHT),
    ):  # fmt: skip
        assert check(lstm, changed(answers_of(lstm.work()), (cell, number)))[cell].verdict == verdict, number


@pytest.mark.parametrize(
    ("number", "places"),
    [(1.0, 2), (0.5, 2), (0.123, 3), (1e-7, 7), (1e-12, 9), (1 / 3, 9), (1e30, 2), (-0.25, 2), (math.inf, 9)],
)
def test_places_of_counts_the_decimals_that_were_written(number, places):
    assert places_of(number) == places


def test_near_knows_what_is_no_number():
    assert near(math.nan, math.nan, 1) and near(-math.inf, -math.inf, 1) and near(math.inf, math.inf, 1)
    assert not near(math.nan, 1, 1) and not near(1, math.nan, 1) and not near(math.inf, -math.inf, 1)
    assert not near(1e308, math.inf, 1) and near(1e308, 1e308, 1)


def test_check_bears_what_overflows():
    ours = exercise("slstm").changed(values={"b_i": [800, 0, 0, 0]})
    for rounding in (None, exact):
        numbers = ours.work(rounding)
        assert math.isinf(numbers.at("i_raw", 1, (0,))) and math.isnan(numbers.at("h_raw", 1, (0,)))
        report = check(ours, answers_of(numbers))
        assert set(report.verdicts.values()) <= {RIGHT, EXACT}
        assert json.dumps(report.to_dict(), allow_nan=False) and str(report)
    for number in (math.inf, -math.inf, math.nan, 1e308, "overflow", "-inf"):
        answers = changed(answers_of(ours.work()), (Cell("h_raw", 2, (0,)), number), (Cell("m", 1, (0,)), number))
        report = check(ours, answers)
        assert report[Cell("m", 1, (0,))].verdict == WRONG and str(report)
        assert json.dumps(report.to_dict(), allow_nan=False)


def test_check_knows_an_empty_memory():
    ours = exercise("xlstm")
    cell = Cell("B_kept", 1, (0,))
    assert check(ours, answers_of(ours.work()))[cell].answer == -math.inf
    assert check(ours, {"B_kept": [["−∞", 0, None], None]}).verdicts[cell] == RIGHT


# ---- the report ------------------------------------------------------------------------------------------------------


def wrong_report() -> Report:
    lstm = exercise("lstm")
    answers = changed(
        answers_of(lstm.work()),
        (Cell("o_cand", 1, (0,)), 0.8), (Cell("h", 1, (0,)), 0.8), (Cell("xh", 2, (3,)), 0.8),
        (Cell("z_f", 3, (1,)), None), (Cell("z_i", 2, (0,)), 4.6),
    )  # fmt: skip
    return check(lstm, answers)


def test_report_is_a_table_of_what_is_worth_saying():
    report = wrong_report()
    text = str(report)
    assert text.startswith("An LSTM by hand\n\n" + report.score)
    assert "Step 5: Candidate output, t = 1\n" in text and "Step 6: Update hidden state, t = 1\n" in text
    assert "õ₁, row 1  yours 0.8  key 0.7" in text and "wrong: tanh is left out" in text
    assert f"{METHOD}: from your numbers 0.8" in text
    assert "Step 2:" not in text and "unanswered" in report.score
    row = next(line for line in text.split("\n") if "z_i₂" in line)
    assert "yours 4.6  key 4.7" in row and row.endswith(EXACT)


def test_report_counts_in_words_and_as_data():
    report = wrong_report()
    assert sum(report.counts.values()) == len(report.marks) == 93 and set(report.counts) == set(VERDICTS)
    for verdict, count in report.counts.items():
        assert count == list(report.verdicts.values()).count(verdict)
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["score"] == report.score and data["counts"] == report.counts and data["exercise"] == "lstm"
    marked = {(each["name"], each["t"], tuple(each["index"])): each for each in data["cells"]}
    assert marked["o_cand", 1, (0,)] | {"exact": 0} == {
        "name": "o_cand", "t": 1, "index": [0], "verdict": WRONG, "answer": 0.8, "carried": 0.7, "exact": 0,
        "follow": 0.7, "slip": "tanh is left out",
    }  # fmt: skip
    assert marked["z_f", 3, (1,)]["answer"] is None


def test_report_says_who_is_right_in_good_english():
    rnn = exercise("rnn")
    one = check(rnn, {"z": [[-2.8, None], None, None]})
    assert one.score == "0 of 27 cells are right; 1 is wrong; 26 are unanswered."
    wrong = check(rnn, changed(answers_of(rnn.work()), (Cell("h", 3, (0,)), 55)))
    assert wrong.score == "26 of 27 cells are right; 1 is wrong."
    follows = check(rnn, {"z": [[0.5, -1], None, None], "h": [[0.5, -0.8], None, None]})
    assert "follow rightly from a wrong number" in follows.score and "2 are wrong" in follows.score


# ---- what cannot be marked -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([1, 2], "answers by the name of their quantity"),
        ({"zf": []}, "no quantity 'zf'. Did you mean 'z_f'?"),
        ({"x": [[1, 2, 1]]}, "x is given, not asked for"),
        ({"z_f": [[1, 2]]}, "z_f: a list over the time steps with 3 entries belongs here, not with 1"),
        ({"z_f": [[1, 2], [1], None]}, "z_f at t = 2: a list with 2 entries"),
        ({"z_f": 3}, "z_f: a list over the time steps"),
        ({"z_f": [[1, 2], [1, [2]], None]}, "z_f at t = 2, row 2: a number belongs here, not [2]"),
        ({"z_f": [["four", 2], None, None]}, "z_f at t = 1, row 1: 'four' is no number"),
        ({"z_f": [[True, 2], None, None]}, "z_f at t = 1, row 1: a number belongs here, not True"),
        ({"z_f": [["1e999", 2], None, None]}, "z_f at t = 1, row 1: '1e999' is too large"),
        ({"z_f": [[10**400, 2], None, None]}, "z_f at t = 1, row 1: 1000"),
    ],
)
def test_check_refuses_what_is_no_answer(answers, says):
    with pytest.raises(ValueError) as error:
        check(exercise("lstm"), answers)
    assert says in str(error.value)


def test_check_refuses_numbers_where_there_is_no_cell():
    ours = exercise("mlstm")
    answers = answers_of(ours.work())
    assert answers["D"][0][1] is None
    assert set(check(ours, changed(answers, (Cell("D", 0, (0, 1)), 0))).verdicts.values()) == {RIGHT}
    with pytest.raises(ValueError, match="D, row 1, column 2 does not exist"):
        check(ours, changed(answers, (Cell("D", 0, (0, 1)), 0.5)))


@pytest.mark.parametrize("name", ["lstm", "lstm-backward", "slstm-backward"])
@pytest.mark.parametrize("decimals", [2, 3])
def test_check_takes_rightly_rounded_answers_on_a_sheet_without_rounding(name, decimals):
    each = exercise(name).changed(decimals=None)
    numbers, written = each.work(), Rounding(decimals)
    answers = blank_answers(each)
    for cell in each.cells:
        place = answers[cell.name]
        for at in ((cell.t - 1,) if cell.t else ()) + cell.index[:-1]:
            place = place[at]
        value = written(numbers.found[cell])
        if cell.index and value:  # 0 stands for 0 alone
            place[cell.index[-1]] = value
    report = check(each, answers)
    assert report.counts[RIGHT] > len(each.cells) / 2
    assert [mark for mark in report.marks if mark.verdict in (WRONG, METHOD)] == []


def test_check_refuses_zeros_for_small_numbers_on_a_sheet_without_rounding():
    each = exercise("lstm").changed(decimals=None)
    report = check(each, {"f": [[0, 0], [0, 0], [0, 0]]})
    assert {mark.verdict for mark in report.marks if mark.cell.name == "f"} == {WRONG}
