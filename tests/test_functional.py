"""The doors: every cell and form gives one answer and one state, on any batch, cut anywhere, at any gates."""

from itertools import pairwise

import pytest
import torch
from mpmath import mp, mpf  # torch brings it along, under sympy
from problems import (
    CASES,
    LENGTHS,
    NATIVE,
    TOLERANCE,
    WIDE,
    assert_same,
    content,
    dtype_of,
    everything,
    exact,
    problem,
    raw,
    tolerance,
)

from longshort import checking, functional
from longshort.cells import loop
from longshort.functional import KERNELS, MLSTMState, choose, lstm, mlstm, rnn, slstm
from longshort.kernels import Kernel

F64 = TOLERANCE[torch.float64]
FORMS = ["mlstm-reference", "mlstm-parallel", "mlstm-chunkwise", *(case for case in NATIVE if case == "mlstm-native")]

# ---- forms: step = sequence, cut anywhere = whole --------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_step_equals_the_sequence(case):
    p = problem(case, T=5)
    h, last = p.run()
    step = getattr(functional, f"{p.door}_step")
    state, outputs = p.state, []
    R = [p.weights["R"]] if "R" in p.weights else []
    extra = {k: x for k, x in p.weights.items() if k != "R"}
    for t in range(5):
        h_t, state = step(*(x[:, t] for x in p.inputs.values()), *R, state, **extra, **p.options)
        outputs.append(h_t)
    got = {"h": torch.stack(outputs, 1), **content(state)}
    assert_same(got, {"h": h, **content(last)}, tolerance(case))


@pytest.mark.parametrize("cut", [1, 4, 6])
@pytest.mark.parametrize("case", CASES)
def test_a_sequence_cut_anywhere_equals_the_whole(case, cut):
    def in_two(p):
        h1, middle = p.part(0, cut, p.state).run()
        h2, last = p.part(cut, 7, middle).run()
        return torch.cat([h1, h2], 1), last

    whole = problem(case, T=7)
    want = everything(whole)
    assert_same(everything(whole, run=in_two), want, tolerance(case))


