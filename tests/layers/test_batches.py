"""Batches of sequences: cut anywhere, of any lengths, with resets, in any layout, each row is as if it had run alone.

Unless said, claims are about outputs, what the last state means, and every gradient (`everything`), in float64.
"""

import copy
import io
import pickle
from functools import partial
from itertools import pairwise

import pytest
import torch
from layers.kinds import (
    BOTH,
    DEEP,
    KINDS,
    ONE,
    build,
    by_hand,
    each,
    everything,
    fields,
    meaning,
    numbers,
    reached,
    reference,
    with_knobs,
)
from problems import TOLERANCE, assert_same
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_map

F64 = TOLERANCE[torch.float64]
every_kind = pytest.mark.parametrize("kind", KINDS)
one_or_both_ways = pytest.mark.parametrize("stack", [ONE, BOTH], ids=["one", "both ways"])
one_or_deep = pytest.mark.parametrize("stack", [ONE, DEEP], ids=["one", "deep"])

# ---- a layer is its cell ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["slstm", "slstm-exp", "mlstm", "mlstm-7b", "own", "own-start"])
def test_a_layer_computes_what_its_weights_and_its_cell_say(kind):
    layer = build(kind, num_heads=2)
    x, state = numbers(2, 5, 3), reached(layer, 2)
    by_its_cell = partial(reference, layer)
    assert_same(everything(layer, layer, x), everything(layer, by_its_cell, x), F64)
    assert_same(everything(layer, layer, x, state), everything(layer, by_its_cell, x, state), F64)


# ---- cut anywhere ----------------------------------------------------------------------------------------------------


