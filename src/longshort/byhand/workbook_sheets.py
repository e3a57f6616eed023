"""The sheets Exercise, Key and Exact as they are drawn: numbers, formulas, labels, colours, hints, print set-up.

Not the file: `workbook.py` puts them in one; where everything stands is told in `cells_in_sheets.py`.
"""

import math
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from typing import Any

from longshort.byhand.cells_in_sheets import (
    DECIMALS,
    EXACT,
    FOLLOWS,
    HEADER_ROW,
    MINUS_INFINITY,
    MINUS_INFINITY_WORDS,
    NO_NUMBER,
    OVERFLOW,
    RIGHT,
    WRONG,
    Layout,
    Place,
    excel,
    given_cells,
    guarded,
    in_sheet,
    risky_quantities,
    rounded,
    shown,
    words_allowed,
)
from longshort.byhand.formulas import Index
from longshort.byhand.graph import Cell, Exercise, Given, Rounding
from longshort.byhand.spelling import TEXT, Speller, parts_of

# ---- looks -----------------------------------------------------------------------------------------------------------

FILLS = {"input": "#FFF2B3", "hidden": "#D5EBC8", "memory": "#CFE2F7", "scale": "#E4DAF1", "bias": "#E3E3E3",
         "target": "#FBDCC4"}  # fmt: skip
KINDS = {"input": ("x", "input"), "hidden": ("h", "hidden state"), "memory": ("C", "memory"),
         "scale": ("n m", "normaliser, stabiliser"), "bias": ("b", "bias"), "target": ("y", "target")}  # fmt: skip
RED, INK, PALE, LINE, STRIP = "#C00000", "#1F2A44", "#6B7280", "#B8BEC9", "#E9EDF4"
FONT = {"font_name": "Arial", "font_size": 10}
"""Of the whole book: a spreadsheet counts the widths of columns in digits of it, and Arial is everywhere alike."""
FIVE_DECIMALS = "0.00000"
"""What is not rounded is shown so; large numbers and minus infinity by a condition, which keeps signs everywhere."""
DECIMALS_CHOICES = "=longshort!$H$1:$H$11"
"""The cells of the hidden sheet with what the decimals may be; from cells, a choice keeps its type everywhere."""
FOLLOW_HEADER = 4
FOLLOW = {"step": "A", "t": "B", "cell": "C", "own": "D", "key": "E", "exact": "F", "worked": "G", "follow": "H",
          "rests": "I", "verdict": "J", "off": "K"}  # fmt: skip
"""The columns of the sheet Follow."""
TOLERANCE = Place(2, 3)
WIDTHS = {"left": 6.6, "gap": 1.6, "cell": 9, "check": 8.6}
WIDEST_LABEL = 23
ROW_HEIGHT = 17
WIDEST_PAGE = 250
"""In the unit of column widths; more on one page is too small to read."""
CHARACTER = 0.85
"""How wide a letter of text is on average, in the unit of column widths."""
PAGE = (784, 516)
"""Points of A4 landscape between the margins."""


def kind_of(exercise: Exercise, name: str) -> str:
    """Which colour something has: by its role, or by the letter it is called."""
    each = exercise.by_name[name]
    if isinstance(each, Given) and each.role != "start":
        return each.role
    if not each.symbol:
        return ""
    found = parts_of(each.symbol)
    if found["delta"] or found["log"] or found["accent"] or found["sub"] or found["arrow"]:
        return ""
    return {"h": "hidden", "H": "hidden", "c": "memory", "C": "memory", "n": "scale", "m": "scale"}.get(
        found["base"], ""
    )


def width_of(text: str) -> int:
    """How many characters wide a text is printed."""
    return sum(not unicodedata.combining(letter) for letter in text)


