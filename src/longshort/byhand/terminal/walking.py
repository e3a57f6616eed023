"""The walk through an exercise, step by step: hints in three levels, answers judged at once. Not how keys are read."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from longshort.byhand.checker import EXACT, WRONG, blank_answers, check
from longshort.byhand.graph import Cell, Exercise, Step
from longshort.byhand.spelling import show
from longshort.byhand.terminal.keys import BEGINS, ReadKey, keyboard
from longshort.byhand.terminal.printing import columns, write
from longshort.byhand.terminal.sheet import BAD, GOOD, HEADING, HINTS, NUMBERS, QUIET, ROWS, Sheet
from longshort.byhand.terminal.signs import carries, cell_len

KEYS = {
    "n, space, →, Enter": "next step",
    "b, ←, Backspace": "step before",
    "r": "reveal the formulas, then the rows, then the numbers",
    "a": "reveal all of this step",
    "g 5, Enter": "go to step 5",
    "0.7, Enter": "answer the cell asked for; several at once with spaces",
    "↑, ↓": "scroll, where a step is taller than the window",
    "i": "what the exercise is about",
    "q": "quit",
}


class Walk:
    """An exercise gone through step by step: where it stands, what is shown, what was answered."""

    def __init__(self, exercise: Exercise, console: Console):
        self.console, self.live = console, console.is_terminal and not console.is_dumb_terminal
        self.sheet = Sheet(exercise, columns(console), plain=not carries(console.encoding))
        self.steps, self.at = exercise.steps, 0
        self.levels: dict[int, int] = {}
        """How much is shown of each step."""
        self.answered: set[Cell] = set()
        self.answers = blank_answers(exercise)
        self.missed: Counter[Cell] = Counter()
        """How often each cell was answered wrongly."""
        self.said: list[tuple[str, str]] = []
        """What there is to tell below the step, each with its style."""
        self.top, self.follow = 0, True
        """The first line shown of a step taller than the window, and whether it goes to where the work is."""

    # ---- what is where ----

    @property
    def step(self) -> Step:
        return self.steps[self.at]

    @property
    def level(self) -> int:
        return self.levels.get(self.at, 0)

    def asked(self) -> Cell | None:
        """The cell to be answered next; None when all of the step is shown."""
        if self.level >= NUMBERS:
            return None
        cells = (cell for quantity in self.step.quantities for cell in self.sheet.cells(quantity, self.step.t))
        return next((cell for cell in cells if cell not in self.answered), None)

    def say(self, message: str, style: str = "") -> None:
        self.said.append((message, style))

    # ---- keys ----

    def run(self, read_key: ReadKey) -> None:
        """Until q, or the end of the input."""
        self.say(f"{self.sheet.numbers.rounding} i: what this is about. ?: the keys.", QUIET)
        self.draw()
        entry = ""
        try:
            while (key := read_key()) is not None:
                if entry or key in BEGINS:
                    entry = self.type(entry, key)
                elif key == "q":
                    break
                else:
                    self.press(key)
        finally:
            self.console.print()  # so that what comes next has a line of its own

    def type(self, entry: str, key: str) -> str:
        """A typed line with one more key; empty once it was read or given up."""
        if key == "enter":
            if entry[0] == "g":
                self.go(entry[1:].strip())
            else:
                self.answer(entry.split())
            self.draw(briefly=entry[0] != "g")
            return ""
        if key == "escape":
            self.draw()
            return ""
        if key == "backspace":
            self.echo("\b \b")
            return entry[:-1]
        if len(key) > 1 or not key.isprintable():
            return entry
        self.echo(key)
        return entry + key

    def echo(self, text: str) -> None:
        if self.live:
            self.console.file.write(self.sheet.say(text))
            self.console.file.flush()

    def press(self, key: str) -> None:
        """Do what a key stands for."""
        page = max(1, self.console.height - 8)
        if key in ("n", " ", "right", "enter"):
            self.move(self.at + 1)
        elif key in ("b", "left", "backspace"):
            self.move(self.at - 1)
        elif key in ("r", "a"):
            self.reveal(self.level + 1 if key == "r" else NUMBERS)
        elif key in ("up", "down", "pageup", "pagedown"):
            self.top += {"up": -1, "down": 1, "pageup": -page, "pagedown": page}[key]
            self.follow = False
        elif key in ("?", "h"):
            for keys, what in KEYS.items():
                self.say(f"{keys:19}{what}")
        elif key == "i":
            for paragraph in (*self.sheet.exercise.about, str(self.sheet.numbers.rounding)):
                self.say(paragraph)
        else:
            self.say(f"{key if key.isprintable() else 'That key'} does nothing here; ? shows the keys.", BAD)
        self.draw()

    def move(self, to: int) -> None:
        if to < 0:
            self.say("This is the first step.", QUIET)
        elif to >= len(self.steps):
            self.say("This was the last step. q quits, b goes back.", QUIET)
        else:
            self.at, self.top, self.follow = to, 0, True

    def go(self, number: str) -> None:
        if number.isdecimal() and 1 <= int(number) <= len(self.steps):
            self.move(int(number) - 1)
        else:
            self.say(f"g {number}: there are steps 1 to {len(self.steps)}; g 5 and Enter goes to step 5.", BAD)

    def reveal(self, level: int) -> None:
        if self.level >= NUMBERS:
            self.say("All of this step is shown. n goes on.", QUIET)
        self.levels[self.at], self.follow = min(level, NUMBERS), True

    # ---- answers ----

    def answer(self, typed: Sequence[str]) -> None:
        """Judge typed numbers, cell by cell, until one is wrong."""
        for text in typed:
            cell = self.asked()
            if cell is None:
                self.say("Nothing is asked for here: all of this step is shown. n goes on.", QUIET)
                return
            try:
                right, told = self.judged(cell, text)
            except ValueError:
                self.say(f"{text} is no number. Type one such as −4 or 0.7, then Enter.", BAD)
                return
            self.say(f"{self.sheet.place(cell)} = {text}: {told}", GOOD if right else BAD)
            if not right:
                self.missed[cell] += 1
                hints = self.sheet.speller.hints(cell, self.sheet.numbers)
                self.say(f"Hint: {hints[min(1, max(self.missed[cell] - 1, self.level))]}")
                return
            self.answered.add(cell)
            self.follow = True
        if typed and self.asked() is None:
            self.say("All of this step is done. n goes on.", GOOD)

    def judged(self, cell: Cell, typed: str) -> tuple[bool, str]:
        """Whether a typed number is right for a cell, and what to tell. A right one is kept among the answers.

        Raises ValueError for what is no number.
        """
        number, written = self.sheet.numbers.at(*cell), self.sheet.number(cell)
        self.keep(cell, typed)
        if self.sheet.say(typed.replace("-", "−")) == written:
            return True, "right."
        mark = check(self.sheet.exercise, self.answers)[cell]
        if mark.verdict == WRONG:
            self.keep(cell, None)
            return False, f"wrong: {mark.slip}." if mark.slip else "wrong."
        if mark.answer == number or self.sheet.decimals is None:
            return True, "right."
        if mark.verdict == EXACT:
            return True, f"{EXACT} ({show(mark.exact)}). On this sheet it is {written}, which is carried on."
        return True, f"right. Written down it is {written}, which is carried on."

    def keep(self, cell: Cell, answer: str | None) -> None:
        """Put an answer in its place, or take it out."""
        *path, last = (cell.name, *([cell.t - 1] if cell.t else []), *cell.index)
        where: Any = self.answers
        for part in path:
            where = where[part]
        where[last] = answer

    # ---- drawing ----

    def body(self) -> tuple[list[Text], int, int]:
        """What is known and the step as far as it is shown; and from where to where in it the work is."""
        sheet, step, asked = self.sheet, self.step, self.asked()
        lines = [Text("  " + line, QUIET) for line in sheet.known(step, sheet.width - 2)]
        lines += [Text()] if lines else []
        begin, end = len(lines), None
        for quantity in step.quantities:
            if asked is not None and quantity.name == asked.name:
                begin = len(lines)
            lines += sheet.quantity(quantity, step.t, self.level, self.answered)
            if asked is not None and quantity.name == asked.name:
                end = len(lines)
        return lines, begin, len(lines) if end is None else end

    def draw(self, briefly: bool = False) -> None:
        """Show the step anew: on a terminal in its window; elsewhere in full, or `briefly` what there is to tell."""
        sheet = self.sheet
        sheet.width = columns(self.console)
        where, title = f"step {self.step.number} of {len(self.steps)}", sheet.say(sheet.exercise.title)
        head = [Text(title + where.rjust(max(1, sheet.width - cell_len(title))), QUIET)]
        head += [sheet.rule(self.step, "exact" if self.level >= ROWS and sheet.differs(self.step) else "")]
        head += sheet.paragraph(self.step.about, QUIET) if self.step.about else []
        foot = [line for message, style in self.said for line in sheet.paragraph(message, style)]
        self.said = []
        lines, begin, end = self.body()
        if self.live:
            self.console.clear()
            lines = self.window(lines, begin, end, self.console.height - len(head) - len(foot) - 3)
        if self.live or not briefly:
            write(self.console, [*head, *lines])
        write(self.console, [*([Text()] if self.live else []), *foot, *([self.keys()] if self.live else [])])
        self.console.print(self.prompt(), end="" if self.live else "\n", highlight=False, soft_wrap=True)

    def window(self, lines: list[Text], begin: int, end: int, height: int) -> list[Text]:
        """As many lines as fit, and below them which ones these are."""
        height = max(height, 4)
        if len(lines) <= height:
            self.top = 0
            return lines
        inner = height - 1
        if self.follow:  # the end of the work in sight, and before that its beginning
            self.top = min(max(self.top, end - inner), begin)
        self.top = max(0, min(self.top, len(lines) - inner))
        shown = f"  ↑ ↓ lines {self.top + 1}–{self.top + inner} of {len(lines)}"
        return [*lines[self.top : self.top + inner], Text(self.sheet.say(shown), QUIET)]

    def keys(self) -> Text:
        """The keys in one line, no wider than the window."""
        more = f"r {HINTS[self.level + 1]} · a all · " if self.level < NUMBERS else ""
        told = self.sheet.say(f"n next · b back · {more}g 5 to step 5 · ? help · q quit")
        return Text(told[: self.sheet.width - 1], QUIET)

    def prompt(self) -> Text:
        asked = self.asked()
        return Text("> " if asked is None else f"{self.sheet.place(asked)} = ", HEADING)


def walk(exercise: Exercise, *, console: Console | None = None, read_key: ReadKey | None = None) -> None:
    """Go through an exercise step by step, with hints in three levels and answers judged at once; ? shows the keys.

    Args:
        exercise: what to work.
        console: where it is shown; when not given, standard output.
        read_key: gives the next key, None at the end. When not given, keys are read from standard input: one by one
            from a terminal, whose settings are restored however the walk ends; else line by line, each a command.

    Raises KeyboardInterrupt on Ctrl-C.
    """
    walking = Walk(exercise, console or Console(highlight=False))
    if read_key is not None:
        walking.run(read_key)
        return
    with keyboard() as keys:
        walking.run(keys)
