"""LSTM, RNN and GRU are torch.nn's: names, start values, results, states, every gradient, packing, conversion.

Written from PyTorch's documentation of its options and shapes. In float64, to 1e-12.
"""

import copy
from itertools import product

import pytest
import torch
from layers.kinds import everything, numbers
from problems import TOLERANCE, assert_same
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from longshort import GRU, LSTM, RNN
from longshort.functional import LSTMState

F64 = TOLERANCE[torch.float64]
WIDE = {"dtype": torch.float64}
TYPES = {
    "lstm": (LSTM, nn.LSTM, {}),
    "lstm-proj": (LSTM, nn.LSTM, {"proj_size": 2}),
    "gru": (GRU, nn.GRU, {}),
    "rnn-tanh": (RNN, nn.RNN, {}),
    "rnn-relu": (RNN, nn.RNN, {"nonlinearity": "relu"}),
}
every_type = pytest.mark.parametrize("kind", TYPES)
ON_OFF = [False, True]


def both(kind: str, **options):
    """Ours and PyTorch's, each made from the same seed."""
    ours, theirs, own = TYPES[kind]
    layers = []
    for make in (ours, theirs):
        torch.manual_seed(5)
        layers.append(make(3, 4, **WIDE | own | options))
    return layers


def start(layer, *batch: int):
    """A random state, with an axis B or without one."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    h = numbers(rows, *batch, layer.proj_size or layer.hidden_size, seed=7)
    return LSTMState(h, numbers(rows, *batch, layer.hidden_size, seed=8)) if isinstance(layer, nn.LSTM) else h


def answers(layer, x, state=None) -> dict[str, Tensor]:
    """Outputs, last state and all gradients of either layer."""

    def call(x, state):
        y, last = layer(x, state)
        return y, last if isinstance(last, Tensor) else LSTMState(*last)

    return everything(layer, call, x, state)


# ---- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@every_type
def test_every_option_gives_what_torch_gives(kind, num_layers):
    for bidirectional, bias, batch_first in product(ON_OFF, ON_OFF, ON_OFF):
        options = {"bidirectional": bidirectional, "bias": bias, "batch_first": batch_first}
        ours, theirs = both(kind, num_layers=num_layers, **options)
        x, state = numbers(5, 2, 3), start(theirs, 5 if batch_first else 2)
        assert_same(answers(ours, x), answers(theirs, x), F64)
        assert_same(answers(ours, x, state), answers(theirs, x, state), F64)


@pytest.mark.parametrize("batch_first", ON_OFF)
@every_type
def test_unbatched(kind, batch_first):
    ours, theirs = both(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    x = numbers(5, 3)
    assert_same(answers(ours, x), answers(theirs, x), F64)
    assert_same(answers(ours, x, start(theirs)), answers(theirs, x, start(theirs)), F64)


@pytest.mark.parametrize("batch_first", ON_OFF)
@every_type
def test_an_empty_batch(kind, batch_first):
    ours, theirs = both(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    x = numbers(0, 5, 3) if batch_first else numbers(5, 0, 3)
    assert_same(answers(ours, x), answers(theirs, x), F64)
    assert_same(answers(ours, x, start(theirs, 0)), answers(theirs, x, start(theirs, 0)), F64)


@every_type
def test_each_goes_on_from_the_others_state(kind):
    ours, theirs = both(kind)
    x = numbers(4, 2, 3)
    want, _ = theirs(x, theirs(x)[1])
    for first, second in ((ours, theirs), (theirs, ours), (ours, ours)):
        torch.testing.assert_close(second(x, first(x)[1])[0], want, rtol=0, atol=F64)


@pytest.mark.parametrize("kind", ["gru", "rnn-tanh"])
def test_the_state_of_an_rnn_or_gru_is_the_tensor_h_n_that_answers_h(kind):
    ours, theirs = both(kind)
    x = numbers(4, 2, 3)
    state, h_n = ours(x)[1], theirs(x)[1]
    assert isinstance(state, Tensor)
    torch.testing.assert_close(state.h, h_n, rtol=0, atol=F64)
    for plain in (state.h, state + 0, state[-1], torch.cat([state, state])):
        assert type(plain) is Tensor


@pytest.mark.parametrize(("sorted_", "batch_first"), list(product(ON_OFF, ON_OFF)))
@every_type
def test_packed_sequences(kind, sorted_, batch_first):
    ours, theirs = both(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    lengths = [5, 3, 3, 1] if sorted_ else [3, 1, 5, 3]
    x = numbers(4, 5, 3)
    if not batch_first:
        x = x.transpose(0, 1)

    def through(layer, seen):
        def call(x, state):
            y, last = layer(pack_padded_sequence(x, lengths, batch_first, enforce_sorted=sorted_), state)
            seen.append(y)
            return y.data, last if isinstance(last, Tensor) else LSTMState(*last)

        return call

    for state in (None, start(theirs, 4)):
        got, want = [], []
        assert_same(
            everything(ours, through(ours, got), x, state), everything(theirs, through(theirs, want), x, state), F64
        )
        assert isinstance(got[0], PackedSequence)
        for mine, yours in zip(got[0][1:], want[0][1:], strict=True):  # batch_sizes, sorted and unsorted_indices
            assert (mine is None and yours is None) or torch.equal(mine, yours)


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"num_layers": 2, "bias": False}])
@every_type
def test_heads_are_blocks_on_the_diagonal_of_torchs_weights(kind, options):
    theirs = both(kind, **options)[1]
    ours = TYPES[kind][0](3, 4, num_heads=2, **WIDE, **TYPES[kind][2], **options)
    weights = {}
    for name, weight in ours.state_dict().items():
        if "weight_hh" in name:  # (gates * heads * rows of a head, columns of a head)
            gates = weight.unflatten(0, (-1, 2, 2))
            weight = torch.cat([torch.block_diag(*heads) for heads in gates])
        elif "weight_hr" in name:
            weight = torch.block_diag(*weight.unflatten(0, (2, -1)))
        weights[name] = weight
    theirs.load_state_dict(weights)
    x = numbers(5, 2, 3)
    for got, want in zip(answers(ours, x).items(), answers(theirs, x).items(), strict=True):
        if got[0] not in weights and "weight_h" not in got[0]:
            assert_same(dict([got]), dict([want]), F64)


# ---- dropout ---------------------------------------------------------------------------------------------------------


@every_type
def test_dropout(kind):
    x = numbers(4, 2, 3)
    for p in (0.0, 0.5, 1.0):
        ours, theirs = both(kind, num_layers=3, bidirectional=True, dropout=p)
        assert_same(answers(ours.eval(), x), answers(theirs.eval(), x), F64)
        if p != 0.5:
            assert_same(answers(ours.train(), x), answers(theirs.train(), x), F64)


@pytest.mark.parametrize("make", [RNN, nn.RNN])
def test_dropout_in_training_drops_between_layers_and_scales_the_rest(make):
    """Two layers that pass on what they read, of 1e4 ones: each arrives as 0 or 4, 4 one time in 4."""
    layer = make(1, 1, 2, "relu", bias=False, dropout=0.75)
    for name, weight in layer.named_parameters():
        nn.init.constant_(weight, float("ih" in name))
    y, _ = layer(torch.ones(100, 100, 1))
    assert set(y.unique().tolist()) == {0.0, 4.0}
    assert abs((y > 0).float().mean() - 0.25) < 5 * (0.25 * 0.75 / 1e4) ** 0.5  # five standard deviations


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bias", "bidirectional"), list(product(ON_OFF, ON_OFF)))
@every_type
def test_names_shapes_order_and_start_values(kind, bias, bidirectional):
    ours, theirs = both(kind, num_layers=2, bias=bias, bidirectional=bidirectional)
    mine, yours = (list(layer.named_parameters()) for layer in (ours, theirs))
    assert [name for name, _ in mine] == [name for name, _ in yours]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(mine, yours, strict=True))
    for a, b in zip(ours.all_weights, theirs.all_weights, strict=True):
        assert all(map(torch.equal, a, b))
    torch.manual_seed(9)
    ours.reset_parameters()
    torch.manual_seed(9)
    theirs.reset_parameters()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    ours.flatten_parameters()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


@every_type
def test_state_dicts_load_in_both_directions(kind):
    x = numbers(4, 2, 3)
    ours, theirs = both(kind, num_layers=2, bidirectional=True)
    for source, target in ((ours, theirs), (theirs, ours)):
        source.reset_parameters()
        assert not torch.equal(source(x)[0], target(x)[0])
        target.load_state_dict(source.state_dict())
        torch.testing.assert_close(source(x)[0], target(x)[0], rtol=0, atol=F64)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # torch's own
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@every_type
def test_from_torch_and_back(kind, dtype):
    theirs = both(kind, num_layers=2, bias=False, batch_first=True, dropout=0.25, bidirectional=True, dtype=dtype)[1]
    theirs.eval().weight_ih_l1.requires_grad_(False)
    before = copy.deepcopy(theirs.state_dict())
    ours = TYPES[kind][0].from_torch(theirs)
    back = ours.to_torch()
    assert repr(back) == repr(theirs)
    for layer in (ours, back):
        assert not layer.training
        assert [w.requires_grad for w in layer.parameters()] == [w.requires_grad for w in theirs.parameters()]
        assert all(
            a.dtype == dtype and torch.equal(a, b) for a, b in zip(layer.parameters(), before.values(), strict=True)
        )
        torch.testing.assert_close(layer(x := numbers(2, 4, 3, dtype=dtype))[0], theirs(x)[0], rtol=0, atol=2e-2)
    for weight in (*ours.parameters(), *back.parameters()):
        nn.init.zeros_(weight)
    assert all(map(torch.equal, theirs.state_dict().values(), before.values()))  # copies, not the same memory
    assert TYPES[kind][0].from_torch(theirs.train()).training


def test_conversions_that_cannot_be_refuse_in_words():
    for make, wrong in ((LSTM, nn.GRU(2, 3)), (GRU, nn.RNN(2, 3)), (RNN, nn.LSTM(2, 3)), (LSTM, LSTM(2, 3))):
        with pytest.raises(ValueError, match=rf"{make.__name__}.from_torch takes a torch.nn.{make.__name__}, got"):
            make.from_torch(wrong)
    with pytest.raises(ValueError, match=r"torch.nn.LSTM has no forget.* 'one'"):
        LSTM(2, 4, forget="one").to_torch()
    for make in (LSTM, GRU, RNN):
        with pytest.raises(ValueError, match=rf"torch.nn.{make.__name__} has no num_heads.* 2"):
            make(2, 4, num_heads=2).to_torch()


# ---- the constructor -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("makes", "args"),
    [
        ((LSTM, nn.LSTM), (3, 4, 2, False, True, 0.5, True, 2, "cpu", torch.float64)),
        ((RNN, nn.RNN), (3, 4, 2, "relu", False, True, 0.5, True)),
        ((GRU, nn.GRU), (3, 4, 2, False, True, 0.5, True)),
    ],
    ids=["LSTM", "RNN", "GRU"],
)
def test_arguments_stand_in_torchs_order(makes, args):
    names = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size"]
    ours, theirs = (make(*args) for make in makes)
    for name in [*names, *(["nonlinearity"] if isinstance(ours, RNN) else [])]:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.weight_ih_l0.dtype == theirs.weight_ih_l0.dtype


def test_repr_says_what_is_not_the_default():
    assert repr(LSTM(3, 5)) == repr(nn.LSTM(3, 5))
    options = {"num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.5, "bidirectional": True}
    assert repr(GRU(3, 5, **options)) == repr(nn.GRU(3, 5, **options))
    assert repr(LSTM(3, 4, proj_size=2, num_heads=2)) == "LSTM(3, 4, proj_size=2, num_heads=2)"


# ---- shapes, as documented -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", ON_OFF)
@pytest.mark.parametrize("x", [(7, 2, 3), (1, 1, 3), (7, 3), (1, 3)])
@every_type
def test_documented_shapes_are_accepted_and_given_back(kind, x, batch_first):
    """(L, N, H_in), (N, L, H_in) or (L, H_in) in; (..., D * H_out) out, and (D * num_layers, [N,] H_out or H_cell)."""
    ours, theirs = both(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    batch = () if len(x) == 2 else (x[0 if batch_first else 1],)
    width = 2 if kind == "lstm-proj" else 4
    for state in (None, start(theirs, *batch)):
        y, last = ours(numbers(*x), state)
        assert y.shape == (*x[:-1], 2 * width)
        assert last.h.shape == (4, *batch, width)
        if kind.startswith("lstm"):
            assert last.c.shape == (4, *batch, 4)


REFUSED = {  # x, and the state's shape: h's (and c's)
    "1 axis": ((3,), None),
    "4 axes": ((2, 7, 2, 3), None),
    "features": ((7, 2, 4), None),
    "features, unbatched": ((7, 4), None),
    "state without batch": ((7, 2, 3), (4, 4)),
    "state with batch": ((7, 3), (4, 2, 4)),
    "layers of the state": ((7, 2, 3), (2, 2, 4)),
    "batch of the state": ((7, 2, 3), (4, 3, 4)),
    "width of the state": ((7, 2, 3), (4, 2, 5)),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn-tanh"])
def test_documented_shapes_are_the_only_ones(kind, what):
    x, state = REFUSED[what]
    x, h = numbers(*x), None if state is None else numbers(*state)
    ours, theirs = both(kind, num_layers=2, bidirectional=True)
    states = [h]
    if kind == "lstm" and state is not None:
        good = start(theirs, *x.shape[1:-1])
        states = [(h, h), (h, good.c), (good.h, h), (h,), h]
    for state in states:
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            theirs(x, state)
        with pytest.raises(ValueError):
            ours(x, state)
