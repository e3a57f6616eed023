"""The spreadsheet: its formulas give the graph's numbers, its checks the right verdicts, and answers come back from it.

Formulas are recalculated by the Python library `formulas`, on files without stored results. It takes its time, so the
exercises are cut down to the smallest that use every operation; `benchmarks/recompute_sheets.py` does them all.
"""

import math
import zipfile

import openpyxl
import pytest
from byhand.sheets import Layout, compare, cut, fill, filled, recalculated_by_formulas, recalculated_values, stripped

from longshort.byhand import EXERCISES, Cell, Rounding, exercise
from longshort.byhand.cells_in_sheets import DECIMALS, MINUS_INFINITY, excel, risky_quantities
from longshort.byhand.workbook import LONGEST, STORE, read_answers, write_workbook

CLOSE = 1e-12
ALL_THAT_DIFFERS = {"Key": CLOSE, "worked": CLOSE, "Exact": CLOSE, "Follow": CLOSE, "verdicts": 0}


def small(name, **sizes):
    return cut(exercise(name), **sizes)


def only_answers(path):
    """Take the sheet Follow out, and all that refers to it: the rest is recalculated three times as fast."""
    book = openpyxl.load_workbook(path)
    del book["Follow"]
    for row in book["Exercise"].iter_rows():
        for cell in row:
            if cell.data_type == "f" and "Follow!" in cell.value:
                cell.value = None
    book.save(path)


# ---- recalculated ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        small("lstm", D=1, H=1, T=1).changed(decimals=0),
        small("mlstm", D=1, K=1, V=1, T=2),
        small("xlstm", D=2, K=1, U=1, T=1),
        small("lstm-backward", D=1, H=1, T=1),
    ],
    ids=lambda given: f"{given.name}-{given.decimals}",
)
def test_write_workbook_recalculated_equals_the_graph(given, tmp_path):
    path = write_workbook(tmp_path / "sheet.xlsx", given)
    only_answers(path)
    found = compare(given, recalculated_by_formulas(path), {})
    assert {sheet: found[sheet] for sheet in ("Key", "worked", "Exact")} == pytest.approx(
        dict.fromkeys(("Key", "worked", "Exact"), 0), abs=CLOSE
    )


@pytest.mark.parametrize(
    "given",
    [small("rnn", D=1, H=2, T=2), small("rnn", D=1, H=1, T=2).changed(decimals=None)],
    ids=lambda given: f"{given.name}-{given.decimals}",
)
def test_write_workbook_judges_a_filled_sheet_with_follow_through(given, tmp_path):
    path = write_workbook(tmp_path / "sheet.xlsx", given)
    answers = filled(path, given, every=5)
    stripped(path)
    found = compare(given, recalculated_by_formulas(path), answers)
    assert found == pytest.approx(dict.fromkeys(ALL_THAT_DIFFERS, 0), abs=CLOSE)


def test_one_slip_is_marked_once_and_what_follows_is_right_method(tmp_path):
    given = small("rnn", D=1, H=1, T=2)
    z, h, xh2 = Cell("z", 1, (0,)), Cell("h", 1, (0,)), Cell("xh", 2, (1,))
    path = write_workbook(tmp_path / "sheet.xlsx", given)
    right = given.work()
    exact = given.work(Rounding(None)).at("h", 2, (0,))
    fill(path, {z: 0.1, h: 0.1, xh2: 0.1, Cell("xh", 2, (0,)): right.at("xh", 2, (0,)),
                Cell("h", 2, (0,)): exact, Cell("xh", 1, (0,)): "one"}, given)  # fmt: skip
    values = recalculated_by_formulas(path)
    layout = Layout(given)

    def says(*cell):
        return values["EXERCISE", layout.place(*cell).right(1).address]

    assert [says(*z), says(*h), says(*xh2), says("xh", 2, (0,))] == ["✗", "→ ✓", "→ ✓", "✓"]
    assert says("z", 2, (0,)) == ""
    assert says("xh", 1, (0,)) == "number?"
    assert values["EXERCISE", "C3"] == "4 of 8 right, 1 wrong"


def test_an_overflow_is_said_in_words_and_so_may_be_answered(tmp_path):
    given = small("slstm", D=1, H=1, N=1, T=1)
    given = given.changed(values={"W_i": [[800]]})
    path = write_workbook(tmp_path / "sheet.xlsx", given)
    place = Layout(given).place("i_raw", 1, (0,))
    assert openpyxl.load_workbook(path, data_only=True)["Key"][place.address].value == "overflow"
    assert risky_quantities(given) == {"i_raw", "c_raw", "n_raw", "h_raw"}
    answers = {cell: math.inf for cell in given.cells if cell.name in ("i_raw", "n_raw", "c_raw", "h_raw")}
    fill(path, answers, given)
    stripped(path)
    found = compare(given, recalculated_by_formulas(path), {**answers, Cell("h_raw", 1, (0,)): math.inf})
    assert found == pytest.approx(dict.fromkeys(ALL_THAT_DIFFERS, 0), abs=CLOSE)
    read = read_answers(path)[1]
    assert read["i_raw"] == [[math.inf]]
    assert math.isnan(read["h_raw"][0][0])