@pytest.mark.parametrize("cuts", ["", "lengths", "reset", "lengths reset"])
@pytest.mark.parametrize("T", LENGTHS)
def test_mlstm_forms_give_one_answer_and_one_state(T, cuts):
    p = problem("mlstm-reference", T=T, B=3)
    more = {}
    if "lengths" in cuts:
        more["lengths"] = torch.tensor([T, T // 2, 0])
    if "reset" in cuts:
        more["reset"] = torch.rand(3, T) < 0.3
    want = everything(p, **more)
    assert_same(everything(p, kernel="parallel", **more), want, F64)
    for chunk_size in (1, 2, 7, 64, 1000):
        assert_same(everything(p, kernel="chunkwise", chunk_size=chunk_size, **more), want, F64)


@pytest.mark.parametrize(("K", "V"), [(1, 1), (1, 5), (17, 2), (22, 3)])
def test_mlstm_takes_any_key_and_value_widths(K, V):
    random = torch.randn(2, 9, 3, 2 * K + V + 2, dtype=torch.float64)
    q, k, v, gates = random.split([K, K, V, 2], -1)
    want = mlstm(q, k, v, *gates.unbind(-1), kernel="reference")
    for kernel in ("parallel", "chunkwise"):
        h, state = mlstm(q, k, v, *gates.unbind(-1), kernel=kernel, chunk_size=4)
        assert_same({"h": h, **state._asdict()}, {"h": want[0], **want[1]._asdict()}, F64)


def test_mlstm_accepts_a_stabiliser_below_zero():
    p = problem("mlstm-reference")
    shifted = p.state._replace(C=p.state.C * 20, n=p.state.n * 20, m=p.state.m - torch.tensor(20.0).double().log())
    same = p._replace(state=p.state._replace(m=p.state.m))
    want = same.run()
    for case in FORMS:
        dtype, kernel = dtype_of(case), CASES[case][1]
        h, last = p._replace(state=shifted).to(dtype).run(kernel=kernel)
        assert_same({"h": h, **content(last)}, {"h": want[0], **content(want[1])}, tolerance(case))


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_mlstm_eps_is_added_after_the_maximum(eps):
    p = problem("mlstm-reference", T=1)._replace(state=None)
    q, k, v, i, _ = (x[:, 0].double() for x in p.inputs.values())
    m = i.clamp(min=0)
    weight = (i - m).exp()
    score = weight * (q * k).sum(-1) * q.shape[-1] ** -0.5
    want = (score / (score.abs().maximum((-m).exp()) + eps))[..., None] * v
    for case in FORMS:
        h, _ = p.to(dtype_of(case)).run(kernel=CASES[case][1], eps=eps)
        torch.testing.assert_close(h[:, 0].double(), want, rtol=0, atol=1e-14 if case in WIDE else 1e-6)


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", ["", "lengths reset"])
@pytest.mark.parametrize("case", WIDE)
def test_gradients_are_exact_to_second_order(case, cuts):
    p = problem(case, T=3, B=2, N=1, H=2)
    if case == "rnn-relu":  # away from its kink
        p = p._replace(inputs={"x_pre": p.inputs["x_pre"] + 0.05 * p.inputs["x_pre"].sign()})
    more = {"lengths": torch.tensor([3, 2]), "reset": torch.tensor([[0, 1, 0], [0, 0, 0]]).bool()} if cuts else {}
    if case == "mlstm-chunkwise":
        more["chunk_size"] = 2
    names = [*p.inputs, *p.weights, *(k for k in p.state._fields if k != "m")]

    def answer(*tensors):
        given = dict(zip(names, tensors, strict=True))
        inputs, weights = ({k: given[k] for k in xs} for xs in (p.inputs, p.weights))
        state = type(p.state)(*(given.get(k, x) for k, x in p.state._asdict().items()))
        h, last = p._replace(inputs=inputs, weights=weights, state=state).run(**more)
        return h, *content(last).values()

    tensors = [x.clone().requires_grad_() for x in (*p.inputs.values(), *p.weights.values())]
    tensors += [x.clone().requires_grad_() for k, x in p.state._asdict().items() if k != "m"]
    assert torch.autograd.gradcheck(answer, tensors)
    assert torch.autograd.gradgradcheck(answer, tensors, fast_mode=True)


@pytest.mark.parametrize("case", CASES)
def test_a_graph_of_the_gradients_changes_none_of_them(case):
    """Also where inputs are one tensor twice, or come from one another: a second segment, and layers that share R."""
    p = problem(case, T=4, B=2, N=1, H=3)
    leaves = {k: x.clone().requires_grad_() for k, x in (p.inputs | p.weights).items()}
    inputs, weights = ({k: leaves[k] for k in xs} for xs in (p.inputs, p.weights))
    if "k" in inputs:
        inputs |= {"k": inputs["q"], "f_pre": inputs["i_pre"]}
    p = p._replace(inputs=inputs, weights=weights)
    h, last = p.run()
    first, x = next(iter(inputs.items()))
    h, last = p._replace(inputs=inputs | {first: x * h.sum()}, state=last).run()
    loss = h.square().sum() + sum(x.square().sum() for name, x in last._asdict().items() if name != "m")

    def gradients(**how):
        found = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True, **how)
        return {name: d for name, d in zip(leaves, found, strict=True) if d is not None}

    got = gradients(create_graph=True)
    assert len(got) >= 2 and all(d.requires_grad for d in got.values())
    assert_same({name: d.detach() for name, d in got.items()}, gradients(), 10 * tolerance(case))


def transformable(case):
    """A problem that vmap and forward mode can look into: the chunkwise form refuses, and auto takes another."""
    p = problem(case, T=6)
    return p._replace(options={"kernel": "auto"}) if case == "mlstm-chunkwise" else p


@pytest.mark.parametrize("case", WIDE)
def test_forward_mode_equals_a_difference(case):
    p = transformable(case)
    for name, x in p.inputs.items():

        def f(x, name=name):
            return p._replace(inputs=p.inputs | {name: x}).run()[0]

        dx = torch.randn_like(x)
        _, forward = torch.func.jvp(f, (x,), (dx,))
        numeric = (f(x + 1e-6 * dx) - f(x - 1e-6 * dx)) / 2e-6
        torch.testing.assert_close(forward, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("case", WIDE)
def test_vmap_over_any_input_alone_equals_a_loop(case):
    p = transformable(case)
    for kind in ("inputs", "weights"):
        for name, x in getattr(p, kind).items():

            def answer(x, kind=kind, name=name):
                h, last = p._replace(**{kind: getattr(p, kind) | {name: x}}).run()
                return {"h": h, **last._asdict()}

            many = torch.stack([x, x.flip(0), x * 0.5])
            loop = [answer(x) for x in many]
            want = {key: torch.stack([one[key] for one in loop]) for key in loop[0]}
            assert_same(torch.func.vmap(answer)(many), want, F64)


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad])
def test_a_kernel_that_transforms_cannot_look_into_refuses_in_words(transform):
    p = problem("mlstm-chunkwise")

    def f(q):
        return p._replace(inputs=p.inputs | {"q": q}).run()[0].sum()

    with pytest.raises(ValueError, match=r"cannot use kernel='chunkwise' here: .*transforms"):
        transform(f)(p.inputs["q"][None] if transform is torch.func.vmap else p.inputs["q"])


