"""The usual slips: what a learner may have worked out in place of a quantity's formula, as other formulas.

A slip is a clause that names it, and a rule that rewrites a formula's tree into the trees of those who make it. The
rules know operations, roles and names such as f, z_f, W_f, A_f or df; no exercise and no number. Not the marking: that
is in `checker.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from longshort.byhand.formulas import Index, Tree, refs
from longshort.byhand.graph import Cell, Exercise, Quantity

NOTHING: Tree = ["num", 0.0]
ONE: Tree = ["num", 1.0]


class Place(NamedTuple):
    """Where a formula stands: the quantity it is of, and its exercise."""

    exercise: Exercise
    quantity: Quantity
    order: dict[Cell, int]

    def times(self) -> list[int]:
        """The first two time steps at which the quantity is worked out, and the last."""
        times = sorted({step.t for step in self.exercise.steps if self.quantity in step.quantities})
        return list(dict.fromkeys((*times[:2], *times[-1:])))

    def stands(self, used: Cell, by: Cell) -> bool:
        """Whether a cell has a number when another is worked out."""
        if self.exercise.given(used.name):
            return self.exercise.exists(used.name, used.index)
        return self.order.get(used, len(self.order)) < self.order[by]

    def role(self, tree: Tree) -> str:
        """The role of the given that a tree is; empty for anything else."""
        if tree[0] != "ref" or tree[1] not in self.exercise.by_name:
            return ""
        return getattr(self.exercise.by_name[tree[1]], "role", "")


Change = Callable[[Place, Tree], Iterable[Tree]]
"""What may stand in place of a tree, or of a part of it."""


# ---- rewriting -------------------------------------------------------------------------------------------------------


def anywhere(change: Change) -> Change:
    """The change made in one part of a tree, whichever: a whole tree for each."""

    def rule(place: Place, tree: Tree) -> Iterator[Tree]:
        yield from change(place, tree)
        for at, part in enumerate(tree):
            if isinstance(part, list):
                for other in rule(place, part):
                    yield [*tree[:at], other, *tree[at + 1 :]]

    return rule


def everywhere(change: Callable[[Tree], Tree | None], tree: Tree) -> Tree:
    """The change made in all parts of a tree at once; None leaves a part as it is."""
    changed = change(tree)
    if changed is not None:
        return changed
    return [everywhere(change, part) if isinstance(part, list) else part for part in tree]


def spelt_out(place: Place, tree: Tree, wanted: Callable[[Tree], bool]) -> Tree:
    """A tree with the formulas of quantities at the same step put in for their names, where they are wanted."""

    def put_in(part: Tree) -> Tree | None:
        of = place.exercise.by_name.get(part[1]) if part[0] == "ref" and part[2] == 0 else None
        return of.tree if isinstance(of, Quantity) and wanted(of.tree) else None

    return everywhere(put_in, tree)


# ---- x and h ---------------------------------------------------------------------------------------------------------


def is_stack(tree: Tree) -> bool:
    return tree[0] == "concat" and len(tree) == 3


def none_of(tree: Tree) -> Tree:
    """Zeros, as many as there are cells in a tree."""
    return ["*", NOTHING, tree]


def two_products(place: Place, tree: Tree) -> tuple[Tree, Tree, Tree, Tree] | None:
    """W, x, R and h' of W x + R h'."""
    if tree[0] != "+" or tree[1][0] != "@" or tree[2][0] != "@":
        return None
    (_, w, x), (_, r, h) = tree[1:]
    matrices = place.role(w) == place.role(r) == "weight"
    return (w, x, r, h) if matrices and h[0] == "ref" and h[2] == 1 else None


def columns(place: Place, matrix: Tree) -> str:
    return place.exercise.by_name[matrix[1]].shape[-1]


def in_one_vector(change: Callable[[Tree, Tree], Tree]) -> Change:
    """What becomes of [x; h'], and so of W [x; h'], when another vector is made of x and h'."""

    def rule(place: Place, tree: Tree) -> Iterator[Tree]:
        def other(part: Tree) -> Tree | None:
            return change(*part[1:]) if is_stack(part) else None

        yield everywhere(other, spelt_out(place, tree, is_stack))

    return rule


def added_in_one(x: Tree, h: Tree) -> Tree:
    """x + h', the shorter with zeros at its end, and zeros up to the length of [x; h']."""
    return ["+", ["concat", x, none_of(h)], ["concat", h, none_of(x)]]


def added_in_two(place: Place, tree: Tree) -> Iterator[Tree]:
    if found := two_products(place, tree):
        w, x, _, h = found
        scope = place.exercise.scope
        alike = scope.shape(x) == scope.shape(h)
        yield ["@", w, ["+", x, h] if alike else ["first", added_in_one(x, h), columns(place, w)]]


