"""The language of the exercises: a formula over matrices, its shape, and the formula of each single cell of its result.

A formula such as `W_f @ xh + b_f` is parsed once into a tree of plain lists, which every rendering reads. `cell_tree`
turns it into the formula of one cell over single cells, `0·1 + (-1)·2 + ...`: what a learner writes down, what a
spreadsheet cell holds, and what `compute` works out. There is no other arithmetic. Needs nothing but Python.

    f'          the quantity f one step before (at the first step: its start)
    next(dh)    dh one step later (beyond the last step: 0)
    [x; h']     x with h' below it
    W @ x       matrix times vector, or matrix times matrix        a * b   cell by cell
    row(v)      v as a row, col(v) as a column: with a matrix, each combines with every row or column of it
    size(K)     how long the size called K is
    stack(q)    the vectors q of all steps as the rows of a matrix; of single numbers, a vector
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Tree = list[Any]
"""[operation, arguments...]; leaves are ["num", value], ["size", name], ["ref", name, steps back]; in a cell's
formula ["num", value] and ["cell", name, t, index]."""
Shape = tuple[int, ...]
Index = tuple[int, ...]

EACH = {"sigmoid", "tanh", "exp", "logsigmoid", "sqrt", "abs", "silu"}
"""Functions of one number, applied cell by cell."""
MATRIX = {"T", "row", "col", "outer", "dot", "sum", "mean", "rowsum", "rowmax", "cumsum", "segsum", "stack"}
TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?)|([A-Za-z]\w*)|([-+*/@()\[\];,']))")


# ---- parsing ---------------------------------------------------------------------------------------------------------


def parse(formula: str) -> Tree:
    """The tree of a formula.

    >>> parse("W_f @ [x; h'] + 1")
    ['+', ['@', ['ref', 'W_f', 0], ['concat', ['ref', 'x', 0], ['ref', 'h', 1]]], ['num', 1.0]]
    """
    reader = Reader(formula)
    tree = reader.sum()
    if reader.tokens:
        raise ValueError(f"formula {formula!r}: {reader.tokens[0]!r} does not belong where it stands")
    return tree


class Reader:
    """A formula read from left to right."""

    def __init__(self, formula: str):
        self.formula, self.tokens, at = formula, [], 0
        while at < len(formula.rstrip()):
            found = TOKEN.match(formula, at)
            if not found:
                raise ValueError(f"formula {formula!r}: cannot read {formula[at:].strip()!r}")
            self.tokens.append(found.group().strip())
            at = found.end()

    def take(self, *wanted: str) -> str | None:
        """The next token, if it is one of these."""
        return self.tokens.pop(0) if self.tokens and self.tokens[0] in wanted else None

    def need(self, wanted: str) -> None:
        if not self.take(wanted):
            raise ValueError(
                f"formula {self.formula!r}: {wanted!r} is missing before {''.join(self.tokens[:1]) or 'the end'!r}"
            )

    def sum(self) -> Tree:
        tree = self.product()
        while sign := self.take("+", "-"):
            tree = [sign, tree, self.product()]
        return tree

    def product(self) -> Tree:
        tree = self.signed()
        while sign := self.take("*", "/", "@"):
            tree = [sign, tree, self.signed()]
        return tree

    def signed(self) -> Tree:
        return ["neg", self.signed()] if self.take("-") else self.atom()

    def atom(self) -> Tree:
        if self.take("("):
            tree = self.sum()
            self.need(")")
            return tree
        if self.take("["):
            parts = [self.sum()]
            while self.take(";"):
                parts.append(self.sum())
            self.need("]")
            return ["concat", *parts]
        if not self.tokens or not re.match(r"\w", self.tokens[0]):
            raise ValueError(
                f"formula {self.formula!r}: a name or number is missing before {''.join(self.tokens[:1])!r}"
            )
        token = self.tokens.pop(0)
        if token[0].isdigit():
            return ["num", float(token)]
        return self.call(token) if self.take("(") else ["ref", token, 1 if self.take("'") else 0]

    def call(self, function: str) -> Tree:
        arguments = [self.sum()]
        while self.take(","):
            arguments.append(self.sum())
        self.need(")")
        if function == "next":
            return ["ref", arguments[0][1], -1]
        if function == "size":
            return ["size", arguments[0][1]]
        if function in ("first", "last"):  # of a vector: as many as the size called so
            return [function, arguments[0], arguments[1][1]]
        if function not in EACH | MATRIX | {"max"}:
            raise ValueError(f"formula {self.formula!r}: no function {function!r}")
        return [function, *arguments]


def refs(tree: Tree) -> list[tuple[str, int]]:
    """The names a tree refers to, each with how many steps back."""
    if tree[0] == "ref":
        return [(tree[1], tree[2])]
    return [found for part in tree[1:] if isinstance(part, list) for found in refs(part)]


# ---- shapes, and the formula of a cell -------------------------------------------------------------------------------


class Named(NamedTuple):
    """What a formula may refer to: its shape, whether it has a value for each step, and which of its cells exist."""

    shape: Shape
    each_step: bool
    exists: Callable[[Index], bool]
    start: Tree | None = None
    """What stands before the first step."""


class Scope(NamedTuple):
    """Where a formula is read: what there is, how many steps, and how long each named size."""

    named: dict[str, Named]
    steps: int
    sizes: dict[str, int]

    def shape(self, tree: Tree) -> Shape:
        """The shape of a formula's result. Raises ValueError where two parts do not fit."""
        kind, parts = tree[0], tree[1:]
        if kind in ("num", "size"):
            return ()
        if kind == "ref":
            return self.named[tree[1]].shape
        if kind in ("first", "last"):
            return (self.sizes[tree[2]],)
        shapes = [self.shape(part) for part in parts]
        one = shapes[0]
        if kind in EACH or kind in ("neg", "cumsum"):
            return one
        if kind in ("+", "-", "*", "/", "max"):
            return joined(shapes, tree)
        if kind == "@":
            self.fits(one[1] == shapes[1][0], tree, shapes)
            return (one[0], *shapes[1][1:])
        if kind == "dot":
            self.fits(one == shapes[1], tree, shapes)
        return {
            "concat": lambda: (sum(shape[0] for shape in shapes),),
            "T": lambda: (one[1], one[0]),
            "row": lambda: (1, one[0]),
            "col": lambda: (one[0], 1),
            "outer": lambda: (one[0], shapes[1][0]),
            "dot": tuple,
            "sum": tuple,
            "mean": tuple,
            "rowsum": lambda: one[:1],
            "rowmax": lambda: one[:1],
            "segsum": lambda: (one[0], one[0]),
            "stack": lambda: (self.steps, *one),
        }[kind]()

    def fits(self, does: bool, tree: Tree, shapes: Sequence[Shape]) -> None:
        if not does:
            raise ValueError(f"{tree}: shapes {', '.join(map(str, shapes))} do not fit")

    def exists(self, tree: Tree, index: Index) -> bool:
        """Whether a formula's cell is there: not above the diagonal of a triangle, nor between two heads."""
        kind = tree[0]
        if kind == "ref":
            return self.named[tree[1]].exists(index)
        if kind == "T":
            return self.exists(tree[1], index[::-1])
        if kind == "segsum":
            return index[1] <= index[0]
        if kind in EACH or kind in ("+", "-", "*", "/", "max", "neg"):
            return all(self.exists(part, picked(index, self.shape(part))) for part in tree[1:])
        return True

    def cell_tree(self, tree: Tree, index: Index, t: int) -> Tree:
        """The formula of one cell of a formula's result at step t, over single cells and numbers."""
        kind = tree[0]
        if kind == "num":
            return tree
        if kind == "size":
            return ["num", float(self.sizes[tree[1]])]
        if kind == "ref":
            return self.cell_of(tree[1], t - tree[2], index)
        if kind in EACH or kind in ("+", "-", "*", "/", "max", "neg"):
            return [kind, *(self.cell_tree(part, picked(index, self.shape(part)), t) for part in tree[1:])]
        if kind == "stack":
            return self.cell_tree(tree[1], index[1:], index[0] + 1)
        if kind == "@":
            left, right = tree[1], tree[2]
            pairs = [((index[0], k), (k, *index[1:])) for k in range(self.shape(left)[1])]
            return self.added(["*", self.cell_tree(left, a, t), self.cell_tree(right, b, t)]
                              for a, b in pairs if self.exists(left, a) and self.exists(right, b))  # fmt: skip
        if kind == "dot":
            return self.added(
                ["*", *(self.cell_tree(part, (k,), t) for part in tree[1:])] for k in range(self.shape(tree[1])[0])
            )
        return self.of_one(kind, tree, index, t)

    def of_one(self, kind: str, tree: Tree, index: Index, t: int) -> Tree:
        """The cell of an operation that only chooses or adds up cells of its argument."""
        part, shape = tree[1], self.shape(tree[1])

        def cell(*at: int) -> Tree:
            return self.cell_tree(part, at, t)

        if kind == "concat":
            at = index[0]
            for piece in tree[1:]:
                if at < (length := self.shape(piece)[0]):
                    return self.cell_tree(piece, (at,), t)
                at -= length
        if kind in ("sum", "mean"):
            total = self.added(cell(*at) for at in indices(shape) if self.exists(part, at))
            return total if kind == "sum" else ["/", total, ["num", float(math.prod(shape))]]
        if kind in ("rowsum", "rowmax"):
            row = [cell(index[0], k) for k in range(shape[1]) if self.exists(part, (index[0], k))]
            return self.added(row) if kind == "rowsum" else ["max", *row]
        if kind == "cumsum":
            return self.added(cell(k) for k in range(index[0] + 1))
        if kind == "segsum":  # what lies between the two steps, the later one included: [i, j] = v_{j+1} + ... + v_i
            return self.added(cell(k) for k in range(index[1] + 1, index[0] + 1))
        if kind == "outer":
            return ["*", cell(index[0]), self.cell_tree(tree[2], index[1:], t)]
        return cell(*{
            "T": lambda: index[::-1],
            "row": lambda: index[1:],
            "col": lambda: index[:1],
            "first": lambda: index,
            "last": lambda: (shape[0] - self.sizes[tree[2]] + index[0],),
        }[kind]())  # fmt: skip

    def cell_of(self, name: str, t: int, index: Index) -> Tree:
        """A cell of a named quantity at step t, before the first step its start, beyond the last one 0."""
        named = self.named[name]
        if not named.each_step:
            return ["cell", name, 0, index]
        if t > self.steps:
            return ["num", 0.0]
        if t < 1:
            assert named.start is not None, f"{name} has no start"
            return self.cell_tree(named.start, index, 0)
        return ["cell", name, t, index]

    def added(self, terms) -> Tree:
        terms = list(terms)
        return ["sum", *terms] if len(terms) > 1 else terms[0] if terms else ["num", 0.0]


