"""Defects that were found in other libraries' xLSTM and LSTM layers (numbered as in the survey of them): none is here.

Batch mates (D17), padding (D5) and empty axes (D12, D34) are in test_batches.py.
"""

import copy
import io
import pickle

import pytest
import torch
from layers.kinds import (
    BOTH,
    BUILT_IN,
    DEEP,
    KINDS,
    build,
    each,
    everything,
    fields,
    gate_rows,
    numbers,
    reached,
    with_knobs,
)
from problems import assert_same

import longshort
from longshort import LSTM, RNN, mLSTM, sLSTM

every_kind = pytest.mark.parametrize("kind", KINDS)
F32 = {"dtype": torch.float32}


def slopes(layer, y) -> list[torch.Tensor]:
    """The gradients of every weight."""
    return list(torch.autograd.grad(y.double().square().sum(), list(layer.parameters()), materialize_grads=True))


# ---- it runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 15, 16, 17, 50])
@every_kind
def test_training_works_at_any_length(kind, T):  # D1, D8: only short ones, only multiples of the chunk
    more = {"chunk_size": 16} if kind.startswith("mlstm") else {}
    layer = build(kind, **more).train()
    assert all(x.isfinite().all() for x in slopes(layer, layer(numbers(2, T, 3))[0]))


@pytest.mark.parametrize("hidden_size", [1, 3, 17, 22])
@pytest.mark.parametrize("kind", BUILT_IN)
def test_default_arguments_take_any_width(kind, hidden_size):  # D2, D19: multiples of 64 alone; NaN at width 1
    layer = BUILT_IN[kind](1, hidden_size)
    x = torch.randn(4, 2, 1)
    y, state = layer(x)
    z, _ = layer(x, state)
    assert all(x.isfinite().all() for x in (y, z, *layer.parameters(), *slopes(layer, z)))
    assert y.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("T", [20, 63, 64, 100])
@pytest.mark.parametrize("kind", BUILT_IN)
def test_sixteen_bits_work_at_any_length_forward_and_backward(kind, T, dtype):  # D3
    layer = BUILT_IN[kind](3, 6, batch_first=True).to(dtype)
    y, state = layer(torch.randn(2, T, 3, dtype=dtype))
    assert y.dtype == dtype
    assert all(x.isfinite().all() for x in (y, *fields(state), *slopes(layer, y)))


@every_kind
def test_a_layer_reads_any_length(kind):  # D15: none above a context length
    layer = build(kind, **F32)
    for T in (1, 300, 2):
        assert layer(torch.randn(1, T, 3))[0].isfinite().all()


def saved(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), saved])
@every_kind
def test_a_layer_travels(kind, how):  # D14: it could not be pickled, or not be reset after
    layer = build(kind, **BOTH)
    other = how(layer)
    x = numbers(2, 4, 3)
    assert torch.equal(other(x)[0], layer(x)[0])
    assert [type(weight) for weight in other.parameters()] == [type(weight) for weight in layer.parameters()]
    other.reset_parameters()
    assert not torch.equal(other(x)[0], layer(x)[0])


# ---- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BUILT_IN)
def test_many_steps_in_bfloat16_keep_the_precision_of_the_state(kind):  # D4: states were rounded at every step
    layer = BUILT_IN[kind](3, 6, batch_first=True).bfloat16()
    x, state, outputs = torch.randn(1, 200, 3).bfloat16(), None, []
    with torch.no_grad():
        for frame in x.unbind(1):
            y, state = layer.step(frame, state)
            assert {field.dtype for field in fields(state)} == {torch.float32}
            outputs.append(y)
        whole, _ = layer(x)
    torch.testing.assert_close(torch.stack(outputs, 1), whole, rtol=2**-7, atol=1e-3)


@every_kind
def test_a_step_returns_the_new_state(kind):  # D21: the old one
    layer = build(kind)
    state = reached(layer, 2)
    new = layer.step(numbers(2, 3), state)[1]
    assert all(not torch.equal(a, b) for a, b in zip(fields(new), fields(state), strict=True))


@every_kind
def test_gradients_flow_through_steps_and_segments(kind):  # D16: modified by an inplace operation
    layer, x = build(kind, **DEEP), numbers(2, 4, 3)
    start = each(reached(layer, 2), torch.clone)
    before = [field.clone() for field in fields(start)]
    y, state = layer.step(x[:, 0], start)
    z, state = layer(x[:, 1:3], state)
    w, _ = layer.step(x[:, 3], state)
    got = slopes(layer, torch.cat([y[:, None], z, w[:, None]], 1))
    for mine, want in zip(got, slopes(layer, layer(x, start)[0]), strict=True):
        assert_same({"slope": mine}, {"slope": want}, 1e-12)
    assert all(map(torch.equal, fields(start), before))


# ---- every argument acts ---------------------------------------------------------------------------------------------