class Writer:
    """One workbook as it is drawn: the exercise, its numbers, and what all its sheets share."""

    def __init__(self, book: Any, exercise: Exercise, key: bool):
        self.book, self.exercise, self.key = book, exercise, key
        self.layout, self.speller = Layout(exercise), Speller(exercise, TEXT)
        self.risky = risky_quantities(exercise)
        self.numbers = exercise.work()
        self.carried = shown(self.numbers, self.risky)
        self.exact = shown(exercise.work(Rounding(None)), self.risky)
        self.may_be_empty = {c for c in exercise.cells if MINUS_INFINITY in (self.carried[c], self.exact[c])}
        self.follow_row = {cell: FOLLOW_HEADER + 1 + at for at, cell in enumerate(exercise.cells)}
        self.formats: dict[tuple, Any] = {}

    def format(self, **properties: Any) -> Any:
        """A cell format; the same one for the same properties."""
        properties = {**FONT, "valign": "vcenter", **properties}
        key = tuple(sorted(properties.items()))
        if key not in self.formats:
            self.formats[key] = self.book.add_format(properties)
        return self.formats[key]

    @property
    def decimals(self) -> str:
        return f"Exercise!{DECIMALS.fixed}"

    def cell_kind(self, cell: Cell) -> str:
        """A cell's colour; one that only copies another has the other's."""
        if not self.exercise.given(cell.name):
            tree = self.exercise.cell_tree(cell)
            if tree[0] == "cell":
                return kind_of(self.exercise, tree[1])
        return kind_of(self.exercise, cell.name)

    def label(self, name: str, t: int) -> str:
        return self.speller.label(name, t or None)

    def where(self, cell: Cell) -> str:
        """A cell in the sheet's own letters, such as `z_f₂, row 1`."""
        place = [f"{axis} {at + 1}" for axis, at in zip(("row", "column"), cell.index, strict=False)]
        return ", ".join([self.label(cell.name, cell.t), *place])