# ---- what is stored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXERCISES)
def test_write_workbook_stores_the_graphs_numbers_beside_every_formula(name, tmp_path):
    given = exercise(name)
    path = write_workbook(tmp_path / "sheet.xlsx", given)
    values = recalculated_values(path)
    assert compare(given, values, {}) == pytest.approx(dict.fromkeys(ALL_THAT_DIFFERS, 0), abs=0)


def test_every_formula_has_a_stored_result_and_is_short_enough(tmp_path):
    given = exercise("mlstm")
    path = write_workbook(tmp_path / "sheet.xlsx", given)
    values = recalculated_values(path)
    formulas = {
        (sheet.title.upper(), cell.coordinate): cell.value
        for sheet in openpyxl.load_workbook(path)
        for row in sheet.iter_rows()
        for cell in row
        if cell.data_type == "f"
    }
    assert len(formulas) > 12 * len(given.cells)
    assert max(map(len, formulas.values())) < 8192
    without = {formula for at, formula in formulas.items() if values[at] is None}
    assert all("Follow!J" in formula or "number?" in formula for formula in without)  # verdicts on blanks
    assert len(without) == 2 * len(given.cells)


def test_formulas_are_those_a_learner_writes(tmp_path):
    path = write_workbook(tmp_path / "sheet.xlsx", exercise("lstm"))
    key, layout = openpyxl.load_workbook(path)["Key"], Layout(exercise("lstm"))
    z, f = (layout.place(name, 1, (0,)).right(1).address for name in ("z_f", "f"))
    w, b, xh = (layout.place(*at) for at in (("W_f", 0, (0, 0)), ("b_f", 0, (0,)), ("xh", 1, (0,))))
    products = [f"{w.right(k).address}*{xh._replace(row=xh.row + k).address}" for k in range(5)]
    assert key[z].value == "=" + "+".join(products) + f"+{b.address}"
    assert key[f].value == f"=1/(1+EXP(MIN(-{layout.place('z_f', 1, (0,)).address},709)))"


@pytest.mark.parametrize("key", [False, True])
def test_write_workbook_hides_the_answers_from_a_learner_and_shows_them_to_a_teacher(key, tmp_path):
    book = openpyxl.load_workbook(write_workbook(tmp_path / "sheet.xlsx", exercise("rnn"), key=key))
    shown = [sheet.title for sheet in book if sheet.sheet_state == "visible"]
    assert shown == (["Exercise", "Key", "Exact", "Follow"] if key else ["Exercise"])
    assert book[STORE].sheet_state == "hidden"


def test_the_sheet_can_be_printed_and_tells_a_learner_what_to_type(tmp_path):
    given = exercise("lstm")
    sheet = openpyxl.load_workbook(write_workbook(tmp_path / "sheet.xlsx", given))["Exercise"]
    assert (sheet.page_setup.orientation, sheet.page_setup.paperSize) == ("landscape", 9)
    assert (sheet.sheet_properties.pageSetUpPr.fitToPage, sheet.page_setup.fitToHeight) == (True, 0)
    assert sheet.print_title_rows == "$6:$6"
    address = Layout(given).place("z_f", 1, (0,)).address
    prompt = next(each for each in sheet.data_validations.dataValidation if address in each.sqref)
    assert (prompt.type, prompt.prompt) == ("decimal", "z_f₁ = W_f [x₁; h₀] + b_f")
    assert not sheet[address].protection.locked
    assert sheet[Layout(given).place("z_f", 1, (0,)).right(1).address].protection.locked