def turned_in_two(place: Place, tree: Tree) -> Iterator[Tree]:
    if found := two_products(place, tree):
        w, x, r, h = found
        yield ["+", ["@", w, h], ["@", r, x]]


def left_out_in_two(place: Place, tree: Tree) -> Iterator[Tree]:
    if found := two_products(place, tree):
        yield ["@", *found[:2]]


def other_end(place: Place, tree: Tree) -> Iterator[Tree]:
    if tree[0] in ("first", "last"):
        yield ["last" if tree[0] == "first" else "first", *tree[1:]]


# ---- what is left out ------------------------------------------------------------------------------------------------


def is_stabiliser(name: str) -> bool:
    return name.rsplit("_", maxsplit=1)[-1] in ("m", "mp", "m0")


def bias_left_out(place: Place, tree: Tree) -> Iterator[Tree]:
    if tree[0] == "+":
        a, b = tree[1:]
        yield from [rest for term, rest in ((b, a), (a, b)) if place.role(term) == "bias"]


def later_left_out(place: Place, tree: Tree) -> Iterator[Tree]:
    if tree[0] == "+":
        a, b = tree[1:]
        yield from [rest for term, rest in ((b, a), (a, b)) if term[0] == "ref" and term[2] == -1]
    if tree[0] == "-" and tree[1][0] == "ref" and tree[1][2] == -1:
        yield ["neg", tree[2]]


def function_left_out(*functions: str) -> Change:
    def change(place: Place, tree: Tree) -> Iterator[Tree]:
        if tree[0] in functions:
            yield tree[1]

    return anywhere(change)


def tanh_left_out(place: Place, tree: Tree) -> Iterator[Tree]:
    """Here, or on the way here: o * C for o * tanh(C)."""
    rule = function_left_out("tanh")
    yield from rule(place, tree)
    yield from rule(place, spelt_out(place, tree, lambda of: of[0] == "tanh"))


def function_mistaken(function: str, other: str) -> Change:
    def change(place: Place, tree: Tree) -> Iterator[Tree]:
        if tree[0] == function:
            yield [other, *tree[1:]]

    return anywhere(change)


def stabiliser_skipped(place: Place, tree: Tree) -> Iterator[Tree]:
    """No m in the exponents: neither this step's, nor, where the exponent has a name, the last one's within it."""

    def without(part: Tree) -> Tree | None:
        if part[0] == "ref" and is_stabiliser(part[1]):
            return NOTHING
        if part[0] in ("+", "-") and part[2][0] == "ref" and is_stabiliser(part[2][1]):
            return everywhere(without, part[1])
        if part[0] in ("neg", "col") and part[1][0] == "ref" and is_stabiliser(part[1][1]):
            return NOTHING
        return None

    def uses_stabiliser(of: Tree) -> bool:
        return of[0] == "+" and any(is_stabiliser(name) for name, _ in refs(of))

    if not is_stabiliser(place.quantity.name):
        yield everywhere(without, tree)
        yield everywhere(without, spelt_out(place, tree, uses_stabiliser))


def division_left_out(place: Place, tree: Tree) -> Iterator[Tree]:
    if tree[0] == "/":
        yield tree[1]
    if tree[0] == "mean":
        yield ["sum", tree[1]]


def factor_left_out(place: Place, tree: Tree) -> Iterator[Tree]:
    if tree[0] == "*":
        yield from [tree[1]] if tree[1][0] == "*" else tree[1:]


def slope_left_out(place: Place, tree: Tree) -> Iterator[Tree]:
    """The derivative behind an activation in place of that before it."""
    if tree[0] == "*" and tree[2][:2] == ["-", ONE]:
        yield tree[1][1] if tree[1][0] == "*" else tree[1]


def term_left_out(place: Place, tree: Tree) -> Iterator[Tree]:
    if tree[0] == "+":
        left = [tree[1]] if tree[1][0] == "+" else tree[1:]
        yield from [term for term in left if place.role(term) != "bias"]
    if tree[0] == "-" and tree[1] != ONE and not (tree[2][0] == "ref" and is_stabiliser(tree[2][1])):
        yield from (tree[1], ["neg", tree[2]])


def maximum_left_out(place: Place, tree: Tree) -> Iterator[Tree]:
    if tree[0] == "max" and len(tree) > 2:
        for at in range(1, len(tree)):
            rest = tree[1:at] + tree[at + 1 :]
            yield ["max", *rest] if len(rest) > 1 else rest[0]


# ---- what is taken for something else --------------------------------------------------------------------------------


