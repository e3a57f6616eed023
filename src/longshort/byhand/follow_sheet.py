"""The sheet Follow: every number of an exercise worked from the learner's own earlier answers, and judged.

A list with a row for each cell; the checks beside the answers only point to its verdicts.
"""

from typing import Any, ClassVar

from longshort.byhand.cells_in_sheets import (
    FOLLOWS,
    OVERFLOW,
    WRONG,
    Marks,
    cells_in,
    excel,
    guarded,
    in_sheet,
    own_number,
    rounded,
    verdict,
    words_allowed,
)
from longshort.byhand.formulas import Index
from longshort.byhand.graph import Cell
from longshort.byhand.workbook_sheets import (
    FIVE_DECIMALS,
    FOLLOW,
    FOLLOW_HEADER,
    INK,
    TOLERANCE,
    Writer,
    numbers_at_the_ends,
    paper,
)


class FollowSheet:
    """A list of all cells: worked from the learner's own earlier answers, and judged."""

    name = "Follow"
    heads: ClassVar[dict[str, tuple[str, float]]] = {
        "step": ("Step", 6), "t": ("t", 5), "cell": ("Number", 26), "own": ("Yours", 13), "key": ("Key", 13),
        "exact": ("Exact", 13), "worked": ("From yours", 13), "follow": ("… rounded", 13),
        "rests": ("Rests on a wrong one", 13), "verdict": ("Verdict", 11), "off": ("Off the key", 10),
    }  # fmt: skip

    def __init__(self, writer: Writer, sheet: Any):
        self.writer, self.sheet, self.exercise, self.format = writer, sheet, writer.exercise, writer.format

    def draw(self) -> None:
        sheet, writer = self.sheet, self.writer
        sheet.hide_gridlines(2)
        sheet.set_row(0, 30)
        title = self.format(bold=True, font_size=18, font_color=INK)
        sheet.write_string(0, 0, f"{self.exercise.title}: follow-through", title)
        text = self.format(font_color=INK)
        told = (
            "Every number worked from your own earlier answers (where there is none, from the key's): so one slip is "
            "marked once, and what follows it rightly is not wrong."
        )
        sheet.write_string(1, 0, told, text)
        sheet.write_string(2, 0, "An answer matches within", text)
        decimals = writer.decimals
        half = f"=IF(ISNUMBER({decimals}),0.5*10^-{decimals},0.005)"
        d = self.exercise.decimals
        sheet.write_formula(*TOLERANCE, half, self.format(align="center"), 0.005 if d is None else 0.5 * 10**-d)
        head = self.format(bold=True, font_color="#FFFFFF", bg_color=INK, align="center", text_wrap=True)
        sheet.set_row(FOLLOW_HEADER, 30)
        for column, (name, width) in enumerate(self.heads.values()):
            sheet.set_column(column, column, width)
            sheet.write_string(FOLLOW_HEADER, column, name, head)
        sheet.freeze_panes(FOLLOW_HEADER + 1, 0)
        for step in self.exercise.steps:
            for quantity in step.quantities:
                for index in self.exercise.indices(quantity.name):
                    self.row(Cell(quantity.name, step.t, index), step.number)
        last = max(writer.follow_row.values())
        numbers_at_the_ends(writer.book, sheet, FOLLOW_HEADER + 1, last, len(FOLLOW) - 1)
        paper(sheet, f"{self.exercise.title} · Follow", last, len(FOLLOW) - 1, FOLLOW_HEADER, writer.key)

    def refer(self, name: str, t: int, index: Index) -> str:
        """A given number on the sheet Exercise, or the learner's own number here."""
        if self.exercise.given(name):
            return f"Exercise!{self.writer.layout.place(name, t, index).address}"
        return f"{FOLLOW['own']}{self.writer.follow_row[Cell(name, t, tuple(index))] + 1}"

    def row(self, cell: Cell, step: int) -> None:
        writer, row = self.writer, self.writer.follow_row[cell]
        at = {name: f"{letter}{row + 1}" for name, letter in FOLLOW.items()}
        address, tree = writer.layout.place(*cell).address, self.exercise.cell_tree(cell)
        words, risky = words_allowed(cell, writer.risky, writer.may_be_empty), cell.name in writer.risky
        marks = Marks(f"Exercise!{address}", at["own"], at["key"], at["exact"], at["follow"], at["rests"],
                      TOLERANCE.fixed, writer.decimals)  # fmt: skip
        earlier = [
            f"{FOLLOW['off']}{writer.follow_row[c] + 1}" for c in cells_in(tree) if not self.exercise.given(c.name)
        ]
        carried, exact = writer.carried[cell], writer.exact[cell]
        before = OVERFLOW if carried == OVERFLOW else in_sheet(writer.numbers.unrounded(cell))
        formulas: dict[str, tuple[str, float | str]] = {
            "own": (own_number(f"Exercise!{address}", at["key"], words), carried),
            "key": (f"Key!{address}", carried),
            "exact": (f"Exact!{address}", exact),
            "worked": (guarded(excel(tree, self.refer), risky), before),
            "follow": (guarded(rounded(at["worked"], writer.decimals, cell in writer.may_be_empty), risky), carried),
            "rests": (largest(earlier), 0),
            "verdict": (verdict(marks, words), ""),
            "off": (f'IF(OR({at["verdict"]}="{WRONG}",{at["verdict"]}="{FOLLOWS}"),1,0)', 0),
        }
        self.sheet.write_number(f"A{row + 1}", step, self.format(align="center"))
        self.sheet.write(f"B{row + 1}", cell.t or "all", self.format(align="center"))
        self.sheet.write_string(f"C{row + 1}", writer.where(cell), self.format())
        for name, (formula, value) in formulas.items():
            look: dict[str, Any] = {"num_format": FIVE_DECIMALS} if name in ("exact", "worked") else {}
            self.sheet.write_formula(at[name], f"={formula}", self.format(align="center", **look), value)


def largest(cells: list[str]) -> str:
    """The largest of any number of cells; a function takes 255 at most."""
    if not cells:
        return "0"
    parts = [f"MAX({','.join(cells[at : at + 200])})" for at in range(0, len(cells), 200)]
    return parts[0] if len(parts) == 1 else f"MAX({','.join(parts)})"