def in_pieces(layer, cuts, x, state):
    outputs = []
    for begin, end in pairwise([0, *cuts, x.shape[1]]):
        y, state = layer(x[:, begin:end], state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


def in_steps(layer, x, state):
    outputs = []
    for frame in x.unbind(1):
        y, state = layer.step(frame, state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


@one_or_deep
@every_kind
def test_cut_anywhere_and_one_step_at_a_time_equal_the_whole(kind, stack):
    layer = build(kind, **stack)
    x, state = numbers(2, 6, 3), reached(layer, 2)
    for start in (None, state):
        whole = everything(layer, layer, x, start)
        assert_same(everything(layer, partial(in_pieces, layer, [1, 1, 4]), x, start), whole, F64)
        assert_same(everything(layer, partial(in_steps, layer), x, start), whole, F64)


@every_kind
def test_steps_reset_rows_as_the_whole_does(kind):
    layer = build(kind)
    x, reset = numbers(3, 5, 3), torch.rand(3, 5) < 0.4
    y, state = layer(x, reset=reset)
    at = None
    for t in range(5):
        y_t, at = layer.step(x[:, t], at, reset=reset[:, t])
        torch.testing.assert_close(y_t, y[:, t], rtol=0, atol=F64)
    assert_same(meaning(at), meaning(state), F64)
    y_0, _ = layer.step(x[0, 0], each(state, lambda field: field[:, 0]), reset=True)
    torch.testing.assert_close(y_0, layer(x[0, :1])[0][0], rtol=0, atol=F64)


def torch_nn(layer):
    """PyTorch's layer with the same weights, and no other."""
    theirs = layer.to_torch()
    return theirs, theirs.parameters()


def one_by_one(layer):
    """The reference by hand, on a copy of the weights."""
    copied = copy.deepcopy(layer)
    return partial(reference, copied), copied.parameters()


BY_HAND = {"rnn-tanh": torch_nn, "lstm": torch_nn, "gru": torch_nn}
BY_HAND |= dict.fromkeys(["slstm", "slstm-exp", "mlstm", "mlstm-7b", "own", "own-start"], one_by_one)


@pytest.mark.parametrize("kind", BY_HAND)
def test_a_hundred_segments_of_truncated_back_propagation_equal_those_by_hand(kind):
    """Trained from segment to segment, the state handed over detached: every loss and the weights at the end."""
    layer = build(kind)
    x, target = numbers(2, 300, 3), numbers(2, 300, 6, seed=1).tanh()
    results = []
    for call, weights in (BY_HAND[kind](layer), (layer, layer.parameters())):
        weights, losses, state = list(weights), [], None
        for piece, want in zip(x.split(3, 1), target.split(3, 1), strict=True):
            y, state = call(piece, state)
            loss = (y - want).square().mean()
            slopes = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            with torch.no_grad():
                for weight, slope in zip(weights, slopes, strict=True):
                    weight.sub_(0.01 * slope)
            losses.append(loss.detach())
            state = state.detach() if call is layer else tree_map(Tensor.detach, state)
        results.append({"losses": torch.stack(losses), **{str(n): w.detach() for n, w in enumerate(weights)}})
    assert results[0]["losses"].diff().abs().min() > 0
    assert_same(results[1], results[0], 1e-10)  # a hundred updates, each of which carries rounding on


# ---- lengths, resets, batch mates ------------------------------------------------------------------------------------

LENGTHS = [6, 3, 1, 0]


def cuts_of(B: int, T: int) -> Tensor:
    """Resets at random, before the first step of row 0, in the middle of it, and past the end of row 1."""
    reset = torch.rand(B, T, generator=torch.Generator().manual_seed(3)) < 0.3
    reset[0, [0, 3]] = reset[1, 4] = True
    return reset


@pytest.mark.parametrize("cuts", ["", "lengths", "reset", "lengths reset"])
@one_or_both_ways
@every_kind
def test_every_row_and_every_piece_is_as_if_it_had_run_alone(kind, stack, cuts):
    layer = build(kind, **stack)
    x, state = numbers(4, 6, 3), reached(layer, 4)
    more = {"lengths": LENGTHS} if "lengths" in cuts else {}
    more |= {"reset": cuts_of(4, 6)} if "reset" in cuts else {}
    for start in (None, state):
        got = everything(layer, partial(layer, **more), x, start)
        assert_same(got, everything(layer, partial(by_hand, kind, layer, **more), x, start), F64)


@one_or_both_ways
@every_kind
def test_what_stands_in_the_padding_changes_no_bit(kind, stack):
    layer = build(kind, **stack)
    padding = torch.arange(6) >= torch.tensor(LENGTHS)[:, None]
    x, state = numbers(4, 6, 3), reached(layer, 4)
    call = partial(layer, lengths=LENGTHS, reset=cuts_of(4, 6))
    want = everything(layer, call, x.masked_fill(padding[..., None], 0), state)
    assert (want["y"][padding] == 0).all()
    assert (want["d x"][padding] == 0).all()
    for junk in (torch.nan, torch.inf, -torch.inf):
        assert_same(everything(layer, call, x.masked_fill(padding[..., None], junk), state), want, 0)


@pytest.mark.parametrize("stack", [DEEP, BOTH], ids=["deep", "both ways"])
@every_kind
def test_no_gradient_crosses_a_reset(kind, stack):
    """Exactly 0 in both directions, and inside a chunk of the mLSTM too (kind mlstm has chunks of 64)."""
    layer = build(kind, **stack)
    x, state = numbers(1, 5, 3), reached(layer, 1)
    reset = torch.tensor([[False, False, True, False, False]])
    slopes = torch.autograd.functional.jacobian(lambda x: layer(x, state, reset=reset)[0], x)[0, :, :, 0]
    early, late = slice(0, 2), slice(2, 5)
    assert (slopes[late, :, early] == 0).all()
    assert (slopes[early, :, late] == 0).all()
    assert (slopes[late, :, late] != 0).any()
    assert (slopes[early, :, early] != 0).any()


@every_kind
def test_no_gradient_reaches_a_state_that_is_emptied(kind):
    layer = build(kind)
    got = everything(layer, partial(layer, reset=torch.eye(1, 4).bool()), numbers(1, 4, 3), reached(layer, 1))
    assert all((slope == 0).all() for name, slope in got.items() if name.startswith("d state."))


@every_kind
def test_a_row_never_depends_on_its_batch_mates(kind):  # D17
    """Fresh rows beside carried ones, with gates as they come, at -110 and at -inf."""
    layer = with_knobs(kind, 1e200)
    x, state = numbers(6, 4, 5), reached(build(kind), 6)
    x[..., -2:] = torch.tensor([0, 0, -1.1e-198, -1.1e-198, -1e200, -1e200], dtype=torch.float64)[:, None, None]
    assert (x @ layer.weight_ih_l0.T)[4:].isneginf().any()
    with torch.no_grad():
        state = tree_map(every_other, layer(x[:, :0])[1], state)
    got, slopes = answers_and_slopes(layer, x, state)
    for b in range(6):
        want, slope = answers_and_slopes(layer, x[[b]], each(state, lambda field, b=b: field[:, [b]]))
        here = {name: out[[b]] if name == "y" else out[:, [b]] for name, out in got.items()}
        assert_same(here, want, F64)
        torch.testing.assert_close(slopes[[b], :, :3], slope[..., :3], rtol=0, atol=F64)
        assert here["y"].isfinite().all()


def every_other(fresh: Tensor, carried: Tensor) -> Tensor:
    mixed = carried.clone()
    mixed[:, ::2] = fresh[:, ::2]
    return mixed


def answers_and_slopes(layer, x, state):
    """Outputs and the last state, and x's gradient."""
    x = x.clone().requires_grad_()
    y, last = layer(x, state)
    y.square().sum().backward()
    return {"y": y.detach(), **{name: field.detach() for name, field in meaning(last).items()}}, x.grad


# ---- empty axes ------------------------------------------------------------------------------------------------------


@one_or_both_ways
@every_kind
def test_no_time_hands_the_state_on(kind, stack):
    layer = build(kind, **stack)
    x, state = numbers(3, 4, 3), reached(layer, 3)
    call = partial(layer, lengths=[0, 0, 0], reset=torch.zeros(3, 0).bool())
    got = everything(layer, lambda x, state: call(x[:, :0], state), x, state)
    assert got["y"].shape == (3, 0, layer.output_size * layer.directions)
    assert_same({name: got[f"last {name}"] for name in meaning(state)}, meaning(state), 0)
    assert (got["d state.h"] != 0).all()  # what comes back for the last state arrives at the first
    got, want = everything(layer, layer, x, call(x[:, :0])[1]), everything(layer, layer, x)
    assert all(torch.equal(got[name], want[name]) for name in ("y", "d x", "d weight_ih_l0"))


@pytest.mark.parametrize(("B", "T"), [(0, 4), (3, 0), (0, 0)])
@one_or_both_ways
@every_kind
def test_empty_axes_work_and_give_gradients_of_0(kind, stack, B, T):
    layer = build(kind, **stack)
    call = partial(layer, lengths=[0] * B, reset=torch.zeros(B, T).bool())
    for start in (None, each(reached(layer, 3), lambda field: field[:, :B])):
        got = everything(layer, call, numbers(B, T, 3), start)
        assert got["y"].shape == (B, T, layer.output_size * layer.directions)
        assert got["last h"].shape == (len(layer.parts), B, layer.output_size)
        assert all((slope == 0).all() for name, slope in got.items() if name.startswith("d weight"))


# ---- states ----------------------------------------------------------------------------------------------------------

H2 = (4, 2, 6)  # both ways in two layers, 2 rows, hidden_size 6
SHAPES = {
    "lstm": {"h": H2, "c": H2},
    "lstm-1997": {"h": H2, "c": H2},
    "lstm-proj": {"h": (4, 2, 2), "c": H2},
    "slstm": {"h": H2, "c": H2, "n": H2, "m": H2},
    "slstm-exp": {"h": H2, "c": H2, "n": H2, "m": H2},
    "mlstm": {"h": H2, "C": (4, 2, 2, 3, 3), "n": (4, 2, 2, 3), "m": (4, 2, 2)},
    "mlstm-7b": {"h": H2, "C": (4, 2, 2, 2, 3), "n": (4, 2, 2, 2), "m": (4, 2, 2)},
    "own": {"h": H2, "c": H2},
    "own-start": {"h": H2},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_state_is_a_named_tuple(kind):
    state = build(kind, **BOTH)(numbers(2, 5, 3))[1]
    assert isinstance(state, tuple)
    assert {name: tuple(field.shape) for name, field in state._asdict().items()} == SHAPES[kind]
    assert type(tree_map(torch.clone, state)) is type(state)


@every_kind
def test_every_state_has_h_the_last_output_of_every_direction(kind):
    layer = build(kind, **BOTH)
    P = layer.output_size
    y, state = layer(numbers(3, 5, 3), lengths=[5, 2, 1])
    assert state.h.shape == (4, 3, P)
    assert torch.equal(state.h[-2], y[[0, 1, 2], [4, 1, 0], :P])
    assert torch.equal(state.h[-1], y[:, 0, P:])


@every_kind
def test_a_state_detaches_in_one_call(kind):
    layer = build(kind)
    x = numbers(2, 3, 3)
    state = layer(x)[1]
    free = state.detach()
    assert state.h.requires_grad
    assert not free.h.requires_grad
    assert not any(field.requires_grad for field in fields(free))
    assert type(free) is type(state)
    assert torch.equal(layer(x, free)[0], layer(x, state)[0])


def saved(state, **how):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, **how)


TRAVELS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "save": partial(saved, weights_only=False),
    "save, weights only": partial(saved, weights_only=True),
}


@pytest.mark.parametrize("how", TRAVELS)
@every_kind
def test_a_state_travels(kind, how):
    layer, x = build(kind), numbers(2, 3, 3)
    state = reached(layer, 2)
    safe = [type(state)] if kind.startswith("own") else []  # the user's own class; ours are known
    with torch.serialization.safe_globals(safe):
        arrived = TRAVELS[how](state)
    assert type(arrived) is type(state)
    assert_same(meaning(arrived), meaning(state), 0)
    assert torch.equal(layer(x, arrived)[0], layer(x, state)[0])


# ---- layouts ---------------------------------------------------------------------------------------------------------


def time_first(layer):
    """The same layer, for (T, B, input)."""
    other = copy.deepcopy(layer)
    other.batch_first = False
    return other


def unbatched(layer, x, state, lengths, reset):
    """Each row without a batch axis, and the answers put together."""
    rows = [
        layer(x[b], each(state, lambda field, b=b: field[:, b]), lengths=lengths[b], reset=reset[b])
        for b in range(x.shape[0])
    ]
    outputs, lasts = zip(*rows, strict=True)
    return torch.stack(outputs), tree_map(lambda *fields: torch.stack(fields, 1), *lasts)


def packed(layer, x, state, lengths, reset):
    """The same through a PackedSequence, its rows in the order given."""
    pack = partial(pack_padded_sequence, lengths=lengths, batch_first=True, enforce_sorted=False)
    y, last = layer(pack(x), state, reset=pack(reset))
    return pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0], last