class Sheet:
    """What the sheets Exercise, Key and Exact have in common: places, titles, labels, print set-up."""

    name = ""

    def __init__(self, writer: Writer, sheet: Any):
        self.writer, self.sheet = writer, sheet
        self.exercise, self.layout, self.format = writer.exercise, writer.layout, writer.format
        self.heights: dict[int, float] = {}

    def draw(self) -> None:
        self.columns()
        self.header()
        self.time_header()
        self.titles()
        self.labels()
        self.givens()
        for cell in self.exercise.cells:
            self.cell(cell)
        for name in self.exercise.by_name:
            self.holes(name)
        numbers_at_the_ends(self.writer.book, self.sheet, HEADER_ROW + 1, self.layout.last_row, self.layout.last_column)
        self.print_setup()

    # ---- for each sheet to say ----

    def header(self) -> None:
        raise NotImplementedError

    def given(self, cell: Cell, place: Place) -> None:
        """A given number. On all sheets but the first it is a link: editing it there moves everything."""
        value = self.exercise.given_value(*cell)
        style = self.format(**self.given_look(cell, value), locked=True)
        self.sheet.write_formula(*place, f"=Exercise!{place.address}", style, in_sheet(value))

    def cell(self, cell: Cell) -> None:
        raise NotImplementedError

    # ---- common ----

    def columns(self) -> None:
        layout = self.layout
        self.sheet.hide_gridlines(2)
        self.sheet.set_default_row(ROW_HEIGHT)
        for column, width in enumerate(self.widths):
            self.sheet.set_column(column, column, width)
        for row in layout.gaps:
            self.set_height(row, 7)

    def set_height(self, row: int, height: float) -> None:
        self.sheet.set_row(row, height)
        self.heights[row] = height

    def label_width(self, t: int) -> float:
        """Wide enough for the labels of a block; longer ones are wrapped or shrunk."""
        texts = [self.writer.label(name, step) for name, step in self.layout.tops if max(step, 1) == t]
        return min(WIDEST_LABEL, max(6, *(width_of(text) + 3 for text in texts)))

    def time_header(self) -> None:
        style = self.format(bold=True, font_color="#FFFFFF", bg_color=INK, align="center")
        self.set_height(HEADER_ROW, 20)
        self.merge(HEADER_ROW, 0, HEADER_ROW, self.layout.left_columns - 1, "Given numbers", style)
        for t, block in self.layout.blocks.items():
            self.merge(HEADER_ROW, block.label, HEADER_ROW, block.last, f"t = {t}", style)
        self.sheet.freeze_panes(HEADER_ROW + 1, 0)

    def titles(self) -> None:
        """The numbered steps, and at the left what is done in them."""
        style = self.format(bold=True, font_color=INK, bg_color=STRIP, shrink=True)
        aside = self.format(italic=True, font_color=PALE, text_wrap=True, valign="top", font_size=9)
        width = sum([WIDTHS["left"]] * self.layout.left_columns)
        for row, steps in self.layout.titles:
            height = 21.0
            for step in steps:
                block = self.layout.blocks[step.t or 1]
                last = block.last if step.t else self.layout.last_column  # of the whole sequence: over all blocks
                self.merge(row, block.label, row, last, f"{step.number}  {step.title}", style)
            about = next((step.about for step in sorted(steps, key=lambda step: step.number) if step.about), "")
            if about:
                height = max(height, 12.5 * math.ceil(width_of(about) * CHARACTER / width) + 4)
                self.merge(row, 0, row, self.layout.left_columns - 1, about, aside)
            self.set_height(row, height)

    def merge(self, row: int, column: int, last_row: int, last_column: int, text: str, style: Any) -> None:
        if (row, column) == (last_row, last_column):
            self.sheet.write_string(row, column, text, style)
        else:
            self.sheet.merge_range(row, column, last_row, last_column, text, style)

    def labels(self) -> None:
        for name, place in self.layout.left.items():
            self.one_label(name, place, self.writer.label(name, 0), 0)
        for (name, t), place in self.layout.tops.items():
            text = self.writer.label(name, t)
            self.one_label(name, place, text, t)

    def one_label(self, name: str, place: Place, text: str, t: int) -> None:
        rows = self.layout.size(name)[0]
        look = {"text_wrap": True} if rows > 1 and width_of(text) > WIDEST_LABEL - 3 else {"shrink": True}
        style = self.format(align="right", font_color=INK, bold=name in self.layout.left, **look)
        text += " " if name in self.layout.left else " ="
        self.merge(place.row, place.column - 1, place.row + rows - 1, place.column - 1, text, style)

    def givens(self) -> None:
        for cell in given_cells(self.exercise):
            self.given(cell, self.layout.place(*cell))

    def given_look(self, cell: Cell, value: float) -> dict[str, Any]:
        each = self.exercise.by_name[cell.name]
        learnable = isinstance(each, Given) and each.role in ("weight", "bias")
        look: dict[str, Any] = {"border": 1, "border_color": RED if learnable else LINE, "align": "center"}
        if kind := FILLS.get(self.writer.cell_kind(cell)):
            look["bg_color"] = kind
        return look

    def look(self, cell: Cell) -> dict[str, Any]:
        """A worked cell's colour and frame."""
        look: dict[str, Any] = {"border": 1, "border_color": PALE, "align": "center"}
        if kind := FILLS.get(self.writer.cell_kind(cell)):
            look["bg_color"] = kind
        return look

    def holes(self, name: str) -> None:
        """The cells of a matrix that do not exist: between two heads, or above the diagonal of a triangle."""
        shape = self.exercise.shape(name)
        if len(shape) != 2:
            return
        style = self.format(bg_color="#EEF0F3")
        for index in ((row, column) for row in range(shape[0]) for column in range(shape[1])):
            if not self.exercise.exists(name, index):
                for t in [0] if name in self.layout.left else [t for other, t in self.layout.tops if other == name]:
                    self.sheet.write_blank(*self.layout.place(name, t, index), None, style)

    def top(self, text: str, lines: Iterable[str]) -> None:
        """The title, and sentences below it from the second row on."""
        self.set_height(0, 30)
        self.sheet.write_string(0, 0, text, self.format(bold=True, font_size=18, font_color=INK))
        for at, line in enumerate(lines):
            self.sheet.write_string(1 + at, 0, line, self.format(font_color=INK))

    @cached_property
    def widths(self) -> list[float]:
        """Of every column, in the unit of column widths."""
        found = [WIDTHS["left"]] * self.layout.left_columns + [WIDTHS["gap"]]
        for t, block in self.layout.blocks.items():
            found += [self.label_width(t), *[WIDTHS["cell"], WIDTHS["check"]] * block.pairs, WIDTHS["gap"]]
        return found

    def print_setup(self, last_row: int | None = None) -> None:
        last_row = self.layout.last_row if last_row is None else last_row
        paper(
            self.sheet,
            f"{self.exercise.title} · {self.name}",
            last_row,
            self.layout.last_column,
            HEADER_ROW,
            self.writer.key or self.name == "Exercise",
        )
        columns = self.column_breaks()
        self.sheet.set_v_pagebreaks(columns)
        self.sheet.fit_to_pages(len(columns) + 1, 0)
        cuts = [0, *columns, len(self.widths)]
        points = max(sum(0.75 * (7 * width + 5) for width in self.widths[a:b]) for a, b in pairwise(cuts))
        self.sheet.set_h_pagebreaks(self.page_breaks(last_row, min(1, PAGE[0] / points)))

    def column_breaks(self) -> list[int]:
        """The columns at which pages begin in a sheet too wide for one, each at the beginning of a time step."""
        pages = math.ceil(sum(self.widths) / WIDEST_PAGE)
        breaks, page = [], 0
        for block in self.layout.blocks.values():
            upto = sum(self.widths[page : block.last + 1])
            if upto > 1.05 * sum(self.widths) / pages and len(breaks) < pages - 1 and block.label > page:
                breaks.append(block.label)
                page = block.label
        return breaks

    def page_breaks(self, last_row: int, scale: float) -> list[int]:
        """The rows at which pages begin, so that none cuts through a quantity or leaves a title behind."""
        starts = [gap + 1 for gap in self.layout.gaps if gap + 1 < last_row]
        room = 0.97 * PAGE[1] / scale
        breaks, page = [], 0
        for start, end in zip(starts, [*starts[1:], last_row + 1], strict=True):
            height = sum(self.heights.get(row, ROW_HEIGHT) for row in range(page, end))
            if height + self.heights[HEADER_ROW] * bool(page) > room and start > page:
                breaks.append(start)
                page = start
        return breaks