# ---- lengths, resets, batch mates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_lengths_mean_each_row_alone_whatever_is_in_the_padding(case):
    p, lengths = problem(case, T=7, B=4), [7, 4, 1, 0]
    poisoned = {k: x.clone() for k, x in p.inputs.items()}
    for x in poisoned.values():
        for b, length in enumerate(lengths):
            x[b, length:] = torch.nan
    got = everything(p._replace(inputs=poisoned), lengths=lengths)
    assert not any(x.isnan().any() for x in got.values())
    for b, length in enumerate(lengths):
        row = p.rows(slice(b, b + 1)).part(0, length, p.rows(slice(b, b + 1)).state)
        h, last = row.run()
        alone = {"h": h, **{f"last {k}": x for k, x in content(last).items()}}
        here = {k: (x[b : b + 1, :length] if k == "h" else x[b : b + 1]) for k, x in got.items() if k in alone}
        assert_same(here, alone, tolerance(case))
        assert (got["h"][b, length:] == 0).all()
        for name in p.inputs:
            assert (got[f"d {name}"][b, length:] == 0).all()
    zeros = everything(p._replace(inputs={k: x.nan_to_num(0) for k, x in poisoned.items()}), lengths=lengths)
    assert_same(got, zeros, 0)


@pytest.mark.parametrize("case", CASES)
def test_reset_means_separate_calls(case):
    T, cuts = 9, [0, 3, 4, 9]
    p = problem(case, T=T, B=1)
    reset = torch.zeros(1, T, dtype=torch.bool)
    reset[0, cuts[1:-1]] = True

    def in_pieces(p):
        pieces = [p.part(a, b, p.state if a == 0 else None).run() for a, b in pairwise(cuts)]
        return torch.cat([h for h, _ in pieces], 1), pieces[-1][1]

    assert_same(everything(p, reset=reset), everything(p, run=in_pieces), tolerance(case))


@pytest.mark.parametrize("case", CASES)
def test_no_gradient_crosses_a_reset(case):
    p = problem(case, T=6, B=1)
    reset = torch.zeros(1, 6, dtype=torch.bool)
    reset[0, 3] = True
    for name, x in p.inputs.items():

        def late(value, name=name):
            return p._replace(inputs=p.inputs | {name: value}).run(reset=reset)[0][:, 3:]

        jacobian = torch.autograd.functional.jacobian(late, x)
        before = jacobian.movedim(-(x.dim() - 1), 0)[:3]  # the axis of the input's time, first
        assert (before == 0).all(), name


@pytest.mark.parametrize("case", CASES)
def test_a_row_never_depends_on_its_batch_mates(case):
    p = problem(case, T=4, B=4)
    empty = p._replace(state=None).rows([0]).part(0, 0).run()[1]
    state = type(p.state)(*(torch.cat([e, x[1:]]) for e, x in zip(empty, p.state, strict=True)))
    inputs = {k: x.clone() for k, x in p.inputs.items()}
    for name in ("x_pre",) if "x_pre" in inputs else ("i_pre", "f_pre"):
        inputs[name][0, 0] = -110
        inputs[name][2] = 0
        if p.door in ("slstm", "mlstm"):
            gate = inputs[name][3] if p.door == "mlstm" else inputs[name][3, :, :2]
            gate.fill_(-torch.inf)
    mixed = p._replace(inputs=inputs, state=state)
    h, last = mixed.run()
    for b in range(4):
        h_alone, alone = mixed.rows([b]).run()
        got = {"h": h[[b]], **{k: x[[b]] for k, x in content(last).items()}}
        assert_same(got, {"h": h_alone, **content(alone)}, tolerance(case))
        assert h[b].isfinite().all()


