"""The exercises give the numbers others have printed, and in exact arithmetic the library's own, both ways."""

import math
import random

import pytest
import torch
from byhand.library import given, library, mlstm_cell, tensor

from longshort.byhand import EXERCISES, Exercise, Rounding, by_hand, exact, exercise

# Every number the article and the post print for t = 1.
PRINTED = {"z_f": [-4, -6], "f": [0, 0], "z_i": [6, 4], "i": [1, 1], "z_o": [4, -5], "o": [1, 0], "z_c": [1, -6],
           "C_cand": [0.8, -1], "C": [0.8, -1], "o_cand": [0.7, -0.8]}  # fmt: skip

# The workbook LSTM.xlsx, sheet `small`: cached cells, to ten digits. Its biases and start differ from the article's.
SMALL = {
    "z_f": [[-2, -4], [0.1154879001, -5.4193530465], [1.8716995115, -7.7704357574], [0.1933921479, -3.0999447366]],
    "z_i": [[6, 2], [5.7096765233, -0.1154879001], [10.8852178787, -1.8716995115], [5.5499723683, -0.1933921479]],
    "z_o": [[3, 3], [5.280962143, 4.4058113769], [2.1050217591, 0.9864816328], [1.1031933992, 1.6434197796]],
    "z_c": [[2, -1], [1.5577439501, -3.838706093], [-0.5641502443, -5.5408715148], [0.0966960739, -2.1998894731]],
    "f": [[0.119202922, 0.01798621], [0.5288399279, 0.0044104733], [0.8666548027, 0.0004218513],
          [0.5481979116, 0.0431095346]],
    "forget_term": [[0, 0], [0.5085556924, -0.0029585892], [1.2311591181, -0.0001998235],
                    [0.3947674269, -0.0057568867]],
    "input_term": [[0.9616439032, -0.6708099072], [0.9120319676, -0.4707238179], [-0.5110406745, -0.1333410928],
                   [0.0960225294, -0.4408403904]],
    "C": [[0.9616439032, -0.6708099072], [1.42058766, -0.4736824071], [0.7201184437, -0.1335409164],
          [0.4907899563, -0.4465972772]],
    "o_cand": [[0.7450092368, -0.5855123862], [0.8897214543, -0.4411698244], [0.6169826642, -0.1327527187],
               [0.4548431861, -0.4190979525]],
    "h": [[0.7096765233, -0.5577439501], [0.8852178787, -0.4358497557], [0.5499723683, -0.0966960739],
          [0.3415226332, -0.3512039712]],
}  # fmt: skip


