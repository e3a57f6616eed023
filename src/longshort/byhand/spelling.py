"""Formulas and cells spelt out: with symbols, with their numbers in place, in plain text, LaTeX or Typst.

z_f₁ = W_f [x₁; h₀] + b_f                     the formula, at a time step
0·1 + (−1)·2 + 0·1 + 0·1 + (−2)·1 + 0         one cell of it, with its numbers in place
−4                                            what it comes to
"""

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from longshort.byhand.formulas import Tree
from longshort.byhand.graph import Cell, Exercise, Given, Numbers, Quantity

SYMBOL = re.compile(r"(?P<delta>δ?)(?P<log>log )?(?P<base>\[.*\]|√?[A-Za-zεμ]+)(?P<accent>[~^]?)"
                    r"(?P<mark>[′°]?)(?P<arrow>←?)(?:_(?P<sub>\w+))?")  # fmt: skip
Time = int | str | None
"""A step, a letter that stands for one, or None where there is none."""


# ---- numbers ---------------------------------------------------------------------------------------------------------


def show(value: float, decimals: int | None = None) -> str:
    """A number as printed: to so many decimals without idle zeros; None: to five significant digits.

    >>> show(0.7000001, 1), show(-4.0, 1), show(-0.0, 1), show(2 / 3), show(float("inf"))
    ('0.7', '−4', '0', '0.66667', '∞')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.5g}" if decimals is None else f"{value:.{decimals}f}"
    if "." in text and "e" not in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "0") else text.replace("-", "−")


# ---- dialects --------------------------------------------------------------------------------------------------------


class Text:
    """Plain Unicode text."""

    names: ClassVar[dict[str, str]] = {"sigmoid": "σ", "logsigmoid": "log σ", "abs": "|", "tanh": "tanh", "exp": "exp",
                                       "sqrt": "√", "silu": "SiLU", "max": "max"}  # fmt: skip
    times, each, minus, apart = "·", " ⊙ ", "−", " "

    def symbol(self, symbol: str, time: Time) -> str:
        """A printed name, at a time step.

        >>> Text().symbol("C~", 1), Text().symbol("z_f", 2), Text().symbol("δh←", "t"), Text().symbol("log f", 1)
        ('C̃₁', 'z_f₂', 'δh←_t', 'log f₁')
        """
        found = parts_of(symbol)
        base = found["base"]
        if base.startswith("["):
            inside = [self.symbol(part.strip(), before(time, part)) for part in base[1:-1].split(";")]
            return found["delta"] + "[" + "; ".join(inside) + "]"
        accent = {"~": "\u0303", "^": "\u0302", "": ""}[found["accent"]]
        sub = "_" + found["sub"] if found["sub"] else ""
        when = "" if time is None else subscript(time) if isinstance(time, int) else f"_{time}"
        name = unicodedata.normalize("NFC", base + accent)  # õ as one sign, where there is one: fonts draw it better
        return found["delta"] + (found["log"] or "") + name + found["mark"] + found["arrow"] + sub + when

    def number(self, value: float, decimals: int | None = None) -> str:
        return show(value, decimals)

    def function(self, name: str, arguments: list[str]) -> str:
        if name == "abs":
            return f"|{arguments[0]}|"
        if name == "sqrt" and len(arguments[0]) == 1:
            return "√" + arguments[0]
        return f"{self.names.get(name, name)}({', '.join(arguments)})"

    def fraction(self, a: str, b: str) -> str:
        return f"{a} / {b}"

    def transposed(self, a: str) -> str:
        return f"{a}ᵀ"

    def column(self, parts: list[str]) -> str:
        return "[" + "; ".join(parts) + "]"

    def total(self, under: str, of: str) -> str:
        return f"Σ({under}) {of}"

    def bracket(self, inside: str) -> str:
        return f"({inside})"

    def all_steps(self, first: str, last: str) -> str:
        return f"rows {first} … {last}" if first != last else f"row {first}"

    def best(self, under: str, of: str) -> str:
        return f"max over {under} of {of}"

    def part(self, which: str, size: str, of: str) -> str:
        return f"{which} {size} of {of}"


class Latex(Text):
    """LaTeX mathematics."""

    names: ClassVar[dict[str, str]] = {"sigmoid": r"\sigma", "logsigmoid": r"\log \sigma", "tanh": r"\tanh",
                                       "exp": r"\exp", "silu": r"\mathrm{SiLU}", "max": r"\max",
                                       "sum": r"\sum "}  # fmt: skip
    times, each, minus, apart = r" \cdot ", r" \odot ", "-", r"\, "

    def symbol(self, symbol: str, time: Time) -> str:
        """A printed name, at a time step.

        >>> Latex().symbol("C~", 1), Latex().symbol("z_f", "t")
        ('\\\\tilde{C}_{1}', 'z_{f,t}')
        """
        found = parts_of(symbol)
        base, delta = found["base"], r"\delta " if found["delta"] else ""
        if base.startswith("["):
            inside = [self.symbol(part.strip(), before(time, part)) for part in base[1:-1].split(";")]
            return delta + r"[" + ";\\, ".join(inside) + "]"
        base = {"μ": r"\mu", "ε": r"\epsilon"}.get(base, base if len(base) == 1 else rf"\mathrm{{{base}}}")
        base = {"~": rf"\tilde{{{base}}}", "^": rf"\hat{{{base}}}", "": base}[found["accent"]]
        up = {"′": r"\prime", "°": r"\circ", "": ""}[found["mark"]] + (r"\leftarrow" if found["arrow"] else "")
        index = found["sub"] and (found["sub"] if len(found["sub"]) == 1 else rf"\mathrm{{{found['sub']}}}")
        sub = ",".join(str(each) for each in (index, time) if each not in (None, "")).replace("−", "-")
        log = r"\log " if found["log"] else ""
        return delta + log + base + (f"^{{{up}}}" if up else "") + (f"_{{{sub}}}" if sub else "")

    def number(self, value: float, decimals: int | None = None) -> str:
        text = show(value, decimals).replace("−", "-").replace("∞", r"\infty")
        return r"\text{not a number}" if text == "not a number" else re.sub(r"e([-+]\d+)", r" \\cdot 10^{\1}", text)

    def function(self, name: str, arguments: list[str]) -> str:
        if name == "abs":
            return rf"\left\lvert {arguments[0]} \right\rvert"  # a | would end the cell of a Markdown table
        if name == "sqrt":
            return rf"\sqrt{{{arguments[0]}}}"
        called = self.names.get(name, rf"\text{{{name}}}")  # GitHub refuses \operatorname
        return f"{called}({', '.join(arguments)})"

    def fraction(self, a: str, b: str) -> str:
        return rf"\frac{{{a}}}{{{b}}}"

    def transposed(self, a: str) -> str:
        return rf"{a}^\top"

    def column(self, parts: list[str]) -> str:
        return "[" + ";\\, ".join(parts) + "]"

    def total(self, under: str, of: str) -> str:
        under = under.replace("≤", r"\le ")
        return rf"\sum_{{{under}}} {of}"

    def all_steps(self, first: str, last: str) -> str:
        return rf"[{first}, \dots, {last}]^\top" if first != last else rf"[{first}]^\top"

    def best(self, under: str, of: str) -> str:
        return rf"\max_{{{under}}} {of}"

    def part(self, which: str, size: str, of: str) -> str:
        return rf"\text{{{which} }} {size} \text{{ of }} {of}"


class Typst(Text):
    """Typst mathematics."""

    names: ClassVar[dict[str, str]] = {"sigmoid": "sigma", "logsigmoid": "log sigma", "silu": '"SiLU"', "sum": "sum"}
    times, each, minus, apart = " dot ", " dot.o ", "-", " thin "

    def symbol(self, symbol: str, time: Time) -> str:
        """A printed name, at a time step.

        >>> Typst().symbol("C~", 1), Typst().symbol("z_f", "t")
        ('tilde(C)_(1)', 'z_(f,t)')
        """
        found = parts_of(symbol)
        base, delta = found["base"], "delta " if found["delta"] else ""
        if base.startswith("["):
            inside = [self.symbol(part.strip(), before(time, part)) for part in base[1:-1].split(";")]
            return delta + "[" + "; ".join(inside) + "]"
        base = {"μ": "mu", "ε": "epsilon"}.get(base, base if len(base) == 1 else f'"{base}"')
        base = {"~": f"tilde({base})", "^": f"hat({base})", "": base}[found["accent"]]
        up = {"′": "prime", "°": "compose", "": ""}[found["mark"]] + ("arrow.l" if found["arrow"] else "")
        index = found["sub"] and (found["sub"] if len(found["sub"]) == 1 else f'"{found["sub"]}"')
        sub = ",".join(str(each) for each in (index, time) if each not in (None, ""))
        log = "log " if found["log"] else ""
        return delta + log + base + (f"^({up})" if up else "") + (f"_({sub})" if sub else "")

    def number(self, value: float, decimals: int | None = None) -> str:
        text = show(value, decimals).replace("−", "-").replace("∞", "infinity")
        return '"not a number"' if text == "not a number" else re.sub(r"e([-+]\d+)", r" dot 10^(\1)", text)

    def function(self, name: str, arguments: list[str]) -> str:
        if name == "abs":
            return f"abs({arguments[0]})"
        called = self.names.get(name, name if name in ("tanh", "exp", "max", "sqrt") else f'op("{name}")')
        return f"{called}({', '.join(arguments)})"

    def fraction(self, a: str, b: str) -> str:
        return f"frac({a}, {b})"

    def transposed(self, a: str) -> str:
        return f"{a}^top"

    def total(self, under: str, of: str) -> str:
        return f"sum_({under.replace('≤', '<=')}) {of}"

    def all_steps(self, first: str, last: str) -> str:
        return f"[{first}, dots, {last}]^top" if first != last else f"[{first}]^top"

    def best(self, under: str, of: str) -> str:
        return f"max_({under}) {of}"

    def part(self, which: str, size: str, of: str) -> str:
        return f'"{which} " {size} " of " {of}'


TEXT, LATEX, TYPST = Text(), Latex(), Typst()


def parts_of(symbol: str) -> dict[str, str]:
    found = SYMBOL.fullmatch(symbol)
    if not found:
        raise ValueError(f"symbol {symbol!r} is not written as exercises write them: a letter, as C~ or z_f")
    return found.groupdict()


def subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789-", "₀₁₂₃₄₅₆₇₈₉₋"))


def before(time: Time, part: str) -> Time:
    """The time of h in [x; h]: one step earlier."""
    if part.strip() != "h" or time is None:
        return time
    return time - 1 if isinstance(time, int) else f"{time}−1"


# ---- spelling --------------------------------------------------------------------------------------------------------

SUM, PRODUCT, ATOM = 1, 2, 3


@dataclass(frozen=True)
class Speller:
    """Names, formulas and cells of one exercise in one dialect."""

    exercise: Exercise
    dialect: Text = TEXT

    def label(self, name: str, t: Time = None) -> str:
        """How a given or quantity is called at a time step; one without a symbol is called by its formula."""
        each = self.exercise.by_name[name]
        if not each.symbol:
            assert isinstance(each, Quantity)
            return self.spelt(each.tree, t, 0)
        if isinstance(each, Given) and each.role == "start":
            return self.dialect.symbol(each.symbol, 0)
        return self.dialect.symbol(each.symbol, t if each.each_step else None)

    def formula(self, name: str, t: Time = None) -> str:
        """The right-hand side, at a time step."""
        quantity = self.exercise.by_name[name]
        assert isinstance(quantity, Quantity), f"{name} is given"
        return self.spelt(quantity.tree, t, 0)

    def equation(self, name: str, t: Time = None) -> str:
        """The whole equation; of a quantity without a symbol, its formula."""
        label, formula = self.label(name, t), self.formula(name, t)
        return formula if label == formula else f"{label} = {formula}"

    def worked(self, cell: Cell, numbers: Numbers) -> str:
        """One cell's formula with its numbers in place.

        >>> from longshort.byhand import exercise
        >>> lstm = exercise("lstm")
        >>> Speller(lstm).worked(Cell("z_f", 1, (0,)), lstm.work())
        '0·1 + (−1)·2 + 0·1 + 0·1 + (−2)·1 + 0'
        """
        return self.laid_out(self.exercise.cell_tree(cell), numbers, 0)

    def hints(self, cell: Cell, numbers: Numbers) -> tuple[str, str, str]:
        """Three hints, each telling more: the formula, the formula with its numbers, the number."""
        decimals = numbers.rounding.decimals
        return self.equation(cell.name, cell.t or None), self.worked(cell, numbers), show(numbers.at(*cell), decimals)

    # ---- with symbols ----

    def spelt(self, tree: Tree, t: Time, tight: int) -> str:
        """A formula; in brackets where it binds less tightly than what surrounds it."""
        kind, parts, say = tree[0], tree[1:], self.dialect
        if kind == "num":
            return say.number(parts[0])
        if kind == "size":
            return parts[0]
        if kind == "ref":
            return self.named(parts[0], shifted(t, parts[1]), tight)
        if kind in ("+", "-"):
            sign = " + " if kind == "+" else f" {say.minus} "
            text = self.spelt(parts[0], t, SUM) + sign + self.spelt(parts[1], t, SUM if kind == "+" else PRODUCT)
            return say.bracket(text) if tight > SUM else text
        if kind in ("*", "@", "/", "neg", "outer", "dot"):
            text = self.product(kind, parts, t)
            return say.bracket(text) if tight > PRODUCT else text
        return self.called(kind, parts, t)

    def product(self, kind: str, parts: list, t: Time) -> str:
        say = self.dialect
        if kind == "neg":
            return say.minus + self.spelt(parts[0], t, PRODUCT)
        if kind == "/" and not isinstance(say, Latex | Typst):
            return say.fraction(self.spelt(parts[0], t, PRODUCT), self.spelt(parts[1], t, ATOM))
        if kind == "/":
            return say.fraction(self.spelt(parts[0], t, 0), self.spelt(parts[1], t, 0))
        a, b = self.spelt(parts[0], t, PRODUCT), self.spelt(parts[1], t, ATOM)
        if kind == "outer":
            return a + say.apart + say.transposed(b)
        if kind == "dot":
            return a + say.times + b
        if kind == "@":
            return a + say.apart + b
        numbers = any(not self.exercise.scope.shape(part) for part in parts)
        return a + (say.times if numbers else say.each) + b

    def called(self, kind: str, parts: list, t: Time) -> str:
        """Functions, and the operations on whole matrices."""
        say = self.dialect
        if kind == "concat":
            return say.column([self.spelt(part, t, 0) for part in parts])
        if kind in ("row", "col"):
            inner = parts[0][1] if kind == "row" and parts[0][0] == "stack" else parts[0]
            return self.spelt(inner, "j" if inner is not parts[0] else t, PRODUCT)
        if kind == "T":
            return say.transposed(self.spelt(parts[0], t, ATOM))
        if kind in ("segsum", "cumsum") and parts[0][0] == "stack":
            return say.total("j<s≤t" if kind == "segsum" else "s≤t", self.spelt(parts[0][1], "s", PRODUCT))
        if kind == "stack":
            return say.all_steps(self.spelt(parts[0], 1, 0), self.spelt(parts[0], self.exercise.sizes["T"], 0))
        if kind == "rowmax":
            return say.best("j", self.spelt(parts[0], t, PRODUCT))
        if kind == "rowsum":
            return say.total("j", self.spelt(parts[0], t, PRODUCT))
        if kind in ("first", "last"):
            return say.part(kind, parts[1], self.spelt(parts[0], t, 0))
        return say.function(kind, [self.spelt(part, t, 0) for part in parts])

    def named(self, name: str, t: Time, tight: int) -> str:
        each = self.exercise.by_name[name]
        if each.each_step and isinstance(t, int) and t > self.exercise.sizes["T"]:
            return "0"  # nothing comes back from beyond the last step
        if isinstance(each, Quantity) and each.start and t == 0:
            return self.spelt(each.start_tree, None, tight)
        if isinstance(each, Quantity) and not each.symbol:
            return self.spelt(each.tree, t, tight)
        return self.label(name, t)

    # ---- with numbers ----

    def laid_out(self, tree: Tree, numbers: Numbers, tight: int) -> str:
        """A cell's formula with the numbers of the cells it needs."""
        kind, parts, say = tree[0], tree[1:], self.dialect
        if kind in ("num", "cell"):
            value = parts[0] if kind == "num" else numbers.at(*parts)
            exact = kind == "num" or (self.exercise.given(parts[0]) and abs(value) < 1e4)
            text = say.number(value, 9 if exact else numbers.rounding.decimals)
            return say.bracket(text) if tight >= SUM and text.startswith(("-", "−")) else text
        if kind == "sum":
            text = " + ".join(self.laid_out(part, numbers, SUM if at else 0) for at, part in enumerate(parts))
            return say.bracket(text) if tight >= SUM else text
        if kind in ("+", "-"):
            sign = " + " if kind == "+" else f" {say.minus} "
            text = self.laid_out(parts[0], numbers, 0) + sign + self.laid_out(parts[1], numbers, SUM)
            return say.bracket(text) if tight >= SUM else text
        if kind == "*":
            text = self.laid_out(parts[0], numbers, SUM) + say.times + self.laid_out(parts[1], numbers, SUM)
            return text if tight < PRODUCT else say.bracket(text)
        if kind == "/":
            plain = isinstance(say, Latex | Typst)
            a, b = (self.laid_out(part, numbers, 0 if plain else PRODUCT) for part in parts)
            return say.fraction(a, b) if plain or tight < PRODUCT else say.bracket(say.fraction(a, b))
        if kind == "neg":
            return say.minus + self.laid_out(parts[0], numbers, PRODUCT)
        return say.function(kind, [self.laid_out(part, numbers, 0) for part in parts])


def shifted(t: Time, back: int) -> Time:
    """So many steps earlier.

    >>> shifted(3, 1), shifted("t", 1), shifted("t", -1)
    (2, 't−1', 't+1')
    """
    if t is None or not back:
        return t
    return t - back if isinstance(t, int) else f"{t}−{back}" if back > 0 else f"{t}+{-back}"