# ---- extremes --------------------------------------------------------------------------------------------------------


def extreme(case, what, T=9, **sizes):
    """A problem with its exponential and forget gates at the limits."""
    return checking.extreme(problem(case, T=T, **sizes)._replace(state=None), what)


EXTREMES = ["up", "down", "alternating", "random", "first -inf", "all -inf", "inputs -inf", "forget -inf"]


SATURATED = [what for what in EXTREMES if "inf" not in what]  # all that matters to gates behind a sigmoid or a tanh


@pytest.mark.parametrize(
    ("case", "what"),
    [(case, what) for case in CASES if case.startswith(("slstm", "mlstm")) for what in EXTREMES]
    + [(case, what) for case in CASES if case.startswith("lstm-2000") for what in SATURATED],
)
def test_extreme_gates_are_finite_and_the_same_in_every_form_and_dtype(case, what):
    if case in WIDE:
        wide = everything(extreme(case, what), means=raw)
        assert all(x.isfinite().all() for name, x in wide.items() if name != "last m")
    if case in WIDE and case in FORMS:
        assert_same(wide, everything(extreme("mlstm-reference", what), means=raw), 1e-11)

    rounded = extreme(case, what, dtype=torch.float32)
    got, want = everything(rounded, means=raw), everything(exact(rounded), means=raw)
    assert all(x.isfinite().all() for name, x in got.items() if name != "last m")
    # Float32 rounds a sum with a gate of 1e4 in it by up to 5e-4, once a step, and the exponential makes that a
    # relative error of the weights: 9 steps, 4.5e-3. Where no gate is large, it is rounding alone.
    assert_same(got, want, TOLERANCE[torch.float32] if "inf" in what else 4.5e-3)


def exact_slstm(x_pre, R, forget):
    """(8)-(10) as the paper has them, no stabiliser, for one row and head: in mpf, which do not overflow or round."""
    sigmoid = lambda x: 1 / (1 + mp.exp(-x))  # noqa: E731
    units = range(len(x_pre[0][0]))
    h = c = n = [mpf(0) for _ in units]
    outputs = []
    for x in x_pre:
        i, f, z, o = ([x[g][a] + sum(R[g][a][b] * h[b] for b in units) for a in units] for g in range(4))
        f = [mp.exp(x) if forget == "exp" else sigmoid(x) for x in f]
        c = [f[a] * c[a] + mp.exp(i[a]) * mp.tanh(z[a]) for a in units]
        n = [f[a] * n[a] + mp.exp(i[a]) for a in units]
        h = [sigmoid(o[a]) * (c[a] / n[a] if n[a] else 0) for a in units]
        outputs.append(h)
    return outputs


def mpfs(numbers):
    """Nested lists of floats as mpf."""
    return [mpfs(each) for each in numbers] if isinstance(numbers, list) else mpf(numbers)


@pytest.mark.parametrize("what", EXTREMES)
@pytest.mark.parametrize("case", ["slstm-sigmoid", "slstm-exp"])
def test_slstm_at_extreme_gates_equals_exact_arithmetic_and_so_do_its_gradients(case, what):
    T, H = 4, 2
    p = extreme(case, what, T=T, B=1, N=1, H=H)
    x_pre, R = (x.requires_grad_() for x in (p.inputs["x_pre"], p.weights["R"]))
    h, _ = p.run()
    loss = torch.linspace(-1, 2, T * H, dtype=torch.float64).view(T, H)
    (h[0, :, 0] * loss).sum().backward()

    def exact_loss():
        outputs = exact_slstm(*exact, p.options.get("forget"))
        return sum(w * y for w, row in zip(loss, outputs, strict=True) for w, y in zip(w.tolist(), row, strict=True))

    def slopes(numbers):  # of the loss, in each of these nested lists' numbers
        if not isinstance(numbers[0], list):
            return [slope(numbers, at, mpf(10) ** -20) for at in range(len(numbers))]
        return [slopes(each) for each in numbers]

    def slope(numbers, at, step):
        there, sides = numbers[at], []
        for numbers[at] in (there + step, there - step):
            sides.append(exact_loss())
        numbers[at] = there
        return float((sides[0] - sides[1]) / (2 * step))

    with mp.workdps(60):
        exact = [mpfs(x.tolist()) for x in (x_pre[0, :, :, 0], R[:, 0])]
        outputs = [[float(y) for y in row] for row in exact_slstm(*exact, p.options.get("forget"))]
        want = {"h": outputs, "d x_pre": slopes(exact[0]), "d R": slopes(exact[1])}
    want = {name: torch.tensor(x, dtype=torch.float64) for name, x in want.items()}
    got = {"h": h[0, :, 0].detach(), "d x_pre": x_pre.grad[0, :, :, 0], "d R": R.grad[:, 0]}
    # Gates of 1e4 sum to 1e5 over the steps; what float64 rounds off such a sum is 1e-11, and the weights show it.
    assert_same(got, want, 1e-10)