def renamed(name: str, names: dict[str, str]) -> str:
    """A name with one letter for another, wherever it stands for a gate.

    >>> renamed("W_f", {"f": "i"}), renamed("df_pre", {"f": "i"}), renamed("kept", {"f": "i"})
    ('W_i', 'di_pre', 'kept')
    """
    parts = name.split("_")
    for at, part in enumerate(parts):
        letter = part.removeprefix("d")
        if letter in names:
            parts[at] = part[: len(part) - len(letter)] + names[letter]
    return "_".join(parts)


def gate_mistaken(names: dict[str, str]) -> Change:
    """One gate's numbers used for another's, or the other gate's whole formula."""

    def rule(place: Place, tree: Tree) -> Iterator[Tree]:
        by_name = place.exercise.by_name

        def other(part: Tree) -> Tree | None:
            name = renamed(part[1], names) if part[0] == "ref" else ""
            # One that is given and has no counterpart stays under the new name, and so the whole is dropped.
            return ["ref", name, part[2]] if name in by_name or place.role(part) else None

        yield everywhere(other, tree)
        sibling = place.exercise.by_name.get(renamed(place.quantity.name, names))
        if isinstance(sibling, Quantity):
            yield sibling.tree

    return rule


def looked_back(place: Place, tree: Tree) -> Iterator[Tree]:
    """The number of the step before in place of this step's."""
    if tree[0] == "ref" and tree[2] == 0:
        each = place.exercise.by_name[tree[1]]
        if isinstance(each, Quantity) and place.exercise.starts(each):
            yield ["ref", tree[1], 1]


def looked_ahead(place: Place, tree: Tree) -> Iterator[Tree]:
    if tree[0] == "ref" and tree[2] == 1:
        yield ["ref", tree[1], 0]


def slopes_mistaken(place: Place, tree: Tree) -> Iterator[Tree]:
    """a (1 - a) for 1 - a a, and the reverse."""
    if tree[0] == "-" and tree[1] == ONE and tree[2][0] == "*" and tree[2][1] == tree[2][2]:
        yield ["*", tree[2][1], ["-", ONE, tree[2][1]]]
    if tree[0] == "*" and tree[1][0] == "*" and tree[2] == ["-", ONE, tree[1][2]]:
        yield ["*", tree[1][1], ["-", ONE, ["*", tree[1][2], tree[1][2]]]]


def transposed(place: Place, tree: Tree) -> Iterator[Tree]:
    if tree[0] == "@" and tree[1][0] != "T":
        yield ["@", ["T", tree[1]], tree[2]]
    if tree[0] == "outer":
        yield ["outer", tree[2], tree[1]]


def not_transposed(place: Place, tree: Tree) -> Iterator[Tree]:
    yield everywhere(lambda part: part[1] if part[0] == "T" else None, tree)


def sign_mistaken(place: Place, tree: Tree) -> Iterator[Tree]:
    if tree[0] in ("+", "-"):
        yield ["-" if tree[0] == "+" else "+", *tree[1:]]
    if tree[0] == "neg":
        yield tree[1]


def wholly_negative(place: Place, tree: Tree) -> Iterator[Tree]:
    """A product or difference with the other sign; nobody takes a sigmoid for less than 0."""
    if tree[0] in ("*", "/", "-", "@", "dot", "outer"):
        yield ["neg", tree]


def product_mistaken(place: Place, tree: Tree) -> Iterator[Tree]:
    if tree[0] == "*" and tree[1][0] == tree[2][0] == "ref":
        yield ["+", *tree[1:]]


def smaller_taken(place: Place, tree: Tree) -> Iterator[Tree]:
    """The smaller of two numbers: what remains of their sum without the larger."""
    if tree[0] == "max" and len(tree) == 3:
        yield ["-", ["+", *tree[1:]], tree]


# ---- the table -------------------------------------------------------------------------------------------------------

