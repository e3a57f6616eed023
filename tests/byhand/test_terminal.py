"""The terminal: every number is printed, widths and encodings are kept to, the walk does what its keys say."""

import io
import os
import re
import select
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console

from longshort.byhand import EXERCISES, Cell, exercise
from longshort.byhand.spelling import Speller, show
from longshort.byhand.terminal import first_step, keys, print_all, text, walk
from longshort.byhand.terminal.signs import ascii_only, beside, carries, wrapped

NUMBER = re.compile(r"−?\d+(?:\.\d+)?(?:e[+−]\d+)?|−?∞")
LEADING = re.compile(rf"^ +(?:\d+,\d+: )? *[⎡⎢⎣\[]? *({NUMBER.pattern}|\?)[⎤⎥⎦\]]? +[=≈] ")


def sections(printed):
    """The printed steps, each from its heading to the next."""
    return re.split(r"^── ", printed, flags=re.MULTILINE)[1:]


# ---- printing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", EXERCISES)
def test_text_has_every_number_under_its_step_and_keeps_to_the_width(name, width):
    each = exercise(name)
    numbers, printed = each.work(), text(each, width=width)
    assert max(map(cell_len, printed.splitlines())) <= width
    assert each.title in printed and str(numbers.rounding) in " ".join(printed.split())
    found = sections(printed)
    assert len(found) == len(each.steps)
    for step, section in zip(each.steps, found, strict=True):
        time = f" · t = {step.t}" if step.t else ""
        assert section.startswith(f"{step.number}{time} · {step.title} ")
        there = set(NUMBER.findall(section))
        for quantity in step.quantities:
            assert Speller(each).label(quantity.name, step.t or None) in " ".join(section.split())
            for index in each.indices(quantity.name):
                assert show(numbers.at(quantity.name, step.t, index), each.decimals) in there


@pytest.mark.parametrize("name", ["lstm", "mlstm", "lstm-backward"])
def test_text_has_the_cells_in_order_each_with_its_row(name):
    each = exercise(name)
    numbers, speller = each.work(), Speller(each)
    copied = ("xh", "Q", "Km", "Vm", "dx", "dh_back")  # nothing to lay out
    worked = [cell for cell in each.cells if cell.name not in copied]
    printed = text(each, width=200)
    lines = [line for section in sections(printed) for line in section.splitlines() if LEADING.match(line)]
    for line, cell in zip(lines, worked, strict=True):
        assert LEADING.match(line)[1] == show(numbers.at(*cell), each.decimals), (line, cell)
        assert speller.worked(cell, numbers) in line


def test_text_shows_what_was_rounded_and_what_is_exact():
    printed = text(exercise("lstm"))
    assert re.search(r"⎡ 0\.7⎤ ≈ tanh\(0\.8\) = 0\.66404 +0\.64408\n", printed)
    assert re.search(r"⎡−4⎤ = 0·1 \+ \(−1\)·2 \+ 0·1 \+ 0·1 \+ \(−2\)·1 \+ 0\n", printed)
    assert "exact" not in sections(printed)[1].splitlines()[0]  # nothing was rounded before
    exactly = text(exercise("lstm").changed(decimals=None))
    assert "≈" not in exactly and " exact ──" not in exactly
    assert "⎡   0.63249⎤" in exactly


def test_text_without_answers_has_blanks_and_no_results():
    blank = text(exercise("lstm"), answers=False)
    assert "z_f₁ = W_f [x₁; h₀] + b_f = [__; __]" in blank
    assert "0.66404" not in blank and "−7.6" not in blank


def test_text_shows_the_given_numbers_in_brackets():
    printed = text(exercise("lstm"), width=80)
    assert "W_f = ⎡ 0 −1  0  0 −2⎤   W_i = ⎡2 0 3 1 0⎤" in printed
    assert "W_o: Reconstructed." in printed
    assert "R_i = ⎢0 2     ⎥" in text(exercise("slstm"))  # nothing between heads


def test_text_with_wide_matrices_keeps_to_the_width():
    weights = {f"W_{gate}": [[0.123456789] * 14 for _ in range(2)] for gate in "fico"}
    wide = exercise("lstm")
    values = {**wide.values, **weights, "x": [[0.5] * 12] * 3}
    wide = wide.changed(sizes={"D": 12, "H": 2, "T": 3}, values=values)
    for columns in (40, 80):
        printed = text(wide, width=columns)
        assert max(map(cell_len, printed.splitlines())) <= columns
        assert printed.count("0.123456789") >= 4 * 2 * 14
    assert "W_f, columns 1 to 4 = " in text(wide, width=80)


