"""`longshort hand`, as a stranger meets it: page, terminal, files of every kind, answers checked, mistakes told."""

import io
import json
import sys

import pytest

from longshort.byhand import exercise
from longshort.byhand.renderings import RENDERINGS, write_exercise
from longshort.cli import main

HEADS = {".html": b"<!doctype html>", ".xlsx": b"PK", ".pdf": b"%PDF", ".md": b"# ", ".json": b"{"}


def run(*arguments, code=0, capsys):
    if code:
        with pytest.raises(SystemExit) as stop:
            main(["hand", *map(str, arguments)])
        assert stop.value.code == code
    else:
        main(["hand", *map(str, arguments)])
    return capsys.readouterr()


@pytest.fixture(autouse=True)
def no_browser(monkeypatch, tmp_path):
    """The page is written where the test can look, and `opened` has what a browser would have shown."""
    opened: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    return opened


def test_hand_alone_opens_the_page(no_browser, tmp_path, capsys):
    out = run(capsys=capsys).out
    assert no_browser == [(tmp_path / "cache" / "longshort" / "hand.html").as_uri()]
    assert "hand.html" in out and "no Python" in out


def test_hand_without_a_browser_says_which_file_to_open(monkeypatch, capsys):
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    assert "No browser was found here. Open this file in one:" in run(capsys=capsys).out


def test_hand_prints_all_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    out = run("lstm", capsys=capsys).out
    assert "Candidate output" in out and "Update hidden state" in out
    assert run("lstm", "--text", capsys=capsys).out == out


@pytest.mark.parametrize(
    ("ending", "key"),
    [(ending, key) for ending in RENDERINGS for key in (False, True) if (ending, key) != (".html", True)],
)
def test_hand_writes_every_kind_of_file(ending, key, tmp_path, capsys):
    path = tmp_path / f"sheet{ending}"
    out = run("lstm", "--out", path, *(["--key"] if key else []), capsys=capsys).out
    assert str(path) in out
    assert path.read_bytes()[: len(HEADS[ending])].lower() == HEADS[ending].lower()
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".tmp"] == []


@pytest.mark.parametrize("name", ["sheet.xlsx", "answers.json"])
def test_hand_never_writes_over_answers_unasked(name, tmp_path, capsys):
    path = tmp_path / name
    run("lstm", "--out", path, capsys=capsys)
    path.write_bytes(before := path.read_bytes() + b" ")
    assert "may hold answers" in run("lstm", "--out", path, code=1, capsys=capsys).err
    assert path.read_bytes() == before
    run("lstm", "--out", path, "--overwrite", capsys=capsys)
    assert path.read_bytes() != before


@pytest.mark.parametrize("ending", [".json", ".xlsx"])
def test_hand_check_marks_a_blank_and_a_full_sheet(ending, tmp_path, capsys):
    blank, full = tmp_path / f"blank{ending}", tmp_path / "full.json"
    write_exercise(blank, exercise("lstm"))
    write_exercise(full, exercise("lstm"), key=True)
    assert "None of the 93 cells is answered yet" in run("check", blank, capsys=capsys).out
    assert "All 93 cells are right" in run("check", full, capsys=capsys).out


def test_hand_check_names_the_cell_and_the_slip(tmp_path, capsys):
    path = tmp_path / "answers.json"
    write_exercise(path, exercise("slstm"), key=True)
    data = json.loads(path.read_text())
    data["answers"]["i"][0][1] = 54.6  # exp(4) where exp(4 - m) belongs
    path.write_text(json.dumps(data))
    out = run("check", path, capsys=capsys).out
    assert "stabiliser" in out and "wrong" in out


def test_hand_makes_new_exercises_that_are_the_same_for_a_seed(tmp_path, capsys):
    for name in ("a.json", "b.json"):
        run("lstm", "--new", 7, "--size", "H=3", "--steps", 4, "--out", tmp_path / name, capsys=capsys)
    first, second = (json.loads((tmp_path / name).read_text())["exercise"] for name in ("a.json", "b.json"))
    assert first == second and first["sizes"] == {"D": 3, "H": 3, "T": 4}


def test_hand_rounds_as_asked(tmp_path, capsys):
    for asked, kept in (("2", 2), ("exact", None)):
        run("lstm", "--decimals", asked, "--out", tmp_path / f"{asked}.json", capsys=capsys)
        assert json.loads((tmp_path / f"{asked}.json").read_text())["exercise"]["decimals"] == kept


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["lstn"], 2, "no 'lstn'. Did you mean 'lstm'?"),
        (["lstm", "gates"], 2, "what is 'gates' for?"),
        (["check"], 2, "check what?"),
        (["check", "none.json"], 1, "none.json"),
        (["show", "gate"], 2, "no lesson 'gate'. Did you mean 'gates'?"),
        (["show"], 2, "show what? There are: gates"),
        (["show", "gates", "--out", "gates.txt"], 1, "gates.txt: the ending says which picture"),
        (["show", "gates", "--key"], 2, "--key has nothing to do with show"),
        (["check", "a.json", "--new", "3"], 2, "--new has nothing to do with check"),
        (["lstm", "--key"], 2, "--key goes with --out FILE"),
        (["lstm", "--key", "--out", "page.html"], 2, "--key is not for a page"),
        (["lstm", "--paper", "letter", "--out", "sheet.md"], 2, "--paper goes with a .pdf"),
        (["lstm", "--text", "--out", "sheet.md"], 2, "--text prints"),
        (["lstm", "--size", "H=3"], 2, "add --new SEED"),
        (["lstm", "--units", "1,2"], 2, "--units goes with --from"),
        (["lstm", "--out", "sheet.docx"], 1, "cannot write a file ending in '.docx'"),
        (["lstm", "--out", "/proc/nowhere/sheet.md"], 1, "could not be written"),
        (["lstm", "--decimals", "many"], 2, "'many': a whole number from 0 to 9, or exact"),
        (["lstm", "--decimals", "12", "--text"], 1, "decimals=12"),
        (["lstm", "--new", "7", "--size", "H"], 2, "'H': write a size as H=3"),
        (["lstm", "--new", "7", "--size", "Q=3"], 1, "no size 'Q'"),
        (["lstm", "--new", "7", "--size", "H=1000"], 1, "size H=1000"),
        (["lstm", "--new", "7", "--size", "H=0"], 1, "size H=0"),
        (["lstm", "--new", "-1"], 1, "seed=-1"),
        (["--from", "no-such-folder"], 1, "no-such-folder"),
        (["lstm", "--from", "runs/demo"], 2, "leave out the exercise's name"),
    ],
)
def test_hand_tells_mistakes_in_a_line(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    err = run(*arguments, code=code, capsys=capsys).err
    assert message in err.replace("\n", " ") and "Traceback" not in err


def test_hand_needs_its_extra_and_says_so(monkeypatch, tmp_path, capsys):
    for module, ending in (("xlsxwriter", ".xlsx"), ("typst", ".pdf")):
        monkeypatch.setitem(sys.modules, module, None)
        err = run("lstm", "--out", tmp_path / f"sheet{ending}", code=1, capsys=capsys).err
        assert "pip install 'longshort[hand]'" in err