@one_or_both_ways
@every_kind
def test_every_layout_gives_the_same(kind, stack):
    layer = build(kind, **stack)
    x, state, lengths, reset = numbers(3, 6, 3), reached(layer, 3), [2, 6, 1], cuts_of(3, 6)
    want = everything(layer, partial(layer, lengths=lengths, reset=reset), x, state)
    other = time_first(layer)

    def turned(x, state):
        y, last = other(x.transpose(0, 1), state, lengths=lengths, reset=reset.T)
        return y.transpose(0, 1), last

    assert_same(everything(other, turned, x, state), want, F64)
    for each_layer in (layer, other):
        got = everything(each_layer, partial(unbatched, each_layer, lengths=lengths, reset=reset), x, state)
        assert_same(got, want, F64)
    assert_same(everything(layer, partial(packed, layer, lengths=lengths, reset=reset), x, state), want, F64)


@one_or_both_ways
@every_kind
def test_lengths_are_whole_numbers_of_any_kind(kind, stack):
    layer, x = build(kind, **stack), numbers(3, 4, 3)
    want, last = layer(x, lengths=[4, 0, 2])
    dtypes = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
    for lengths in [(4, 0, 2), *(torch.tensor([4, 0, 2], dtype=dtype) for dtype in dtypes)]:
        y, state = layer(x, lengths=lengths)
        assert_same({"y": y, **meaning(state)}, {"y": want, **meaning(last)}, 0)


