"""New exercises: every kind, many seeds and sizes; no result next to a tie, not saturated; the same everywhere."""

import subprocess
import sys

import pytest

from longshort.byhand import EXERCISES, Exercise, exact, exercise
from longshort.byhand.generator import BEST, LEAST, check_quality, distance_from_tie, generate

REMARKS = ("workbook", "article", "reconstructed", "erratum", "head 1", "numbers are ours")
SIZES = [
    ("rnn", dict(D=1, H=1, T=1)),
    ("rnn", dict(D=2, H=5, T=6)),
    ("lstm", dict(D=1, H=1, T=1)),
    ("lstm", dict(H=4, T=4)),
    ("lstm", dict(D=6, H=3, T=5)),
    ("slstm", dict(D=1, H=1, N=1, T=1)),
    ("slstm", dict(H=6, N=3, T=3)),
    ("mlstm", dict(D=1, K=1, V=1, T=1)),
    ("mlstm", dict(K=3, V=4, T=4)),
    ("xlstm", dict(D=2, K=1, U=1, T=1)),
    ("xlstm", dict(D=4, K=3, U=3, T=3)),
    ("lstm-backward", dict(D=1, H=1, T=1)),
    ("lstm-backward", dict(D=3, H=3, T=3)),
    ("slstm-backward", dict(D=1, H=2, N=2, T=3)),
]
LARGE = [("lstm", dict(H=8, T=8)), ("rnn", dict(H=12, T=16)), ("mlstm", dict(K=5, V=5, T=4)),
         ("slstm-backward", dict(H=4, N=2, T=4))]  # fmt: skip


def numbers_in(value):
    return [each for part in value for each in numbers_in(part)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("kind", EXERCISES)
def test_many_seeds_give_good_exercises(kind):
    seen = set()
    for seed in range(8):
        made = generate(kind, seed)
        assert made.sizes == exercise(kind).sizes and made.decimals == exercise(kind).decimals
        assert check_quality(made, BEST) == [], f"seed {seed}"
        seen.add(made.to_json())
    assert len(seen) == 8


@pytest.mark.parametrize(("kind", "sizes"), SIZES)
def test_other_sizes_give_good_exercises(kind, sizes):
    for seed in (0, 1):
        made = generate(kind, seed, **sizes)
        assert made.sizes == {**exercise(kind).sizes, **sizes}
        assert check_quality(made) == []


@pytest.mark.parametrize(("kind", "sizes"), LARGE)
def test_large_exercises_are_found_too(kind, sizes):
    assert check_quality(generate(kind, 1, **sizes)) == []


@pytest.mark.parametrize("decimals", [1, 2, 4, 9, None])
@pytest.mark.parametrize("kind", ["rnn", "lstm", "slstm", "mlstm"])
def test_other_roundings_give_good_exercises(kind, decimals):
    made = generate(kind, 2, decimals=decimals)
    assert made.decimals == decimals and check_quality(made) == []


@pytest.mark.parametrize("kind", EXERCISES)
def test_the_numbers_are_easy(kind):
    made = generate(kind, 4)
    for given in made.givens:
        for number in numbers_in(made.values[given.name]):
            if given.role == "input":
                assert number in (-3, -2, -1, 0, 1, 2, 3)
            elif given.role == "weight":
                assert abs(number) <= 1 and number * 10 % 2 == 0
            elif given.role != "rest":
                assert number == float("-inf") or (abs(number) <= 1 and number == round(number, 1))
    assert any(0 in numbers_in(made.values[each.name]) for each in made.givens if each.role == "weight")


@pytest.mark.parametrize("kind", EXERCISES)
def test_it_says_where_it_came_from_and_nothing_of_the_article(kind):
    made = generate(kind, 7, T=1)
    words = " ".join([made.title, *made.about, *(each.about for each in made.givens)])
    assert "seed 7" in made.title and f"longshort hand {kind} --new 7 --size T=1" in made.about[0]
    assert not [remark for remark in REMARKS if remark in words.lower()]
    assert Exercise.from_dict(made.to_dict()) == made


def test_the_margin_that_was_kept_is_said():
    assert "1/20 of a unit" in generate("lstm", 0).about[-1]
    large = generate("lstm", 1, H=8, T=8)
    (margin,) = [m for m in (20, 50, 100) if f"1/{m} of a unit" in large.about[-1]]
    assert check_quality(large, 1 / margin) == []
    command = generate("lstm", 3, decimals=2).about[0]
    assert command.endswith("longshort hand lstm --new 3 --decimals 2")
    assert generate("lstm", 3, decimals=None).about[0].endswith("--new 3 --decimals exact")


def test_the_same_arguments_give_the_same_numbers_in_another_process():
    code = "from longshort.byhand.generator import generate; print(generate('slstm', 3, H=4, T=3).to_json())"
    for hashes in ("1", "2"):
        found = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": hashes}, capture_output=True,
                               text=True, check=True).stdout  # fmt: skip
        assert found.strip() == generate("slstm", 3, H=4, T=3).to_json()


def test_a_seed_gives_these_numbers_on_every_machine():
    assert generate("rnn", 0).values == PINNED


