"""Markdown: read by a parser, every table has its shape, and the numbers are the graph's."""

import re

import pytest
from markdown_it import MarkdownIt

from longshort.byhand import EXERCISES, Cell, exercise
from longshort.byhand.markdown import BLANK, to_markdown
from longshort.byhand.paper import printed_given
from longshort.byhand.spelling import LATEX, Speller, show

ROLES = ("weight", "bias", "input", "start", "target", "rest")
EACH = pytest.mark.parametrize("name", EXERCISES)
BOTH = pytest.mark.parametrize("key", [False, True], ids=["blank", "key"])


def sections(text):
    """Heading and tables of each section; a table as rows of its cells' source."""
    found, row = [("", [])], []
    tokens = MarkdownIt().enable("table").parse(text)
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            found.append((tokens[at + 1].content, []))
        elif token.type == "table_open":
            found[-1][1].append([])
        elif token.type == "tr_open":
            row = []
            found[-1][1][-1].append(row)
        elif token.type in ("th_open", "td_open"):
            row.append(tokens[at + 1].content)
    return found


def columns(tables):
    """The columns of tables by their headings: of a matrix, with its name in the corner, rows of cells."""
    found = []
    for head, *rows in tables:
        assert all(len(row) == len(head) for row in rows)
        if head[0]:
            found.append((head[0], [row[1:] for row in rows]))
        else:
            found += [(name, [row[at] for row in rows]) for at, name in enumerate(head) if at]
    return found


def written(each, name, text):
    """The cells of a given or quantity in the shape they should have, each as `text(index)`; empty where none is."""
    shape = each.shape(name)
    rows = [(row,) for row in range(shape[0])] if shape else [()]
    if len(shape) < 2:
        return [text(index) for index in rows]
    return [
        [text((*row, at)) if each.exists(name, (*row, at)) else "" for at in range(shape[1])] for row in rows
    ]  # fmt: skip


@EACH
@BOTH
def test_markdown_tables_of_givens_have_every_number(name, key):
    each = exercise(name)
    found = [
        column for title, tables in sections(to_markdown(each, key=key)) if not title[:1].isdigit()
        for column in columns(tables)
    ]  # fmt: skip
    wanted = []
    for given in sorted(each.givens, key=lambda given: ROLES.index(given.role)):
        for t in range(1, each.sizes["T"] + 1) if given.each_step else [0]:

            def number(index, given=given, t=t):
                return printed_given(each.given_value(given.name, t, index))

            label = Speller(each, LATEX).label(given.name, t or None)
            wanted.append((label, written(each, given.name, number)))
    assert [(re.sub(r" \(step \d+\)$", "", heading), cells) for heading, cells in found] == [
        (f"$`{label}`$", cells) for label, cells in wanted
    ]


@EACH
@BOTH
def test_markdown_tables_of_steps_have_every_answer_or_none(name, key):
    each = exercise(name)
    numbers = each.work()
    steps = [(title, tables) for title, tables in sections(to_markdown(each, key=key)) if title[:1].isdigit()]
    assert len(steps) == len(each.steps)
    for step, (title, tables) in zip(each.steps, steps, strict=True):
        assert title == f"{step.number}. {step.title}" + (f", t = {step.t}" if step.t else "")
        found = columns(tables)
        assert len(found) == len(step.quantities)
        for quantity, (_, cells) in zip(step.quantities, found, strict=True):

            def answer(index, quantity=quantity, t=step.t):
                cell = Cell(quantity.name, t, index)
                carried, before = show(numbers.at(*cell), each.decimals), show(numbers.unrounded(cell))
                return (carried if carried == before else f"{carried} ({before})") if key else BLANK

            assert cells == written(each, quantity.name, answer)


@EACH
def test_markdown_mathematics_is_safe_on_github(name):
    """Formulas stand between $` and `$, where nothing is mark-up, without what GitHub refuses or a table ends at."""
    text = to_markdown(exercise(name))
    formulas = re.findall(r"\$`(.*?)`\$", text)
    assert len(formulas) > len(exercise(name).steps)
    for formula in formulas:
        assert "|" not in formula and r"\operatorname" not in formula and "`" not in formula
        assert formula.count("{") == formula.count("}")
    assert "$" not in re.sub(r"\$`.*?`\$", "", text)


def test_markdown_lays_out_one_cell_of_a_step_in_the_key_alone():
    lines = "For example $`z_{f,1}`$, row 1: `0·1 + (−1)·2 + 0·1 + 0·1 + (−2)·1 + 0 = −4`"
    assert lines in to_markdown(exercise("lstm")).splitlines()
    assert "For example" not in to_markdown(exercise("lstm"), key=False)


def test_markdown_escapes_what_would_be_mark_up():
    words = r"*b* <i> $x$ `c` ~s~ [t](u) _e_ # h \ & W_f"
    text = to_markdown(exercise("rnn").changed(title=words, about=(words, "# no heading", "1. no list")))
    tokens = MarkdownIt().enable("strikethrough").parse(text)
    for inline in (tokens[1], tokens[4]):
        assert {child.type for child in inline.children} <= {"text", "text_special"}
        assert words in "".join(child.content for child in inline.children)
    assert sum(token.type == "heading_open" for token in tokens) == 2 + 4 + len(exercise("rnn").steps) + 1
    assert not any(token.type == "ordered_list_open" for token in tokens)


def test_markdown_says_its_rounding_rule():
    for decimals, says in [(1, "to 1 decimal when"), (None, "Exact arithmetic")]:
        assert says in to_markdown(exercise("rnn").changed(decimals=decimals), key=False)
