"""An exercise laid out in so many columns, as styled lines of text: all of it, or one step as far as it is shown."""

from collections.abc import Callable, Collection, Sequence
from itertools import groupby

from rich.text import Text

from longshort.byhand.formulas import Tree
from longshort.byhand.graph import Cell, Exercise, Quantity, Rounding, Step, exact
from longshort.byhand.spelling import Speller, show
from longshort.byhand.terminal.signs import (
    again,
    ascii_only,
    beside,
    bracket_line,
    bracketed,
    cell_len,
    flat,
    labelled,
    wrapped,
)

FORMULAS, ROWS, NUMBERS = 1, 2, 3
"""How much of a step is shown; at 0 only what its quantities are called."""
HINTS = {FORMULAS: "formulas", ROWS: "rows laid out", NUMBERS: "numbers"}
NARROWEST, WIDEST = 40, 120
HEADING, NAME, QUIET, GOOD, BAD = "bold", "cyan", "dim", "green", "yellow"


class Sheet:
    """An exercise laid out in so many columns, as lines of text with their styles."""

    def __init__(self, exercise: Exercise, width: int, *, plain: bool = False):
        self.exercise, self.width = exercise, width
        self.numbers, self.exact = exercise.work(), exercise.work(exact)
        self.decimals = self.numbers.rounding.decimals
        self.speller = Speller(exercise)
        self.say: Callable[[str], str] = ascii_only if plain else str
        self.told: set[str] = set()
        """What has been explained already, where the whole is printed."""

    # ---- one number, one name ----

    def label(self, name: str, t: int) -> str:
        return self.say(self.speller.label(name, t or None))

    def place(self, cell: Cell) -> str:
        """What a cell is called."""
        axes = [f", {axis} {at + 1}" for axis, at in zip(("row", "column"), cell.index, strict=False)]
        return self.label(cell.name, cell.t) + "".join(axes)

    def number(self, cell: Cell) -> str:
        """The number in a cell, given or worked out."""
        value = self.numbers.at(*cell)
        stated = self.exercise.given(cell.name) and abs(value) < 1e4
        return self.say(show(value, 9 if stated else self.decimals))

    def long(self, value: float) -> str:
        return self.say(show(value))

    def rounded_off(self, cell: Cell) -> str:
        """What a cell came to before it was rounded; empty where rounding changed nothing."""
        value, number = self.numbers.unrounded(cell), self.numbers.at(*cell)
        return "" if self.long(value) == self.long(number) else self.long(value)

    def exactly(self, cell: Cell) -> str:
        """What exact arithmetic has in a cell; empty where it has the same."""
        value = self.long(self.exact.at(*cell))
        same = value in (self.long(self.numbers.unrounded(cell)), self.long(self.numbers.at(*cell)))
        return "" if self.decimals is None or same else value

    # ---- matrices ----

    def matrix(self, name: str, t: int, text: Callable[[Cell], str]) -> list[list[str]]:
        """The entries of a given or quantity, row by row; blank where there is no cell."""
        shape = self.exercise.shape(name)
        rows, columns = (*shape, 1, 1)[:2]
        places = [[(row, column)[: len(shape)] for column in range(columns)] for row in range(rows)]
        return [
            [text(Cell(name, t, index)) if self.exercise.exists(name, index) else "" for index in row] for row in places
        ]

    def blocks(self, label: str, rows: list[list[str]], width: int, flat_over: int = 99) -> list[list[str]]:
        """A named matrix in brackets; one too wide in pieces, some columns each; a tall vector lying down."""
        if rows == [[rows[0][0]]]:
            return [[f"{label} = {rows[0][0]}"]]
        if len(rows[0]) == 1 and len(rows) > flat_over:
            return [wrapped(f"{label} = {flat(rows)}", width)]
        whole = labelled(label, [self.say(line) for line in bracketed(rows)])
        if cell_len(whole[0]) <= width:
            return [whole]
        each = max(len(entry) for row in rows for entry in row) + 1
        count = max(1, (width - cell_len(label) - len(", columns 10 to 12 = ") - 2) // each)
        pieces = []
        for at in range(0, len(rows[0]), count):
            part = [row[at : at + count] for row in rows]
            name = f"{label}, columns {at + 1} to {at + len(part[0])}"
            pieces.append(labelled(name, [self.say(line) for line in bracketed(part)]))
        return pieces

    def given(self, width: int) -> list[str]:
        """All given numbers, those of a kind side by side."""
        lines = []
        kinds = {"bias": "weight", "rest": "input", "target": "input"}
        for _, group in groupby(self.exercise.givens, lambda given: kinds.get(given.role, given.role)):
            blocks = []
            for given in group:
                for t in range(1, self.exercise.sizes["T"] + 1) if given.each_step else [0]:
                    blocks += self.blocks(self.label(given.name, t), self.matrix(given.name, t, self.number), width)
            lines += [*beside(blocks, width), ""]
        for given in self.exercise.givens:
            if given.about:
                lines += wrapped(self.say(f"{self.label(given.name, 0)}: {given.about}"), width)
        return lines if lines[-1] else lines[:-1]

    def known(self, step: Step, width: int) -> list[str]:
        """What a step needs from before it, side by side."""
        here = {(quantity.name, step.t if quantity.each_step else 0) for quantity in step.quantities}
        needed: dict[tuple[str, int], None] = {}
        for quantity in step.quantities:
            for index in self.exercise.indices(quantity.name):
                needed |= dict.fromkeys(cells_in(self.exercise.cell_tree(Cell(quantity.name, step.t, index))))
        found = [(self.label(*each), self.matrix(*each, self.number)) for each in needed if each not in here]
        tallest = max([len(rows) for _, rows in found if len(rows[0]) > 1], default=4)
        return beside([block for each in found for block in self.blocks(*each, width, tallest)], width)

    # ---- a quantity ----

    def cells(self, quantity: Quantity, t: int) -> list[Cell]:
        return [Cell(quantity.name, t, index) for index in self.exercise.indices(quantity.name)]

    def copied(self, cells: Sequence[Cell]) -> bool:
        """Whether there is nothing to work out, only to copy."""
        return all(self.exercise.cell_tree(cell)[0] in ("cell", "num") for cell in cells)

    def quantity(
        self, quantity: Quantity, t: int, level: int, seen: Collection[Cell], blank: str = "?", once: bool = False
    ) -> list[Text]:
        """The lines of a quantity: its formula, and of each cell its number and the row laid out, as far as shown.

        Args:
            level: how much is shown: names only, FORMULAS, ROWS or NUMBERS.
            seen: cells whose number is shown at any level.
            blank: what stands for a number not shown.
            once: explain it only the first time.
        """
        cells = self.cells(quantity, t)
        spell = self.speller.equation if level >= FORMULAS else self.speller.label
        head = self.say(spell(quantity.name, t or None))
        about = "" if once and quantity.name in self.told else self.say(quantity.about)
        self.told.add(quantity.name)

        def text(cell: Cell) -> str:
            return self.number(cell) if level >= NUMBERS or cell in seen else blank

        rows = self.matrix(quantity.name, t, text)
        if level < ROWS or self.copied(cells):
            return self.stated(head, about, rows)
        above = self.stated(head, about, rows) if len(quantity.shape) > 1 else self.head(head, about)
        return above + self.laid_out(quantity, cells, text, blank)

    def head(self, equation: str, about: str) -> list[Text]:
        """A formula, and beside it, or below, what it is for."""
        first, *rest = wrapped(equation, self.width - 2)
        lines = [Text("  " + first, NAME), *(Text("    " + line, NAME) for line in again(rest, self.width - 4))]
        if about and cell_len(about) + cell_len(lines[-1].plain) + 3 <= self.width:
            lines[-1].append("   " + about, QUIET)
        elif about:
            lines += [Text("    " + line, QUIET) for line in wrapped(about, self.width - 4)]
        return lines

    def stated(self, head: str, about: str, rows: list[list[str]]) -> list[Text]:
        """A formula, and what it comes to in one piece."""
        if len(rows[0]) == 1:
            return self.head(f"{head} = {flat(rows)}", about)
        block = labelled(head, [self.say(line) for line in bracketed(rows)])
        if cell_len(block[0]) <= self.width - 2:
            lines = [Text("  " + line, NAME) for line in block]
        else:
            blocks = self.blocks(" ", rows, self.width - 4)
            lines = self.head(head, "") + [Text("    " + line, NAME) for block in blocks for line in block]
        if about and cell_len(lines[0].plain) + 3 + cell_len(about) <= self.width:
            lines[0].append("   " + about, QUIET)
            return lines
        return lines + [Text("    " + line, QUIET) for line in (wrapped(about, self.width - 4) if about else [])]

    def laid_out(
        self, quantity: Quantity, cells: Sequence[Cell], text: Callable[[Cell], str], blank: str
    ) -> list[Text]:
        """A line a cell: its number, the row laid out, what it came to before rounding, and exactly."""
        matrix, lines = len(quantity.shape) > 1, []
        widest = max(len(text(cell)) for cell in cells)
        for at, cell in enumerate(cells):
            number, hidden = text(cell), text(cell) == blank
            off, exactly = ("", "") if hidden else (self.rounded_off(cell), self.exactly(cell))
            row = self.say(self.speller.worked(cell, self.numbers)) + (f" = {off}" if off else "")
            sign = self.say("≈") if off else "="
            where = f"{cell.index[0] + 1},{cell.index[1] + 1}: " if matrix else ""
            around = 4 + len(where) + widest + 2 * (len(quantity.shape) == 1) + 3
            parts = wrapped(row, self.width - around - (len(exactly) + 2 if exactly else 0))
            for line, part in enumerate(parts):
                inside = (number if line == 0 else "").rjust(widest)
                if len(quantity.shape) == 1:
                    top, bottom = at == 0 and line == 0, at == len(cells) - 1 and line == len(parts) - 1
                    inside = self.say(
                        bracket_line(inside, 0 if top else 2 if bottom else 1, 1 if top and bottom else 3)
                    )
                made = Text("    " + (where if line == 0 else " " * len(where)))
                made.append(inside, QUIET if hidden else HEADING)
                made.append(f" {sign if line == 0 else ' '} {part}")
                if exactly and line == 0:
                    made.append(" " * (self.width - cell_len(made.plain) - len(exactly)) + exactly, QUIET)
                lines.append(made)
        return lines

    # ---- a step, and the whole ----

    def rule(self, step: Step, right: str = "") -> Text:
        """The heading of a step, drawn across the sheet."""
        time = f" · t = {step.t}" if step.t else ""
        left = self.say(f"── {step.number}{time} · {step.title} ")
        right = f" {right} {self.say('──')}" if right else ""
        if cell_len(left) + len(right) > self.width:  # on a narrow sheet, the title alone
            return Text(left.rstrip()[: self.width], HEADING)
        return Text(left + self.say("─") * (self.width - cell_len(left) - len(right)) + right, HEADING)

    def differs(self, step: Step) -> bool:
        """Whether exact arithmetic has something else anywhere in a step."""
        return any(self.exactly(cell) for quantity in step.quantities for cell in self.cells(quantity, step.t))

    def paragraph(self, text: str, style: str = "") -> list[Text]:
        return [Text(line, style) for line in wrapped(self.say(text), self.width)]

    def opening(self) -> list[Text]:
        """Title, what it is about, the rounding rule, and the given numbers."""
        title = self.say(self.exercise.title)
        lines = [Text(title, HEADING), Text("=" * cell_len(title), HEADING)]
        for paragraph in self.exercise.about:
            lines += self.paragraph(paragraph)
        lines += [Text(), *self.paragraph(f"Rounding: {Rounding(self.decimals)}")]
        if self.decimals is not None:
            lines += self.paragraph(
                "≈ marks a number that was rounded; at the end of its row is what it was rounded from. In the column "
                "“exact” is what exact arithmetic has, where earlier rounding made a difference.",
                QUIET,
            )
        return [*lines, Text(), Text("Given", HEADING), *(Text("  " + line) for line in self.given(self.width - 2))]

    def lines(self, answers: bool) -> list[Text]:
        """The whole exercise."""
        lines, level = self.opening(), NUMBERS if answers else FORMULAS
        for step in self.exercise.steps:
            lines += [Text(), self.rule(step, "exact" if answers and self.differs(step) else "")]
            if step.about and step.title not in self.told:
                lines += self.paragraph(step.about, QUIET)
            self.told.add(step.title)
            for quantity in step.quantities:
                lines += self.quantity(quantity, step.t, level, (), "__", once=True)
        for line in lines:
            line.rstrip()
        return lines


def cells_in(tree: Tree) -> list[tuple[str, int]]:
    """The name and step of each cell that a cell's formula needs."""
    if tree[0] == "cell":
        return [(tree[1], tree[2])]
    return [found for part in tree[1:] if isinstance(part, list) for found in cells_in(part)]