@pytest.mark.parametrize("what", SATURATED)
def test_lstm_at_extreme_gates_equals_nn_lstm(what):
    p = extreme("lstm-2000", what, N=1, H=3)
    module = torch.nn.LSTM(12, 3, batch_first=True, bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight_ih_l0.copy_(torch.eye(12))  # pre-activations go in as they are
        module.weight_hh_l0.copy_(p.weights["R"][:, 0].flatten(0, 1))
    x = p.inputs["x_pre"].flatten(2).requires_grad_()
    h, (_, c) = module(x)
    p = p._replace(inputs={"x_pre": p.inputs["x_pre"].clone().requires_grad_()})
    got, last = p.run()
    weight = torch.linspace(-1, 2, h.numel(), dtype=torch.float64)
    for out, end in ((h.flatten(), c), (got.flatten(), last.c)):
        ((out * weight).sum() + end.sum()).backward()
    want = {"h": h, "last c": c[0], "d x_pre": x.grad}
    mine = {"h": got.flatten(2), "last c": last.c[:, 0], "d x_pre": p.inputs["x_pre"].grad.flatten(2)}
    assert_same(mine, want, F64)


@pytest.mark.parametrize("case", FORMS)
def test_mlstm_query_that_matches_nothing_at_large_m(case):
    """One-hot keys and a query orthogonal to all of them, i_pre = 60: 0/0 without the third floor."""
    T, K = 6, 8
    k = torch.eye(K)[:T].view(1, T, 1, K)
    q = torch.eye(K)[-1].expand(1, T, 1, K)
    inputs = [x.clone().requires_grad_() for x in (q, k, torch.randn(1, T, 1, 3), torch.full((1, T, 1), 60.0))]
    h, _ = mlstm(*inputs, torch.full((1, T, 1), 5.0), kernel=case.split("-")[1], chunk_size=4)
    h.sum().backward()
    assert (h == 0).all()
    assert all(x.grad.isfinite().all() for x in inputs)


# Not where a gate may open wider than 1 or cannot close: memory from far back would show at the end.
FORGETFUL = [case for case in NATIVE if not case.startswith(("slstm-exp", "lstm-1997", "rnn-relu"))]


@pytest.mark.parametrize("case", ["rnn-tanh", "mlstm-chunkwise", *FORGETFUL])
def test_a_hundred_thousand_steps(case):
    """Finite and right in float32 at T = 100,000: what 2,000 steps in float64 give at either end, gradients too.

    The gates forget: outputs do not see back over 1,900 steps, nor do gradients see forward.
    """
    T, near, far = 100_000, 100, 2_000
    p = problem(case, T=T, B=1, N=1, H=1, dtype=torch.float32)._replace(state=None)
    if case in FORMS:
        p = p._replace(options=p.options | {"chunk_size": 64})

    def outputs_and_gradients(p):
        leaves = {k: x.clone().requires_grad_() for k, x in p.inputs.items()}
        h, last = p._replace(inputs=leaves).run()
        h.square().sum().backward()
        answers = {"h": h.detach(), **{f"d {k}": x.grad for k, x in leaves.items()}}
        assert all(x.isfinite().all() for x in (*answers.values(), *last))
        return answers

    whole = outputs_and_gradients(p)
    wide = p.to(torch.float64)._replace(options=p.options | {"kernel": "auto"})
    first = outputs_and_gradients(wide.part(0, far))
    final = outputs_and_gradients(wide.part(T - far, T))
    assert_same({k: x[:, :near] for k, x in whole.items()}, {k: x[:, :near] for k, x in first.items()}, 1e-3)
    assert_same({k: x[:, -near:] for k, x in whole.items()}, {k: x[:, -near:] for k, x in final.items()}, 1e-3)


# ---- dtypes, empty axes, views ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "dtype"), [(case, dtype) for case in CASES for dtype in TOLERANCE if case in WIDE or dtype.itemsize < 8]
)
def test_dtype_of_h_is_the_inputs_and_of_the_state_float32_or_wider(case, dtype):
    p = problem(case, T=65, dtype=dtype)
    rounded = exact(p)  # the same numbers, so only the computation's rounding shows
    h, last = p._replace(state=None).run()
    assert h.dtype == dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert all(x.dtype == wide for x in last)
    if dtype != torch.float64:
        got, want = everything(p, means=raw), everything(rounded, means=raw)
        assert all(x.isfinite().all() for x in got.values())
        assert_same(got, want, TOLERANCE[dtype])