def test_text_in_colour_says_the_same():
    coloured = text(exercise("rnn"), colour=True)
    assert "\x1b[1m" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == text(exercise("rnn"))


def test_text_refuses_a_width_too_small():
    with pytest.raises(ValueError, match="width=20: an exercise needs at least 40 columns"):
        text(exercise("rnn"), width=20)


@pytest.mark.parametrize("name", EXERCISES)
def test_plain_text_is_ascii_without_a_sign_lost(name):
    printed = text(exercise(name), width=80, plain=True)
    assert printed.isascii() and "?" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    each = exercise(name)
    numbers = each.work()
    there = set(re.findall(r"-?\d+(?:\.\d+)?", printed))
    finite = [number for cell in each.cells if abs(number := numbers.at(*cell)) < 1e300]
    assert {show(number, each.decimals).replace("−", "-") for number in finite} <= there


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_print_all_prints_in_every_encoding(encoding):
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding)
    print_all(exercise("slstm-backward"), Console(file=out, width=90))
    out.flush()
    printed = raw.getvalue().decode(encoding)
    assert ("δ" in printed) == (encoding == "utf-8")
    assert "\x1b" not in printed and max(map(cell_len, printed.splitlines())) <= 90


def test_carries_says_no_to_what_it_does_not_know():
    assert carries("utf-8") and not carries("cp1252") and not carries(None) and not carries("no such encoding")


def test_first_step_has_by_hand_and_exact_side_by_side():
    printed = first_step(exercise("lstm"), encoding="utf-8")
    lines = printed.splitlines()
    assert lines[0].split() == ["by", "hand", "exact"] and len(lines) == 15
    assert re.fullmatch(r"6 Update hidden state +h₁ = o₁ ⊙ õ₁ +\[0\.7; 0\] +\[0\.632; −0\.005\]", lines[-1])
    assert max(map(cell_len, lines)) <= 80
    assert first_step(exercise("lstm"), encoding="cp1252").isascii()


def test_first_step_asks_standard_output_what_it_carries(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "cp1252"))
    assert first_step(exercise("lstm")).isascii()


@pytest.mark.parametrize("name", EXERCISES)
def test_first_step_of_any_exercise_has_its_first_numbers(name):
    each = exercise(name)
    printed, numbers = first_step(each, encoding="utf-8"), each.work()
    for cell in each.cells:
        if cell.t == 1 and cell.name == each.steps[0].quantities[0].name:
            assert show(numbers.at(*cell), each.decimals) in printed


# ---- laying out ------------------------------------------------------------------------------------------------------


def test_wrapped_breaks_before_operators_and_cuts_what_has_no_space():
    assert wrapped("1·2 + 3·4 + 5", 8) == ["1·2", "+ 3·4", "+ 5"]
    assert wrapped("abcdefgh ij", 3) == ["abc", "def", "gh", "ij"]
    assert wrapped("", 9) == [""]


def test_beside_fills_the_width_and_goes_on_below():
    assert beside([["ab", "cd"], ["e"], ["fghij"]], 9) == ["ab   e", "cd", "fghij"]


@pytest.mark.parametrize(
    ("signs", "plain"), [("h̃₁₂ ŷ", "h~_12 y^"), ("2 · t = 1", "2 - t = 1"), ("Kᵀ ≤ ∞²", "K^T <= inf^2")]
)
def test_ascii_only_spells_signs(signs, plain):
    assert ascii_only(signs) == plain


# ---- walking ---------------------------------------------------------------------------------------------------------