@one_or_both_ways
@every_kind
def test_strided_input_gives_the_same_and_nobodys_tensor_is_written_to(kind, stack):  # D12, D16
    layer = build(kind, **stack)
    x, state = numbers(3, 4, 3), reached(layer, 3)
    wide = torch.stack([x, x], -1).transpose(0, 2)[..., 0].transpose(0, 2)
    strided = each(state, lambda field: torch.stack([field, field], -1)[..., 0])
    assert not wide.is_contiguous()
    before = [wide.clone(), *(field.clone() for field in fields(strided))]
    assert_same(everything(layer, layer, wide, strided), everything(layer, layer, x, state), F64)
    for steps in (0, 1, 4):
        with torch.no_grad():
            y, last = layer(wide[:, :steps], strided)
        for tensor in (y, *fields(last)):
            tensor.zero_()
        assert all(map(torch.equal, [wide, *fields(strided)], before))


# ---- dtypes, dropout -------------------------------------------------------------------------------------------------

ROUGH = {torch.float32: 2e-5, torch.bfloat16: 5e-2, torch.float16: 6e-3}  # pre-activations are in the input's dtype


@pytest.mark.parametrize("dtype", ROUGH)
@one_or_both_ways
@every_kind
def test_outputs_have_the_inputs_dtype_and_states_are_float32_or_wider(kind, stack, dtype):
    narrow = build(kind, **stack).to(dtype)
    wide = copy.deepcopy(narrow).double()
    x = numbers(2, 6, 3, dtype=dtype)
    y, state = narrow(x)
    want, _ = wide(x.double())
    assert y.dtype == dtype
    if not kind.startswith("own"):  # a cell of one's own decides
        assert {field.dtype for field in fields(state)} == {torch.float32}
    torch.testing.assert_close(y.double(), want, rtol=0, atol=ROUGH[dtype])
    if not kind.startswith("own"):
        _, state = narrow(x, each(state, Tensor.double))
        assert {field.dtype for field in fields(state)} == {torch.float64}


@every_kind
def test_dropout_acts_between_layers_in_training_alone(kind):
    layer, x = build(kind, num_layers=2, dropout=1.0), numbers(2, 4, 3)
    without = build(kind, num_layers=2)
    without.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x)[0], without(x)[0])
    second = build(kind, layer.output_size)
    weights = {name: layer.get_parameter(name.replace("_l0", "_l1")) for name, _ in second.named_parameters()}
    second.load_state_dict(weights)
    nothing = torch.zeros(2, 4, layer.output_size, dtype=torch.float64)
    assert torch.equal(layer.train()(x)[0], second(nothing)[0])