def numbers_at_the_ends(book: Any, sheet: Any, first: int, last: int, last_column: int) -> None:
    """Minus infinity, and numbers too long for their cells, shown by conditions."""
    area = (first, 0, last, last_column)
    empty = book.add_format({"num_format": '"−∞"'})
    sheet.conditional_format(*area, {"type": "cell", "criteria": "<", "value": -1e299, "format": empty,
                                     "stop_if_true": True})  # fmt: skip
    for most, look in ((99999, "0.0E+00"), (999, "0.0##")):
        sheet.conditional_format(*area, {"type": "cell", "criteria": "not between", "minimum": -most, "maximum": most,
                                         "format": book.add_format({"num_format": look}),
                                         "stop_if_true": True})  # fmt: skip


def paper(sheet: Any, title: str, last_row: int, last_column: int, header: int, printed: bool) -> None:
    """A4, landscape, as wide as the page, with the header row on every page.

    LibreOffice prints hidden sheets too, unless they are without a print area where others have one.
    """
    sheet.set_landscape()
    sheet.set_paper(9)
    sheet.fit_to_pages(1, 0)
    sheet.set_margins(left=0.4, right=0.4, top=0.5, bottom=0.6)
    sheet.repeat_rows(header)
    sheet.center_horizontally()
    if printed:
        sheet.print_area(0, 0, last_row, last_column)
    sheet.set_footer(f"&L&9{title.replace('&', '&&')}&R&9&P / &N")