ACTS = [  # D10, D21: options and lengths that silently did nothing
    (RNN, {"nonlinearity": "relu"}),
    (RNN, {"num_heads": 2}),
    (LSTM, {"forget": "one"}),
    (LSTM, {"proj_size": 2}),
    (LSTM, {"bias": False}),
    (LSTM, {"num_layers": 2}),
    (LSTM, {"bidirectional": True}),
    (LSTM, {"batch_first": True}),
    (longshort.GRU, {"num_heads": 2}),
    (sLSTM, {"forget": "exp"}),
    (sLSTM, {"num_heads": 2}),
    (mLSTM, {"num_heads": 2}),
    (mLSTM, {"qk_dim": 2}),
    (mLSTM, {"norm": "head"}),
]


@pytest.mark.parametrize(("make", "option"), ACTS)
def test_every_option_changes_the_answer(make, option):
    answers = []
    for options in ({}, option):
        torch.manual_seed(1)
        answers.append(make(3, 4, **options)(numbers(4, 4, 3, dtype=torch.float32))[0])
    assert answers[0].shape != answers[1].shape or not torch.allclose(*answers)


@pytest.mark.parametrize("options", [{"chunk_size": 3}, {"kernel": "reference"}, {"kernel": "parallel"}])
def test_gradients_are_exact_in_every_form(options):  # D22: 0.72 to 0.92 of autograd's; the start state's were 0
    x, results = numbers(2, 7, 3), []
    for more in ({}, options):
        torch.manual_seed(0)
        layer = build("mlstm", num_heads=2, **more)
        results.append(everything(layer, layer, x, reached(layer, 2)))
    assert_same(results[1], results[0], 1e-12)
    assert all((results[0][f"d state.{name}"] != 0).any() for name in "Cn")


def test_two_identical_layers_list_their_weights_in_the_same_order():  # a resumed optimiser mixed them up
    for kind in KINDS:
        names = [[name for name, _ in build(kind, **BOTH).named_parameters()] for _ in range(2)]
        assert names[0] == names[1]


# ---- extreme gates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("rnn")])
def test_gates_at_any_height_have_finite_answers_and_gradients(kind, dtype):  # D18, D23, D28
    for value in (15, -15, 100, -100, 1000, -1000, 1e4, -1e4):
        layer = build(kind, dtype=dtype)
        bias = layer.bias_l0 if hasattr(layer, "bias_l0") else layer.bias_ih_l0
        with torch.no_grad():
            for rows in gate_rows(kind, layer):
                bias[rows] = value
        y, state = layer(torch.randn(2, 5, 3, dtype=dtype))
        assert all(
            x.isfinite().all() for x in (y, *fields(state), *slopes(layer, y * 1e-3))
        )  # small: float16 ends at 65504


LIMITS = {  # which gate, at which steps, and its pre-activation
    "D24": (-1, slice(7, 8), -torch.inf),
    "D25": (-1, slice(7, 8), -1e4),
    "D25, further": (-1, slice(7, 8), -1e6),
    "D27": (-2, slice(0, 4), -torch.inf),
}


@pytest.mark.parametrize("what", LIMITS)
@every_kind
def test_a_gate_at_its_limit_for_some_steps_loses_nothing_in_float32(kind, what):
    """NaN everywhere after one forget gate of -inf, errors up to 0.9 after one of -1e6, NaN after leading -inf."""
    gate, steps, value = LIMITS[what]
    narrow = with_knobs(kind, 1e30, dtype=torch.float32)
    answers = []
    for layer, most in ((narrow, 1e30), (copy.deepcopy(narrow).double(), 1e300)):
        x = numbers(2, 32, 5, dtype=torch.float32).to(layer.weight_ih_l0)
        x[..., -2:] = 0
        x[:, steps, gate] = max(value / 1e30, -most)  # times 1e30: -inf
        answers.append(layer(x)[0])
        assert all(x.isfinite().all() for x in slopes(layer, answers[-1]))
    torch.testing.assert_close(answers[0].double(), answers[1], rtol=0, atol=2e-5)


def test_bfloat16_stays_close_over_two_thousand_steps():  # D26: a mean error of 0.26
    layer = mLSTM(3, 8, num_heads=2, norm="head", batch_first=True).bfloat16()
    x = torch.randn(1, 2048, 3).bfloat16()
    with torch.no_grad():
        y, _ = layer(x)
        want, _ = copy.deepcopy(layer).double()(x.double())
    assert (y - want).abs().mean() < 1e-2


def test_a_query_reads_the_value_that_its_key_stored():  # D29: 0 instead
    layer = build("mlstm", 18, 4)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.eye(18))  # q, k, v, i, f and o are the features
        layer.bias_l0.zero_()
    k, v = 4 * torch.eye(4).double(), numbers(4, 4)
    remember = torch.tensor([0.0, 40.0]).double().expand(4, 2)
    y, _ = layer(torch.cat([k, k, v, remember, torch.full((4, 4), 40.0)], -1)[None])
    torch.testing.assert_close(y[0], v, rtol=0, atol=1e-12)
