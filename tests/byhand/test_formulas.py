"""The formula language: what it parses, what it refuses, and every operation against numpy."""

import math
import random

import numpy as np
import pytest

from longshort.byhand.formulas import FUNCTIONS, Named, Scope, compute, indices, parse, refs

T = 4
DRAW = random.Random(0)
SHAPES = {"W": (2, 3), "V": (3, 2), "a": (3,), "b": (3,), "c": (2,), "s": (), "M": (3, 3), "A": (2, 3)}
VALUES = {
    name: np.array([DRAW.gauss(0, 1) for _ in range(math.prod(shape))]).reshape(shape) for name, shape in SHAPES.items()
}
STEPS = {"p": np.array([[DRAW.gauss(0, 1) for _ in range(3)] for _ in range(T)]),
         "r": np.array([DRAW.gauss(0, 1) for _ in range(T)])}  # fmt: skip


def scope() -> Scope:
    named = {name: Named(value.shape, False, lambda index: True) for name, value in VALUES.items()}
    start = {"p": parse("a"), "r": parse("s * 2")}
    named |= {name: Named(value.shape[1:], True, lambda index: True, start[name]) for name, value in STEPS.items()}
    return Scope(named, T, {"D": 3, "H": 2})


def value_of(name, t, index):
    return float(STEPS[name][(t - 1, *index)] if name in STEPS else VALUES[name][index])


def evaluate(formula: str, t: int = 2) -> np.ndarray:
    tree, where = parse(formula), scope()
    shape = where.shape(tree)
    numbers = [compute(where.cell_tree(tree, index, t), value_of) for index in indices(shape)]
    return np.array(numbers).reshape(shape)


def softplus(x):
    return np.log1p(np.exp(x))


v, p, r = VALUES, STEPS["p"], STEPS["r"]
SUMS = np.array([[r[j + 1 : i + 1].sum() if j <= i else 0.0 for j in range(T)] for i in range(T)])
CASES = {
    "W @ a + c": v["W"] @ v["a"] + v["c"],
    "W @ V": v["W"] @ v["V"],
    "T(W) @ c": v["W"].T @ v["c"],
    "a * b - a / b": v["a"] * v["b"] - v["a"] / v["b"],
    "-a - (b - 1)": -v["a"] - (v["b"] - 1),
    "s * W": v["s"] * v["W"],
    "2 * a * s": 2 * v["a"] * v["s"],
    "W * A": v["W"] * v["A"],
    "W + row(a)": v["W"] + v["a"],
    "W / col(c)": v["W"] / v["c"][:, None],
    "[a; c; b]": np.concatenate([v["a"], v["c"], v["b"]]),
    "outer(c, a)": np.outer(v["c"], v["a"]),
    "dot(a, b)": v["a"] @ v["b"],
    "sum(W)": v["W"].sum(),
    "mean(a * a)": (v["a"] ** 2).mean(),
    "rowsum(W)": v["W"].sum(1),
    "rowmax(W)": v["W"].max(1),
    "cumsum(a)": v["a"].cumsum(),
    "max(a, b, 0)": np.maximum(np.maximum(v["a"], v["b"]), 0),
    "sigmoid(a)": 1 / (1 + np.exp(-v["a"])),
    "tanh(W)": np.tanh(v["W"]),
    "exp(a) * abs(b)": np.exp(v["a"]) * abs(v["b"]),
    "sqrt(a * a)": abs(v["a"]),
    "logsigmoid(a)": -softplus(-v["a"]),
    "silu(a)": v["a"] / (1 + np.exp(-v["a"])),
    "sqrt(size(D))": np.sqrt(3.0),
    "first(a, H)": v["a"][:2],
    "last(a, H)": v["a"][1:],
    "p": p[1],
    "p'": p[0],
    "next(p)": p[2],
    "stack(p)": p,
    "stack(r)": r,
    "stack(p) @ a": p @ v["a"],
    "cumsum(stack(r))": r.cumsum(),
}


@pytest.mark.parametrize("formula", CASES)
def test_compute_equals_numpy(formula):
    np.testing.assert_allclose(evaluate(formula), CASES[formula], rtol=1e-14, atol=1e-14)


def test_segsum_adds_up_what_lies_between_two_steps_and_has_no_upper_half():
    tree, where = parse("segsum(stack(r))"), scope()
    for index in indices((T, T)):
        assert where.exists(tree, index) == (index[1] <= index[0])
        if index[1] <= index[0]:
            assert compute(where.cell_tree(tree, index, 0), value_of) == pytest.approx(SUMS[index], abs=1e-15)


def test_compute_takes_the_start_before_the_first_step_and_nothing_beyond_the_last():
    np.testing.assert_array_equal(evaluate("p'", t=1), v["a"])
    np.testing.assert_allclose(evaluate("r'", t=1), v["s"] * 2)
    np.testing.assert_array_equal(evaluate("next(p)", t=T), np.zeros(3))


def test_cells_that_do_not_exist_are_left_out_of_products_and_sums():
    where = scope()
    where.named["M"] = Named((3, 3), False, lambda index: index[1] <= index[0])
    lower = np.tril(v["M"])
    for formula, wanted in (("M @ a", lower @ v["a"]), ("rowsum(M)", lower.sum(1)), ("T(M) @ a", lower.T @ v["a"])):
        got = [compute(where.cell_tree(parse(formula), (at,), 0), value_of) for at in range(3)]
        np.testing.assert_allclose(got, wanted, atol=1e-15)
    got = [compute(where.cell_tree(parse("rowmax(M)"), (at,), 0), value_of) for at in range(3)]
    np.testing.assert_allclose(got, [v["M"][at, : at + 1].max() for at in range(3)])


@pytest.mark.parametrize("formula", ["", "a +", "a b", "f(a)", "(a", "[a; b", "a $ b", "max(a,", "2 3"])
def test_parse_refuses_what_is_no_formula_and_quotes_it(formula):
    with pytest.raises(ValueError, match="formula"):
        parse(formula)


@pytest.mark.parametrize("formula", ["W @ c", "a + c", "W @ W", "W + a", "dot(a, c)"])
def test_shape_refuses_parts_that_do_not_fit(formula):
    with pytest.raises(ValueError, match="do not fit"):
        scope().shape(parse(formula))


def test_refs_finds_every_name_with_its_time():
    assert refs(parse("W @ [x; h'] + next(d)")) == [("W", 0), ("x", 0), ("h", 1), ("d", -1)]


def test_functions_neither_raise_nor_lose_an_overflow():
    assert FUNCTIONS["exp"](800) == math.inf and FUNCTIONS["exp"](-math.inf) == 0
    assert math.isnan(FUNCTIONS["exp"](math.nan)) and math.isnan(FUNCTIONS["sigmoid"](math.nan))
    assert FUNCTIONS["/"](1.0, 0.0) == math.inf and FUNCTIONS["/"](-1.0, 0.0) == -math.inf
    assert math.isnan(FUNCTIONS["/"](0.0, 0.0)) and math.isnan(FUNCTIONS["/"](math.inf, math.inf))
    assert math.isnan(FUNCTIONS["max"](math.nan, 1.0)) and math.isnan(FUNCTIONS["max"](1.0, math.nan))
    assert FUNCTIONS["sigmoid"](-1e6) == 0 and FUNCTIONS["sigmoid"](1e6) == 1
    assert FUNCTIONS["logsigmoid"](-1e6) == -1e6 and FUNCTIONS["logsigmoid"](1e6) == 0
