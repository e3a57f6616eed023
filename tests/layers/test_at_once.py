"""Without gradients a recurrent layer hands the C++ core its numbers as they lie: the same bits as through its door."""

import pytest
import torch
from layers.kinds import BOTH, DEEP, KINDS, ONE, build, fields
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
    for B, T in ((1, 1), (3, 1), (2, 7)):
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
        (LSTM(3, 4, num_heads=2), "weight_hh_l0", (16, 4)),
        (LSTM(3, 4, proj_size=2), "weight_hr_l0", (4, 2)),
        (LSTM(3, 4, forget="one"), "weight_hh_l0", (16, 4)),
        (GRU(3, 4), "weight_hh_l0", (4, 12)),
        (RNN(3, 6), "weight_hh_l0", (4, 9)),
        (sLSTM(3, 4, num_heads=2), "weight_hh_l0", (2, 4, 2, 2)),
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
