"""Answers as files: what is written is read again, what people type is understood, what is wrong is said."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshort.byhand import EXERCISES, Cell, exact, exercise
from longshort.byhand.answers import (
    LARGEST_FILE,
    answers_of,
    blank_answers,
    number_typed,
    numbers_in,
    read_answer_file,
    spelt_number,
    write_answers,
)
from longshort.byhand.checker import RIGHT, check


def saved(path: Path, **changes) -> Path:
    """A file of answers to the LSTM, some of its entries changed; without those that are None."""
    data = {"format": "longshort answers 1", "exercise": "lstm", "answers": {"z_f": [[-4, -6], None, None]}} | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}), encoding="utf-8")
    return path


# ---- blank, and filled in --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXERCISES)
def test_write_answers_are_read_again(name, tmp_path):
    ours = exercise(name)
    numbers = ours.work(exact)
    for answers in (answers_of(numbers), blank_answers(ours)):
        path = write_answers(tmp_path / "answers.json", ours, answers)
        again, found = read_answer_file(path)
        assert again == ours and numbers_in(ours, found) == numbers_in(ours, answers)
    assert numbers_in(ours, answers_of(numbers)) == dict(numbers.found) and numbers_in(ours, blank_answers(ours)) == {}


def test_write_answers_gives_a_file_that_can_be_filled_in_by_hand(tmp_path):
    path = write_answers(tmp_path / "blank.json", exercise("lstm"), blank_answers(exercise("lstm")))
    text = path.read_text(encoding="utf-8")
    assert '\n    "z_f": [[null, null], [null, null], [null, null]],\n' in text and "in place of null" in text
    path.write_text(text.replace('"z_f": [[null, null]', '"z_f": [["−4", "-6,0"]'), encoding="utf-8")
    report = check(*read_answer_file(path))
    assert report.counts[RIGHT] == 2 and report[Cell("z_f", 1, (1,))].answer == -6


def test_write_answers_keeps_changed_numbers_and_rounding(tmp_path):
    ours = exercise("lstm").changed(decimals=3, values={"b_f": [0.5, -1]})
    again, _ = read_answer_file(write_answers(tmp_path / "mine.json", ours, {}))
    assert again == ours


def test_write_answers_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="z_f at t = 1, row 1: 'x' is no number"):
        write_answers(tmp_path / "mine.json", exercise("lstm"), {"z_f": [["x", 1], None, None]})
    with pytest.raises(ValueError, match="nowhere"):
        (tmp_path / "nowhere").write_text("a file")
        write_answers(tmp_path / "nowhere" / "mine.json", exercise("lstm"), {})
    assert not list(tmp_path.glob("*.json"))


def test_blank_answers_have_a_place_for_every_cell():
    ours = exercise("mlstm")
    blank = blank_answers(ours)
    assert blank["C"] == [[[None, None], [None, None]]] * 2 and blank["i"] == [None, None] and blank["F"] == [None] * 2
    assert list(blank) == [each.name for each in ours.quantities]
    assert answers_of(ours.work())["D"][0][1] is None


# ---- what people type ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0,7", 0.7), ("−0.7", -0.7), (" .7 ", 0.7), ("-4", -4), ("+4.", 4), ("–1,25", -1.25), ("1e-3", 0.001),
        ("", None), ("   ", None), ("\u00a03", 3), ("−∞", -math.inf), ("-inf", -math.inf), ("overflow", math.inf),
    ],
)  # fmt: skip
def test_number_typed_understands(text, number):
    assert number_typed(text, "here") == number


@pytest.mark.parametrize("text", ["four", "1/2", "1.234,5", "1,234,5", "0x10", "1_000", "NaN", "Infinity", "--1", "1 2",
                                  "=A1", "٣", "1e", ".", "½"])  # fmt: skip
def test_number_typed_refuses(text):
    with pytest.raises(ValueError, match=r"here: .* is no number"):
        number_typed(text, "here")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_writing_and_typing(number):
    assert json.loads(json.dumps(spelt_number(number))) == number
    assert number_typed(repr(number), "here") == number
    assert number_typed(repr(number).replace(".", ",").replace("-", "−"), "here") == number


def test_spelt_number_says_what_is_not_finite():
    assert [spelt_number(each) for each in (math.inf, -math.inf, math.nan, None, -0.0, 2.0)] == [
        "inf", "-inf", "nan", None, 0, 2,
    ]  # fmt: skip


# ---- bad files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "longshort answers 9"}, "format 'longshort answers 1' is expected, not 'longshort answers 9'"),
        ({"format": None}, "format 'longshort answers 1' is expected, not None"),
        (exercise("rnn").to_dict(), "An exercise alone has no answers"),
        ({"answers": None}, "'answers' is missing"),
        ({"exercise": None}, "'exercise' is missing"),
        ({"anwsers": {}}, "what is 'anwsers'? Did you mean 'answers'?"),
        ({"exercise": "lstn"}, "no exercise 'lstn'. Did you mean 'lstm'?"),
        ({"exercise": {"format": "x"}}, "this is no exercise of ours"),
        ({"exercise": [1]}, "this is no exercise of ours"),
        ({"exercise": {"format": "longshort exercise 1"}}, "not whole"),
        ({"answers": [1]}, "answers by the name of their quantity belong here, not [1]"),
        ({"answers": {"z_g": []}}, "there is no quantity 'z_g'. Did you mean"),
        ({"answers": {"W_f": []}}, "W_f is given, not asked for"),
        ({"answers": {"z_f": [[1, 2, 3], None, None]}}, "z_f at t = 1: a list with 2 entries belongs here, not with 3"),
        ({"answers": {"z_f": [[1, 2]]}}, "z_f: a list over the time steps with 3 entries"),
        ({"answers": {"z_f": [[1, "two"], None, None]}}, "z_f at t = 1, row 2: 'two' is no number"),
        ({"answers": {"z_f": [[1, False], None, None]}}, "z_f at t = 1, row 2: a number belongs here, not False"),
        ({"answers": {"z_f": [[1, {"a": 1}], None, None]}}, "z_f at t = 1, row 2: a number belongs here"),
        ({"answers": {"z_f": [[1, math.nan], None, None]}}, "z_f at t = 1, row 2: 'NaN' is no number"),
        ({"answers": {"z_f": [[math.inf, 1], None, None]}}, "z_f at t = 1, row 1: 'Infinity' is no number"),
        ({"answers": {"z_f": [[-math.inf, 1], None, None]}}, "z_f at t = 1, row 1: '-Infinity' is no number"),
        ({"answers": {"z_f": [[10**400, 1], None, None]}}, "z_f at t = 1, row 1: '1000"),
    ],
)
def test_read_answer_file_says_what_is_wrong(changes, says, tmp_path):
    path = saved(tmp_path / "mine.json", **changes)
    with pytest.raises(ValueError) as error:
        read_answer_file(path)
    assert str(path) in str(error.value) and says in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no whole JSON"),
        (b'{"format": "longshort answers 1", ', "line 1, column"),
        (b'{"a": 0,7}', "Decimals take a point"),
        (b"\xff\xfe\x00", "no text in UTF-8"),
        (b"[" * 100_000, "brackets within brackets"),
        (b"3", "a int"),
        (b"[]", "a list"),
        (b'{"format": "longshort answers 1", "format": 1}', "'format' stands there twice"),
        (b'{"answers": ' + b"9" * 6000 + b"}", "format"),
        (b" " * (LARGEST_FILE + 1), "bytes; answers never need more than 5,000,000"),
    ],
    ids=["empty", "cut", "comma", "binary", "deep", "number", "list", "twice", "digits", "huge"],
)
def test_read_answer_file_refuses_what_is_no_json_of_answers(content, says, tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_answer_file(path)
    assert str(path) in str(error.value) and says in str(error.value)


def test_read_answer_file_reads_a_number_too_large_as_such(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(
        '{"format": "longshort answers 1", "exercise": "lstm", "answers": {"z_f": [[1e999, 1], null, null]}}'
    )
    with pytest.raises(ValueError, match="z_f at t = 1, row 1: '1e999' is too large"):
        read_answer_file(path)


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        ("f * * C'", "formula"),
        ("f * nothing", "nothing"),
        ("W_f", "the formula of forget_term, W_f, gives (2, 5) cells, not (2,)"),
        ("(" * 2000, "its exercise"),
    ],
)
def test_read_answer_file_refuses_an_exercise_that_cannot_be_worked(formula, says, tmp_path):
    data = exercise("lstm").to_dict()
    next(each for each in data["quantities"] if each["name"] == "forget_term")["formula"] = formula
    path = saved(tmp_path / "mine.json", exercise=data)
    with pytest.raises(ValueError) as error:
        read_answer_file(path)
    assert str(path) in str(error.value) and says in str(error.value)


def test_read_answer_file_refuses_other_files(tmp_path):
    for name, says in (("mine.json", "no such file"), ("mine.xlsx", "no such file"), ("mine.jsn", "Did you mean")):
        with pytest.raises(ValueError, match=says):
            read_answer_file(tmp_path / name)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match="is no file"):
        read_answer_file(tmp_path / "folder.json")


def test_read_answer_file_takes_a_mark_at_the_start_of_the_text(tmp_path):
    path = saved(tmp_path / "mine.json", note="Mine.")
    path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    ours, answers = read_answer_file(path)
    assert ours == exercise("lstm") and answers == {"z_f": [[-4, -6], None, None]}


@settings(max_examples=60)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["z_f", "h", "xh", "x", "?"]), inner, max_size=3)
), max_leaves=8))  # fmt: skip
def test_numbers_in_gives_numbers_or_says_why_not(answers):
    """Whatever a file holds: numbers of cells of the exercise, or a ValueError."""
    ours = exercise("lstm")
    try:
        found = numbers_in(ours, answers)
    except ValueError as error:
        assert str(error).startswith("answers")
    else:
        assert set(found) <= set(ours.cells) and all(isinstance(number, float) for number in found.values())


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("xlsxwriter", "openpyxl")), reason="needs longshort[hand]"
)
def test_read_answer_file_reads_a_spreadsheet(tmp_path):
    from longshort.byhand.workbook import write_workbook

    ours, answers = read_answer_file(write_workbook(tmp_path / "mine.xlsx", exercise("rnn")))
    assert ours == exercise("rnn") and check(ours, answers).score == "None of the 27 cells is answered yet."
