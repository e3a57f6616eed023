"""The C++ core: every variant, on any number of threads, gives the float64 reference's answers; and how it behaves."""

import ctypes
import multiprocessing
import os
import platform
import subprocess
import sys
from itertools import product
from pathlib import Path

import mpmath
import pytest
import torch
from problems import LENGTHS, TOLERANCE, assert_same, everything, exact, kept_for_backward, raw
from torch._subclasses.fake_tensor import FakeTensorMode

import longshort
from longshort import checking, functional, kernels
from longshort.cells import core, native
from longshort.cells.loop import Empty
from longshort.checking import FORMS, pose, wanted
from longshort.functional import MLSTMState, lstm, mlstm, slstm
from longshort.kernels import under_transform

CELLS = list(FORMS)
F32 = TOLERANCE[torch.float32]
VARIANTS = [] if core.missing() else core.library().variants


@pytest.fixture(params=range(len(VARIANTS)), ids=VARIANTS)
def variant(request, monkeypatch):
    """Each instruction set that this processor has."""
    first = core.Chosen.variant
    monkeypatch.setattr(core.Chosen, "variant", first + request.param)
    return VARIANTS[request.param]


@pytest.fixture
def threads():
    """Sets the number of threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def poisoned():
    """The core's memory full of NaN, so that reading what was never written shows."""
    core.functions().longshort_poison(ctypes.c_int64(2**20))


def native_problem(form, **sizes):
    """A random float32 problem, whose numbers bfloat16 holds, so that float64 sees the very same ones."""
    p = checking.problem(form, dtype=torch.bfloat16, **sizes).to(torch.float32)
    return p._replace(options=p.options | {"kernel": "native"})


def long_problem(form, **sizes):
    """One of any number of steps: an exponential forget gate's content e^m stays in float32's range."""
    p = native_problem(form, **sizes)
    return p._replace(inputs={"x_pre": p.inputs["x_pre"] * 0.125}) if form == "slstm-exp" else p


def test_the_core_is_built_here():
    """Every developer and CI has a compiler: without the core these tests would test nothing."""
    assert core.missing() is None


# ---- against the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("form", CELLS)
def test_every_length_gives_the_reference_s_answer(form, T, variant):
    p = long_problem(form, T=T, B=3, H=5)
    assert_same(everything(p), everything(exact(p)), F32)


@pytest.mark.parametrize(("N", "H"), [(1, 1), (3, 2), (1, 16), (2, 17), (1, 33), (1, 64), (2, 65), (1, 100)])
@pytest.mark.parametrize("form", CELLS)
def test_every_width_gives_the_reference_s_answer(form, N, H, variant):
    p = native_problem(form, T=6, B=2, N=N, H=H)
    assert_same(everything(p), everything(exact(p)), F32)


@pytest.mark.parametrize("B", [1, 2, 5, 6, 7, 13, 40])
@pytest.mark.parametrize("form", CELLS)
def test_every_batch_gives_the_reference_s_answer_on_any_threads(form, B, threads):
    """R's gradient too: of many steps a thread it is summed up as they go by, of a few in the end."""
    p = native_problem(form, T=9, B=B, H=33)
    want = everything(exact(p))
    for count in (1, 2, 3, 4):
        threads(count)
        assert_same(everything(p), want, F32)


@pytest.mark.parametrize("form", [form for form in CELLS if not form.startswith("mlstm")])
def test_a_few_rows_that_read_r_as_it_lies_give_the_reference_s_answer(form, variant):
    for B, H in product((1, 2, 3, 4, 5, 6, 7, 16), (5, 16, 33)):
        p = native_problem(form, T=1, B=B, N=2, H=H)
        assert_same(everything(p), everything(exact(p)), F32)


@pytest.mark.parametrize(("what", "count"), list(product(["lengths", "reset", "lengths, reset"], [1, 2, 3])))
@pytest.mark.parametrize("form", CELLS)
def test_lengths_and_resets_give_the_reference_s_answer(form, what, count, variant, threads):
    """NaN in the padding, rows of no step, rows that end everywhere: outputs, states, gradients."""
    threads(count)
    for T, H in ((1, 3), (7, 40), (65, 19)):
        p, more = pose(form, T, H, what)
        got = checking.answers(p.to(torch.float32), kernel="native", **more)
        assert isinstance(got, dict), got
        assert_same(got, wanted(p, more), F32)