@pytest.mark.parametrize("case", WIDE)
def test_state_is_as_wide_as_the_widest_of_all_inputs(case):
    p = problem(case, dtype=torch.float32)._replace(state=None)
    want = p.to(torch.float64).run()
    names = [("inputs", name) for name in p.inputs] + [("weights", name) for name in p.weights]
    for kind, name in names:
        mixed = p._replace(**{kind: getattr(p, kind) | {name: getattr(p, kind)[name].double()}})
        h, last = mixed.run()
        assert h.dtype == next(iter(mixed.inputs.values())).dtype, name
        assert all(x.dtype == torch.float64 for x in last), name
        assert_same({"h": h.double(), **last._asdict()}, {"h": want[0].to(h.dtype), **want[1]._asdict()}, F64)
    assert all(x.dtype == torch.float32 for x in p.run()[1])


def test_autocast_leaves_states_and_sums_in_float32():
    p = problem("slstm-sigmoid", T=9, dtype=torch.float32)
    want = p.run()
    with torch.autocast("cpu", torch.bfloat16):
        got = p.run()
    assert_same({"h": got[0], **got[1]._asdict()}, {"h": want[0], **want[1]._asdict()}, 0)


@pytest.mark.parametrize(("B", "T"), [(0, 4), (2, 0), (0, 0)])
@pytest.mark.parametrize("case", CASES)
def test_empty_axes_return_the_state_unchanged(case, B, T):
    p = problem(case, T=max(T, 1), B=B).part(0, T)
    p = p._replace(state=problem(case, B=B).state)
    h, last = p.run(lengths=[0] * B, reset=torch.zeros(B, T, dtype=torch.bool))
    assert h.shape[:2] == (B, T)
    assert h.shape[2:] == problem(case).run()[0].shape[2:]
    assert_same(last._asdict(), p.state._asdict(), 0)


@pytest.mark.parametrize("case", CASES)
def test_non_contiguous_inputs_and_nobodys_tensor_is_written_to(case):
    p = problem(case, T=7)
    strided = p._replace(inputs={k: x.transpose(0, 1).contiguous().transpose(0, 1) for k, x in p.inputs.items()})
    before = [x.clone() for x in (*strided.inputs.values(), *p.weights.values(), *p.state)]
    assert_same(everything(strided), everything(p), tolerance(case))
    h, last = strided.run()
    h.mul_(0)
    for x in last:
        x.mul_(0)
    after = (*strided.inputs.values(), *p.weights.values(), *p.state)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


# ---- the choice of kernel, and bad input -----------------------------------------------------------------------------


def test_choose_takes_the_fastest_that_can_and_never_falls_back_in_silence():
    from longshort.cells import mlstm as cell

    x = torch.zeros(1, 5, 1, 2, dtype=torch.float64)
    assert choose("mlstm", x) is cell.mlstm_chunkwise
    assert choose("mlstm", x[:, :1]) is cell.mlstm_reference
    assert choose("mlstm", x, "parallel") is cell.mlstm_parallel
    with pytest.raises(
        ValueError, match="mlstm has no kernel 'chunky'; it has native, chunkwise, parallel, reference, and auto"
    ):
        choose("mlstm", x, "chunky")


