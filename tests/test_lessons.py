"""The lessons show what the cells do: their numbers against cells and theory, their pictures, their errors."""

import json
import math
import pickle
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import longshort
from longshort import lessons
from longshort.functional import mlstm
from longshort.lessons import overflowing, remembering, three_forms, vanishing

DOCS = Path(__file__).parents[1] / "docs"


SHOWN = """
import pickle, sys
from longshort import lessons
shown = [lessons.gates(), lessons.gradient(longest=100, seeds=3), lessons.overflow(), lessons.parallel(longest=200)]
pickle.dump({lesson.name: lesson for lesson in shown}, sys.stdout.buffer)
"""


@pytest.fixture(scope="module")
def shown():
    """Every lesson, from a process of its own: a thousand checks of shapes a second would make the training slow."""
    run = subprocess.run([sys.executable, "-W", "error", "-c", SHOWN], capture_output=True, check=True)
    return pickle.loads(run.stdout)


def said(code: str) -> str:
    """What a process of its own prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def column(lesson, name: str) -> list:
    return [row[lesson.columns.index(name)] for row in lesson.rows]


# ---- gates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LSTM", "sLSTM"])
def test_gates_store_keep_and_speak_when_they_should(shown, name):
    flags = column(shown["gates"], "flag")
    i, f, o, y = (column(shown["gates"], f"{name} {gate}") for gate in "ifoy")
    assert [t + 1 for t, flag in enumerate(flags) if flag == "store"] == [3, 7]
    assert [t + 1 for t, flag in enumerate(flags) if flag == "ask"] == [11]
    for t, flag in enumerate(flags):
        assert (f[t] < 0.2) == (flag == "store")
        assert (o[t] > 0.5) == (flag == "ask")
        assert (i[t] > 10 * i[0]) == (flag == "store")
        assert abs(y[t] - (0.7 if flag == "ask" else 0)) < 0.15
    assert max(i) < 1 if name == "LSTM" else max(i) > 10


def test_gates_memory_is_what_the_marked_number_left(shown):
    c = column(shown["gates"], "LSTM c")
    assert all(x < -0.2 for x in c[2:6]) and all(x > 0.2 for x in c[6:])


def test_gates_are_the_same_for_the_same_seed_and_leave_the_random_numbers_alone(monkeypatch):
    monkeypatch.setitem(remembering.TRAINING, "steps", 2)
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = lessons.gates(), lessons.gates(), lessons.gates(seed=2)
    assert torch.equal(torch.rand(3), want)
    assert first.to_dict() == again.to_dict()
    assert first.rows != other.rows


def test_gates_of_your_own_layer_are_the_trace():
    torch.manual_seed(0)
    layer, x = longshort.sLSTM(3, 5, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    lesson, seen = lessons.gates(layer, x, units=[4, 1]), longshort.trace(layer, x)["l0"]
    assert lesson.columns == ("step", "i 4", "i 1", "f 4", "f 1", "o 4", "o 1", "c/n 4", "c/n 1")
    assert column(lesson, "i 1") == pytest.approx(seen["i_pre"][0, :, 0, 1].exp().tolist(), rel=1e-12)
    assert column(lesson, "f 4") == pytest.approx(seen["f_pre"][0, :, 0, 4].sigmoid().tolist(), rel=1e-12)
    assert column(lesson, "c/n 4") == pytest.approx((seen["h"] / seen["o"])[0, :, 0, 4].tolist(), rel=1e-12)


def test_gates_take_a_layer_of_torch_and_plain_numbers():
    layer = torch.nn.LSTM(2, 4, bidirectional=True)
    x = [[1, 2], [3, 4], [5, 6]]
    lesson = lessons.gates(layer, x, part="l0_reverse")
    seen = longshort.trace(longshort.LSTM.from_torch(layer), torch.tensor(x).float())["l0_reverse"]
    assert column(lesson, "f 2") == pytest.approx(seen["f"][0, :, 0, 2].tolist())


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (lambda: longshort.mLSTM(3, 8, num_heads=2), "i i f f o o o |C| |C|"),
        (lambda: longshort.GRU(3, 1), "r z h"),
        (lambda: longshort.RNN(3, 1), "h"),
        (lambda: longshort.LSTM(3, 1, forget="one"), "i o c"),
    ],
)
def test_gates_show_what_each_cell_has(layer, names, tmp_path):
    lesson = lessons.gates(layer())
    assert [each.split()[0] for each in lesson.columns[1:]] == names.split()
    assert len(lesson.rows) == 20
    lesson.plot(tmp_path / "own.svg")
    assert "head 1" in (tmp_path / "own.svg").read_text() or "|C|" not in names


def test_gates_of_a_language_model_take_tokens():
    config = longshort.xLSTMConfig(embedding_dim=8, num_heads=2, blocks=("slstm",), vocab_size=5)
    assert len(lessons.gates(longshort.xLSTMLM(config), [[1, 2, 3, 4]]).rows) == 4


def spoilt():
    layer = longshort.LSTM(2, 2)
    with torch.no_grad():
        layer.weight_hh_l0[0, 0] = torch.nan
    return layer


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda layer: lessons.gates(3), "layer: a layer or a model belongs here.*not a int"),
        (lambda layer: lessons.gates(torch.nn.Linear(2, 2), torch.zeros(3, 2)), "no recurrent cell of longshort ran"),
        (lambda layer: lessons.gates(spoilt()), "weight_hh_l0 has NaN or inf"),
        (lambda layer: lessons.gates(layer, [[1.0, math.nan]]), "x has NaN or inf in it"),
        (lambda layer: lessons.gates(layer, [[1, 2, 3]]), "x has 3 features, input_size is 2"),
        (lambda layer: lessons.gates(layer, "abc"), "x: numbers belong here"),
        (lambda layer: lessons.gates(layer, [[1, 2], [3]]), "x: numbers belong here"),
        (lambda layer: lessons.gates(layer, torch.zeros(0, 2)), "the layer took no step"),
        (lambda layer: lessons.gates(layer, units=[2]), "unit=2: a whole number from 0 to 1"),
        (lambda layer: lessons.gates(layer, units=3), "units=3: a list of units"),
        (lambda layer: lessons.gates(layer, units=[]), "from 1 to 4 can be told apart"),
        (lambda layer: lessons.gates(layer, row=1), "row=1 is not there: the batch has rows 0 to 0"),
        (lambda layer: lessons.gates(layer, part="l1"), "part='l1' is not there. There are: l0"),
        (lambda layer: lessons.gates(x=[[1, 2]]), "give the layer too"),
        (lambda layer: lessons.gates(torch.nn.Sequential(layer)), "does not say how wide its input is"),
        (lambda layer: lessons.gates(seed=-1), "seed=-1: a whole number"),
        (lambda layer: lessons.gradient(longest=1), "longest=1: a whole number from 2 to 1000"),
        (lambda layer: lessons.gradient(seeds=0), "seeds=0"),
        (lambda layer: lessons.gradient(hidden=True), "hidden=True"),
        (lambda layer: lessons.overflow(largest=1.5), "largest=1.5: a whole number"),
        (lambda layer: lessons.parallel(longest="x"), "longest='x': a whole number"),
        (lambda layer: lessons.lesson("gate"), "no lesson 'gate'. Did you mean 'gates'.*gates, gradient, over"),
        (lambda layer: lessons.lesson(None), "no lesson None. There are: gates"),
    ],
)  # fmt: skip
def test_lessons_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(longshort.LSTM(2, 2))


# ---- gradient --------------------------------------------------------------------------------------------------------


def test_gradient_of_the_rnn_only_falls(shown):
    rnn = column(shown["gradient"], "RNN")
    assert all(a > b for a, b in pairwise(rnn))
    assert 0 < rnn[-1] < 1e-20


def test_gradient_that_the_forget_gate_lets_through_stays(shown):
    last = dict(zip(shown["gradient"].columns, shown["gradient"].rows[-1], strict=True))
    assert last["T"] == 100
    assert last["sLSTM / RNN"] == pytest.approx(last["sLSTM"] / last["RNN"])
    assert last["sLSTM / RNN"] > 1e18
    assert last["sLSTM"] > 1e-4
    assert last["LSTM"] < last["LSTM, b_f 1"] < last["LSTM, b_f 3 to 6"]
    assert last["LSTM, b_f 3 to 6"] > 1e-4  # the start does it, not the name of the cell


def test_gradient_median_lies_in_its_range(shown):
    for each in shown["gradient"].series["curves"].values():
        for low, median, high in zip(each["low"], each["median"], each["high"], strict=True):
            assert 0 < low <= median <= high


@pytest.mark.parametrize("name", vanishing.CELLS)
def test_gradient_in_forward_mode_is_back_propagation(name):
    kind, bias, _ = vanishing.CELLS[name]
    sizes = vanishing.reach(kind, bias, 30, 5, 3, 7)
    layer, x = vanishing.start(kind, bias, 30, 5, 3, 7)
    y, _ = layer(x.requires_grad_()[None])
    for T in (1, 2, 30):
        rows = [torch.autograd.grad(y[0, T - 1, unit], x, retain_graph=True)[0][0] for unit in range(5)]
        assert sizes[T - 1] == pytest.approx(torch.linalg.matrix_norm(torch.stack(rows), ord=2).item(), rel=1e-9)


def test_gradient_says_where_all_is_lost():
    lesson = lessons.gradient(longest=12, hidden=2, features=1, seeds=1)
    assert [row[0] for row in lesson.rows] == [1, 2, 5, 10, 12]
    assert "Over 12 steps" in lesson.look and "1 random inputs" in lesson.settings


# ---- overflow --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", overflowing.CELLS)
def test_overflow_comes_exactly_where_float32_ends(name):
    sizes = list(range(1, 121))
    single = overflowing.compared(name, sizes, 0)
    double = overflowing.compared(name, sizes, 0, torch.float64)
    for a, small, big in zip(sizes, single["without"], double["without"], strict=True):
        # a gate beyond e^88.72 is inf by itself, and inf - inf or 0 inf may follow
        assert math.isfinite(small) == (big <= overflowing.LARGEST and math.exp(a) <= overflowing.LARGEST), a


def test_overflow_starts_where_the_sum_of_eight_gates_says(shown):
    end = math.log(overflowing.LARGEST)
    assert shown["overflow"].series["first"]["sLSTM"] == math.floor(end - math.log(8)) + 1 == 87
    assert shown["overflow"].series["first"]["sLSTM, exp f"] == math.floor(end / 8) + 1 == 12


def test_overflow_never_comes_with_the_stabiliser(shown):
    for name, found in shown["overflow"].series["cells"].items():
        assert shown["overflow"].series["sizes"][-1] == 1000
        assert all(0 < x < 20 for x in found["with"]), name
        assert all(map(math.isfinite, found["h with"])), name
        assert found["m"][-1] == (8000 if "exp" in name else 1000)
        assert not math.isfinite(found["h without"][-1])


@pytest.mark.parametrize("name", overflowing.CELLS)
def test_overflow_aside_both_agree(name):
    found = overflowing.compared(name, list(range(1, 87 if name != "sLSTM, exp f" else 12)), 0)
    assert all(map(math.isfinite, found["without"]))
    assert found["h without"] == pytest.approx(found["h with"], rel=2e-4, abs=1e-5)
    assert found["difference"] < 1e-4
    assert overflowing.compared(name, [1, 5, 50], 0, torch.float64)["difference"] < 1e-12


# ---- parallel --------------------------------------------------------------------------------------------------------


def test_parallel_forms_give_the_same(shown):
    lesson = shown["parallel"]
    assert column(lesson, "T") == [16, 32, 64, 128, 200]
    for form in ("chunkwise", "parallel"):
        assert max(column(lesson, f"Δ {form}, float64")) < 1e-12
        assert 1e-9 < max(column(lesson, f"Δ {form}, float32")) < 1e-3
        assert min(column(lesson, f"{form}, ms")) > 0


def test_parallel_matrices_are_those_of_the_parallel_form():
    q, k, v, i_pre, f_pre = three_forms.problem(8, 1, 4, 3)
    short = {name: torch.tensor(value, dtype=torch.float64) for name, value in three_forms.short_matrices(3).items()}
    S, m = short["S"], short["m"]
    assert torch.equal(S, S.tril()) and torch.equal(short["D"], short["D"].tril())
    h = S @ v[0, :, 0] / torch.maximum(S.sum(1).abs(), torch.exp(-m))[:, None]
    want, _ = mlstm(q, k, v, i_pre, f_pre, kernel="reference")
    torch.testing.assert_close(h, want[0, :, 0], rtol=1e-12, atol=1e-12)


# ---- every lesson ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", lessons.LESSONS)
def test_lesson_prints_its_table_and_what_to_see(shown, name):
    lesson = shown[name]
    text = str(lesson)
    assert text.startswith(lesson.title) and text.endswith(lesson.look) and lesson.look.startswith("What to see")
    lines = text.splitlines()[3:-2]
    assert len(lines) == 1 + len(lesson.rows)
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("name", lessons.LESSONS)
def test_lesson_is_plain_data(shown, name):
    data = shown[name].to_dict()
    again = json.loads(json.dumps(data))
    assert list(again) == ["name", "title", "settings", "look", "series", "columns", "rows"]
    assert len(again["rows"]) == len(shown[name].rows) and all(len(row) == len(data["columns"]) for row in data["rows"])
    assert again["name"] == name


@pytest.mark.parametrize("name", lessons.LESSONS)
def test_lesson_draws_a_small_picture_with_its_words(shown, name, tmp_path):
    path = tmp_path / "new folder" / "picture.svg"
    shown[name].plot(path)
    svg = path.read_text(encoding="utf-8")
    words = " ".join(ElementTree.fromstring(svg).itertext())
    assert shown[name].title in words
    for label in {
        "gates": ["LSTM, one unit", "store", "ask", "forget gate f", "memory c/n", "step"],
        "gradient": ["RNN", "sLSTM, forget bias 3 to 6", "length of the sequence, T (steps)", "2-norm"],
        "overflow": ["with m", "float32 ends here", "a = 87", "a = 12", "last output h"],
        "parallel": ["D: what is left of step j at step t", "chunkwise, float64", "time (ms), this machine"],
    }[name]:
        assert label in words
    assert len(svg) < 60_000
    assert [each.name for each in path.parent.iterdir()] == ["picture.svg"]
    shown[name].plot(path)
    assert path.read_text(encoding="utf-8") == svg


@pytest.mark.parametrize(("kind", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("SVG", b"<?xml")])
def test_lesson_writes_the_kind_of_picture_asked_for(shown, kind, magic, tmp_path):
    path = tmp_path / f"picture.{kind}"
    figure = shown["overflow"].plot(str(path))
    assert path.read_bytes().startswith(magic)
    assert figure.get_suptitle() == shown["overflow"].title


@pytest.mark.parametrize(
    ("name", "message"),
    [("picture", r"\.svg, \.png or \.pdf, here there is none"), ("picture.jpg", r"not \.jpg"),
     ("file/picture.svg", "could not be written")],
)  # fmt: skip
def test_lesson_says_why_a_picture_cannot_be_written(shown, name, message, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=message):
        shown["overflow"].plot(tmp_path / name)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_lesson_without_matplotlib_says_how_to_get_it(shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'longshort\[plot\]'"):
        shown["overflow"].plot()


def test_lessons_load_neither_torch_nor_matplotlib_before_they_are_called():
    code = "import sys, longshort.lessons; print({'torch', 'matplotlib'} & set(sys.modules))"
    assert said(code) == "set()"


def test_pictures_need_no_screen():
    code = (
        "import sys; from longshort.lessons import overflow; overflow().plot(); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    assert said(code) == "False"


def test_the_page_for_teachers_shows_every_lesson():
    page = (DOCS / "lessons.md").read_text(encoding="utf-8")
    for name in lessons.LESSONS:
        assert f"longshort hand show {name}" in page
        picture = DOCS / f"lessons-{name}.svg"
        assert f"]({picture.name})" in page
        assert picture.stat().st_size < 60_000