def test_every_number_has_a_place_of_its_own():
    for name in EXERCISES:
        given = exercise(name)
        layout = Layout(given)
        places = [layout.place(*cell) for cell in given.cells]
        places += [place.right(1) for place in places]
        for each in given.givens:
            for t in range(1, given.sizes["T"] + 1) if each.each_step else [0]:
                places += [layout.place(each.name, t, index) for index in given.indices(each.name)]
        assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (["-", ["num", 1.0], ["-", ["num", 2.0], ["num", 3.0]]], "1-(2-3)"),
        (["/", ["num", 1.0], ["*", ["num", 2.0], ["num", 3.0]]], "1/(2*3)"),
        (["*", ["num", -1.0], ["neg", ["num", 2.0]]], "(-1)*(-2)"),
        (["sum", ["num", 1.0], ["sum", ["num", 2.0], ["num", 1e-6]]], "1+(2+1E-06)"),
        (["max", ["abs", ["num", 0.5]], ["exp", ["neg", ["num", 2.0]]]], "MAX(ABS(0.5),EXP(-2))"),
        (["silu", ["+", ["num", 1.0], ["num", 2.0]]], "(1+2)/(1+EXP(MIN(-(1+2),709)))"),
        (["*", ["logsigmoid", ["num", 2.0]], ["num", 3.0]], "(MIN(2,0)-LN(1+EXP(-ABS(2))))*3"),
    ],
)
def test_excel_puts_brackets_where_they_are_needed(tree, text):
    assert excel(tree, str) == text


def test_write_workbook_says_which_cell_no_spreadsheet_can_hold(tmp_path):
    given = small("slstm", D=1, H=1, N=1, T=1).changed(values={"n0": [0], "W_i": [[-9]], "c0": [1]}, decimals=0)
    given = given.changed(values={"m0": [9.0], "n0": [0.0]})
    with pytest.raises(ValueError, match=r"ratio at t = 1, row 1 comes to .* by the sheet's rounding rule"):
        write_workbook(tmp_path / "sheet.xlsx", given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "does"), [("xlsxwriter", "write"), ("openpyxl", "read")])
def test_what_is_not_installed_is_named(module, does, tmp_path, monkeypatch):
    path = write_workbook(tmp_path / "sheet.xlsx", exercise("rnn"))
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ValueError, match=rf"to {does} a spreadsheet, {module} is needed: pip install"):
        write_workbook(path, exercise("rnn"))
        read_answers(path)


# ---- read back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slstm", "mlstm", "xlstm"])
def test_read_answers_gives_back_the_exercise_and_blanks(name, tmp_path):
    given, answers = read_answers(write_workbook(tmp_path / "sheet.xlsx", exercise(name)))
    assert given.to_dict() == exercise(name).to_dict()
    assert list(answers) == [each.name for each in given.quantities]
    assert set(flat(answers)) == {None}


def test_read_answers_gives_back_what_was_typed_and_edited(tmp_path):
    given = exercise("xlstm")
    path = write_workbook(tmp_path / "sheet.xlsx", given)
    right = given.work()
    fill(path, right.found, given)
    edit(path, Layout(given).place("A_W_q", 0, (1, 2)).address, 0.75)
    edit(path, DECIMALS.address, "exact")
    edited, answers = read_answers(path)
    assert edited == given.changed(
        decimals=None, values={"A_W_q": [given.values["A_W_q"][0], [*given.values["A_W_q"][1][:2], 0.75]]}
    )
    for each in given.quantities:
        want = [right.value(each.name, t) for t in (1, 2)] if each.each_step else right.value(each.name)
        assert answers[each.name] == want
    assert answers["B_kept"][0] == [-math.inf] * 3


def test_read_answers_knows_cells_that_do_not_exist_and_those_of_no_step(tmp_path):
    given = exercise("mlstm")
    path = write_workbook(tmp_path / "sheet.xlsx", given)
    fill(path, given.work().found, given)
    answers = read_answers(path)[1]
    assert answers["S"] == given.work().value("S")
    assert answers["S"][0][1] is None


@pytest.mark.parametrize(
    ("typed", "number"),
    [("0,7", 0.7), (" −0.7 ", -0.7), ("-.5", -0.5), ("1e-2", 0.01), ("  ", None), (3, 3.0), (-1e300, -math.inf),
     ("−∞", -math.inf), ("-inf", -math.inf), ("Minus infinity", -math.inf), (f"{MINUS_INFINITY}", -math.inf),
     ("Overflow", math.inf)],
)  # fmt: skip
def test_read_answers_takes_numbers_as_people_type_them(typed, number, sheet):
    edit(sheet, HERE, typed)
    assert read_answers(sheet)[1]["h"][0][0] == number


RNN = small("rnn", D=1, H=1, T=2)
HERE = Layout(RNN).place("h", 1, (0,)).address
GIVEN = Layout(RNN).place("W", 0, (0, 1)).address


@pytest.fixture
def sheet(tmp_path):
    return write_workbook(tmp_path / "rnn.xlsx", RNN)


def edit(path, address, value, title="Exercise"):
    book = openpyxl.load_workbook(path)
    book[title][address] = value
    book.save(path)


def flat(value):
    if isinstance(value, dict):
        return flat(list(value.values()))
    return [each for part in value for each in flat(part)] if isinstance(value, list) else [value]