def test_generating_needs_no_torch():
    code = (
        "import sys; from longshort.byhand.generator import generate; generate('lstm'); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "False"


# ---- the judgement ---------------------------------------------------------------------------------------------------


def planted(**values) -> Exercise:
    """An RNN with one unit, one input, one step: h = tanh(W [x; h0] + b)."""
    made = generate("rnn", 0, D=1, H=1, T=1)
    return made.changed(values={"W": [[0.4, 0.0]], "b": [0.2], "x": [[1.0]], "h0": [0.0]} | values)


def test_a_tie_is_named_with_its_cell():
    assert check_quality(planted()) == []
    assert check_quality(planted(b=[0.25])) == ["z at t = 1, row 1 is a rounding tie: 0.65"]
    assert check_quality(planted(b=[0.2504])) == ["z at t = 1, row 1 is next to a rounding tie: 0.6504"]
    assert check_quality(planted(b=[0.2504]), 1 / 1000) == []
    assert check_quality(planted(b=[0.25]).changed(decimals=None)) == []


def test_a_number_too_large_and_an_idle_output_are_named():
    assert check_quality(planted(x=[[300.0]])) == [
        "xh at t = 1, row 1 is 300: too large to write (100 or more)",
        "z at t = 1, row 1 is 120.2: too large to write (100 or more)",
        "saturated: 0 of 1 outputs lie between -0.95 and 0.95",
        "saturated: the last h is 1",
    ]


def test_saturated_gates_are_counted():
    reasons = check_quality(exercise("lstm"))
    assert [reason for reason in reasons if reason.startswith("saturated: 6 of 18 sigmoid gates")]


def test_two_ways_to_h_that_rounding_leads_apart_are_named():
    made = generate("slstm", 0, D=1, H=1, N=1, T=1)
    zeros = {f"{kind}_{gate}": [[0.0]] for kind in "WR" for gate in "ifzo"}
    biases = {"b_i": [-2.6], "b_f": [-3.5], "b_z": [-2.0], "b_o": [2.0]}  # alone, f is 0.03: rounded, nothing is kept
    apart = made.changed(values=zeros | biases | {"c0": [1.0]})
    assert (apart.work().value("h", 1), apart.work().value("h_raw", 1)) == ([-0.4], [-0.9])
    assert "h_raw at t = 1, row 1 is -0.9 and should be as h at t = 1, row 1, -0.4" in check_quality(apart)
    assert not any("should be as" in reason for reason in check_quality(apart.changed(decimals=None)))


def test_distance_from_a_tie():
    assert [distance_from_tie(value, exercise("lstm").work().rounding) for value in (0.25, -0.35, 0.3, 2.0)] == [
        0.0, 0.0, 0.5, 0.5]  # fmt: skip
    assert distance_from_tie(0.25, exact) == 0.5 and LEAST < BEST


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options", "message"), [
    ("lstmm", {}, "no exercise 'lstmm'. Did you mean 'lstm'"),
    ("lstm", dict(seed=-1), "seed=-1: a whole number from 0 on"),
    ("lstm", dict(seed=1.5), "seed=1.5"),
    ("lstm", dict(seed=True), "seed=True"),
    ("lstm", dict(decimals=0), "decimals=0: .* every gate is 0 or 1"),
    ("lstm", dict(decimals=10), "decimals=10: a whole number from 0 to 9"),
    ("lstm", dict(decimals=1.0), "decimals=1.0"),
    ("lstm", dict(decimals="two"), "decimals='two'"),
    ("lstm", dict(V=2), "lstm has no size 'V'. Its sizes are D, H, T"),
    ("lstm", dict(H=0), "size H=0: a whole number from 1 to 12"),
    ("lstm", dict(D=1000), "size D=1000: a whole number from 1 to 12"),
    ("lstm", dict(T=17), "size T=17: a whole number from 1 to 16"),
    ("lstm", dict(T="3"), "size T='3'"),
    ("slstm", dict(H=4, N=3), "N=3 heads do not divide H=4 units; numbers of heads that do: 1, 2, 4"),
    ("xlstm", dict(D=1), "a norm over a single number"),
    ("mlstm", dict(K=12, V=12, T=16), "numbers to work out, more than 2500: take fewer steps"),
])  # fmt: skip
def test_what_cannot_be_is_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        generate(kind, **options)


def test_it_gives_up_in_words(monkeypatch):
    monkeypatch.setattr("longshort.byhand.generator.writable", lambda value: False)
    monkeypatch.setattr("longshort.byhand.generator.MOST", 5000)
    with pytest.raises(
        ValueError, match=r"Take fewer steps \(T\) or smaller sizes, more decimals \(now 1\), or another"
    ):
        generate("lstm")


PINNED = {
    "W": [[0.0, -0.4, 0.2, 0.6, 0.0], [1.0, 0.2, 0.6, 0.0, 0.8]],
    "b": [0.6, -0.6],
    "x": [[-3.0, -2.0, 1.0], [-2.0, 0.0, -2.0], [1.0, 0.0, 2.0]],
    "h0": [-0.2, -0.3],
}