def test_a_kernel_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setitem(KERNELS["rnn"], "gpu", Kernel("nowhere", "rnn", device="cuda"))
    monkeypatch.setitem(KERNELS["rnn"], "extra", Kernel("nowhere", "rnn", needs="no_such_package"))
    monkeypatch.setitem(KERNELS["rnn"], "half", Kernel("nowhere", "rnn", dtypes=(torch.float16,)))
    x, R = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 2)
    for kernel, why in [("gpu", "cuda.*cpu"), ("extra", "no_such_package"), ("half", "float16.*float32")]:
        with pytest.raises(ValueError, match=f"cannot use kernel='{kernel}' here: .*{why}"):
            rnn(x, R, kernel=kernel)


X, R = torch.zeros(2, 5, 4, 1, 3), torch.zeros(4, 1, 3, 3)
Q, GATE = torch.zeros(2, 5, 1, 3), torch.zeros(2, 5, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rnn(X, R), r"x_pre must be \(B, T, N, H\), got shape \(2, 5, 4, 1, 3\)"),
        (lambda: rnn(Q, R[0], nonlinearity="sin"), "nonlinearity='sin' is not one of 'tanh', 'relu'"),
        (lambda: lstm(X, R[:3]), r"R must be \(G, N, H, P\) = \(4, 1, 3, 3\) here, got \(3, 1, 3, 3\)"),
        (lambda: lstm(X, R, forget="one"), "forget='one' takes 3 gates, x_pre has 4"),
        (lambda: lstm(X, R, proj=torch.zeros(1, 2, 4)), r"proj must be \(N, P, H\) = \(1, 2, 3\) here"),
        (lambda: lstm(X.long(), R), "x_pre must be floating point, got torch.int64"),
        (lambda: slstm(X[:, :, :3], R), r"x_pre must be \(B, T, 4, N, H\)"),
        (lambda: slstm(X, R, forget="tanh"), "forget='tanh' is not one of 'sigmoid', 'exp'"),
        (lambda: slstm(X, R, (1, 2, 3)), "state must be a SLSTMState"),
        (lambda: mlstm(Q, Q[:, :4], Q, GATE, GATE), r"k must be \(B, T, N, K\), q's shape = \(2, 5, 1, 3\) here"),
        (lambda: mlstm(Q, Q, Q, GATE, GATE[..., 0]), r"f_pre must be \(B, T, N\)"),
        (lambda: mlstm(Q, Q, Q, GATE, GATE, chunk_size=0), "chunk_size=0: a chunk holds at least 1 step"),
        (lambda: mlstm(Q, Q, Q, GATE, GATE, MLSTMState(Q, Q, Q)), r"state.C has shape .*take \(2, 1, 3, 3\)"),
        (lambda: lstm(X, R, lengths=[5]), r"lengths must be 2 whole numbers, one a row, got shape \(1,\)"),
        (lambda: lstm(X, R, lengths=[6, 1]), "lengths must be between 0 and T=5, got 1 to 6"),
        (lambda: lstm(X, R, lengths=torch.zeros(2)), "lengths must be 2 whole numbers"),
        (lambda: lstm(X, R, reset=torch.zeros(2, 4, dtype=torch.bool)), r"reset must be a bool tensor .* \(2, 5\)"),
        (lambda: lstm(X, R, reset=torch.zeros(2, 5)), "reset must be a bool tensor"),
    ],
)
def test_bad_input_is_an_error_in_words(call, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        call()
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize("cuts", ["lengths", "reset", "lengths reset"])
@pytest.mark.parametrize("case", WIDE)
def test_cuts_that_cannot_be_read_give_the_same(case, cuts, monkeypatch):
    """On an accelerator and under transforms the values of lengths and resets are not looked at."""
    p = problem(case, T=9, B=4)
    more = {"lengths": torch.tensor([9, 4, 0, 7])} if "lengths" in cuts else {}
    if "reset" in cuts:
        more["reset"] = torch.rand(4, 9, generator=torch.Generator().manual_seed(2)) < 0.4
    want = everything(p, **more)
    monkeypatch.setattr(loop, "readable", lambda _: False)
    assert_same(everything(p, **more), want, 1e-12)