@pytest.mark.parametrize("cuts", ["", "lengths reset"])
@pytest.mark.parametrize("T", [1, 65])
@pytest.mark.parametrize("form", CELLS)
def test_without_a_state_the_core_begins_with_the_empty_one(form, T, cuts, variant, threads, monkeypatch):
    """It is never made: the reference's answers, and those of the same state made and handed over."""
    threads(2)
    p = long_problem(form, T=T, B=3, N=2, H=19)._replace(state=None)
    more = {"lengths": torch.tensor([T, 0, T // 2]), "reset": torch.rand(3, T) < 0.2} if cuts else {}
    with monkeypatch.context() as without:
        without.delattr(Empty, "made")
        got = everything(p, **more)
    assert_same(got, everything(exact(p), **more), F32)
    empty = exact(p)._replace(inputs={k: x[:, :0] for k, x in p.inputs.items()}).run()[1]
    made = everything(p._replace(state=type(empty)(*(x.to(torch.float32) for x in empty))), **more)
    assert_same(got, {name: made[name] for name in got}, 0)


@pytest.mark.parametrize("cuts", ["", "lengths reset"])
@pytest.mark.parametrize("form", CELLS)
def test_gradients_are_the_same_where_the_state_learns_nothing(form, cuts, variant):
    """As it is carried on, detached, from call to call."""
    p = long_problem(form, T=40, B=3, N=2, H=19)
    more = {"lengths": torch.tensor([40, 0, 20]), "reset": torch.rand(3, 40) < 0.2} if cuts else {}
    want = everything(p, **more)

    def detached(p, **more):
        return p._replace(state=p.state.detach()).run(**more)

    got = everything(p, run=detached, **more)
    assert_same({k: x for k, x in got.items() if "state" not in k}, {k: want[k] for k in want if "state" not in k}, 0)
    assert all(x.eq(0).all() for k, x in got.items() if k.startswith("d state"))


@pytest.mark.parametrize(("form", "H"), [("lstm-proj", 200), ("slstm-sigmoid", 48), ("gru-bias", 48)])
def test_a_row_alone_gives_the_reference_s_answer_on_any_threads(form, H, variant, threads):
    """Long enough that threads share its heads, or its units, and that R's gradient is summed up more than once."""
    p = long_problem(form, T=300, B=1, N=1, H=H)
    want = everything(exact(p))
    for count in (1, 2, 3, 4):
        threads(count)
        assert_same(everything(p), want, F32)


@pytest.mark.parametrize(("form", "B", "H"), [("gru-bias", 300, 80), ("slstm-exp", 270, 33), ("lstm-2000", 3, 272)])
def test_r_s_gradient_is_the_reference_s_whatever_its_sum_is_made_of(form, B, H, variant, threads):
    """A step of more rows than the sum takes lines at a time; and an R too large to be summed up as the steps go by."""
    p = long_problem(form, T=20, B=B, N=1, H=H)
    p = p._replace(options=p.options | {"lengths": torch.arange(B) * 20 // (B - 1), "reset": torch.rand(B, 20) < 0.1})
    want = everything(exact(p))
    for count in (1, 2, 3):
        threads(count)
        assert_same(everything(p), want, F32)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "slstm"])
def test_the_core_runs_no_rows(cell, backward, variant, threads):
    """The doors never ask it to."""
    G, H = native.RECURRENT[cell].gates, 64
    gates = () if cell == "rnn" else (G,)
    x_pre, R, more = torch.zeros(0, 5, *gates, 1, H), torch.ones(*gates, 1, H, H), None
    state = [torch.zeros(0, 1, H) for _ in native.RECURRENT[cell].state._fields]
    for count in (1, 2):
        threads(count)
        h, last, saved = native.recurrent_forward(cell, 0, None, None, True, x_pre, R, more, *state)
        assert h.shape == (0, 5, 1, H) and all(x.shape == (0, 1, H) for x in last)
        if backward:
            args = cell, 0, None, None, x_pre, R, more, state, h, saved, None, [None] * len(state), False
            d_x_pre, d_R, _ = native.recurrent_backward(core.Chosen.variant, *args)
            assert d_x_pre.shape == x_pre.shape and not d_R.any()


@pytest.mark.parametrize("form", [form for form in CELLS if not form.startswith("mlstm")])
def test_what_is_written_past_the_caches_gives_the_reference_s_answer(form, variant, threads):
    """So many rows and steps that what is kept, and the gradient of the inputs, are written past the caches."""
    past_the_caches(form, 66, 64, (1, 2), threads)


@pytest.mark.parametrize("form", ["rnn-tanh", "slstm-sigmoid"])
def test_where_a_row_is_no_whole_lines_less_is_written_past_the_caches(form, variant, threads):
    past_the_caches(form, 100, 41, (2,), threads)


def past_the_caches(form, T, H, counts, threads):
    B, N = 64, 2
    assert B * T * N * H > 2**19  # the core's LARGE; the RNN has one number a unit
    p = long_problem(form, T=T, B=B, N=N, H=H)
    p = p._replace(options=p.options | {"lengths": torch.arange(B) * T // (B - 1), "reset": torch.rand(B, T) < 0.1})
    want = everything(exact(p))
    for count in counts:
        threads(count)
        assert_same(everything(p), want, F32)


@pytest.mark.parametrize("form", CELLS)
def test_gates_at_their_limits_give_the_reference_s_answer(form, variant):
    p, more = pose(form, 9, 3, "extreme gates")
    got = checking.answers(p.to(torch.float32), kernel="native", **more)
    assert isinstance(got, dict), got
    assert_same(got, wanted(p, more), F32)


@pytest.mark.parametrize(("K", "V"), [(1, 1), (1, 5), (17, 2), (22, 70), (64, 16), (16, 64), (130, 33)])
@pytest.mark.parametrize("chunk_size", [1, 3, 16, 64, 100, 1000])
def test_mlstm_takes_any_widths_and_chunks(K, V, chunk_size, variant):
    as_in_float64(2, 150, K, V, chunk_size=chunk_size)


@pytest.mark.parametrize(("N", "K"), [(1, 7), (4, 16), (5, 33), (3, 300)])
@pytest.mark.parametrize("B", [1, 3, 9])
def test_an_mlstm_s_bits_are_the_same_however_its_heads_are_dealt_out(B, N, K, variant, threads):
    """One after the other or several together, by the number of threads; heads of 300 are too large for it."""
    T = 70
    inputs = [torch.randn(B, T, N, *width, requires_grad=True) for width in ((K,), (K,), (19,), (), ())]
    state = MLSTMState(torch.randn(B, N, K, 19), torch.randn(B, N, K), torch.rand(B, N))
    learn = [*inputs, state.C.requires_grad_(), state.n.requires_grad_()]
    for lengths, reset in ((None, None), (torch.tensor([T, 9, 40] * 3)[:B], torch.rand(B, T) < 0.05)):
        answers = []
        for count in (1, 2, 3, 8):
            threads(count)
            h, last = mlstm(*inputs, state, chunk_size=32, lengths=lengths, reset=reset, kernel="native")
            grads = torch.autograd.grad(h.sin().sum() + last.C.sin().sum() + last.n.sum(), learn)
            answers.append([h, *last, *grads])
        for each in answers[1:]:
            assert all(torch.equal(a, b) for a, b in zip(each, answers[0], strict=True))
        wide = [x.detach().double().requires_grad_() for x in learn]
        start = MLSTMState(*wide[5:], state.m.double())
        h, last = mlstm(*wide[:5], start, lengths=lengths, reset=reset, kernel="reference")
        grads = torch.autograd.grad(h.sin().sum() + last.C.sin().sum() + last.n.sum(), wide)
        names = ("h", "C", "n", "m", "d_q", "d_k", "d_v", "d_i", "d_f", "d_C", "d_n")
        assert_same(*(dict(zip(names, each, strict=True)) for each in (answers[0], [h, *last, *grads])), F32)


@pytest.mark.parametrize(("K", "V"), [(16, 128), (21, 128), (16, 121)])
def test_an_mlstm_that_writes_past_the_caches_gives_the_reference_s_answer(K, V, variant, threads):
    """h and the gradients of q, k and v: each where a row is whole lines."""
    B, T = 36, 66
    assert B * T * 2 * V > 2**19  # the core's LARGE
    threads(2)
    as_in_float64(B, T, K, V, lengths=torch.arange(B) * T // (B - 1), reset=torch.rand(B, T) < 0.1)


@pytest.mark.parametrize("V", [64, 60])
def test_an_mlstm_that_keeps_its_states_past_the_caches_gives_the_reference_s_answer(V, variant, threads):
    B, T, K, chunk_size = 2, 300, 64, 8
    assert B * 2 * (T // chunk_size) * K * V > 2**19  # the core's LARGE
    threads(2)
    as_in_float64(B, T, K, V, chunk_size=chunk_size)


def as_in_float64(B, T, K, V, chunk_size=64, **options):
    """The core beside the chunkwise form: h, the last state, every gradient. NaN lies beside each row."""
    *beside, d_h = (
        torch.nn.functional.pad(torch.randn(B, T, 2, n), (1, 2), value=torch.nan) for n in (K, K, V, 1, 1, V)
    )
    d = [d_h[..., 1:-2], torch.randn(B, 2, K, V), torch.randn(B, 2, K)]

    def learn(dtype, **kernel):
        given = [x.to(dtype, copy=True).requires_grad_() for x in beside]
        q, k, v, i, f = (x[..., 1:-2] for x in given)
        h, last = mlstm(q, k, v, i[..., 0], f[..., 0], **options, **kernel)
        torch.autograd.backward([h, last.C, last.n], [x.to(dtype) for x in d])
        return {"h": h.detach(), **last._asdict(), **{str(n): x.grad[..., 1:-2] for n, x in enumerate(given)}}

    got = learn(torch.float32, kernel="native", chunk_size=chunk_size)
    assert_same(got, learn(torch.float64, kernel="chunkwise", chunk_size=16), F32)


def test_a_state_of_someone_else_s_and_views_of_any_kind():
    """Strides of every axis, a state in slices, a stabiliser below 0 and one of -inf; lengths and resets in views."""
    B, T, N, H = 3, 8, 2, 5
    x = torch.randn(T, N, B, 4, 2 * H)[..., :H].permute(2, 0, 3, 1, 4)
    R = torch.randn(4, N, H, H).transpose(-1, -2) * 0.4
    state = torch.rand(4, B, 2 * N, H)[:, :, ::2]
    start = functional.SLSTMState(state[0], state[1], state[2], torch.full_like(state[3], -3.0))
    start.m[1] = -torch.inf
    lengths, reset = torch.tensor([8, 0, 5, 0, 3, 0])[::2], (torch.rand(T, B) < 0.3).T
    h, last = slstm(x, R, start, lengths=lengths, reset=reset, kernel="native")
    want, end = slstm(x.double(), R.double(), start, lengths=lengths, reset=reset, kernel="reference")
    assert_same({"h": h, **last._asdict()}, {"h": want, **end._asdict()}, F32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_input_is_computed_in_float32(dtype):
    x, R = torch.randn(2, 70, 4, 2, 8).to(dtype), (torch.randn(4, 2, 8, 8) * 0.3).to(dtype)
    h, last = lstm(x, R, kernel="native")
    want, end = lstm(x.double(), R.double(), kernel="reference")
    assert h.dtype == dtype
    assert last.c.dtype == torch.float32
    assert_same({"h": h}, {"h": want}, TOLERANCE[dtype])
    assert_same(last._asdict(), end._asdict(), F32)


# ---- one step, and products ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("B", "N", "K", "V"),
    [(1, 1, 1, 1), (1, 4, 64, 64), (4, 4, 128, 128), (2, 3, 5, 70), (1, 2, 33, 200), (2, 1, 7, 289)],
)
def test_mlstm_step_at_once_equals_the_sequence_of_one(B, N, K, V, variant):
    q, k, v, gates = (torch.randn(B, N, width) for width in (K, K, V, 2))
    i, f = (x.contiguous() for x in gates.unbind(-1))
    state = MLSTMState(torch.randn(B, N, K, V), torch.randn(B, N, K), torch.rand(B, N))
    before = [x.clone() for x in state]
    h, last = functional.mlstm_step(q, k, v, i, f, state, eps=1e-6)
    assert native.mlstm_step(q, k, v, i, f, state, 1e-6) is not None
    wide = MLSTMState(*(x.double() for x in state))
    want, end = functional.mlstm_step(*(x.double() for x in (q, k, v, i, f)), wide, eps=1e-6)
    assert_same({"h": h, **last._asdict()}, {"h": want, **end._asdict()}, F32)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
    sequence = [x[:, None] for x in (q, k, v, i, f)]
    assert native.mlstm_step(*sequence, state, 1e-6, sequence=True) is not None
    same, also = functional.mlstm(*sequence, state, eps=1e-6)
    for a, b in zip((same[:, 0], *also), (h, *last), strict=True):
        assert torch.equal(a, b)


def test_mlstm_step_goes_the_long_way_round_where_it_must():
    q = torch.randn(2, 3, 4)
    gate = torch.zeros(2, 3)
    state = functional.mlstm_step(q, q, q, gate, gate)[1]
    assert native.mlstm_step(q, q, q, gate, gate, state, 0.0) is not None
    views = q.transpose(0, 1).contiguous().transpose(0, 1)
    for bad in (q.double(), views, q[:1], q[:, None], q.clone().requires_grad_(), torch.nn.Parameter(q)):
        assert native.mlstm_step(bad, q, q, gate, gate, state, 0.0) is None
    for bad in (state._replace(C=state.C[0]), state._replace(n=state.n[:1]), state._replace(m=state.m[None])):
        assert native.mlstm_step(q, q, q, gate, gate, bad, 0.0) is None
        with pytest.raises(ValueError, match=r"state\.[Cnm] has shape"):
            functional.mlstm_step(q, q, q, gate, gate, bad)
    with pytest.raises(ValueError, match=r"k must be \(B, T, N, K\)"):
        functional.mlstm_step(q, q[:1], q, gate, gate, state)
    with pytest.raises(ValueError, match=r"q must be \(B, T, N, K\)"):
        functional.mlstm_step(*(x[:, None] for x in (q, q, q, gate, gate)), state)
    assert functional.mlstm_step(q.clone().requires_grad_(), q, q, gate, gate, state)[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("B", "N", "K", "V"), [(1, 2, 5, 70), (4, 4, 64, 64), (3, 5, 128, 33)])
def test_mlstm_steps_in_place_are_those_to_a_new_state(B, N, K, V, dtype, variant):
    steps = [torch.randn(B, N, 7, width) for width in (K, K, V, 1, 1)]
    state = MLSTMState(torch.randn(B, N, K, V), torch.randn(B, N, K), torch.rand(B, N))
    if dtype is torch.float64:
        state = MLSTMState(*(x.double() for x in state))
    overwritten = MLSTMState(*(x.clone() for x in state))
    for t in range(7):
        q, k, v, i, f = (x[:, :, t].to(dtype) for x in steps)
        inputs = [x.contiguous() for x in (q, k, v, i[..., 0], f[..., 0])]
        reset = torch.arange(B) == 0 if t == 4 else None
        h, state = functional.mlstm_step(*inputs, state, eps=1e-6, reset=reset)
        same, last = functional.mlstm_step(*inputs, overwritten, eps=1e-6, reset=reset, inplace=True)
        assert last is overwritten
        for mine, new in zip(overwritten, state, strict=True):
            assert torch.equal(mine, new)
        assert torch.equal(same, h)


def mlstm_inputs(B: int, N: int, K: int, V: int) -> tuple[list[torch.Tensor], MLSTMState]:
    """One step's, and a state."""
    inputs = [torch.randn(B, N, *width) for width in ((K,), (K,), (V,), (), ())]
    return inputs, MLSTMState(torch.randn(B, N, K, V), torch.randn(B, N, K), torch.rand(B, N))


def test_a_graph_knows_that_the_state_it_saved_was_overwritten():
    inputs, state = mlstm_inputs(2, 3, 4, 5)
    weight = torch.ones(2, 3, 4, 5, requires_grad=True)
    loss = (weight * state.C).sum()
    with torch.no_grad():
        functional.mlstm_step(*inputs, state, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_step_in_place_refuses_what_it_would_lose():
    inputs, state = mlstm_inputs(2, 3, 4, 5)
    with pytest.raises(ValueError, match="none was given"):
        functional.mlstm_step(*inputs, inplace=True)
    narrow = MLSTMState(state.C.bfloat16(), *state[1:])
    with pytest.raises(
        ValueError, match=r"round the state: state\.C is torch\.bfloat16, the step gives torch\.float32"
    ):
        functional.mlstm_step(*inputs, narrow, inplace=True)
    with pytest.raises(ValueError, match=r"state\.m is torch\.float32, the step gives torch\.float64"):
        functional.mlstm_step(*inputs, MLSTMState(state.C.double(), state.n.double(), state.m), inplace=True)
    for learns in (inputs[0], state.C):
        learns.requires_grad_()
        with pytest.raises(ValueError, match=r"use torch\.no_grad"):
            functional.mlstm_step(*inputs, state, inplace=True)
        with torch.no_grad():
            assert functional.mlstm_step(*inputs, state, inplace=True)[1].C is state.C
        learns.requires_grad_(False)
    before = [x.clone() for x in state]
    with pytest.raises(ValueError, match="k must be"):
        functional.mlstm_step(inputs[0], inputs[1][:1], *inputs[2:], state, inplace=True)
    with pytest.raises(ValueError, match=r"i_pre must be floating point"):
        functional.mlstm_step(*inputs[:3], inputs[3].long(), inputs[4], state, inplace=True)
    with pytest.raises(ValueError, match=r"cannot overwrite state\.n: it is expanded"):
        functional.mlstm_step(*inputs, state._replace(n=torch.zeros(1, 1, 1).expand(2, 3, 4)), inplace=True)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
    with torch.inference_mode():
        fixed = MLSTMState(*(x.clone() for x in state))
        functional.mlstm_step(*inputs, fixed, inplace=True)
    with pytest.raises(ValueError, match=r"state\.C here: it was made in inference mode"):
        functional.mlstm_step(*inputs, fixed, inplace=True)


def test_inputs_of_a_step_in_place_may_be_a_part_of_its_state():
    inputs, state = mlstm_inputs(2, 3, 4, 4)
    inputs = [state.C[..., 0, :].contiguous(), state.n, inputs[2], state.m, inputs[4]]
    want, end = functional.mlstm_step(*(x.clone() for x in inputs), MLSTMState(*(x.clone() for x in state)))
    h, last = functional.mlstm_step(*inputs, state, inplace=True)
    assert_same({"h": h, **last._asdict()}, {"h": want, **end._asdict()}, F32)


def test_whoever_watches_a_step_in_place_sees_the_state_it_began_with():
    inputs, state = mlstm_inputs(2, 3, 4, 5)
    before = [x.clone() for x in state]
    with functional.watch() as calls:
        functional.mlstm_step(*inputs, state, inplace=True)
    for kept, was, now in zip(calls[0].start.values(), before, state, strict=True):
        assert torch.equal(kept, was)
        assert not torch.equal(now, was)


def test_the_core_runs_after_it_was_first_imported_where_nothing_is_real():
    code = """
import longshort, torch
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    longshort.LSTM(3, 4)
layer, x = longshort.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)
assert torch.allclose(layer(x)[0], layer.double()(x.double())[0].float(), atol=1e-6)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_mlstm_is_exported_with_a_length_that_data_decide():
    class Cut(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = longshort.mLSTM(4, 6, num_heads=2, batch_first=True)

        def forward(self, x, n):
            steps = n.item()
            torch._check(steps >= 1)
            torch._check(steps <= x.shape[1])
            return self.layer(x[:, :steps])[0]

    module, x = Cut(), torch.randn(2, 5, 4)
    program = torch.export.export(module, (x, torch.tensor(3)))
    for steps in (1, 4):
        torch.testing.assert_close(program.module()(x, torch.tensor(steps)), module.layer(x[:, :steps])[0])


class Other(torch.Tensor):
    """A kind of tensor that the core knows nothing of."""


def test_only_calls_that_end_in_the_core_go_straight_there(monkeypatch):
    x, R = torch.randn(2, 3, 4, 1, 5), torch.randn(4, 1, 5, 5)
    assert kernels.straight("auto", (x, R, None, torch.nn.Parameter(x)))
    for other in (x.double(), x[:0], x.as_subclass(Other), x.to("meta")):
        assert not kernels.straight("auto", (R, other))
    assert not kernels.straight("reference", (x,))
    assert not kernels.straight("no such kernel", (x,))
    with torch.autocast("cpu"):
        assert not kernels.straight("auto", (x,))
    with FakeTensorMode():
        assert not kernels.straight("auto", (x,))
    assert not torch.vmap(lambda x: x.new_tensor(kernels.straight("auto", ())))(x).any()
    monkeypatch.setattr(functional, "run_cell", None)  # the longer way
    h, last = lstm(x, R)
    monkeypatch.undo()
    same, also = lstm(x, R, lengths=[3, 3])
    for a, b in zip((h, *last), (same, *also), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("M", "K", "N"), [(1, 1, 1), (33, 7, 5), (97, 513, 77), (200, 64, 256), (64, 1100, 65), (500, 3, 200)]
)
def test_linear_and_its_gradients_are_torch_s(M, K, N, variant, threads):
    x, w, b = torch.randn(2, M, K), torch.randn(N, K), torch.randn(N)

    def learn(call, dtype):
        given = [t.to(dtype, copy=True).requires_grad_() for t in (x, w, b)]
        y = call(*given)
        y.square().sum().backward()
        return {"y": y.detach(), **{str(n): t.grad for n, t in enumerate(given)}}

    want = learn(torch.nn.functional.linear, torch.float64)
    for count in (1, 3):
        threads(count)
        assert_same(learn(native.linear, torch.float32), want, F32)
    assert_same({"y": native.linear(x, w, None)}, {"y": x.double() @ w.double().T}, F32)


# ---- the functions of the gates --------------------------------------------------------------------------------------

FUNCTIONS = {
    "exp": (0, mpmath.exp, 2),
    "tanh": (1, mpmath.tanh, 4),
    "sigmoid": (2, lambda x: 1 / (1 + mpmath.exp(-x)), 4),
    "log_sigmoid": (3, lambda x: -mpmath.log1p(mpmath.exp(-x)), 4),
}


def gate(which: int, x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    core.functions().longshort_gate(core.Chosen.variant, which, x.data_ptr(), y.data_ptr(), x.numel())
    return y


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_right_to_a_few_units_in_the_last_place(name, variant):
    which, true, allowed = FUNCTIONS[name]
    size = torch.cat([torch.logspace(-30, 1.93, 4001), torch.linspace(85, 87.3, 501)])
    x = torch.cat([size, -size, torch.linspace(-20, 20, 4001), torch.zeros(1)])
    got, unit = gate(which, x), torch.finfo(torch.float32).eps
    for given, found in zip(x.tolist(), got.tolist(), strict=True):
        want = true(mpmath.mpf(given))
        if abs(want) > 1.2e-38:
            assert abs(found - want) <= allowed * unit * abs(want), f"{name}({given}) = {found}, not {want}"


def test_exp_where_the_result_is_no_normal_float(variant):
    """0 instead of a subnormal number; from 2.4e38 on as it is, or already infinite."""
    x = torch.cat([torch.linspace(-105, -87.3, 4001), torch.linspace(88.3, 90, 4001)])
    got, want = gate(0, x).double(), x.double().exp()
    assert torch.equal(got, got.sort().values)
    small = x < 0
    assert ((got - want)[small].abs() <= 1.2e-38).all()
    assert (got[x < -87.7] == 0).all()
    most = torch.finfo(torch.float32).max
    assert ((got == torch.inf) | ((got - want).abs() <= 4e-7 * want))[~small].all()
    assert (got[~small & (want < 2.4e38)] < torch.inf).all()
    assert (got[want > most * (1 + 1e-6)] == torch.inf).all()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere they cost nothing, and stay")
def test_subnormal_numbers_are_0_in_the_core_and_the_caller_s_stay(variant, threads):
    """On every thread."""
    small = torch.full((2**20,), 1e-40)
    for count in (1, 2, 3):
        threads(count)
        assert native.linear(torch.full((512, 4), 1e-20), torch.full((8, 4), 1e-20), None).eq(0).all()
        assert native.linear(torch.full((512, 4), 1e-40), torch.full((8, 4), 1e30), None).eq(0).all()
        assert small.mul(0.5).gt(0).all()
        for B in (1, 64):
            slstm(torch.randn(B, 20, 4, 2, 32), torch.randn(4, 2, 32, 32), kernel="native")
            assert (small * 1.0 > 0).all()
    assert gate(0, torch.full((32,), -90.0)).eq(0).all()
    assert small.mul(0.5).gt(0).all()


def test_functions_at_the_limits(variant):
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([-inf, -1e4, -104.0, 1e4, inf, nan])
    assert gate(0, x).tolist()[:5] == [0, 0, 0, inf, inf]
    assert gate(1, x).tolist()[:5] == [-1, -1, -1, 1, 1]
    assert gate(2, x).tolist()[:5] == [0, 0, 0, 1, 1]
    assert gate(3, x).tolist()[:5] == [-inf, -1e4, -104, 0, 0]
    assert all(gate(which, x)[5].isnan() for which in range(4))


def test_a_normaliser_that_is_nan_counts_as_the_reference_counts_it():
    p = native_problem("mlstm", T=1, N=1)
    p = p._replace(state=p.state._replace(n=torch.full_like(p.state.n, torch.nan)))
    step = {k: x[:, 0] for k, x in p.inputs.items()}
    for h in (p.run()[0][:, 0], functional.mlstm_step(*step.values(), p.state, kernel="native")[0]):
        assert_same({"h": h}, {"h": exact(p).run()[0][:, 0]}, F32)


def test_lengths_of_any_whole_kind_are_read_as_what_they_are():
    """The core reads 64-bit numbers where they stand."""
    lengths = torch.tensor([3, 1, 2])
    for dtype in (torch.int32, torch.uint8):
        assert torch.equal(native.as_read(lengths.to(dtype), 3), lengths)
    assert torch.equal(native.as_read(lengths.repeat_interleave(2)[::2], 3), lengths)
    x, R = torch.randn(3, 2, 4, 1, 3), torch.randn(4, 1, 3, 3)
    for kernel in ("native", "reference"):
        with pytest.raises(ValueError, match="lengths must be between 0 and T=2, got 1 to 3"):
            lstm(x, R, lengths=torch.nn.Parameter(lengths, requires_grad=False), kernel=kernel)


# ---- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", ["", "lengths reset"])
@pytest.mark.parametrize("form", CELLS)
def test_a_second_derivative_goes_through_the_reference_and_is_right(form, cuts):
    p = native_problem(form, T=4, B=2, N=1, H=3)
    more = {"lengths": torch.tensor([4, 2]), "reset": torch.tensor([[0, 1, 0, 0]] * 2).bool()} if cuts else {}

    def second(p):
        names = [*p.inputs, *p.weights]
        leaves = [x.clone().requires_grad_() for x in (*p.inputs.values(), *p.weights.values())]
        given = dict(zip(names, leaves, strict=True))
        p = p._replace(inputs={k: given[k] for k in p.inputs}, weights={k: given[k] for k in p.weights})
        h, last = p.run(**more)
        loss = h.square().sum() + sum(x.square().sum() for name, x in last._asdict().items() if name != "m")
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        again = torch.autograd.grad(sum(x.square().sum() for x in first), leaves, allow_unused=True)
        zero = zip(again, leaves, strict=True)
        return {name: torch.zeros_like(x) if d is None else d for name, (d, x) in zip(names, zero, strict=True)}

    assert_same(second(p), second(exact(p)), 20 * F32)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("form", CELLS)
def test_batched_gradients_equal_one_at_a_time(form):
    p = native_problem(form, T=5)
    leaves = [x.clone().requires_grad_() for x in p.inputs.values()]
    h, _ = p._replace(inputs=dict(zip(p.inputs, leaves, strict=True))).run()
    many = torch.randn(3, *h.shape)
    got = torch.autograd.grad(h, leaves, many, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(h, leaves, one, retain_graph=True) for one in many]
    for at, batch in enumerate(got):
        torch.testing.assert_close(batch, torch.stack([one[at] for one in each]), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("form", CELLS)
def test_transforms_take_the_reference_and_refuse_the_core_by_name(form):
    p = native_problem(form, T=5)
    name, x = next(iter(p.inputs.items()))
    free = p._replace(options=p.options | {"kernel": "auto"})

    def f(p):
        return lambda x: p._replace(inputs=p.inputs | {name: x}).run()[0]

    dx = torch.randn_like(x)
    _, slope = torch.func.jvp(f(free), (x,), (dx,))
    _, want = torch.func.jvp(f(exact(p)), (x.double(),), (dx.double(),))
    assert_same({"": slope}, {"": want}, 10 * F32)
    assert not under_transform()
    for transform in (lambda g: torch.func.jvp(g, (x,), (dx,)), lambda g: torch.func.vmap(g)(x[None])):
        with pytest.raises(ValueError, match=r"cannot use kernel='native' here: .*transforms"):
            transform(f(p))


def test_a_saved_tensor_that_was_written_to_is_an_error():
    x, R = torch.randn(1, 5, 4, 1, 3, requires_grad=True), torch.randn(4, 1, 3, 3)
    h, _ = lstm(x, R, kernel="native")
    R.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


def test_a_backward_may_run_twice_and_under_checkpointing():
    x, R = torch.randn(2, 6, 4, 1, 3, requires_grad=True), torch.randn(4, 1, 3, 3) * 0.5
    h, _ = slstm(x, R, kernel="native")
    first, again = (torch.autograd.grad(h.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    run = lambda x: slstm(x, R, kernel="native")[0]  # noqa: E731
    checkpointed = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(checkpointed.sum(), x)[0], first)


# ---- threads, processes, memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_numbers_give_the_same_bits(count, threads):
    threads(count)
    for form in ("lstm-2000", "slstm-sigmoid", "gru-bias", "mlstm"):
        p = native_problem(form, T=70, B=7, H=32)
        first = everything(p)
        for _ in range(3):
            assert_same(everything(p), first, 0)


def test_threads_are_torch_s_and_there_is_one_openmp():
    """In a process that has loaded nothing else: what tests load beside torch may bring an OpenMP of its own."""
    code = (
        "import torch; from longshort.cells import core; from longshort import functional as F;"
        "torch.set_num_threads(2); F.lstm(torch.randn(4, 9, 4, 1, 64), torch.randn(4, 1, 64, 64), kernel='native');"
        "print(core.library().openmp); print(len(core.openmp_loaded()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    runtime, loaded = done.stdout.split()
    assert Path(runtime).exists()
    assert loaded == "1"
    library = Path(core.__file__).parent / "cpp" / core.LIBRARY
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert not any(name in needed for name in ("omp", "torch", "python", "stdc++"))


def test_set_num_threads_is_obeyed(threads):
    """The threads of the process that work: 1 asks nobody else; 2 asks one more."""

    def working() -> set[int]:
        used = {task: ticks(task) for task in os.listdir("/proc/self/task")}
        for _ in range(30):
            lstm(x, R, kernel="native")
        return {task for task, before in used.items() if ticks(task) > before + 2}

    def ticks(task) -> int:
        try:
            stat = Path(f"/proc/self/task/{task}/stat").read_text()
        except FileNotFoundError:  # a thread that has ended
            return 0
        return sum(map(int, stat.rsplit(")", 1)[1].split()[11:13]))

    x, R = torch.randn(16, 256, 4, 1, 128), torch.randn(4, 1, 128, 128) * 0.05
    threads(1)
    assert len(working()) == 1
    threads(2)
    lstm(x, R, kernel="native")
    assert len(working()) == 2


def forked(queue, x, R):
    h, _ = lstm(x, R, kernel="native")
    queue.put(float(h.double().sum()))


def test_a_forked_process_works_alone_and_does_not_hang(threads):
    threads(2)
    x, R = torch.randn(4, 20, 4, 1, 32), torch.randn(4, 1, 32, 32) * 0.1
    want = float(lstm(x, R, kernel="native")[0].double().sum())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=forked, args=(queue, x, R))
    child.start()
    assert queue.get(timeout=60) == pytest.approx(want, rel=1e-6)
    child.join(60)
    assert child.exitcode == 0


class Encoded(torch.utils.data.Dataset):
    """Sequences that a recurrent layer reads where they are loaded: in the workers."""

    def __init__(self):
        self.layer = functional_layer()

    def __len__(self):
        return 6

    def __getitem__(self, i):
        with torch.no_grad():
            return self.layer(torch.full((1, 40, 8), float(i)))[0]


def functional_layer():
    from longshort import LSTM

    torch.manual_seed(0)
    return LSTM(8, 16, batch_first=True)


def test_data_loader_workers_run_the_core(threads):
    threads(2)
    data = Encoded()
    want = torch.stack([data[i] for i in range(6)])
    loader = torch.utils.data.DataLoader(data, batch_size=3, num_workers=2, multiprocessing_context="fork")
    torch.testing.assert_close(torch.cat(list(loader)), want, rtol=0, atol=1e-6)


def test_memory_is_linear_in_time_and_used_again():
    """What the backward keeps grows with T, and a second run finds the mappings of the first."""

    def kept(T):
        x, R = torch.randn(1, T, 4, 1, 16, requires_grad=True), torch.randn(4, 1, 16, 16)
        return kept_for_backward(lambda: slstm(x, R, kernel="native"))

    assert kept(4096) <= 4.2 * kept(1024)
    block = core.room(3, 2**20)
    address = block.data_ptr()
    del block
    again = core.room(3, 2**20)
    assert again.data_ptr() == address
    other = core.room(3, 2**20)
    assert other.data_ptr() != address
    assert sum(map(len, core.MAPPINGS.waiting)) <= core.KEPT


@pytest.mark.parametrize("T", [3, 3000])
def test_a_large_output_is_a_tensor_like_any_other(T):
    """It lies in a mapping that is used again: not before the last that looks at it is gone."""
    x, R = torch.randn(4, T, 4, 1, 64), torch.randn(4, 1, 64, 64) * 0.05
    with torch.no_grad():
        h, _ = lstm(x, R, kernel="native")
        assert not h._is_view()
        part, want = h[:, ::2], lstm(x.double(), R.double())[0].float()
        h.mul_(2).add_(1)
        del h
        for _ in range(3):
            lstm(torch.randn_like(x), R, kernel="native")
        torch.testing.assert_close(part, (2 * want + 1)[:, ::2], rtol=1e-4, atol=1e-5)


# ---- where there is no core ------------------------------------------------------------------------------------------


def test_without_the_core_auto_takes_another_and_says_why(monkeypatch, capsys):
    from longshort.doctor import kernels

    reason = "the C++ core was not built when longshort was installed. " + core.INSTALL
    core.library.cache_clear()
    monkeypatch.setattr(core, "LIBRARY", "nowhere.so")
    try:
        assert core.missing() == reason
        x, R = torch.randn(1, 5, 4, 1, 3), torch.randn(4, 1, 3, 3)
        h, _ = lstm(x, R)
        assert torch.equal(h, lstm(x, R, kernel="reference")[0])
        with pytest.raises(ValueError, match="cannot use kernel='native' here: the C\\+\\+ core was not built"):
            lstm(x, R, kernel="native")
        assert any("lstm   native" in line and reason in line for line in kernels())
    finally:
        core.library.cache_clear()


def test_a_core_that_does_not_load_says_so(monkeypatch, tmp_path):
    (tmp_path / "cpp").mkdir()
    (tmp_path / "cpp" / core.LIBRARY).write_text("not a library")
    core.library.cache_clear()
    monkeypatch.setattr(core, "__file__", str(tmp_path / "native.py"))
    try:
        assert core.missing().startswith("the C++ core does not load (")
    finally:
        core.library.cache_clear()


def test_the_library_exports_its_doors_alone():
    library = ctypes.CDLL(str(Path(core.__file__).parent / "cpp" / core.LIBRARY))
    names = subprocess.run(
        ["nm", "-D", "--defined-only", library._name], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    assert all(" longshort_" in line for line in names if line)


# ---- what a caller may hand in ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", CELLS)
def test_nan_stays_nan_and_in_its_row(form):
    p = native_problem(form, T=6, B=3)
    inputs = {k: x.clone() for k, x in p.inputs.items()}
    inputs["k" if p.door == "mlstm" else "x_pre"][1, 2] = torch.nan
    h, _ = p._replace(inputs=inputs).run()
    assert h[1, 2:].isnan().any(-1).all()
    assert h[[0, 2]].isfinite().all()
    assert not h[1, 5].isfinite().all()


@pytest.mark.parametrize("name", ["q", "k", "v", "i_pre", "f_pre"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_leaves_an_mlstm_s_earlier_steps_alone(name, bad, variant):
    p = native_problem("mlstm", T=100, B=2, N=2, H=20)
    clean, at = p.run()[0], 53
    inputs = {k: x.clone() for k, x in p.inputs.items()}
    inputs[name][:, at] = bad
    h = p._replace(inputs=inputs).run()[0]
    assert torch.equal(h[:, :at], clean[:, :at])
    assert not torch.equal(h[:, at:].nan_to_num(), clean[:, at:])


@pytest.mark.parametrize("kernel", ["native", "chunkwise", "parallel"])
def test_a_forget_gate_that_is_nan_at_a_reset_spoils_what_follows_as_in_the_reference(kernel):
    p = native_problem("mlstm", T=6, B=1)
    p.inputs["f_pre"][:, 2] = torch.nan
    p = p._replace(options=p.options | {"kernel": kernel, "reset": torch.arange(6)[None] == 2})
    bad = p.run()[0].isnan().flatten(2).any(-1)
    assert torch.equal(bad, exact(p).run()[0].isnan().flatten(2).any(-1))
    assert bad[0].tolist() == [False] * 2 + [True] * 4


@pytest.mark.parametrize("name", ["k", "v"])
@pytest.mark.parametrize("shut", ["forgotten", "not written"])
def test_nan_in_an_mlstm_s_key_or_value_goes_where_the_reference_s_goes(name, shut, variant):
    """Where its weight is 0 as well: nothing depends on where chunks begin."""
    p = native_problem("mlstm", T=96, B=1, N=1, H=20)
    inputs = {k: x.clone() for k, x in p.inputs.items()}
    inputs[name][0, 5] = torch.nan
    if shut == "forgotten":
        inputs["f_pre"][0, 10:14] = -200.0
    else:
        inputs["i_pre"][0, 5] = -200.0
    p = p._replace(inputs=inputs)
    want = exact(p).run()[0].isnan().flatten(2).any(-1)
    for L in (32, 96):
        got = p._replace(options=p.options | {"chunk_size": L}).run()[0].isnan().flatten(2).any(-1)
        assert torch.equal(got, want)


@pytest.mark.parametrize(("form", "bad"), [*product(CELLS, [torch.nan]), ("mlstm", torch.inf)])
def test_what_is_not_finite_stays_before_a_reset(form, bad, variant):
    """Outputs, the last state and gradients after it are those without it; resets within a chunk and at its ends."""
    for T, resets in ((40, [7]), (40, [7, 8, 23]), (70, [16, 30, 33]), (70, [32]), (70, [69])):
        p = native_problem(form, T=T, B=2, N=2, H=19)
        cuts = torch.zeros(2, T, dtype=torch.bool)
        cuts[:, resets] = True
        options = {"reset": cuts} | ({"chunk_size": 32} if p.door == "mlstm" else {})
        p = p._replace(options=p.options | options)
        spoilt = {name: x.clone() for name, x in p.inputs.items()}
        for x in spoilt.values():
            x[0, resets[0] - 3] = bad
        got, want = (everything(each, means=raw) for each in (p._replace(inputs=spoilt), p))
        assert not got["h"][0, resets[0] - 3].isfinite().all()
        for name in ("h", *(f"d {each}" for each in p.inputs)):
            assert torch.equal(got[name][0, resets[0] :], want[name][0, resets[0] :])
            assert torch.equal(got[name][1], want[name][1])
        for name in p.state._fields:
            assert torch.equal(got[f"last {name}"], want[f"last {name}"])


def test_tensors_the_core_cannot_read_are_not_read():
    """Weights or a state elsewhere, a subclass among them: torch's own error or answer, never a wild pointer."""

    class Sub(torch.Tensor):
        pass

    x, R = torch.randn(1, 5, 4, 1, 3), torch.randn(4, 1, 3, 3)
    with pytest.raises((RuntimeError, ValueError)):
        lstm(x, R.to("meta"))
    assert type(lstm(x, R.as_subclass(Sub))[0]) is Sub
    with pytest.raises(ValueError, match="it reads plain tensors, and one is a Sub"):
        lstm(x, R.as_subclass(Sub), kernel="native")
    with pytest.raises(ValueError, match="it runs on cpu, and a tensor is on meta"):
        lstm(x, R.to("meta"), kernel="native")


@pytest.mark.parametrize("form", CELLS)
def test_lengths_that_are_no_plain_tensor_are_checked_too(form):
    p = native_problem(form, T=4, B=2)
    held = torch.nn.Parameter(torch.tensor([200_000, 3]), requires_grad=False)
    with pytest.raises(ValueError, match="lengths must be between 0 and T=4, got 3 to 200000"):
        p.run(lengths=held)
    fine = torch.nn.Parameter(torch.tensor([4, 3]), requires_grad=False)
    assert torch.equal(p.run(lengths=fine)[0], p.run(lengths=[4, 3])[0])


def test_a_mode_that_records_operators_sees_the_reference():
    from torch.fx.experimental.proxy_tensor import make_fx

    x, R = torch.randn(1, 5, 4, 1, 3), torch.randn(4, 1, 3, 3)
    graph = make_fx(lambda x: lstm(x, R)[0])(x)
    torch.testing.assert_close(graph(x + 1), lstm(x + 1, R)[0], rtol=1e-5, atol=1e-6)


def test_negative_views_are_read_as_what_they_mean():
    z = torch.randn(2, 5, 4, 1, 1, dtype=torch.complex64)
    x, R = z.conj().imag, torch.randn(4, 1, 1, 1)
    assert x.is_neg()
    torch.testing.assert_close(lstm(x, R)[0], lstm(x.clone(), R)[0])
    q, gate = torch._neg_view(torch.randn(2, 5, 1, 4)), torch.randn(2, 5, 1, dtype=torch.complex64).conj().imag
    want = mlstm(q.clone(), q.clone(), q.clone(), gate.clone(), gate.clone())[0]
    torch.testing.assert_close(mlstm(q, q, q, gate, gate)[0], want)
    leaf = torch.randn(2, 5, 4, 1, 3, requires_grad=True)
    grads = []
    for kernel in ("native", "reference"):
        h, _ = lstm(leaf, torch.ones(4, 1, 3, 3) * 0.1, kernel=kernel)
        grads += torch.autograd.grad((torch.complex(torch.zeros_like(h), h).conj() * 1j).real.sum(), leaf)
    torch.testing.assert_close(*grads)


def test_saved_tensors_that_come_back_otherwise_are_read_right_or_refused():
    x, R = torch.randn(2, 5, 4, 1, 3, requires_grad=True), torch.randn(4, 1, 3, 3, requires_grad=True)

    def learn(pack, unpack):
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            h, _ = lstm(x, R, kernel="native")
        return torch.autograd.grad(h.sum(), (x, R))

    want = learn(lambda t: t, lambda t: t)
    turned = learn(lambda t: t, lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0))  # the same, in other strides
    assert all(torch.equal(a, b) for a, b in zip(turned, want, strict=True))
    with pytest.raises(RuntimeError, match=r"came back as torch\.bfloat16"):
        learn(lambda t: t.bfloat16() if t.is_floating_point() else t, lambda t: t)


def test_no_units_are_no_work():
    x, R = torch.randn(2, 3, 4, 1, 0, requires_grad=True), torch.randn(4, 1, 0, 0, requires_grad=True)
    h, last = lstm(x, R)
    h.sum().backward()
    assert h.shape == (2, 3, 1, 0)
    assert last.c.shape == (2, 1, 0)


def test_a_library_of_another_version_is_said_to_be(monkeypatch):
    core.library.cache_clear()
    monkeypatch.setattr(core, "VERSION", -1)
    try:
        assert core.missing().startswith("the C++ core is of another version of longshort.")
    finally:
        core.library.cache_clear()


def test_memory_waits_no_more_than_was_in_use_at_once():
    core.MAPPINGS.clear()
    sizes = [2**20 + 2**18 * step for step in range(12)]
    for size in sizes:  # one after the other: none fits the next
        core.room(size)
    assert sum(map(len, core.MAPPINGS.waiting)) <= 4 * max(sizes) + core.HUGE
    core.MAPPINGS.clear()
    assert not core.MAPPINGS.waiting