def screens(name, *pressed, live=False, width=80, height=24, encoding="utf-8"):
    """What is shown at first and after each key or typed line."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding)
    console = Console(file=out, width=width, height=height, force_terminal=live, color_system=None, _environ={})
    shown, at = [], 0
    queue = [key for line in pressed for key in ((*line, "enter") if line[0] in keys.BEGINS else (line,))]
    ends = [
        sum(len(line) + 1 if line[0] in keys.BEGINS else 1 for line in pressed[:n]) for n in range(len(pressed) + 1)
    ]
    count = 0

    def read_key():
        nonlocal at, count
        if count in ends:
            out.flush()
            shown.append(raw.getvalue()[at:].decode(encoding))
            at = len(raw.getvalue())
        count += 1
        return queue.pop(0) if queue else None

    walk(exercise(name), console=console, read_key=read_key)
    return shown


def test_walk_goes_on_back_and_to_a_step():
    shown = screens("lstm", "n", " ", "b", "g 14", "right", "g 1", "left", "enter", "backspace")
    heads = [re.search(r"── (\d+) ", each)[1] for each in shown]
    assert heads == ["1", "2", "3", "2", "14", "14", "1", "1", "2", "1"]
    assert "This was the last step" in shown[5] and "This is the first step" in shown[7]
    assert "step 14 of 14" in shown[4]


def test_walk_reveals_formulas_then_rows_then_numbers():
    names, formulas, rows, numbers, more = screens("lstm", "g 2", "r", "r", "r", "r")[1:]
    assert "z_f₁ = [?; ?]" in names and "+ b_f" not in names
    assert "z_f₁ = W_f [x₁; h₀] + b_f = [?; ?]" in formulas and "0·1 +" not in formulas
    assert "⎡?⎤ = 0·1 + (−1)·2 + 0·1 + 0·1 + (−2)·1 + 0" in rows and "−4⎤" not in rows
    assert "⎡−4⎤ = 0·1 + (−1)·2 + 0·1 + 0·1 + (−2)·1 + 0" in numbers and "?" not in numbers
    assert "All of this step is shown" in more


def test_walk_reveals_all_and_remembers_it():
    shown = screens("lstm", "g 5", "a", "n", "b")
    assert "⎡ 0.7⎤ ≈ tanh(0.8) = 0.66404" in shown[2]
    assert "⎡ 0.7⎤ ≈ tanh(0.8) = 0.66404" in shown[4] and "[?; ?]" in shown[3]


def test_walk_shows_what_a_step_needs():
    board = screens("lstm", "g 4")[1]
    for known in ("f₁ = ⎡0⎤", "C₀ = ⎡ 0.3⎤", "C̃₁ = ⎡0.8⎤"):
        assert known in board
    assert "W_f" not in board


def test_walk_judges_answers_at_once():
    _, step, right, wrong, row, last, _, exactly, stopped = screens(
        "lstm", "g 5", "0.7", "0.4", "0,41", "-0.8", "g 6", "0.6 1", "5 0"
    )
    assert "õ₁, row 1 = \n" in step
    assert "õ₁, row 1 = 0.7: right." in right and "õ₁, row 2 = \n" in right
    assert "õ₁, row 2 = 0.4: wrong" in wrong and "Hint: õ₁ = tanh(C₁)" in wrong
    assert "Hint: tanh(−1)" in row
    assert "row 2 = -0.8: right.\nAll of this step is done" in last
    assert "right by exact arithmetic (0.63249). On this sheet it is 0.7" in exactly
    assert "h₁, row 2 = 1: wrong" in exactly
    assert stopped.count("row 2") == 2 and "= 5: wrong" in stopped  # what comes after a wrong number is not read


def test_walk_accepts_what_is_not_yet_rounded_and_names_slips():
    shown = screens("lstm", "g 5", "0.66404", "g 3", "−4")
    assert "right. Written down it is 0.7, which is carried on." in shown[2]
    assert "f₁, row 1 = −4: wrong: the sigmoid is left out." in shown[4]


def test_walk_takes_every_right_number_of_every_exercise():
    for name in EXERCISES:
        each = exercise(name)
        numbers, lines = each.work(), []
        for step in each.steps:
            cells = [Cell(q.name, step.t, index) for q in step.quantities for index in each.indices(q.name)]
            lines += [f"g {step.number}", *(show(numbers.at(*cell), each.decimals) for cell in cells)]
        shown = "".join(screens(name, *lines))
        assert shown.count(": right.") == len(each.cells) and "wrong" not in shown, name
        assert shown.count("All of this step is done") == len(each.steps)


def test_walk_says_what_it_does_not_understand():
    shown = screens("lstm", "x", "g 99", "g", "4x", "?", "i", "up", "\x00")
    assert "x does nothing here; ? shows the keys." in shown[1]
    assert "g 99: there are steps 1 to 14" in shown[2] and "there are steps 1 to 14" in shown[3]
    assert "4x is no number" in shown[4]
    assert "Backspace    step before" in shown[5]
    assert "W_o is reconstructed" in shown[6] and "That key does nothing" in shown[8]


def test_walk_edits_and_gives_up_a_typed_line():
    pressed = iter(["n", "-", "5", "left", "backspace", "4", "enter", "9", "escape", "g", "backspace", "n", "q", "n"])
    out = io.StringIO()
    walk(exercise("lstm"), console=Console(file=out, width=80), read_key=lambda: next(pressed, None))
    assert "z_f₁, row 1 = -4: right." in out.getvalue() and "9:" not in out.getvalue()
    assert out.getvalue().count("── 3 ·") == 1 and next(pressed) == "n"  # q ended it


def test_walk_ends_at_the_end_of_the_input():
    assert len(screens("rnn")) == 1
    assert len(screens("rnn", "n")) == 2


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
@pytest.mark.parametrize("name", EXERCISES)
def test_walk_fits_the_window(name, width, height):
    pressed = [key for step in exercise(name).steps for key in (f"g {step.number}", "r", "r", "r")]
    for shown in screens(name, *pressed, live=True, width=width, height=height)[1:]:
        last = shown.split("\x1b[H")[-1].replace("\x1b[2J", "").splitlines()
        assert len(last) <= height
        assert max(map(cell_len, last)) <= width


def test_walk_scrolls_a_step_taller_than_the_window():
    shown = screens("slstm", "a", "up", "up", "down", "pageup", "pagedown", "pagedown", live=True)[1:]
    where = [tuple(map(int, re.search(r"lines (\d+)–(\d+) of (\d+)", each).groups())) for each in shown]
    step, up, twice, down, top, _, bottom = (first for first, _, _ in where)
    assert (up, twice, down, top) == (step - 1, step - 2, step - 1, 1)
    assert where[-1][1] == where[-1][2] and bottom > 1


def test_walk_in_ascii_where_nothing_else_is_carried():
    shown = screens("slstm", "n", "a", "0.5", "?", "õ", live=True, encoding="ascii")
    assert "f~_1 = " in shown[1] and "log sigma(-4)" in shown[2]


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_walk_reads_lines_from_a_pipe(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("next\n-4\nreveal\n\nfoo\ng 7\nquit\nn\n"))
    walk(exercise("lstm"))
    shown = capsys.readouterr().out
    assert re.findall(r"── (\d+) ", shown) == ["1", "2", "2", "3", "3", "7"]
    assert "z_f₁, row 1 = -4: right." in shown
    assert "foo does nothing here" in shown


def test_windows_keys_are_named(monkeypatch):
    pressed = iter(["\xe0", "M", "\x00", "H", "\r", "n", "\x08", "\x1a", "\x03"])
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(getwch=lambda: next(pressed)))
    assert [keys.windows_key() for _ in range(6)] == ["right", "up", "enter", "n", "backspace", None]
    with pytest.raises(KeyboardInterrupt):
        keys.windows_key()


CHILD = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from longshort.byhand import exercise
from longshort.byhand.terminal import walk
try:
    walk(exercise("lstm"))
except KeyboardInterrupt:
    sys.exit(130)
"""


