"""Paper: every PDF is tagged, carries the numbers it should and no others, and stays within its pages."""

import re
import sys
from collections import Counter
from functools import cache
from io import BytesIO

import pytest
from pypdf import PdfReader, mult

from longshort.byhand import EXERCISES, exercise
from longshort.byhand.paper import PAPERS, compiled, printed_given, typst_source, write_paper
from longshort.byhand.spelling import Speller, show

NUMBER = r"−?(?:\d+(?:\.\d+)?(?:e−\d+)?|∞)"
BOTH = pytest.mark.parametrize("key", [False, True], ids=["blank", "key"])
EACH = pytest.mark.parametrize("name", EXERCISES)


@cache
def document(name, key, paper="a4"):
    return PdfReader(BytesIO(compiled(typst_source(exercise(name), key=key, paper=paper))))


@cache
def pages(name, key):
    return [page.extract_text() for page in document(name, key).pages]


def sections(name, key):
    """What stands before the steps, then the text of each step."""
    front, steps = "\n".join(pages(name, key)).split("\nSteps\n")
    titles = [f"{step.number} {step.title} " for step in exercise(name).steps]
    found = []
    for title in reversed(titles):
        steps, rest = steps.rsplit(title, 1)  # raises where a title is missing or out of order
        found.append(rest)
    return front, found[::-1]


def elements(root, kind):
    """The elements of one kind in the tree that a screen reader walks."""
    found, left = [], [root["/K"]]
    while left:
        each = left.pop()
        each = each.get_object() if hasattr(each, "get_object") else each
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            found += [each] if each.get("/S") == kind else []
            left += [each["/K"]] if "/K" in each else []
    return found


# ---- tags ------------------------------------------------------------------------------------------------------------


@EACH
@BOTH
def test_pdf_is_tagged_as_pdf_ua_1(name, key):
    root = document(name, key).trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == "en-GB"
    assert root["/ViewerPreferences"]["/DisplayDocTitle"]
    about = root["/Metadata"].get_data().decode()
    assert "<pdfuaid:part>1</pdfuaid:part>" in about
    assert exercise(name).title in about


@pytest.mark.parametrize("name", ["lstm", "mlstm"])
def test_every_formula_is_read_out_as_text(name):
    tree, each = document(name, False).trailer["/Root"]["/StructTreeRoot"], exercise(name)
    read = Counter(formula["/Alt"] for formula in elements(tree, "/Formula"))
    speller = Speller(each)
    for step in each.steps:
        for quantity in step.quantities:
            assert read[speller.equation(quantity.name, step.t or None)] >= 1
    quantities = sum(len(step.quantities) for step in each.steps)
    assert len(elements(tree, "/Table")) >= quantities + len(each.givens)
    assert len(elements(tree, "/TH")) >= quantities + len(each.givens)


# ---- what is printed -------------------------------------------------------------------------------------------------


@EACH
@BOTH
def test_pdf_carries_every_given_number(name, key):
    each = exercise(name)
    wanted = Counter(
        printed_given(each.given_value(given.name, t, index))
        for given in each.givens
        for t in (range(1, each.sizes["T"] + 1) if given.each_step else [0])
        for index in each.indices(given.name)
    )
    front, _ = sections(name, key)
    assert not wanted - Counter(re.findall(NUMBER, front.split("\nGiven\n")[1]))


@EACH
def test_key_carries_every_answer_in_order_and_its_unrounded_number(name):
    each, (_, steps) = exercise(name), sections(name, True)
    numbers = each.work()
    for step, text in zip(each.steps, steps, strict=True):
        printed = iter([number for line in text.splitlines() for number in re.findall(NUMBER, line)])
        cells = [cell for cell in each.cells if (cell.t, cell.name) in {(step.t, q.name) for q in step.quantities}]
        for cell in cells:
            carried, before = show(numbers.at(*cell), each.decimals), show(numbers.unrounded(cell))
            assert carried in printed, f"step {step.number}: {cell} = {carried} is missing or out of order"
            assert before == carried or before in printed, f"step {step.number}: {cell} unrounded {before}"


@EACH
def test_blank_has_no_answers(name):
    """Formulas hold no decimals, so that any number with one would be an answer."""
    _, blank = sections(name, False)
    _, key = sections(name, True)
    assert not re.findall(r"\d\.\d", "".join(blank))
    assert len(re.findall(r"\d\.\d", "".join(key))) > len(exercise(name).cells) / 4
    tokens = [sum(len(re.findall(NUMBER, step)) for step in steps) for steps in (blank, key)]
    assert tokens[1] - tokens[0] >= len(exercise(name).cells)


