"""An exercise on paper: a PDF to fill in with a pencil, or its key, typeset by Typst and tagged for screen readers.

Works nothing out: every number is the graph's. `typst_source` is plain text and needs no library; only `write_paper`
needs the `typst` package. Blank and key share one layout, so that the key can be laid beside the sheet.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from longshort.byhand.formulas import Index, Tree
from longshort.byhand.graph import Cell, Exercise, Given, Numbers, Quantity, Rounding, Step
from longshort.byhand.spelling import TYPST, Speller, show
from longshort.config import suggest


class Paper(NamedTuple):
    """What Typst calls it, and its width in millimetres."""

    name: str
    width: float


PAPERS = {"a4": Paper("a4", 210), "letter": Paper("us-letter", 215.9)}
# All lengths are in millimetres.
MARGIN, GUTTER = 16, 6
LINE = 9
"""A line of handwriting, and the height of a box."""
HANDWRITTEN, PRINTED, SMALL_PRINT, SMALL_LINE = 2.1, 1.75, 1.6, 4.5
"""The width of a sign, written with a pencil, printed, and printed small; and how far small lines are apart."""
TALLEST = 180
"""Boxes above each other, before the rest goes into a card of its own: well under a page of either paper."""
LEAST_ROOM, MOST_ROOM = 30, 110
NARROWEST_BOX = 12.5


def write_paper(path: Path | str, exercise: Exercise, *, key: bool, paper: str = "a4") -> Path:
    """Write an exercise as a PDF (PDF/UA-1: tagged, formulas with alternative text); whole, or not at all.

    Args:
        path: where to; folders are made.
        exercise: what to write.
        key: with the answers in it; else with empty boxes.
        paper: "a4" or "letter".

    Raises ValueError for another paper, where `typst` is not installed, and where the file cannot be written.
    """
    source = typst_source(exercise, key=key, paper=paper)
    pdf = compiled(source)
    from longshort.files import write_atomically

    def write(file: Path) -> None:
        file.write_bytes(pdf)

    write_atomically(path, write)
    return Path(path)


def compiled(source: str) -> bytes:
    """The PDF of a Typst document, set in the fonts that Typst brings along."""
    try:
        import typst
    except ModuleNotFoundError:
        raise ValueError("to write a PDF, typst is needed: pip install 'longshort[hand]'") from None
    try:
        return typst.compile(source.encode(), ignore_system_fonts=True, pdf_standards=["ua-1"])  # type: ignore[call-overload]
    except typst.TypstError as error:
        raise ValueError(
            f"Typst could not set this exercise ({error}). The title, the texts and the symbols of an exercise may "
            "only use letters and signs that its own fonts have (Latin, Greek, mathematics)"
        ) from error


def typst_source(exercise: Exercise, *, key: bool, paper: str = "a4") -> str:
    """The worksheet, or with `key` its answers, as a Typst document. Needs no library.

    Raises ValueError for a paper that is neither "a4" nor "letter".
    """
    if paper not in PAPERS:
        near = suggest(paper, PAPERS) if isinstance(paper, str) else ""
        raise ValueError(f"paper={paper!r}: no such paper here.{near} There are: {', '.join(PAPERS)}")
    return Sheet(exercise, exercise.work(), key, PAPERS[paper]).source()


# ---- colours ---------------------------------------------------------------------------------------------------------


class Look(NamedTuple):
    """How a box looks: a kind the preamble has a colour for, and the letter that says the same without colour."""

    kind: str = "plain"
    letter: str = ""


def look_of(exercise: Exercise, name: str) -> Look:
    """The look of a given or quantity: input, hidden state, memory, bias, weight, or plain."""
    each = exercise.by_name[name]
    letter = Speller(exercise).dialect.symbol(each.symbol, None) if each.symbol else ""
    if isinstance(each, Given) and each.role in ("weight", "bias", "input"):
        return Look(each.role, letter)
    if re.fullmatch("h[′°]?", each.symbol):
        return Look("hidden", letter)
    remembers = each.role == "start" if isinstance(each, Given) else exercise.starts(each)
    return Look("memory", letter) if remembers else Look()


# ---- the document ----------------------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """A piece of Typst code, and how wide it is."""

    code: str
    width: float


@dataclass(frozen=True)
class Sheet:
    """One exercise, on its way to becoming a Typst document."""

    exercise: Exercise
    numbers: Numbers
    key: bool
    paper: Paper

    @cached_property
    def text(self) -> Speller:
        return Speller(self.exercise)

    @cached_property
    def maths(self) -> Speller:
        return Speller(self.exercise, TYPST)

    @property
    def width(self) -> float:
        return self.paper.width - 2 * MARGIN

    def source(self) -> str:
        settings = {"TITLE": quoted(self.exercise.title), "KIND": quoted("Key" if self.key else "Worksheet"),
                    "PAPER": quoted(self.paper.name), "MARGIN": f"{MARGIN}mm", "LINE": f"{LINE}mm"}  # fmt: skip
        head = [f"#let {name} = {value}" for name, value in settings.items()]
        return "\n".join([*head, PREAMBLE, *self.front(), *self.givens(), *self.steps()]) + "\n"

    def equation(self, spelt: str, alternative: str) -> str:
        return f"eq({quoted(alternative)}, ${spelt}$)"

    # ---- the first page ----

    def front(self) -> list[str]:
        return [
            "#title()",
            "#text(13pt, KIND)",
            *(f"#par({prose(paragraph)})" for paragraph in self.exercise.about),
            f"#rule({quoted(str(Rounding(self.exercise.decimals)))})",
            f"#legend({self.legend()})",
            f"#par[#text({quoted(self.advice())})]",
        ]

    def advice(self) -> str:
        if self.key:
            return (
                "In every box stands the number that is carried on; in small print below it what came out before it "
                "was rounded, where that differs. Left of it, the row with its numbers in place."
            )
        return (
            "Keep this sheet beside you: the steps need its numbers. Write each sum on its line, the result in its box."
        )

    def legend(self) -> str:
        memory = dict.fromkeys(
            look.letter for name in self.exercise.by_name if (look := look_of(self.exercise, name)).kind == "memory"
        )
        entries = [("input", "x", "input"), ("hidden", "h", "hidden state"), ("memory", " ".join(memory), "memory"),
                   ("bias", "b", "bias, learnable"), ("weight", "W", "thick red border: learnable")]  # fmt: skip
        return ", ".join(f"({', '.join(map(quoted, entry))})" for entry in entries if entry[1])

    # ---- what is given ----

    def givens(self) -> list[str]:
        drawn = [self.given_group(group) for group in groups(self.exercise.givens)]
        rows: list[list[Drawn]] = []
        for piece in (each for group in drawn for each in group):
            if not rows or sum(each.width + GUTTER for each in rows[-1]) + piece.width > self.width:
                rows.append([])
            rows[-1].append(piece)
        return ["= Given", *(f"#beside({', '.join(each.code for each in row)})" for row in rows), "#pagebreak()"]

    def given_group(self, group: Sequence[Given]) -> list[Drawn]:
        """Tables that stay together, if a line holds them: a gate's weights and bias, or the inputs of all steps."""
        headed = any(self.heads(given, range(0, 1)) for given in group)
        drawn = [table for given in group for table in self.given_tables(given, headed)]
        width = sum(each.width for each in drawn) + 3 * (len(drawn) - 1)
        if len(drawn) == 1 or width > self.width:
            return drawn
        return [Drawn(f"together({', '.join(each.code for each in drawn)})", width)]

    def given_tables(self, given: Given, headed: bool) -> Iterable[Drawn]:
        """A given as tables: one for each time step, and of more columns than fit, one for each part.

        One beside a table with letters over its columns (`headed`) leaves as much room, so that their rows align.
        """
        shape = self.exercise.shape(given.name)
        for t in range(1, self.exercise.sizes["T"] + 1) if given.each_step else [0]:
            indices = self.exercise.indices(given.name)
            printed = {index: printed_given(self.exercise.given_value(given.name, t, index)) for index in indices}
            across = max(7.0, PRINTED * max(map(len, printed.values())) + 3)
            for columns in parts(shape[1] if len(shape) == 2 else 1, int(self.width // across)):
                heads = self.heads(given, columns) or [Look()] * headed * len(columns)
                yield self.given_table(given, t, printed, columns, across, heads)

    def given_table(
        self, given: Given, t: int, printed: dict[Index, str], columns: range, across: float, heads: Sequence[Look]
    ) -> Drawn:
        shape = self.exercise.shape(given.name)
        names = [self.maths.label(given.name, t or None), self.text.label(given.name, t or None)]
        whole = len(shape) < 2 or len(columns) == shape[1]
        note = [] if whole else [f"columns {columns[0] + 1} to {columns[-1] + 1}"]
        note += [given.about] if given.about and t <= 1 and not columns[0] else []
        note += [where] if (where := where_used(self.exercise, given)) else []
        cells = [
            f"fact({quoted(look_of(self.exercise, given.name).kind)}, {quoted(printed[index])})"
            if (index := place(shape, row, column)) in printed
            else "nothing"
            for row in range(shape[0] if shape else 1)
            for column in columns
        ]
        across = max(across, (PRINTED * len(names[1]) + 1) / len(columns))
        above = [f"above({quoted(look.kind)}, {quoted(look.letter)})" for look in heads]
        beneath = min(24.0, SMALL_PRINT * len("; ".join(note)))
        code = (
            f"given({self.equation(*names)}, {prose('; '.join(note))}, {beneath:.1f}mm, {len(columns)}, "
            f"{across:.1f}mm, ({''.join(each + ', ' for each in above)}), {', '.join(cells)})"
        )
        return Drawn(code, max(across * len(columns), beneath))

    def heads(self, given: Given, columns: range) -> list[Look]:
        """What each column of a matrix meets, where that is put together from several: x x x h h."""
        wanted = given.shape[-1] if len(given.shape) == 2 else ""
        for quantity in self.exercise.quantities if "+" in wanted else ():
            if quantity.tree[0] == "concat" and quantity.shape == (wanted,):
                names = [part[1] for part in quantity.tree[1:] for _ in range(self.exercise.shape(part[1])[0])]
                return [look_of(self.exercise, names[column]) for column in columns]
        return []

    # ---- the steps ----

    def steps(self) -> list[str]:
        told: set[str] = set()
        lines = ["= Steps"]
        for step in self.exercise.steps:
            when = f"t = {step.t}" if step.t else "all steps"
            lines.append(f"#step({step.number}, {quoted(step.title)}, {quoted(when)}, {prose(step.about)})")
            cards = [card for quantity in step.quantities for card in self.cards(step, quantity, told)]
            for shares, row in self.packed(cards):
                lines.append(f"#row(({', '.join(map(str, shares))},), {', '.join(card.code for card in row)})")
        return lines

    def packed(self, cards: Sequence[Drawn]) -> list[tuple[list[int], list[Drawn]]]:
        """Cards in rows, in order, each with its share of the row in twelfths: narrow ones beside each other."""
        rows: list[tuple[list[int], list[Drawn]]] = []
        for card in cards:
            share = min(12, math.ceil((card.width + GUTTER) / (self.width + GUTTER) * 12))
            if not rows or sum(rows[-1][0]) + share > 12:
                rows.append(([], []))
            rows[-1][0].append(share)
            rows[-1][1].append(card)
        return [(share if len(share) > 1 else [6 if share[0] <= 6 else 12], row) for share, row in rows]

    def cards(self, step: Step, quantity: Quantity, told: set[str]) -> Iterable[Drawn]:
        """A quantity with its formula, room for the sums, and boxes; in parts, if it is taller or wider than a page."""
        shape = self.exercise.shape(quantity.name)
        rows, columns = shape[0] if shape else 1, shape[1] if len(shape) == 2 else 1
        worked = {
            cell.index: self.text.worked(cell, self.numbers)
            for index in self.exercise.indices(quantity.name)
            for cell in [Cell(quantity.name, step.t, index)]
        }
        copies = all(self.copied(Cell(quantity.name, step.t, index)) for index in worked)
        longest = 0 if copies else max(map(len, worked.values()))
        box = {0: 16.0, 1: 16.0, 2: 18.0, 3: 20.0}.get(self.exercise.decimals or 0, 22.0)
        if columns > 1:
            box = min(box, max(NARROWEST_BOX, (self.width - LEAST_ROOM) / columns))
        most = int((self.width - LEAST_ROOM * bool(longest)) // box)
        room = self.width - box * min(columns, most)
        lines = (
            1
            if columns > 1 or not longest
            else max(min(3, math.ceil((longest + 3) * HANDWRITTEN / room)), small_lines(longest, room))
        )
        about = quantity.about if quantity.name not in told else ""
        told.add(quantity.name)
        for down in parts(rows, TALLEST // (LINE * lines)):
            for across in parts(columns, most):
                there = [row for row in down if any(place(shape, row, column) in worked for column in across)]
                if there:  # else all of this part lies above the diagonal, or between two heads
                    of = Cell(quantity.name, step.t, ())
                    yield self.card(of, worked, longest, there, across, lines, box, about)
                about = ""

    def card(
        self,
        of: Cell,
        worked: dict[Index, str],
        longest: int,
        down: list[int],
        across: range,
        lines: int,
        box: float,
        about: str,
    ) -> Drawn:
        shape, when = self.exercise.shape(of.name), of.t or None
        spelt = [speller.equation(of.name, when) for speller in (self.maths, self.text)]
        part = "" if not shape or len(down) == shape[0] else f"rows {down[0] + 1} to {down[-1] + 1}"
        if len(shape) == 2 and len(across) < shape[1]:
            part = ", ".join(filter(None, [part, f"columns {across[0] + 1} to {across[-1] + 1}"]))
        if re.fullmatch(r"\([\d)(-]+\)", about):  # the number of an equation stands beside it
            part, about = f"{about}  {part}", ""
        cells = []
        for row in down:
            at = [place(shape, row, column) for column in across]
            boxes = [self.box(Cell(of.name, of.t, index), lines) if index in worked else "nothing" for index in at]
            left = self.width - box * len(across)
            cells += [self.sum_of(worked, at, lines, left, down), *boxes] if longest else [*boxes, "nothing"]
        room = 0.0 if not longest else (longest + 3) * HANDWRITTEN
        if room and len(across) > 1:
            room = max(LEAST_ROOM, min(MOST_ROOM, room * len(across)))
        width = max(box * len(across) + room, PRINTED * len(spelt[1]) + 2)
        code = (
            f"arguments({self.equation(*spelt)}, {quoted(part)}, {prose(about)}, {len(across)}, {box:.1f}mm, "
            f"{str(bool(longest)).lower()}, {', '.join(filter(None, cells))})"
        )
        return Drawn(code, width)

    def sum_of(
        self, worked: dict[Index, str], at: Sequence[Index], lines: int, room: float, rows: Sequence[int]
    ) -> str:
        """The line left of a row of boxes; in the key, of a lone box its sum, and of a matrix that of its first one."""
        if not self.key:
            return f"work({lines}, 1, {str(len(at) == 1).lower()}, none)"
        if len(at) == 1:
            return f"work({lines}, 1, true, {quoted(worked[at[0]])})"
        if at[0][0] != rows[0]:
            return ""
        first = next(index for index in at if index in worked)
        example = f"row {first[0] + 1}, column {first[1] + 1}: {worked[first]}"
        fits = small_lines(len(example), room) <= len(rows)
        return f"work({len(rows)}, {len(rows)}, false, {quoted(example if fits else '')})"

    def box(self, cell: Cell, lines: int) -> str:
        look = self.look(cell)
        numbers = "none, none"
        if self.key:
            carried = show(self.numbers.at(*cell), self.exercise.decimals)
            before = show(self.numbers.unrounded(cell))
            numbers = f"{quoted(carried)}, {quoted(before) if before != carried else 'none'}"
        return f"slot({quoted(look.kind)}, {quoted(look.letter)}, {lines}, {numbers})"

    def copied(self, cell: Cell) -> bool:
        return self.exercise.cell_tree(cell)[0] in ("cell", "num")

    def look(self, cell: Cell) -> Look:
        """A copied number looks like what it is a copy of."""
        tree = self.exercise.cell_tree(cell)
        return look_of(self.exercise, tree[1] if tree[0] == "cell" else cell.name)


# ---- small parts -----------------------------------------------------------------------------------------------------


def groups(givens: Sequence[Given]) -> list[list[Given]]:
    """Givens that belong together, in order: the matrices and the bias of each gate, all others alone."""
    found: dict[object, list[Given]] = {}
    for given in givens:
        parts = re.fullmatch(r"(.*_)?[A-Za-z]+_(\w+)", given.name)
        belongs = given.role in ("weight", "bias")
        gate = (parts[1], parts[2]) if parts else ("", "")
        found.setdefault(gate if belongs else given.name, []).append(given)
    return list(found.values())


def where_used(exercise: Exercise, given: Given) -> str:
    """The first step that looks at a given, if another is printed by the same symbol, as the two blocks' weights are.

    >>> from longshort.byhand import exercise
    >>> xlstm = exercise("xlstm")
    >>> where_used(xlstm, xlstm.by_name["A_g_x"]), where_used(xlstm, xlstm.by_name["B_g_x"])
    ('step 1', 'step 6')
    """
    if sum(each.symbol == given.symbol for each in exercise.givens) == 1:
        return ""
    steps = (
        f"step {step.number}"
        for step in exercise.steps
        for quantity in step.quantities
        for index in exercise.indices(quantity.name)
        if looks_at(exercise.cell_tree(Cell(quantity.name, step.t, index)), given.name)
    )
    return next(steps, "")


def looks_at(tree: Tree, name: str) -> bool:
    if tree[0] == "cell":
        return tree[1] == name
    return any(looks_at(part, name) for part in tree[1:] if isinstance(part, list))


def parts(length: int, most: int) -> list[range]:
    """A length in parts of at most so many, as even as can be.

    >>> parts(5, 9), parts(12, 8)
    ([range(0, 5)], [range(0, 6), range(6, 12)])
    """
    pieces = math.ceil(length / max(1, most))
    each = math.ceil(length / pieces)
    return [range(at, min(at + each, length)) for at in range(0, length, each)]


def small_lines(length: int, room: float) -> int:
    """How many lines of handwriting so much small print takes up."""
    return math.ceil(math.ceil(length * SMALL_PRINT / room) * SMALL_LINE / LINE)


def place(shape: Sequence[int], row: int, column: int) -> Index:
    """The index of what stands in a row and column of a matrix, a vector or a single number."""
    return (row, column)[: len(shape)]


def printed_given(value: float) -> str:
    """A given number in full; one too small for nine decimals with its power of ten.

    >>> printed_given(-0.25), printed_given(1e-12)
    ('−0.25', '1e−12')
    """
    text = show(value, 9)
    return show(value) if value and text == "0" else text


def quoted(text: str, keep_spaces: bool = False) -> str:
    r"""As a Typst string.

    >>> print(quoted('a "b" \\'))
    "a \"b\" \\"
    """
    text = re.sub(r"\s+", " ", text) if keep_spaces else " ".join(text.split())
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def prose(text: str) -> str:
    """Words as Typst code, none if there are none.

    A letter with an accent that stands on it as a sign of its own, as in C̃, is set as mathematics: otherwise Typst's
    PDF would have every C of that font read as C̃.

    >>> print(prose("tanh for C̃."))
    {"tanh for "; eq("C̃", $tilde("C")$); "."}
    """
    pieces = []
    for at, piece in enumerate(re.split("(\\w[\u0302\u0303])", unicodedata.normalize("NFC", text))):
        if at % 2:
            pieces.append(f'eq({quoted(piece)}, ${ACCENTS[piece[1]]}("{piece[0]}")$)')
        elif piece:
            pieces.append(quoted(piece, keep_spaces=True))
    return "{" + "; ".join(pieces) + "}" if pieces else "none"


ACCENTS = {"\u0302": "hat", "\u0303": "tilde"}
PREAMBLE = """\
#set document(title: TITLE, date: none)
#set text(lang: "en", region: "gb", font: "Libertinus Serif", size: 10.5pt)
#show math.equation: set text(font: "New Computer Modern Math")
#set par(leading: 0.6em, spacing: 0.9em)
#let faint = luma(35%)
#let colours = (input: rgb("#ffefb8"), hidden: rgb("#d9efcf"), memory: rgb("#d6e6f8"), bias: luma(89%))
#let red = rgb("#b3261e")
#set page(
  paper: PAPER, margin: (x: MARGIN, top: 24mm, bottom: 18mm),
  header: {
    set text(9.5pt)
    [#TITLE #h(1fr)]
    if KIND == "Key" [*Key*] else {
      [Name ] + box(width: 52mm, stroke: (bottom: 0.5pt), height: 0.8em) + h(5mm)
      [Date ] + box(width: 28mm, stroke: (bottom: 0.5pt), height: 0.8em)
    }
  },
  footer: context { set text(9.5pt); [#h(1fr) #counter(page).display("1 / 1", both: true) #h(1fr)] },
)
#show title: set text(22pt)
#show title: set block(below: 0.5em)
#show heading.where(level: 1): it => block(above: 1.4em, below: 0.9em, text(14pt, it.body))

#let eq(alt, body) = math.equation(alt: alt, block: false, math.display(body))
#let small(body) = text(8.5pt, fill: faint, body)
#let edge(kind) = if kind in ("weight", "bias") { 1.1pt + red } else { 0.6pt + luma(30%) }
#let fill(kind) = colours.at(kind, default: white)
#let nothing = table.cell(stroke: none)[]
#let rule(body) = block(width: 100%, inset: 3mm, stroke: 0.8pt + luma(30%), radius: 1mm)[*Rounding.* #body]
#let legend(..entries) = block(above: 1.2em, below: 1.2em, for (kind, letter, says) in entries.pos() {
  box(inset: (x: 1.6mm, y: 1.2mm), fill: fill(kind), stroke: edge(kind), strong(letter))
  [ #says #h(4mm)]
})

// ---- given numbers ----
#let fact(kind, number) = table.cell(fill: fill(kind), stroke: edge(kind), number)
#let above(kind, letter) = table.cell(fill: fill(kind), inset: 0.5mm, stroke: none, block(height: 3mm, small(letter)))
#let given(name, note, beneath, columns, width, heads, ..cells) = {
  table(
    columns: (width,) * columns, align: center + horizon, stroke: none, inset: (x: 0pt, y: 2mm),
    table.header(table.cell(colspan: columns, stroke: none, inset: (x: 0pt, top: 1mm, bottom: 1.8mm), name), ..heads),
    ..cells,
  )
  if note != none { v(-0.7em); block(width: calc.max(columns * width, beneath), small(note)) }
}
#let beside(..pieces) = block(breakable: false, below: 5mm, grid(
  columns: (auto,) * pieces.pos().len(), column-gutter: 6mm, ..pieces,
))
#let together(..pieces) = grid(columns: (auto,) * pieces.pos().len(), column-gutter: 3mm, ..pieces)

// ---- steps ----
#let step(number, name, when, about) = {
  heading(level: 2, block(above: 1.5em, below: 0.8em, width: 100%, inset: (bottom: 1mm), stroke: (bottom: 0.6pt), {
    box(fill: luma(20%), inset: (x: 1.6mm, y: 1mm), radius: 1mm, text(fill: white, str(number)))
    h(2.5mm); text(12.5pt, name); h(1fr); text(10.5pt, weight: "regular", when)
  }))
  if about != none { block(sticky: true, below: 0.8em, about) }
}
#let card(head, name, part, about, boxes, width, room, ..cells) = {
  let columns = (width,) * boxes
  columns.insert(if room { 0 } else { boxes }, 1fr)
  table(
    columns: columns, stroke: none, inset: 0pt,
    table.header(table.cell(colspan: columns.len(), inset: (y: 1.2mm), {
      grid(columns: 2, column-gutter: 3mm, rows: head, align: horizon, name, small(part))
    })),
    ..cells,
  )
  if about != none { v(-0.6em); small(about) }
}
#let row(shares, ..cards) = block(breakable: false, width: 100%, below: 4.5mm, context {
  let head = calc.max(5mm.to-absolute(), ..cards.pos().map(each => measure(each.at(0)).height))
  // Shares of a full row add up to 12; a lone card keeps its share, several stretch to fill the row.
  let rest = if shares.len() == 1 { 12 - shares.first() } else { 0 }
  grid(
    columns: shares.map(each => each * 1fr) + if rest > 0 { (rest * 1fr,) }, column-gutter: 6mm,
    ..cards.pos().map(each => card(head, ..each)),
  )
})
#let line-of-dots = line(length: 100% - 4mm, stroke: (paint: luma(55%), thickness: 0.6pt, dash: "dotted"))
#let work(lines, rows, equals, body) = table.cell(inset: (right: 1.5mm), rowspan: rows, if body != none {
  block(
    width: 100%, height: lines * LINE, inset: if equals { 0mm } else { (y: 2.5mm) },
    align(right + if equals { horizon } else { top }, text(9pt)[#body #if equals [=]]),
  )
} else {
  block(width: 100%, height: lines * LINE, {
    for number in range(lines) { place(top, dy: (number + 1) * LINE - 1.5mm, line-of-dots) }
    if equals { place(bottom + right, dy: -1.5mm)[=] }
  })
})
#let slot(kind, letter, lines, number, before) = table.cell(
  fill: fill(kind), stroke: edge(kind), align: center + horizon, {
    place(top + left, dx: 0.7mm, dy: 0.6mm, text(6.5pt, fill: faint, letter))
    block(height: lines * LINE, width: 100%, align(center + horizon, if number != none {
      strong(number)
      if before != none { linebreak(); text(7pt, fill: faint, before) }
    }))
  },
)
"""