def read_until(terminal, wanted):
    """What a pseudo-terminal shows, until it shows what is wanted."""
    shown = b""
    while wanted not in shown:
        assert select.select([terminal], [], [], 20)[0], f"{wanted!r} never came after {shown!r}"
        shown += os.read(terminal, 4096)
    return shown.decode()


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are Unix's")
@pytest.mark.parametrize(("last", "code"), [(b"q", 0), (b"\x03", 130), (b"\x04", 0)])
def test_walk_gives_the_terminal_back_as_it_was(last, code):
    import pty
    import termios

    terminal, inside = pty.openpty()
    try:
        before = termios.tcgetattr(inside)
        environment = {**os.environ, "PYTHONUTF8": "1", "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=inside, stdout=inside, stderr=inside,
            start_new_session=True, env=environment,
        )  # fmt: skip
        read_until(terminal, b"row 1 = ")
        for pressed, wanted in [("\x1b[C", "── 2 ·"), ("n", "── 3 ·"), ("\x1b[D", "── 2 ·"), ("−4\r", "row 2 = ")]:
            os.write(terminal, pressed.encode())
            read_until(terminal, wanted.encode())
        assert not termios.tcgetattr(inside)[3] & termios.ICANON
        os.write(terminal, last)
        assert child.wait(timeout=20) == code
        assert termios.tcgetattr(inside) == before
    finally:
        os.close(terminal)
        os.close(inside)


def test_first_step_of_an_exact_exercise_and_a_sheet_far_too_narrow_for_its_numbers():
    each = exercise("lstm").changed(decimals=None)
    assert "z_f" in first_step(each)
    huge = each.changed(values={"x": [[1e40, 2, 1]] * 3})
    assert "Update memory" in text(huge, width=40)