@pytest.mark.parametrize(
    ("address", "value", "message"),
    [
        (HERE, "abc", r"holds the text 'abc' where a number belongs"),
        (HERE, "1.2.3", r"holds the text '1.2.3'"),
        (HERE, "1.000,5", r"holds the text"),
        (HERE, "=1+1", r"holds the formula '=1\+1' where a number belongs"),
        (HERE, "#DIV/0!", r"holds the error #DIV/0! where"),
        (HERE, True, r"holds True where"),
        (HERE, __import__("datetime").date(2026, 1, 2), r"holds the date or time 2026-01-02.* where a number belongs"),
        (GIVEN, None, r"is empty, and gives W, row 1, column 2: put a number back"),
        (GIVEN, "x", r"\(W, row 1, column 2\) holds the text 'x'"),
        (GIVEN, -1e300, r"the given numbers: W\[0\]\[1\]: -inf is no number to reckon with"),
        (DECIMALS.address, 12, r"holds 12: decimals are a whole number from 0 to 9, or exact"),
        (DECIMALS.address, 1.5, r"holds 1.5: decimals are"),
        (DECIMALS.address, "many", r"\(decimals\) holds the text 'many'"),
    ],
)
def test_read_answers_names_the_cell_of_whatever_is_no_number(address, value, message, sheet):
    edit(sheet, address, value)
    with pytest.raises(ValueError, match=message) as caught:
        read_answers(sheet)
    assert "rnn.xlsx: sheet Exercise" in str(caught.value)
    assert address in str(caught.value) or "the given numbers" in str(caught.value)


def test_read_answers_refuses_what_is_no_workbook_of_ours(tmp_path, sheet):
    with pytest.raises(ValueError, match="there is no such file"):
        read_answers(tmp_path / "none.xlsx")
    with pytest.raises(ValueError, match="there is no such file"):
        read_answers(tmp_path)
    text = tmp_path / "text.xlsx"
    text.write_text("not a zip")
    with pytest.raises(ValueError, match=r"text.xlsx is no whole .xlsx file"):
        read_answers(text)
    whole = sheet.read_bytes()
    for part in (0.2, 0.5, 0.99):
        text.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ValueError, match=r"text.xlsx is no whole .xlsx file"):
            read_answers(text)
    with zipfile.ZipFile(text, "w") as other:
        other.writestr("hello.txt", "hello")
    with pytest.raises(ValueError, match=r"text.xlsx is no whole .xlsx file"):
        read_answers(text)
    openpyxl.Workbook().save(text)
    with pytest.raises(ValueError, match=r"no sheet 'longshort'; there are: Sheet. Only workbooks"):
        read_answers(text)
    book = openpyxl.load_workbook(sheet)
    book["Exercise"].title = "Mine"
    book.save(text)
    with pytest.raises(ValueError, match=r"no sheet 'Exercise'; there are: Mine"):
        read_answers(text)


@pytest.mark.parametrize(
    ("column", "kind", "value", "message"),
    [
        ("A", "longshort workbook 1", "longshort workbook 9", r"cell A1: 'longshort workbook 1' is expected, not"),
        ("B", "json", "{", "was changed"),
        ("B", "json", "[1]", "this is no exercise of ours"),
        ("B", "json", '{"format": "longshort exercise 1"}', "this exercise is not whole"),
        ("B", "json", RNN.to_json().replace('"T": 2', '"T": 1'), "x: 1 entries belong here, not 2"),
        ("B", "json", RNN.to_json().replace('"T": 2', '"T": "many"'), "size T='many'"),
        ("B", "json", RNN.to_json().replace('"quantities": ["xh"]', '"quantities": ["nothing"]'), "nothing"),
        ("E", "decimals", "", "its addresses are not those"),
        ("A", "decimals", "other", "was changed"),
        ("E", "answer", "$A$1", "its addresses are not those"),
        ("E", "given", "A1B", "its addresses are not those"),
        ("E", "answer", HERE, "its addresses are not those"),
        ("B", "answer", "nothing", "its addresses are not those"),
        ("C", "answer", "x", "was changed"),
    ],
)
def test_read_answers_refuses_a_hidden_sheet_that_was_changed(column, kind, value, message, sheet):
    rows = [row[0].row for row in openpyxl.load_workbook(sheet)[STORE].iter_rows(max_col=1) if row[0].value == kind]
    edit(sheet, f"{column}{rows[0]}", value, STORE)
    with pytest.raises(ValueError, match=message) as caught:
        read_answers(sheet)
    assert str(caught.value).startswith(str(sheet))


def test_a_long_exercise_is_stored_in_pieces(tmp_path):
    given = exercise("xlstm").changed(about=("An essay. " * 9000,))
    assert len(given.to_json()) > 3 * LONGEST
    assert read_answers(write_workbook(tmp_path / "long.xlsx", given))[0] == given
