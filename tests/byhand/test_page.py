"""The web page, in a headless browser: its numbers are the graph's, and it can be read, typed in, heard and printed."""

import json
import math
import random
import re

import pytest
from byhand.browser import browser as start_browser
from byhand.browser import opened

from longshort.byhand import EXERCISES, Cell, Exercise, Rounding, exercise
from longshort.byhand.answers import laid_out
from longshort.byhand.checker import EXACT, METHOD, check, products_of, slip_trees
from longshort.byhand.formulas import compute
from longshort.byhand.graph import spelt
from longshort.byhand.page import page as page_text
from longshort.byhand.page import write_page
from longshort.byhand.spelling import Speller

NAMES = list(EXERCISES)
MODES = ("step", "edit", "answer", "teacher")


@pytest.fixture(scope="module")
def browser():
    with start_browser() as started:
        yield started


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page with our own exercises, written once."""
    return write_page(tmp_path_factory.mktemp("page") / "hand.html")


@pytest.fixture
def page(browser, file):
    with opened(browser, file) as found:
        yield found


def same(ours: float, theirs: float) -> bool:
    if math.isnan(ours) or math.isinf(ours):
        return str(ours) == str(theirs)
    return abs(ours - theirs) <= 1e-12 * max(1.0, abs(ours))


def assert_numbers(page, exercise: Exercise, *decimals: int | None) -> None:
    """Every number on the page is the graph's."""
    found = page.numbers(*decimals)
    worked = exercise.work(*(Rounding(each) for each in decimals)).found
    assert found.keys() == {tuple(cell) for cell in worked}
    wrong = [f"{cell}: {value!r}, on the page {found[tuple(cell)]!r}" for cell, value in worked.items()
             if not same(value, found[tuple(cell)])]  # fmt: skip
    assert not wrong, f"{exercise.name}, rounding {decimals}: {wrong[:5]}"


# ---- the file --------------------------------------------------------------------------------------------------------