def shuffled(each: Exercise, seed: int, **sizes: int) -> Exercise:
    """The same exercise with other sizes and random numbers."""
    draw = random.Random(seed)
    sizes = {**each.sizes, **sizes}

    def numbers(shape: list[int], scale: float):
        if not shape:
            return round(draw.gauss(0, scale), 3)
        return [numbers(shape[1:], scale) for _ in range(shape[0])]

    values = {}
    for each_given in each.givens:
        shape = [sum(sizes[part] for part in length.split("+")) for length in each_given.shape]
        value = numbers(shape, 1.0)
        if each_given.name in ("n0", "eps"):  # a normaliser is positive
            value = 1e-6 if each_given.name == "eps" else [abs(x) + 0.5 for x in value]
        if each_given.blocks:
            width = [length // sizes[each_given.blocks] for length in shape]
            value = [
                [x if r // width[0] == c // width[1] else 0 for c, x in enumerate(row)] for r, row in enumerate(value)
            ]
        values[each_given.name] = [numbers(shape, 1.0) for _ in range(sizes["T"])] if each_given.each_step else value
    if each.name == "xlstm":  # both memories start empty there, as a stack without a state does
        values |= {name: zeros_like(value, name) for name, value in values.items() if name[2:] in STARTS}
    return each.changed(sizes=sizes, values=values)


STARTS = ("C0", "n0", "m0", "h0", "c0")


def zeros_like(value, name: str):
    if isinstance(value, list):
        return [zeros_like(each, name) for each in value]
    return -math.inf if name == "B_m0" else 0


VARIANTS = [
    *(exercise(name) for name in EXERCISES),
    shuffled(exercise("rnn"), 1, D=5, H=4, T=6),
    shuffled(exercise("lstm"), 2, D=1, H=5, T=7),
    shuffled(exercise("lstm"), 3, D=6, H=1, T=1),
    shuffled(exercise("slstm"), 4, D=2, H=6, N=3, T=5),
    shuffled(exercise("slstm"), 5, D=4, H=3, N=1, T=4),
    shuffled(exercise("mlstm"), 6, D=4, K=3, V=5, T=6),
    shuffled(exercise("mlstm"), 7, D=2, K=1, V=1, T=1),
    shuffled(exercise("xlstm"), 8, D=4, K=3, U=5, T=4),
    shuffled(exercise("lstm-backward"), 9, D=3, H=4, T=5),
    shuffled(exercise("slstm-backward"), 10, D=3, H=4, N=2, T=5),
    shuffled(exercise("slstm-backward"), 11, D=1, H=2, N=1, T=1),
]


def filled(value):
    """0 where a cell does not exist."""
    return [filled(each) for each in value] if isinstance(value, list) else 0.0 if value is None else value


def ones_within_heads(each: Exercise) -> list[list[int]]:
    H = each.sizes["H"]
    return [[int(each.exists("R_i", (row, column))) for column in range(H)] for row in range(H)]


def name_of(each: Exercise) -> str:
    return each.name + "".join(f"-{name}{length}" for name, length in each.sizes.items())


@pytest.mark.parametrize("each", VARIANTS, ids=name_of)
def test_exact_arithmetic_equals_the_library(each):
    numbers = each.work(exact)
    wanted = library(each)
    assert {"h", "B_out"} & {name for name, _ in wanted}
    for (name, t), value in wanted.items():
        got = tensor(filled(numbers.value(name, t)))
        if name.startswith("dR_"):  # what lies between two heads is no weight
            value = value * tensor(ones_within_heads(each))
        scale = max(1.0, value.detach().abs().max().item())
        torch.testing.assert_close(
            got, value.detach(), rtol=0, atol=1e-12 * scale, msg=lambda m, n=name, t=t: f"{n} {t}: {m}"
        )


def test_every_quantity_of_rnn_lstm_slstm_that_the_library_names_is_compared():
    for name in ("rnn", "lstm", "slstm"):
        each = exercise(name)
        assert {q.name for q in each.quantities if q.traced} == {q for q, _ in library(each)}


@pytest.mark.parametrize("kernel", ["reference", "parallel", "chunkwise"])
def test_mlstm_equals_every_form_of_the_library(kernel):
    for each in (exercise("mlstm"), shuffled(exercise("mlstm"), 12, K=4, V=3, T=9)):
        numbers = each.work(exact)
        for (name, t), value in mlstm_cell(each, given(each), kernel).items():
            torch.testing.assert_close(tensor(numbers.value(name, t)), value, rtol=1e-11, atol=1e-12)


def test_lstm_by_hand_gives_every_number_the_article_prints():
    numbers = exercise("lstm").work(by_hand)
    assert {name: numbers.value(name, 1) for name in PRINTED} == PRINTED


def test_lstm_by_hand_memory_path_and_outputs():
    numbers = exercise("lstm").work()
    assert [numbers.value("C", t) for t in (1, 2, 3)] == [[0.8, -1], [1, -0.7], [0.1, -0.2]]
    assert [numbers.value("h", t) for t in (1, 2, 3)] == [[0.7, 0], [0.8, -0.1], [0.1, 0]]


def test_lstm_exact_output_differs_visibly_from_the_rounded():
    assert [round(x, 3) for x in exercise("lstm").work(exact).value("h", 1)] == [0.632, -0.005]


def test_lstm_has_the_articles_fourteen_steps():
    later = ["Initialize", "Linear transform", "Update memory", "Update hidden state"]
    first = ["Initialize", "Linear transform", "Non-linear transform", "Update memory", "Candidate output",
             "Update hidden state"]  # fmt: skip
    steps = exercise("lstm").steps
    assert [step.title for step in steps] == first + later + later
    assert [step.number for step in steps] == list(range(1, 15))
    assert [step.t for step in steps] == [1] * 6 + [2] * 4 + [3] * 4


def test_lstm_gives_the_workbooks_small_sheet():
    each = exercise("lstm").changed(
        sizes={"D": 3, "H": 2, "T": 4},
        values={
            "x": [[1, 2, 1], [2, 1, 0], [0, -1, 3], [-1, 0, 2]], "h0": [0, 0], "C0": [0, 0],
            "W_o": [[1, 1, 0, 4, 1], [0, 0, -1, -1, -2]], "b_c": [0, 1], "b_i": [1, 0], "b_o": [0, 4],
        },
    )  # fmt: skip
    numbers = each.work(exact)
    for name, steps in SMALL.items():
        for t, wanted in enumerate(steps, 1):
            assert numbers.value(name, t) == pytest.approx(wanted, abs=1e-9), (name, t)


def test_mlstm_gives_the_workbooks_numbers_and_the_correction_of_its_error():
    each = exercise("mlstm")
    numbers = each.work(exact)
    assert numbers.value("h", 1) == pytest.approx([0.10581139, 0.15754224], abs=1e-8)
    assert numbers.value("h", 2) == pytest.approx([-1.50058547, 2.74993066], abs=1e-8)
    assert numbers.value("floor", 2) == pytest.approx(4.9236928, abs=1e-7)
    i, n = numbers.value("i", 2), numbers.value("n", 2)
    wrong = abs(n[1] * i)  # what the workbook's cell computes: the input gate where the query belongs
    assert wrong == pytest.approx(452.86, abs=0.01)
    o, read = numbers.value("o", 2), numbers.value("read", 2)
    assert [a * b / wrong for a, b in zip(o, read, strict=True)] == pytest.approx([-0.01631502, 0.02989845], abs=1e-8)
    assert "452.86" in " ".join(each.about)


def test_slstm_by_hand_gives_the_derived_numbers_of_the_articles_cells():
    numbers = exercise("slstm").work()
    assert numbers.value("i_raw", 1)[:2] == [403.4, 54.6]
    for name, wanted in {"m": [6, 4], "i": [1, 1], "f": [0, 0], "c": [0.8, -1], "n": [1, 1], "h": [0.8, 0]}.items():
        assert numbers.value(name, 1)[:2] == wanted, name
    assert [round(x, 3) for x in exercise("slstm").work(exact).value("h", 1)[:2]] == [0.748, -0.007]


@pytest.mark.parametrize("seed", range(20))
def test_slstm_stabilised_equals_unstabilised(seed):
    each = shuffled(exercise("slstm"), seed, T=5)
    numbers = each.work(exact)
    for t in range(1, 6):
        assert numbers.value("h_raw", t) == pytest.approx(numbers.value("h", t), abs=1e-12)


def test_slstm_overflows_without_the_stabiliser_and_not_with_it():
    numbers = exercise("slstm").changed(values={"b_i": [800, 800, 800, 800]}).work(exact)
    assert numbers.value("i_raw", 1)[0] == math.inf and math.isnan(numbers.value("h_raw", 1)[0])
    assert all(math.isfinite(numbers.found[cell]) for cell in numbers.exercise.cells if not cell.name.endswith("_raw"))


def test_slstm_memory_mixes_within_a_head_and_never_across():
    each = exercise("slstm")
    other = each.changed(values={"h0": [5, -3, 0, 0.5]})  # head 1 alone starts elsewhere
    before, after = each.work(exact), other.work(exact)
    for t in (1, 2):
        assert before.value("h", t)[2:] == after.value("h", t)[2:]
        assert before.value("h", t)[:2] != after.value("h", t)[:2]


@pytest.mark.parametrize("seed", range(5))
def test_mlstm_recurrent_stabilised_and_parallel_give_the_same_h(seed):
    numbers = shuffled(exercise("mlstm"), seed, K=3, V=2, T=7).work(exact)
    for t in range(1, 8):
        assert numbers.value("h_s", t) == pytest.approx(numbers.value("h", t), rel=1e-9, abs=1e-11)
        assert numbers.value("H_p")[t - 1] == pytest.approx(numbers.value("h", t), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise_follows_its_own_rounding_rule_everywhere(name):
    numbers = exercise(name).work()
    for cell, value in numbers.found.items():
        assert value == numbers.rounding(numbers.unrounded(cell)) == Rounding(numbers.exercise.decimals)(value), cell


def test_exercise_by_a_wrong_name_says_which_there_are():
    with pytest.raises(ValueError, match=r"no exercise 'slsmt'.*slstm"):
        exercise("slsmt")
