"""Without gradients a recurrent layer hands the C++ core its numbers as they lie: the same bits as through its door."""

import pytest
import torch
from layers.kinds import BOTH, DEEP, KINDS, ONE, build, each, fields
from torch import nn

from longshort import GRU, LSTM, RNN, functional, sLSTM, trace

RECURRENT = [kind for kind in KINDS if not kind.startswith(("mlstm", "own"))]
every_kind = pytest.mark.parametrize("kind", RECURRENT)


@pytest.fixture
def at_once(monkeypatch):
    """How many times the core was handed numbers so, and took them."""
    real, took = functional.native.heads_on_one_axis, []

    def counted(*args):
        done = real(*args)
        took.append(done is not None)
        return done

    monkeypatch.setattr(functional.native, "heads_on_one_axis", counted)
    return took


def small(kind, **options):
    """A float32 layer; a projection splits over two heads."""
    return build(kind, 3, 4, **options).float()


@pytest.mark.parametrize("stack", [ONE, BOTH, DEEP], ids=["one", "both ways", "deep"])
@pytest.mark.parametrize("options", [{}, {"num_heads": 2}, {"bias": False}], ids=["", "heads", "no bias"])
@every_kind
def test_it_gives_the_bits_of_the_door(kind, options, stack, at_once):
    layer = small(kind, **(stack | options))
    for B, T in ((1, 1), (3, 1), (2, 7), (5, 9)):  # R as it lies up to 16 rows, laid out beyond
        x, state = torch.randn(B, T, 3), layer(torch.randn(B, 2, 3))[1]
        state = state.detach()
        for start in (None, state):
            want, end = layer(x, start)
            assert want.requires_grad and not at_once
            with torch.no_grad():
                y, last = layer(x, start)
            assert at_once == [True] * len(layer.parts)
            at_once.clear()
            for a, b in zip((y, *fields(last)), (want, *fields(end)), strict=True):
                assert torch.equal(a, b) and a.shape == b.shape and a.is_contiguous() == b.is_contiguous()


@every_kind
def test_whoever_learns_looks_on_or_cuts_takes_the_door(kind, at_once):
    layer, x = small(kind), torch.randn(2, 5, 3)
    layer(x)
    with torch.no_grad():
        layer(x, lengths=[5, 2])
        layer(x, reset=torch.tensor([[0, 0, 1, 0, 0]] * 2, dtype=torch.bool))
        assert trace(layer, x)
        with functional.watch() as calls:
            layer(x)
        assert calls
        layer.double()(x.double())
    torch.func.vmap(lambda x: layer(x)[0], randomness="error")(torch.randn(3, 2, 5, 3, dtype=torch.float64))
    assert not at_once


@pytest.mark.parametrize("kind", [kind for kind in RECURRENT if kind != "gru"])
def test_an_option_that_is_none_is_refused_by_the_door(kind):
    layer = small(kind)
    layer.forget = layer.nonlinearity = "ReLU"
    with torch.no_grad(), pytest.raises(ValueError, match="ReLU"):
        layer(torch.randn(2, 5, 3))


@every_kind
def test_another_kernel_is_not_the_core(kind, at_once):
    with torch.no_grad():
        small(kind, kernel="reference")(torch.randn(2, 5, 3))
    assert not at_once


@pytest.mark.parametrize(("kind", "name"), [("gru", "bias_hh_l0"), ("lstm-proj", "weight_hr_l0")])
def test_a_weight_beside_r_that_learns_alone_takes_the_door(kind, name, at_once):
    layer = small(kind).requires_grad_(False)
    getattr(layer, name).requires_grad_()
    layer(torch.randn(2, 5, 3))[0].sum().backward()
    assert not at_once and getattr(layer, name).grad.abs().sum() > 0


@every_kind
def test_weights_and_states_are_read_through_any_strides_and_signs(kind, at_once):
    layer, x = small(kind, num_heads=2).requires_grad_(False), torch.randn(3, 4, 3)
    state = layer(x)[1]
    want, end = layer(x, state)
    for weight in layer.parameters():
        apart = torch.stack([weight.data, torch.full_like(weight, torch.nan)], -1)[..., 0]
        assert torch.equal(apart, weight.data) and not apart.is_contiguous()
        weight.data = apart

    def minus_minus(field):
        """The same numbers as a view that says minus, of a tensor whose numbers lie apart."""
        apart = torch.zeros(*field.shape, 2)
        apart[..., 0] = -field.as_subclass(torch.Tensor)
        return torch._neg_view(apart[..., 0])

    start = each(state, minus_minus)
    assert not any(field.is_contiguous() for field in fields(start)) and fields(start)[0].is_neg()
    y, last = layer(x, start)
    assert at_once == [True] * 3
    for a, b in zip((y, *fields(last)), (want, *fields(end)), strict=True):
        assert torch.equal(a, b)


@every_kind
def test_a_state_that_learns_takes_the_door_too(kind, at_once):
    layer = small(kind).requires_grad_(False)
    state = layer(torch.randn(2, 2, 3))[1]
    assert at_once == [True]
    first = fields(state)[0].clone().requires_grad_()
    start = first if isinstance(state, torch.Tensor) else type(state)(first, *state[1:])
    y, _ = layer(torch.randn(2, 3, 3), start)
    assert at_once == [True] and torch.autograd.grad(y.sum(), first)[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("layer", "name", "shape"),
    [
        (LSTM(3, 4), "weight_hh_l0", (4, 16)),
        (LSTM(3, 4), "weight_hh_l0", (4, 1, 4, 4)),
        (LSTM(3, 4, num_heads=2), "weight_hh_l0", (4, 2, 2, 2)),
        (LSTM(3, 4, num_heads=2), "weight_hh_l0", (16, 4)),
        (LSTM(3, 4, proj_size=2), "weight_hr_l0", (4, 2)),
        (LSTM(3, 4, forget="one"), "weight_hh_l0", (16, 4)),
        (GRU(3, 4), "weight_hh_l0", (4, 12)),
        (GRU(3, 4), "weight_hh_l0", (3, 1, 4, 4)),
        (RNN(3, 6), "weight_hh_l0", (4, 9)),
        (RNN(3, 4), "weight_hh_l0", (1, 1, 4, 4)),
        (sLSTM(3, 4, num_heads=2), "weight_hh_l0", (2, 4, 2, 2)),
        (sLSTM(3, 4, num_heads=2), "weight_hh_l0", (16, 2)),
        (sLSTM(3, 4), "weight_ih_l0", (12, 3)),
    ],
)
def test_weights_of_another_shape_are_refused_as_through_the_door(layer, name, shape):
    """The core reads as many numbers as the layer's sizes say: what has others must not reach it."""
    if name.startswith("weight_ih"):
        layer.bias_l0 = nn.Parameter(torch.zeros(shape[0]))
    setattr(layer, name, nn.Parameter(torch.randn(shape)))
    said = []
    for learns in (True, False):
        with torch.set_grad_enabled(learns), pytest.raises((ValueError, RuntimeError)) as error:
            layer(torch.randn(5, 2, 3))
        said.append(str(error.value))
    assert said[0] == said[1]