@EACH
def test_blank_and_key_have_one_layout(name):
    where = [
        [[f"{step.number} {step.title} " in page for page in pages(name, key)] for step in exercise(name).steps]
        for key in (False, True)
    ]
    assert where[0] == where[1]


@BOTH
def test_sheet_says_its_rule_its_colours_and_its_page(key):
    first, *_, last = pages("lstm", key)
    assert "Round every number to 1 decimal" in first
    for entry in ("x  input", "h  hidden state", "C  memory", "b  bias, learnable", "thick red border: learnable"):
        assert entry in first
    assert ("Name" in first and "Date" in first) is not key
    assert f"1 / {len(pages('lstm', key))}" in first
    assert f"{len(pages('lstm', key))} / {len(pages('lstm', key))}" in last


def test_key_lays_rows_out():
    _, steps = sections("lstm", True)
    assert "0·1 + (−1)·2 + 0·1 + 0·1 + (−2)·1 + 0 = −4" in " ".join(steps[1].split())


@pytest.mark.parametrize(("paper", "size"), [("a4", (595.28, 841.89)), ("letter", (612, 792))])
def test_paper_has_its_size(paper, size):
    for page in document("rnn", False, paper).pages:
        assert (float(page.mediabox.width), float(page.mediabox.height)) == pytest.approx(size, abs=0.1)


# ---- large, odd and wrong --------------------------------------------------------------------------------------------


def test_large_exercise_stays_on_its_pages():
    sizes = {"D": 12, "H": 12, "T": 1}
    small = exercise("lstm-backward")

    def numbers(*shape):
        return [numbers(*shape[1:]) for _ in range(shape[0])] if shape else -0.125

    values = {
        given.name: numbers(*[1] * given.each_step, *(sum(sizes[part] for part in s.split("+")) for s in given.shape))
        for given in small.givens
    }
    large = small.changed(sizes=sizes, values=values)
    placed = []

    def note(text, current, at, *_):
        placed.append((text, *mult(at, current)[4:]))

    for page in PdfReader(BytesIO(compiled(typst_source(large, key=True, paper="letter")))).pages:
        page.extract_text(visitor_text=note)
    left, bottom, footer = 16 / 25.4 * 72 - 0.1, 18 / 25.4 * 72, 25
    words = [(text, x, y) for text, x, y in placed if text.strip() and not re.fullmatch(r"\d+ / \d+", text.strip())]
    assert len(words) > 500
    assert not [each for each in words if not (left < each[1] < 612 - left and bottom < each[2] < 792 - footer)]


def test_any_words_are_printed_as_they_are(tmp_path):
    words = r'#panic("x") *b* $x$ _i_ "q" \ @a <l> ~ `c` // TITLE KIND'
    odd = exercise("rnn").changed(title=words, about=(words,))
    text = PdfReader(write_paper(tmp_path / "odd.pdf", odd, key=False)).pages[0].extract_text()
    assert " ".join(text.split()).count(words) == 3  # in the header, as the title, and below it


def test_same_exercise_gives_the_same_file(tmp_path):
    first, second = (write_paper(tmp_path / name, exercise("rnn"), key=True) for name in ("a.pdf", "b.pdf"))
    assert first.read_bytes() == second.read_bytes()


def test_typst_source_needs_no_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "typst", None)
    assert "#step(14, " in typst_source(exercise("lstm"), key=False)


def test_missing_typst_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(ValueError, match=r"pip install 'longshort\[hand\]'"):
        write_paper(tmp_path / "sheet.pdf", exercise("rnn"), key=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("paper", "says"), [("A4", "a4, letter"), ("leter", "letter"), (None, "paper=None")])
def test_unknown_paper_is_refused(paper, says):
    with pytest.raises(ValueError, match="no such paper") as error:
        typst_source(exercise("rnn"), key=False, paper=paper)
    assert says in str(error.value)
    assert set(PAPERS) == {"a4", "letter"}


def test_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"sheet\.pdf could not be written"):
        write_paper(tmp_path / "file" / "sheet.pdf", exercise("rnn"), key=False)


def test_words_without_letters_in_the_fonts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="its own fonts"):
        write_paper(tmp_path / "sheet.pdf", exercise("rnn").changed(title="手算"), key=False)
    assert not list(tmp_path.iterdir())