SLIPS: tuple[tuple[str, Change], ...] = (
    ("x and h are added, not put one below the other", in_one_vector(added_in_one)),
    ("x and h are added before they are multiplied", anywhere(added_in_two)),
    ("x and h are in the wrong order", in_one_vector(lambda x, h: ["concat", h, x])),
    ("x and h are in the wrong order", anywhere(turned_in_two)),
    ("x and h are in the wrong order", anywhere(other_end)),
    ("the h of the step before is left out", in_one_vector(lambda x, h: ["concat", x, none_of(h)])),
    ("the h of the step before is left out", anywhere(left_out_in_two)),
    ("the bias is forgotten", anywhere(bias_left_out)),
    ("i and f are swapped", gate_mistaken({"i": "f", "f": "i"})),
    ("o is used for i", gate_mistaken({"i": "o"})),
    ("o is used for f", gate_mistaken({"f": "o"})),
    ("i is used for o", gate_mistaken({"o": "i"})),
    ("f is used for o", gate_mistaken({"o": "f"})),
    ("tanh is left out", tanh_left_out),
    ("the sigmoid is left out", function_left_out("sigmoid", "logsigmoid")),
    ("the exponential is left out", function_left_out("exp")),
    ("SiLU is left out", function_left_out("silu")),
    ("the square root is left out", function_left_out("sqrt")),
    ("the absolute value is not taken", function_left_out("abs")),
    ("the logarithm is left out", function_mistaken("logsigmoid", "sigmoid")),
    ("the sigmoid is used for tanh", function_mistaken("tanh", "sigmoid")),
    ("tanh is used for the sigmoid", function_mistaken("sigmoid", "tanh")),
    ("the exponential is used for the sigmoid", function_mistaken("sigmoid", "exp")),
    ("the sigmoid is used for the exponential", function_mistaken("exp", "sigmoid")),
    ("the sigmoid alone is used for SiLU", function_mistaken("silu", "sigmoid")),
    ("the stabiliser is skipped", stabiliser_skipped),
    ("the number of the step before is used, not this step's", anywhere(looked_back)),
    ("this step's number is used, not that of the step before", anywhere(looked_ahead)),
    ("what the later step hands back is left out", anywhere(later_left_out)),
    ("rows and columns are swapped", anywhere(transposed)),
    ("rows and columns are swapped", not_transposed),
    ("the slopes of σ and tanh are swapped", anywhere(slopes_mistaken)),
    ("the slope is left out", anywhere(slope_left_out)),
    ("a sign is wrong", wholly_negative),
    ("a sign is wrong", anywhere(sign_mistaken)),
    ("the division is left out", anywhere(division_left_out)),
    ("a factor is left out", anywhere(factor_left_out)),
    ("a term is left out", anywhere(term_left_out)),
    ("added, not multiplied", product_mistaken),
    ("the smaller is taken, not the larger", anywhere(smaller_taken)),
    ("a candidate of the maximum is left out", anywhere(maximum_left_out)),
)
"""A clause that names the slip, and the rule. Where two rules give the same tree, the first names it."""


def slip_trees(exercise: Exercise) -> dict[str, list[tuple[str, Tree]]]:
    """For each quantity, what may have been worked out in place of its formula: the slip's name, and the tree.

    The trees are formulas as `Scope.cell_tree` takes them, with the quantity's own shape. They use only what has been
    worked out by then.

    >>> from longshort.byhand import exercise
    >>> dict(slip_trees(exercise("rnn"))["h"])["tanh is left out"]
    ['ref', 'z', 0]
    """
    order = order_of(exercise)
    return {each.name: list(slips_of(exercise, each, order)) for each in exercise.quantities}


def order_of(exercise: Exercise) -> dict[Cell, int]:
    """When each cell is worked out."""
    return {cell: at for at, cell in enumerate(exercise.cells)}


def slips_of(exercise: Exercise, quantity: Quantity, order: dict[Cell, int]) -> Iterator[tuple[str, Tree]]:
    """The slips of one quantity."""
    place, seen = Place(exercise, quantity, order), {in_order(quantity.tree)}
    for clause, rule in SLIPS:
        for tree in rule(place, quantity.tree):
            if in_order(tree) not in seen and fits(place, tree):
                seen.add(in_order(tree))
                yield clause, tree


def in_order(tree: Tree) -> str:
    """The same text for trees that differ only in the order of what is added or multiplied."""
    parts = list(tree[1:])
    if tree[0] in ("+", "*"):
        while parts[0][0] == tree[0]:
            parts[:1] = parts[0][1:]
    texts = [in_order(part) if isinstance(part, list) else str(part) for part in parts]
    return f"{tree[0]}({', '.join(sorted(texts) if tree[0] in ('+', '*') else texts)})"


def fits(place: Place, tree: Tree) -> bool:
    """Whether a formula has the quantity's shape, and needs only numbers that stand on the sheet by then."""
    exercise, name = place.exercise, place.quantity.name
    if any(each not in exercise.by_name for each, _ in refs(tree)):
        return False
    try:
        if exercise.scope.shape(tree) != exercise.shape(name):
            return False
    except ValueError:
        return False
    return all(
        place.stands(Cell(*used), Cell(name, t, index))
        for t in place.times()
        for index in exercise.indices(name)
        for used in used_cells(exercise.scope.cell_tree(tree, index, t))
    )


def used_cells(tree: Tree) -> Iterator[tuple[str, int, Index]]:
    """The cells that the formula of a cell uses."""
    if tree[0] == "cell":
        yield tree[1], tree[2], tree[3]
        return
    for part in tree[1:]:
        if isinstance(part, list):
            yield from used_cells(part)