class ExerciseSheet(Sheet):
    """The blank."""

    name = "Exercise"

    def header(self) -> None:
        sheet = self.sheet
        self.top(self.exercise.title, [])
        text, pale = self.format(font_color=INK), self.format(font_color=PALE, font_size=9)
        d = DECIMALS.fixed
        sheet.write_string(DECIMALS.row, 0, "Decimals", self.format(bold=True, font_color=INK))
        style = self.format(bold=True, align="center", border=2, border_color=INK, locked=False, bg_color="#FFFFFF")
        value = "exact" if self.exercise.decimals is None else self.exercise.decimals
        sheet.write(*DECIMALS, value, style)
        sheet.data_validation(*DECIMALS, *DECIMALS, {
            "validate": "list", "source": DECIMALS_CHOICES, "ignore_blank": True,
            "input_title": "The rounding rule",
            "input_message": "A whole number from 0 to 9, or the word exact: no rounding at all.",
            "error_title": "The rounding rule", "error_message": "A whole number from 0 to 9, or exact.",
        })  # fmt: skip
        places = f'IF({d}=0,"a whole number",{d}&IF({d}=1," decimal"," decimals"))'
        rule = (f'=IF(ISNUMBER({d}),"Round every number to "&{places}&" when you write it down '
                f'(halves away from zero), and carry on with that.","Exact arithmetic: carry every number on as it is. '
                f'An answer within 0.005 is right, and 0 only where it is 0.")')  # fmt: skip
        rule_now = str(
            Rounding(self.exercise.decimals)
        ) + " An answer within 0.005 is right, and 0 only where it is 0." * (value == "exact")
        sheet.write_formula(DECIMALS.row, DECIMALS.column + 1, rule, text, rule_now)
        column, rows = FOLLOW["verdict"], self.writer.follow_row
        marks = f"Follow!${column}${min(rows.values()) + 1}:${column}${max(rows.values()) + 1}"
        count = {mark: f'COUNTIF({marks},"{mark}")' for mark in (RIGHT, EXACT, FOLLOWS, WRONG)}
        total = len(self.exercise.cells)
        right = "+".join(count[mark] for mark in (RIGHT, EXACT, FOLLOWS))
        score = f'=({right})&" of {total} right, "&{count[WRONG]}&" wrong"'
        sheet.write_string(2, 0, "Score", self.format(bold=True, font_color=INK))
        sheet.write_formula(2, 2, score, self.format(bold=True, font_color=INK), f"0 of {total} right, 0 wrong")
        marks_told = (
            f"{RIGHT} right    {EXACT}: right by exact arithmetic    {FOLLOWS} right method on a wrong earlier value"
            f"    {WRONG} wrong    {NO_NUMBER} no number stands there"
        )
        sheet.write_string(3, 0, marks_told, text)
        how = (
            "Fill in the empty cells from step 1 on; select one to see its formula. The given numbers may be changed "
            "too: everything follows."
        )
        sheet.write_string(4, 0, how, pale)
        self.legend()

    def legend(self) -> None:
        """What the colours mean, at the left beside the inputs; each has its letter, so that colour is not alone."""
        used = {self.writer.cell_kind(cell) for cell in (*self.exercise.cells, *given_cells(self.exercise))}
        chips = [(*KINDS[kind], {"bg_color": FILLS[kind], "border_color": LINE}) for kind in KINDS if kind in used]
        chips.append(("W", "red frame: learnable", {"border_color": RED}))
        half = math.ceil(len(chips) / 2)
        rows = [row for row in range(HEADER_ROW + 1, HEADER_ROW + 20) if row not in self.layout.gaps]
        for at, (letter, text, look) in enumerate(chips):
            row, column = rows[at % half], 4 * (at // half)
            self.sheet.write_string(row, column, letter, self.format(border=1, align="center", **look))
            self.sheet.write_string(row, column + 1, text, self.format(font_size=9, font_color=PALE, indent=1))

    def given(self, cell: Cell, place: Place) -> None:
        value = self.exercise.given_value(*cell)
        style = self.format(**self.given_look(cell, value), locked=False)
        self.sheet.write_number(*place, in_sheet(value), style)
        about = getattr(self.exercise.by_name[cell.name], "about", "")
        said = {"input_title": shortened(self.writer.where(cell), 32), "input_message": shortened(about, 255)}
        self.sheet.data_validation(*place, *place, {
            **(said if about else {}),
            "validate": "decimal", "criteria": "between", "minimum": MINUS_INFINITY, "maximum": -MINUS_INFINITY,
            "ignore_blank": False, "error_title": self.writer.where(cell)[:32],
            "error_message": "This number is given: a number belongs here, such as -0.5.",
        })  # fmt: skip

    def cell(self, cell: Cell) -> None:
        writer, place = self.writer, self.layout.place(*cell)
        self.sheet.write_blank(*place, None, self.format(**self.look(cell), locked=False))
        check = self.format(font_size=9, font_color=PALE, align="left", indent=1)
        verdict_at = f"=Follow!{FOLLOW['verdict']}{writer.follow_row[cell] + 1}"
        self.sheet.write_formula(*place.right(1), verdict_at, check, "")
        self.sheet.data_validation(*place, *place, {
            **self.allowed(cell, place), "ignore_blank": True,
            "input_title": shortened(writer.where(cell), 32), "input_message": shortened(self.hint(cell), 255),
            "error_title": "A number belongs here", "error_message": "Write a number, such as -0.7.",
        })  # fmt: skip

    def allowed(self, cell: Cell, place: Place) -> dict[str, Any]:
        words = words_allowed(cell, self.writer.risky, self.writer.may_be_empty)
        if not words:
            most = -MINUS_INFINITY
            return {"validate": "decimal", "criteria": "between", "minimum": -most, "maximum": most}
        tests = ",".join(f'{place.address}="{word}"' for word in words)
        return {"validate": "custom", "value": f"=OR(ISNUMBER({place.address}),{tests})"}

    def hint(self, cell: Cell) -> str:
        """The first of the three hints: the formula."""
        quantity = self.exercise.by_name[cell.name]
        words = words_allowed(cell, self.writer.risky, self.writer.may_be_empty)
        other = {True: "Too large for a number? Write overflow.", False: ""}[OVERFLOW in words]
        if MINUS_INFINITY_WORDS[0] in words:
            other = "For minus infinity type -1E300, or the words."
        lines = [self.writer.speller.equation(cell.name, cell.t or None), quantity.about, other]
        return "\n".join(line for line in lines if line)

    def print_setup(self, last_row: int | None = None) -> None:
        """As on the other sheets; and what the exercise is about, below everything."""
        layout, row = self.layout, self.layout.last_row + 1
        first, last = HEADER_ROW + 1, self.layout.last_row
        for block in layout.blocks.values():
            for pair in range(block.pairs):
                self.conditions(first, last, block.first + 2 * pair)
        width = sum(self.widths)
        self.sheet.write_string(row, 0, "About this exercise", self.format(bold=True, font_color=INK))
        style = self.format(text_wrap=True, font_color=INK, valign="top")
        for line in self.exercise.about:
            row += 1
            self.merge(row, 0, row, layout.last_column, line, style)
            self.set_height(row, 13.5 * math.ceil(width_of(line) * CHARACTER / width) + 4)
        super().print_setup(row)

    def conditions(self, first: int, last: int, column: int) -> None:
        """Colours that repeat what the check says."""
        check = Place(first, column + 1).address
        looks = {
            RIGHT: {"font_color": "#1B7F3B", "bold": True},
            EXACT: {"font_color": "#1B7F3B", "bold": True},
            FOLLOWS: {"font_color": "#9A5B00", "bold": True},
            WRONG: {"font_color": RED, "bold": True},
            NO_NUMBER: {"font_color": RED, "bold": True},
        }
        for mark, look in looks.items():
            style = self.writer.book.add_format(look)
            self.sheet.conditional_format(first, column + 1, last, column + 1, {
                "type": "cell", "criteria": "==", "value": f'"{mark}"', "format": style})  # fmt: skip
        wrong = self.writer.book.add_format({"bg_color": "#FAD7D7"})
        self.sheet.conditional_format(first, column, last, column, {
            "type": "formula", "criteria": f'={check}="{WRONG}"', "format": wrong})  # fmt: skip


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


class KeySheet(Sheet):
    """The answers by the sheet's rounding rule, and beside each the number before it is rounded."""

    name = "Key"

    def header(self) -> None:
        self.top(f"{self.exercise.title}: key", [
            "Every answer: in the frame what is written down and carried on, beside it in grey what the formula comes "
            "to before it is rounded.",
            "Each grey cell is the formula a learner works: select it to see it. Given numbers and decimals are taken "
            "from the sheet Exercise: change them there.",
            "MIN(…, 709) keeps the exponential in a sigmoid from overflowing; that changes no result.",
        ])  # fmt: skip

    def refer(self, name: str, t: int, index: Index) -> str:
        return self.layout.place(name, t, index).address

    def cell(self, cell: Cell) -> None:
        writer, place = self.writer, self.layout.place(*cell)
        risky, worked = cell.name in writer.risky, place.right(1)
        value = writer.carried[cell]
        before = OVERFLOW if value == OVERFLOW else in_sheet(writer.numbers.unrounded(cell))
        formula = guarded(excel(self.exercise.cell_tree(cell), self.refer), risky)
        rule = guarded(rounded(worked.address, writer.decimals, cell in writer.may_be_empty), risky)
        grey = self.format(num_format=FIVE_DECIMALS, font_size=8, font_color=PALE, align="left", indent=1)
        self.sheet.write_formula(*worked, f"={formula}", grey, before)
        self.sheet.write_formula(*place, f"={rule}", self.format(**self.look(cell), bold=True), value)


class ExactSheet(KeySheet):
    """The answers in exact arithmetic."""

    name = "Exact"

    def header(self) -> None:
        self.top(f"{self.exercise.title}: exact arithmetic", [
            "The same exercise with nothing rounded. The checks need it: an answer that is right by exact arithmetic "
            f"gets {EXACT}."
        ])  # fmt: skip

    def cell(self, cell: Cell) -> None:
        writer, place = self.writer, self.layout.place(*cell)
        formula = guarded(excel(self.exercise.cell_tree(cell), self.refer), cell.name in writer.risky)
        style = self.format(**{"num_format": FIVE_DECIMALS, **self.look(cell)})
        self.sheet.write_formula(*place, f"={formula}", style, writer.exact[cell])