def test_page_is_small_and_whole(file):
    html = file.read_text(encoding="utf-8")
    assert html == page_text() and file.stat().st_size < 285_000
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|url\(|@import|fetch\(|XMLHttpRequest""", html)


def test_page_keeps_text_inside_its_script():
    tricky = exercise("rnn").changed(title="</script><!-- <script> & “so”")
    assert "</script><!--" not in page_text([tricky])


def test_page_shows_an_exercise_of_ones_own(browser, tmp_path):
    mine = exercise("rnn").changed(name="mine", title="My </script><!-- own & <b>RNN</b>")
    with opened(browser, write_page(tmp_path / "mine.html", [exercise("rnn"), mine, mine])) as page:
        assert page.ask("() => longshort.ids()") == ["rnn", "mine", "mine~2"]
        page.show("mine")
        assert page.tab.inner_text("h1") == mine.title
        assert page.exercise() == mine


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_page_numbers_steps_and_words_are_the_graphs(page, name):
    page.show(name)
    ours = exercise(name)
    assert page.exercise() == ours
    for decimals in (None, 0, 1, 2, 3, 4):
        assert_numbers(page, ours, decimals)
    steps = [[step.number, step.t, step.title, [each.name for each in step.quantities]] for step in ours.steps]
    assert page.ask("() => longshort.steps()") == steps
    speller, numbers = Speller(ours), ours.work()
    worked = {cell: speller.worked(cell, numbers) for cell in ours.cells}
    found = dict(zip(ours.cells, page.ask("() => longshort.worked()"), strict=True))
    differ = {str(cell): (text, found[cell]) for cell, text in worked.items() if text != found[cell]}
    assert not differ, list(differ.items())[:5]


def test_page_rounds_as_python_does(page):
    dice = random.Random(4)
    values = [0.5, 1.5, -0.5, 0.25, -0.25, 0.15 + 1e-15, 1.005, 2.675, -0.04, 0.0, 1e-300, 1e300, 123456789.5, 5e-10]
    values += [dice.uniform(-10, 10) for _ in range(300)]
    values += [sign * (dice.randrange(2000) + 0.5) / 10**places for places in range(6) for sign in (1, -1)
               for _ in range(40)]  # fmt: skip
    values += [dice.uniform(-1, 1) * 10 ** dice.randint(-12, 15) for _ in range(300)]
    for decimals in range(10):
        ours = [Rounding(decimals)(value) for value in values]
        theirs = page.ask("([vs, d]) => vs.map((v) => longshort.rounded(v, d))", [values, decimals])
        assert ours == theirs, decimals
        assert (
            page.ask("([vs, d]) => vs.some((v) => Object.is(longshort.rounded(v, d), -0))", [values, decimals]) is False
        )


def random_edit(dice: random.Random, now: Exercise) -> dict:
    """A number, a size or a rounding, as the page's own fields would hand it over."""
    kind = dice.choice(["number"] * 6 + ["size", "rounding"])
    if kind == "rounding":
        return {"decimals": dice.choice([None, 0, 1, 2, 3, 4])}
    if kind == "size":
        name = dice.choice(list(now.sizes))
        return {"size": name, "text": str(dice.randint(1, 4))}
    given = dice.choice(now.givens)
    index = dice.choice(now.indices(given.name))
    some = dice.uniform(-2, 2)
    spellings = [str(dice.randint(-3, 3)), f"{some:.3f}", f"{some:.2f}".replace(".", ","), str(some).replace("-", "−")]
    value = dice.choice([*spellings, "1e3" if given.role == "input" else "0"])
    return {"given": given.name, "t": dice.randint(1, now.sizes["T"]), "index": list(index), "text": value}


@pytest.mark.parametrize("name", NAMES)
def test_page_follows_every_edit(page, name):
    """Twenty seeded edits of each exercise: what the page saves, worked by the graph, gives the page's numbers."""
    dice = random.Random(name)
    page.show(name)
    taken = 0
    for _ in range(20):
        before = page.exercise()
        message = page.ask("(change) => longshort.edit(change)", random_edit(dice, before))
        after = page.exercise()
        if message:  # heads that do not divide
            assert "do not divide" in message and after == before
        else:
            taken += 1
            assert_numbers(page, after)
    assert taken > 12
    assert page.ask("() => longshort.edit({ reset: true })") == "" and page.exercise() == exercise(name)


def test_page_overflows_as_python_does(page):
    page.show("slstm", mode="edit")
    page.ask("() => longshort.edit({ fill: 'b_i', value: 800 })")
    assert_numbers(page, page.exercise())
    assert_numbers(page, page.exercise(), None)
    text = page.tab.inner_text("#board")
    assert "∞" in text and "not a number" in text


def test_page_writes_powers_of_ten_with_the_long_minus(page):
    page.show("rnn", mode="edit")
    page.ask("() => longshort.edit({ fill: 'b', value: -123456789.5 })")
    cells = page.tab.locator("#board td").all_inner_texts()
    assert "−1.2346·10⁸" in cells and not [text for text in cells if "-" in text]


def test_page_works_the_largest_sizes(page):
    page.show("lstm")
    for size in ("D", "H"):
        assert page.ask("(size) => longshort.edit({ size, text: '12' })", size) == ""
    assert page.ask("() => longshort.edit({ size: 'T', text: '16' })") == ""
    assert_numbers(page, page.exercise())


# ---- typing ----------------------------------------------------------------------------------------------------------


def field(page, label: str):
    return page.tab.get_by_role("textbox", name=label, exact=True)


def test_page_fields_take_what_is_typed(page):
    """A comma for the point and a long minus are numbers too; everything follows without another press."""
    page.show("lstm", mode="edit")
    for label, text, name, index in (
        ("W f, row 1, column 2", "−1,5", "W_f", (0, 1)),
        ("b i, row 2", ".25", "b_i", (1,)),
        ("C at 0, row 1", "2e-1", "C0", (0,)),
        ("x at 3, row 2", "+4", "x", (2, 1)),
    ):
        field(page, label).fill(text)
        field(page, label).press("Enter")
        value = page.exercise().values[name]
        for at in index:
            value = value[at]
        assert value == float(text.replace("−", "-").replace(",", "."))
    field(page, "H hidden units").fill("3")
    field(page, "H hidden units").press("Enter")
    page.tab.get_by_label("Rounding", exact=True).select_option("2 decimals")
    after = page.exercise()
    assert after.sizes["H"] == 3 and after.decimals == 2 and after.values["W_f"][0][1] == -1.5
    assert_numbers(page, after)
    shown = page.tab.locator("#board [data-cell='h|3|0']").inner_text()
    assert shown == f"{after.work().value('h', 3)[0]:g}".replace("-", "−")
    page.tab.get_by_role("button", name="Reset").click()
    assert page.exercise() == exercise("lstm")


@pytest.mark.parametrize("text", ["", "abc", "NaN", "1e999", "1/2", "=A1", "∞", "1,2,3"])
def test_page_refuses_what_is_no_number(page, text):
    page.show("lstm", mode="edit")
    cell = field(page, "W i, row 1, column 1")
    cell.fill(text)
    cell.press("Enter")
    message = page.tab.locator(f"#{cell.get_attribute('aria-describedby')}").inner_text()
    assert cell.get_attribute("aria-invalid") == "true"
    assert "number" in message or "too large" in message
    assert page.exercise() == exercise("lstm")
    cell.fill("2")
    cell.press("Enter")
    assert cell.get_attribute("aria-invalid") is None and page.tab.locator(".error:visible").count() == 0


@pytest.mark.parametrize(("name", "label", "text", "says"), [
    ("lstm", "H hidden units", "0", "from 1 to 12"), ("lstm", "D inputs", "1000", "from 1 to 12"),
    ("lstm", "T time steps", "17", "from 1 to 16"), ("lstm", "T time steps", "2.5", "from 1 to 16"),
    ("lstm", "T time steps", "", "from 1 to 16"), ("slstm", "H hidden units", "3", "do not divide"),
])  # fmt: skip
def test_page_refuses_sizes_that_cannot_be(page, name, label, text, says):
    page.show(name, mode="edit")
    field(page, label).fill(text)
    field(page, label).press("Enter")
    assert says in page.tab.locator(".size .error:visible").inner_text()
    assert page.exercise() == exercise(name)


def test_page_opens_what_it_saved_and_refuses_the_rest(page, tmp_path):
    page.show("mlstm", mode="edit")
    page.ask("() => longshort.edit({ given: 'b_i', t: 1, index: [], text: '0.5' })")
    with page.tab.expect_download() as saved:
        page.tab.get_by_role("button", name="Save the exercise").click()
    saved.value.save_as(tmp_path / "mine.json")
    page.ask("() => longshort.edit({ reset: true })")
    page.tab.get_by_label("Open a file").set_input_files(tmp_path / "mine.json")
    page.tab.wait_for_function("longshort.exercise().values.b_i === 0.5")
    assert page.exercise() == exercise("mlstm").changed(values={"b_i": 0.5})
    for text, says in (
        ("{", "no JSON"),
        ("[]", "format"),
        ('{"format": "longshort exercise 1"}', "not whole"),
        ("3", "format"),
    ):
        assert says in page.ask("(text) => longshort.load(text)", text)
    assert page.exercise().values["b_i"] == 0.5


def test_page_runs_nothing_of_a_hostile_file(page):
    """Names and operations in a file are text, or refused: never markup."""
    attack = '<img src=x onerror="window.struck = true">'
    whole = exercise("lstm").to_dict()
    sized = whole | {"sizes": whole["sizes"] | {attack: 2}}
    named = json.loads(json.dumps(whole).replace('"sigmoid"', json.dumps(attack)))
    assert named != whole
    assert "is no name" in page.ask("(data) => longshort.load(JSON.stringify(data))", sized)
    for decimals in (12, -1, 1.5, "2", attack):
        said = page.ask("(data) => longshort.load(JSON.stringify(data))", whole | {"decimals": decimals})
        assert f"decimals={decimals}" in said
    page.ask("(data) => longshort.load(JSON.stringify(data))", named)
    for mode in MODES:
        page.show("lstm", 1, mode)
    page.tab.wait_for_timeout(200)
    assert page.ask("() => [window.struck === undefined, document.querySelectorAll('img[src=x]').length]") == [True, 0]


# ---- answers ---------------------------------------------------------------------------------------------------------


def answers_of(exercise: Exercise, decimals: int | None) -> dict:
    """A sheet filled in, as the page saves it: every number by a rounding rule."""
    numbers = exercise.work(Rounding(decimals))
    times = range(1, exercise.sizes["T"] + 1)
    found = {
        each.name: spelt([numbers.value(each.name, t) for t in times] if each.each_step else numbers.value(each.name))
        for each in exercise.quantities
    }
    return {"format": "longshort answers 1", "exercise": exercise.to_dict(), "answers": found}


def judged(page, sheet: dict) -> dict[str, tuple[str, str]]:
    assert page.ask("(sheet) => longshort.load(JSON.stringify(sheet))", sheet) == ""
    words = {"exact": EXACT, "method": METHOD}
    return {key: (str(words.get(verdict, verdict)), slip) for key, verdict, slip in page.ask("() => longshort.judge()")}


def key(cell: Cell) -> str:
    return f"{cell.name}|{cell.t}|{','.join(map(str, cell.index))}"


@pytest.mark.parametrize("name", NAMES)
def test_page_marks_a_right_sheet_right(page, name):
    ours = exercise(name)
    found = judged(page, answers_of(ours, ours.decimals))
    assert set(found) == {key(cell) for cell in ours.cells} and set(found.values()) == {("right", "")}


def test_page_marks_exact_arithmetic_right(page):
    sheet = answers_of(exercise("lstm"), None)
    assert {verdict for verdict, _ in judged(page, sheet).values()} <= {"right", EXACT}
    alone = {"h": [[0.632, -0.005], [None, None], [None, None]]}
    found = judged(page, sheet | {"answers": alone})
    assert found == {"h|1|0": (EXACT, ""), "h|1|1": ("right", "")}


def test_page_follows_a_wrong_number_through(page):
    """One wrong number: it alone is wrong, what is worked from it by the right method says so, the rest is right."""
    ours = exercise("lstm")
    sheet = answers_of(ours, 1)
    sheet["answers"]["C"][0][0] = 0.5
    sheet["answers"]["o_cand"][0][0] = 0.5  # tanh(0.5)
    sheet["answers"]["h"][0][0] = 0.5
    sheet["answers"]["xh"][1][3] = 0.5
    found = judged(page, sheet)
    assert found["C|1|0"][0] == "wrong"
    assert [found[cell][0] for cell in ("o_cand|1|0", "h|1|0", "xh|2|3")] == [METHOD] * 3
    assert {found[key(cell)][0] for cell in ours.cells if cell.t == 1 and key(cell) not in
            ("C|1|0", "o_cand|1|0", "h|1|0")} == {"right"}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_page_marks_as_the_checker_does(page, name):
    """Sheets with wrong numbers here and there, by seeded chance: every verdict and slip is the checker's."""
    ours = exercise(name)
    dice = random.Random(name)
    slips = slip_trees(ours)
    for decimals in (ours.decimals, ours.decimals, None):
        right = ours.work(Rounding(decimals))
        numbers = {cell: value for cell, value in right.found.items() if dice.random() < 0.9}
        for cell in dice.sample(list(numbers), 12):
            made = [ours.scope.cell_tree(tree, cell.index, cell.t) for _, tree in slips[cell.name]]
            made += [way(["neg", product]) for way, product in products_of(ours.cell_tree(cell))]
            others = [compute(tree, right.at) for tree in made] or [0.5]
            numbers[cell] = dice.choice([right.rounding(dice.choice(others)), round(dice.uniform(-3, 3), 2)])
        answers = laid_out(ours, numbers.get)
        found = judged(
            page, {"format": "longshort answers 1", "exercise": ours.to_dict(), "answers": spelt_answers(answers)}
        )
        marks = {
            key(mark.cell): (mark.verdict, mark.slip) for mark in check(ours, answers).marks if mark.answer is not None
        }
        differ = {cell: (mark, found.get(cell)) for cell, mark in marks.items() if found.get(cell) != mark}
        assert not differ and found.keys() == marks.keys(), list(differ.items())[:5]


def spelt_answers(value):
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: spelt_answers(each) for name, each in value.items()}
    return [spelt_answers(each) for each in value] if isinstance(value, list) else value


def test_page_answers_are_saved_as_they_are(page):
    sheet = answers_of(exercise("slstm"), 1)
    sheet["answers"]["h"][1] = [None, 0.5, None, -0.25]
    judged(page, sheet)
    saved = page.ask("() => longshort.answers()")
    assert saved["answers"] == sheet["answers"] and Exercise.from_dict(saved["exercise"]) == exercise("slstm")


def test_page_answers_typed_are_checked_hinted_and_revealed(page):
    page.show("lstm", 2, "answer")
    for label, text in (("z f at 1, row 1", "-4"), ("z f at 1, row 2", "7")):
        field(page, label).fill(text)
    field(page, "z f at 1, row 2").press("Enter")
    slip = page.tab.locator("#slip-lines")
    assert "wrong" in slip.inner_text()
    hints = []
    for _ in range(3):
        field(page, "z f at 1, row 2").press("h")
        hints.append(slip.inner_text())
    assert field(page, "z f at 1, row 2").input_value() == "7"
    laid = "(−2)·1 + 0·2 + (−2)·1 + (−2)·1 + 0·1 + 0 = "
    assert laid not in hints[0] and laid + "?" in hints[1] and laid + "−6" in hints[2]
    field(page, "z i at 1, row 1").fill("six")
    assert "no number" in page.tab.locator("#bench .error:visible").inner_text()
    page.tab.get_by_role("button", name="Check step").click()
    assert page.tab.locator("#report .sum").inner_text() == "1 of 8 right · 1 wrong · 1 unreadable · 5 still blank."
    page.tab.get_by_role("button", name="Reveal this step").click()
    assert field(page, "z f at 1, row 2").input_value() == "−6"


def texts(page) -> dict[str, float]:
    """What the page would save as answers, without the blanks."""
    saved = page.ask("() => longshort.answers()")
    ours = Exercise.from_dict(saved["exercise"])
    found = {}
    for cell in ours.cells:
        value = saved["answers"][cell.name]
        for at in (cell.t - 1, *cell.index) if cell.t else cell.index:
            value = value[at]
        if value is not None:
            found[key(cell)] = value
    return found


def test_page_keeps_answers_through_sizes_and_reset(page):
    """Only the answers of cells that are no more go, without a word; all others stay."""
    page.show("lstm", 2, "answer")
    field(page, "z f at 1, row 1").fill("-4")
    field(page, "z f at 1, row 2").fill("7")
    written = {"z_f|1|0": -4, "z_f|1|1": 7}
    page.show("lstm", 2, "teacher")
    for steps in ("8 steps", "16 steps", "Reset"):
        page.tab.get_by_role("button", name=steps).click()
        assert texts(page) == written
    page.show("lstm", 2, "edit")
    field(page, "H hidden units").fill("3")
    field(page, "H hidden units").press("Enter")
    assert page.exercise().sizes["H"] == 3 and texts(page) == written
    page.tab.get_by_role("button", name="Reset").click()
    assert page.exercise() == exercise("lstm") and texts(page) == written
    field(page, "H hidden units").fill("1")
    field(page, "H hidden units").press("Enter")
    assert texts(page) == {"z_f|1|0": -4}


def answering(page, yes: bool, press) -> str:
    """Presses what asks first, and answers; gives the question."""
    asked = []

    def answer(dialog):
        asked.append(dialog.message)
        dialog.accept() if yes else dialog.dismiss()

    page.tab.once("dialog", answer)
    press()
    page.tab.wait_for_function("() => document.getElementById('live').textContent")
    assert len(asked) == 1
    return asked[0]


def test_page_asks_before_all_answers_go(page, tmp_path):
    page.show("lstm", 2, "answer")
    fresh = page.tab.get_by_role("button", name="Start afresh")
    fresh.click()  # with nothing to lose, nothing is asked
    field(page, "z f at 1, row 1").fill("-4")
    field(page, "z f at 1, row 2").fill("7")
    assert "all 2 answers" in answering(page, False, fresh.click)
    assert len(texts(page)) == 2
    page.ask("() => { document.getElementById('live').textContent = ''; }")
    (tmp_path / "lstm.json").write_text(json.dumps(exercise("lstm").to_dict()), encoding="utf-8")
    opens = page.tab.get_by_label("Open a file")
    assert "all 2 answers" in answering(page, False, lambda: opens.set_input_files(tmp_path / "lstm.json"))
    assert "not opened" in page.tab.inner_text("#load-error") and len(texts(page)) == 2
    page.ask("() => { document.getElementById('live').textContent = ''; }")
    answering(page, True, lambda: opens.set_input_files(tmp_path / "lstm.json"))
    assert page.tab.inner_text("#load-error") == "" and texts(page) == {}
    page.show("lstm", 2, "answer")
    field(page, "z f at 1, row 1").fill("-4")
    assert "the one answer" in answering(page, True, fresh.click)
    assert texts(page) == {} and field(page, "z f at 1, row 1").input_value() == ""


def test_page_saves_no_revealed_number_as_an_answer(page):
    page.show("lstm", 2, "answer")
    field(page, "z f at 1, row 1").fill("-4")
    page.tab.get_by_role("button", name="Reveal this step").click()
    shown = field(page, "z f at 1, row 2")
    assert shown.input_value() == "−6" and texts(page) == {"z_f|1|0": -4}
    shown.press("Enter")
    assert texts(page) == {"z_f|1|0": -4}
    page.tab.reload()
    page.tab.wait_for_function("window.longshort?.ready > 0")
    assert field(page, "z f at 1, row 2").input_value() == "−6" and texts(page) == {"z_f|1|0": -4}
    shown.fill("-5")
    assert texts(page) == {"z_f|1|0": -4, "z_f|1|1": -5}


def test_page_on_an_exact_sheet_takes_no_zero_for_a_small_number(page):
    """Never further off than half the size of what is expected, as the checker has it."""
    small = exercise("rnn").changed(decimals=None)
    small = small.changed(values={given.name: a_thousandth(small.values[given.name]) for given in small.givens})
    expected = small.work().found
    verdicts = set()
    for answer in (0.0, 0.001, -0.001, 0.002, 0.01):
        for cell in [each for each in small.cells if 0 < abs(expected[each]) < 0.005]:
            answers = laid_out(small, {cell: answer}.get)
            mark = check(small, answers)[cell]
            sheet = {"format": "longshort answers 1", "exercise": small.to_dict(), "answers": answers}
            assert judged(page, sheet) == {key(cell): (mark.verdict, mark.slip)}
            assert mark.verdict == "wrong" or abs(answer - expected[cell]) <= abs(expected[cell]) / 2 + 1e-9
            verdicts.add((answer, mark.verdict))
    assert (0.0, "right") not in verdicts and {(0.001, "right"), (0.01, "wrong")} <= verdicts


def a_thousandth(value):
    return [a_thousandth(each) for each in value] if isinstance(value, list) else value / 1000


@pytest.mark.parametrize("text", ["abc", "1/2", "=2+2", "1e999"])
def test_page_says_what_is_no_answer(page, text):
    """In words: beside the field, in the slip, in the live region, and again when the step is opened anew."""
    page.show("lstm", 2, "answer")
    cell = field(page, "z f at 1, row 1")
    cell.fill(text)
    says = "too large" if text == "1e999" else "is no number"
    assert cell.get_attribute("aria-invalid") == "true"
    assert says in page.tab.inner_text("#slip-lines") and says in page.tab.locator("#bench .error:visible").inner_text()
    page.tab.wait_for_function("(says) => document.getElementById('live').textContent.includes(says)", arg=says)
    cell.press("Enter")
    assert "unreadable" in page.tab.inner_text("#slip-lines") and says in page.tab.inner_text("#slip-lines")
    page.tab.get_by_role("button", name="Check step").click()
    assert page.tab.locator("#report .sum").inner_text() == "0 of 8 right · 1 unreadable · 7 still blank."
    assert says in page.tab.inner_text("#report li")
    other = field(page, "z f at 1, row 2")
    other.fill("six")
    other.fill("6")  # what is wrong with the first is said again
    assert says in page.tab.locator("#bench .error:visible").inner_text()
    other.fill("")
    page.show("lstm", 3, "answer")
    page.show("lstm", 2, "answer")
    assert cell.input_value() == text and cell.get_attribute("aria-invalid") == "true"
    assert says in page.tab.locator("#bench .error:visible").inner_text() and texts(page) == {}


def test_page_escape_takes_back_what_was_typed(page):
    page.show("lstm", 2, "answer")
    cell, other = field(page, "z f at 1, row 1"), field(page, "z f at 1, row 2")
    cell.fill("9")
    cell.press("Escape")
    assert cell.input_value() == "" and texts(page) == {}
    cell.fill("-4")
    cell.press("Enter")
    other.focus()
    cell.fill("abc")
    cell.press("Escape")
    assert cell.input_value() == "-4" and texts(page) == {"z_f|1|0": -4}
    assert cell.get_attribute("aria-invalid") is None and page.tab.locator("#bench .error:visible").count() == 0
    assert "right" in page.tab.inner_text("#slip-lines")
    page.tab.get_by_role("button", name="Reveal this step").click()
    other.fill("3")
    other.press("Escape")
    assert other.input_value() == "−6" and texts(page) == {"z_f|1|0": -4}


# ---- how it behaves --------------------------------------------------------------------------------------------------


def test_page_shows_how_a_cell_comes_about(page):
    page.show("lstm", 3)
    page.tab.locator("#bench .result [data-cell='C_cand|1|0']").hover()
    text = page.tab.locator("#slip-lines").inner_text()
    assert "tanh(1) = 0.761594156 → 0.8 rounded" in text
    used = page.ask("() => [...new Set([...document.querySelectorAll('.used')].map((each) => each.dataset.cell))]")
    assert used == ["z_c|1|0"]


def test_page_hides_what_comes_later(page):
    page.show("lstm", 2)
    assert page.tab.locator("#board [data-cell^='z_f|1']").count() == 2
    assert page.tab.locator("[data-cell^='f|1']").count() == page.tab.locator("[data-cell^='h|']").count() == 0
    page.tab.get_by_label("show all").check()
    assert page.tab.locator("#board [data-cell^='h|3']").count() == 2


def test_page_remembers_its_place(page):
    page.show("slstm", 5, "answer")
    page.tab.reload()
    page.tab.wait_for_function("window.longshort?.ready > 0")
    assert page.tab.inner_text("h1") == "An sLSTM by hand" and page.tab.locator("#jump").input_value() == "5"
    assert page.tab.locator("[aria-pressed=true]").inner_text() == "Answer"


def test_page_goes_by_keyboard_alone(page):
    """From the first Tab to an edited number and a checked answer, without a pointer."""
    press = page.tab.keyboard.press
    focused = "() => document.activeElement.textContent || document.activeElement.getAttribute('aria-label')"
    press("Tab")
    assert page.ask(focused) == "Skip to the sheet"
    page.tab.locator("[role=tab][aria-selected=true]").focus()
    press("ArrowRight")
    assert page.tab.inner_text("h1") == "An LSTM by hand"
    press("n")
    press("PageDown")  # scrolls, as everywhere
    press("n")
    press("p")
    press("PageUp")
    assert page.tab.locator("#jump").input_value() == "2"
    for _ in range(30):
        press("Tab")
        if page.ask("() => document.activeElement.dataset.cell") == "z_f|1|0":
            break
    else:
        raise AssertionError("no way to the cells by Tab")
    press("ArrowRight")
    assert page.ask("() => document.activeElement.dataset.cell") == "W_f|0|0,0"
    assert "a learnt weight" in page.tab.locator("#slip-lines").inner_text()
    press("Enter")
    assert page.ask("() => document.activeElement.getAttribute('aria-label')") == "W f, row 1, column 1"
    page.tab.keyboard.type("3")
    press("Enter")
    assert page.exercise().values["W_f"][0][0] == 3
    press("ArrowDown")
    assert page.ask("() => document.activeElement.getAttribute('aria-label')") == "W f, row 2, column 1"
    page.tab.locator("h1").evaluate("() => document.activeElement.blur()")
    press("?")
    assert page.tab.locator("#keys").is_visible()
    press("Escape")
    assert not page.tab.locator("#keys").is_visible()


@pytest.mark.parametrize("width", [360, 1440])
def test_page_fits_its_window(browser, file, width):
    with opened(browser, file, width=width) as page:
        for name in NAMES:
            for mode in MODES:
                page.show(name, len(exercise(name).steps), mode)
                assert page.ask("() => document.scrollingElement.scrollWidth <= innerWidth"), (name, mode)
        page.show("slstm-backward", 19)
        for size, text in (("T", "8"), ("H", "12")):
            assert page.ask("(change) => longshort.edit(change)", {"size": size, "text": text}) == ""
        for mode in MODES:
            page.show("slstm-backward", 19, mode)
            assert page.ask("() => document.scrollingElement.scrollWidth <= innerWidth"), mode


def audited(page, *views: tuple[str, str]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the audit needs axe-playwright-python")
    for name, mode in views:
        page.show(name, 3, mode)
        if mode in ("step", "answer"):
            page.tab.locator("#bench .result [data-cell]").first.click()
        found = axe.Axe().run(page.tab).response["violations"]
        assert not found, (name, mode, [(each["id"], each["nodes"][0]["html"]) for each in found])


def test_page_passes_the_accessibility_audit(page):
    audited(page, *((name, MODES[at % 4]) for at, name in enumerate(NAMES)), ("slstm", "step"), ("lstm", "step"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_with_verdicts_passes_the_accessibility_audit(browser, file, theme):
    with opened(browser, file, theme=theme) as page:
        sheet = answers_of(exercise("lstm"), None)
        sheet["answers"]["z_f"][0] = [5, None]
        judged(page, sheet)
        page.tab.get_by_role("button", name="Check all").click()
        audited(page, *(("lstm", mode) for mode in ("answer", *MODES)))


def test_page_prints_the_sheet_blank_and_worked(page, tmp_path):
    """On paper stands the sheet alone."""
    page.show("lstm")
    for mode, numbers in (("step", True), ("answer", False)):
        page.show("lstm", 1, mode)
        page.tab.pdf(path=tmp_path / "sheet.pdf")
        text = page.tab.locator("#paper").evaluate("(paper) => paper.textContent")
        assert "Round every number to 1 decimal" in text and "Update hidden state" in text
        assert ("−7.6" in text) is numbers
    assert (tmp_path / "sheet.pdf").stat().st_size > 5000


def test_page_is_ready_at_once(page, capsys):
    ready = page.ask("() => longshort.ready")
    assert ready > 0
    with capsys.disabled():
        print(f" the page was ready after {ready:.0f} ms ", end="")