def joined(shapes: Sequence[Shape], tree: Tree) -> Shape:
    """The common shape of parts combined cell by cell; a length of 1 stretches, and so does a single number."""
    full = max(shapes, key=len)
    for shape in shapes:
        if shape and (
            len(shape) != len(full) or any(a != b and 1 not in (a, b) for a, b in zip(shape, full, strict=True))
        ):
            raise ValueError(f"{tree}: shapes {', '.join(map(str, shapes))} do not fit")
    return tuple(max(lengths) for lengths in zip(*(shape for shape in shapes if shape), strict=True)) if full else ()


def picked(index: Index, shape: Shape) -> Index:
    """The cell of a part that meets a cell of the whole."""
    return tuple(0 if length == 1 else at for at, length in zip(index, shape, strict=False)) if shape else ()


def indices(shape: Shape) -> list[Index]:
    """Every index of a shape, row by row.

    >>> indices((2, 2))
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """
    found: list[Index] = [()]
    for length in shape:
        found = [(*index, at) for index in found for at in range(length)]
    return found


# ---- the only arithmetic ---------------------------------------------------------------------------------------------


def exp(x: float) -> float:
    return math.exp(x) if x < 709.78 else x + math.inf  # not a number stays so


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def divide(a: float, b: float) -> float:
    if b:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)


FUNCTIONS: dict[str, Callable[..., float]] = {
    "sigmoid": sigmoid,
    "tanh": math.tanh,
    "exp": exp,
    "logsigmoid": lambda x: min(x, 0.0) - math.log1p(exp(-abs(x))),
    "sqrt": lambda x: math.sqrt(x) if x >= 0 else math.nan,
    "abs": math.fabs,
    "silu": lambda x: x * sigmoid(x),
    "neg": lambda x: -x,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": divide,
    "max": lambda *xs: math.nan if any(map(math.isnan, xs)) else max(xs),
}


def compute(tree: Tree, value: Callable[[str, int, Index], float]) -> float:
    """What the formula of a cell comes to; `value` gives the number in a cell."""
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind == "cell":
        return value(*tree[1:])
    numbers = [compute(part, value) for part in tree[1:]]
    if kind == "sum":
        total = 0.0
        for number in numbers:
            total += number
        return total
    return FUNCTIONS[kind](*numbers)
