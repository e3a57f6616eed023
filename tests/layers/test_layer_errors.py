"""Whatever is wrong with an argument or a call: a ValueError that says what, what came, and what is allowed."""

import pytest
import torch
from layers.kinds import BUILT_IN, Peephole
from torch.nn.utils.rnn import pack_padded_sequence

from longshort import LSTM, RNN, Recurrent, mLSTM, sLSTM

every_kind = pytest.mark.parametrize("kind", [*BUILT_IN, "own"])


def make(kind: str, *sizes, **options):
    sizes = sizes or (3, 4)
    return BUILT_IN[kind](*sizes, **options) if kind in BUILT_IN else Recurrent(Peephole, *sizes, **options)


def assert_refused(call, *said: str) -> None:
    """`call` raises a ValueError that says all of this."""
    with pytest.raises(ValueError) as error:
        call()
    for words in said:
        assert words in str(error.value), f"{words!r} is not in: {error.value}"


# ---- the constructor -------------------------------------------------------------------------------------------------

ARGUMENTS = [  # name, value, and what is allowed
    ("num_layers", 0, "at least 1"),
    ("num_layers", -1, "at least 1"),
    ("num_layers", 1.0, "at least 1"),
    ("num_layers", True, "at least 1"),
    ("num_layers", "2", "at least 1"),
    ("num_layers", None, "at least 1"),
    ("bias", 1, "True or False"),
    ("bias", None, "True or False"),
    ("batch_first", "yes", "True or False"),
    ("bidirectional", 2, "True or False"),
    ("dropout", -0.1, "between 0 and 1"),
    ("dropout", 1.5, "between 0 and 1"),
    ("dropout", float("nan"), "between 0 and 1"),
    ("dropout", "half", "between 0 and 1"),
    ("dropout", True, "between 0 and 1"),
    ("dropout", None, "between 0 and 1"),
    ("dtype", torch.int64, "floating"),
    ("dtype", torch.bool, "floating"),
    ("dtype", torch.complex64, "floating"),
    ("dtype", "float64", "floating"),
]
BUILT_IN_ARGUMENTS = [
    ("num_heads", 0, "at least 1"),
    ("num_heads", 2.0, "at least 1"),
    ("num_heads", None, "at least 1"),
    ("kernel", "fast", "auto"),
    ("kernel", None, "auto"),
    ("kernel", ["reference"], "auto"),
    ("proj_size", -1, "at least 0"),
    ("proj_size", 1.5, "at least 0"),
]
OWN_ARGUMENTS = [
    (RNN, "nonlinearity", "sigmoid", "'tanh', 'relu'"),
    (RNN, "nonlinearity", None, "'tanh', 'relu'"),
    (LSTM, "forget", "exp", "'learned', 'one'"),
    (LSTM, "forget", ["one"], "'learned', 'one'"),
    (sLSTM, "forget", "learned", "'sigmoid', 'exp'"),
    (mLSTM, "norm", "layer", "None, 'head'"),
    (mLSTM, "norm", True, "None, 'head'"),
    (mLSTM, "chunk_size", 0, "at least 1"),
    (mLSTM, "chunk_size", 2.5, "at least 1"),
    (mLSTM, "qk_dim", 0, "at least 1"),
    (mLSTM, "qk_dim", "4", "at least 1"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), ARGUMENTS)
@every_kind
def test_an_argument_that_no_layer_takes(kind, name, value, allowed):
    assert_refused(lambda: make(kind, **{name: value}), name, repr(value).strip("'"), allowed)


@pytest.mark.parametrize(("name", "value", "allowed"), BUILT_IN_ARGUMENTS)
@pytest.mark.parametrize("kind", BUILT_IN)
def test_an_argument_that_no_built_in_layer_takes(kind, name, value, allowed):
    assert_refused(lambda: make(kind, **{name: value}), name, repr(value), allowed)


@pytest.mark.parametrize(("layer", "name", "value", "allowed"), OWN_ARGUMENTS)
def test_an_argument_of_ones_own(layer, name, value, allowed):
    assert_refused(lambda: layer(3, 4, **{name: value}), name, repr(value), allowed)


@pytest.mark.parametrize("value", [0, -2, 3.0, "3", None, True])
@every_kind
def test_sizes_are_whole_numbers(kind, value):
    assert_refused(lambda: make(kind, value, 4), "input_size", repr(value), "at least 1")
    assert_refused(lambda: make(kind, 3, value), "hidden_size", repr(value), "at least 1")


@pytest.mark.parametrize("kind", BUILT_IN)
def test_heads_split_every_width(kind):
    assert_refused(lambda: make(kind, 3, 4, num_heads=3), "hidden_size=4", "num_heads=3")


def test_heads_split_the_projection_and_the_keys_too():
    assert_refused(lambda: LSTM(3, 8, proj_size=3, num_heads=2), "proj_size=3", "num_heads=2")
    assert_refused(lambda: mLSTM(3, 4, qk_dim=3, num_heads=2), "qk_dim=3", "num_heads=2")


@pytest.mark.parametrize("kind", ["rnn", "gru", "slstm", "mlstm"])
def test_only_an_lstm_projects(kind):
    assert_refused(lambda: make(kind, proj_size=2), "proj_size=2", "only LSTM", "0")


@pytest.mark.parametrize("proj_size", [4, 5])
def test_a_projection_is_smaller_than_what_it_projects(proj_size):
    assert_refused(lambda: LSTM(3, 4, proj_size=proj_size), f"proj_size={proj_size}", "smaller than", "hidden_size=4")


@every_kind
def test_dropout_with_nothing_to_act_between_warns_at_the_callers_line(kind):
    with pytest.warns(UserWarning, match=r"dropout=0.5 .*num_layers=1") as warned:
        make(kind, dropout=0.5)
    assert [each.filename for each in warned] == [__file__]


class Half(Peephole):
    gates = 0.5


CELLS = {  # and see test_recurrent.py
    "made already": (Peephole(4), ["Peephole", "class"]),
    "no callable": (3, ["cell", "3"]),
    "half a gate": (Half, ["Half.gates", "0.5", "at least 1"]),
}


@pytest.mark.parametrize("what", CELLS)
def test_a_cell_that_is_none(what):
    cell, said = CELLS[what]
    assert_refused(lambda: Recurrent(cell, 3, 4), *said)


class Bare(Peephole):
    def step(self, x_pre, state):
        return super().step(x_pre, state)[0]


class Untyped(Peephole):
    def step(self, x_pre, state):
        h, state = super().step(x_pre, state)
        return h, tuple(state)


class Short(Peephole):
    def step(self, x_pre, state):
        h, state = super().step(x_pre, state)
        return h, state._replace(c=state.c[:, :1])


STEPS = {
    Bare: ["Bare.step", "Tensor", "(h, "],
    Untyped: ["Untyped.step", "tuple", "State"],
    Short: ["Short.step", "c", "(3, 1)", "(3, 4)"],
}


@pytest.mark.parametrize("cell", STEPS)
def test_a_step_that_answers_something_else(cell):
    assert_refused(lambda: Recurrent(cell, 3, 4)(torch.zeros(5, 3, 3)), *STEPS[cell])


# ---- a call ----------------------------------------------------------------------------------------------------------

X = torch.zeros(5, 2, 3)
INPUTS = {
    "no tensor": ([[[0.0] * 3]], ["list", "tensor"]),
    "None": (None, ["NoneType", "tensor"]),
    "1 axis": (torch.zeros(3), ["(3,)", "(T, B, input_size)", "(T, input_size)"]),
    "4 axes": (torch.zeros(1, 5, 2, 3), ["(1, 5, 2, 3)", "(T, B, input_size)", "(T, input_size)"]),
    "features": (torch.zeros(5, 2, 4), ["4", "input_size", "3"]),
    "features, unbatched": (torch.zeros(5, 4), ["4", "input_size", "3"]),
    "whole numbers": (X.long(), ["torch.int64", "floating point"]),
    "bool": (X.bool(), ["torch.bool", "floating point"]),
    "complex": (X.cfloat(), ["torch.complex64", "floating point"]),
    "wider": (X.double(), ["torch.float64", "torch.float32"]),
    "narrower": (X.half(), ["torch.float16", "torch.float32"]),
    "packed features": (pack_padded_sequence(torch.zeros(5, 2, 4), [5, 2]), ["4", "input_size", "3"]),
    "packed whole numbers": (pack_padded_sequence(X.long(), [5, 2]), ["torch.int64", "floating point"]),
    "packed without features": (pack_padded_sequence(torch.zeros(3, 2), [3, 2]), ["input_size", "(5,)"]),
}


@pytest.mark.parametrize("what", INPUTS)
@every_kind
def test_an_input_that_does_not_fit(kind, what):
    x, said = INPUTS[what]
    assert_refused(lambda: make(kind)(x), *said)


@every_kind
def test_the_layout_in_the_message_is_the_layers(kind):
    assert_refused(lambda: make(kind, batch_first=True)(torch.zeros(3)), "(B, T, input_size)")


LENGTHS = {
    "negative": ([-1, 2], ["-1", "0 and T=5"]),
    "too long": ([6, 2], ["6", "0 and T=5"]),
    "too few": ([5], ["(1,)", "2 whole numbers"]),
    "too many": ([5, 2, 1], ["(3,)", "2 whole numbers"]),
    "one number": (5, ["()", "2 whole numbers"]),
    "two axes": ([[5], [2]], ["(2, 1)", "2 whole numbers"]),
    "ragged": ([[5], [2, 1]], ["2 whole numbers"]),
    "floats": ([5.0, 2.0], ["torch.float32", "2 whole numbers"]),
    "bools": ([True, False], ["torch.bool", "2 whole numbers"]),
    "complex": ([5j, 2], ["torch.complex64", "2 whole numbers"]),
    "None": ([5, None], ["None", "2 whole numbers"]),
    "words": (["5", "2"], ["'5'", "2 whole numbers"]),
    "a dict": ({}, ["dict", "2 whole numbers"]),
}


@pytest.mark.parametrize("what", LENGTHS)
@every_kind
def test_lengths_that_do_not_fit(kind, what):
    lengths, said = LENGTHS[what]
    assert_refused(lambda: make(kind)(X, lengths=lengths), "lengths", *said)
    if isinstance(lengths, list) and what not in ("None", "words", "ragged"):
        assert_refused(lambda: make(kind)(X, lengths=torch.tensor(lengths)), "lengths", *said)


RESETS = {
    "a list": ([[False] * 2] * 5, ["list", "(5, 2)"]),
    "floats": (torch.zeros(5, 2), ["torch.float32", "bool"]),
    "whole numbers": (torch.zeros(5, 2).long(), ["torch.int64", "bool"]),
    "the other layout": (torch.zeros(2, 5).bool(), ["(2, 5)", "(5, 2)"]),
    "with features": (torch.zeros(5, 2, 3).bool(), ["(5, 2, 3)", "(5, 2)"]),
    "one a step": (torch.zeros(5).bool(), ["(5,)", "(5, 2)"]),
    "packed": (pack_padded_sequence(torch.zeros(5, 2).bool(), [5, 2]), ["PackedSequence", "(5, 2)"]),
}


@pytest.mark.parametrize("what", RESETS)
@every_kind
def test_resets_that_do_not_fit(kind, what):
    reset, said = RESETS[what]
    assert_refused(lambda: make(kind)(X, reset=reset), "reset", *said)


PACKED = {
    "lengths": ({"lengths": [5, 2]}, ["lengths", "PackedSequence"]),
    "a tensor": ({"reset": torch.zeros(5, 2).bool()}, ["reset", "PackedSequence"]),
    "other lengths": ({"reset": pack_padded_sequence(torch.zeros(5, 2).bool(), [5, 3])}, ["reset", "lengths"]),
    "floats": ({"reset": pack_padded_sequence(torch.zeros(5, 2), [5, 2])}, ["reset", "torch.float32", "bool"]),
    "another order": (
        {"reset": pack_padded_sequence(torch.zeros(5, 2).bool(), [2, 5], enforce_sorted=False)},
        ["reset", "order"],
    ),
}


@pytest.mark.parametrize("what", PACKED)
@every_kind
def test_what_does_not_go_with_a_packed_sequence(kind, what):
    more, said = PACKED[what]
    assert_refused(lambda: make(kind)(pack_padded_sequence(X, [5, 2]), **more), *said)


# ---- states ----------------------------------------------------------------------------------------------------------

FIELDS = {"lstm": "(h, c)", "slstm": "(h, c, n, m)", "mlstm": "(h, C, n, m)", "own": "(h, c)"}


@every_kind
def test_a_state_of_another_kind(kind):
    layer = make(kind)
    want = FIELDS.get(kind, "tensor h")
    h = torch.zeros(1, 2, 4)
    wrong = {"dict": {"h": h}, "tuple of 5": (h,) * 5, "tuple of 0": (), "str": "zeros"}
    if kind in FIELDS:
        wrong["Tensor"] = h
    for got, state in wrong.items():
        assert_refused(lambda state=state: layer(X, state), "state", want, got)
    fields = [h] * (want.count(",") + 1)
    assert_refused(lambda: layer(X, (None, *fields[1:])), "state", want)


@every_kind
def test_a_state_of_another_shape(kind):
    """Every field, with every axis one too long; for another batch; of the other layout of batches."""
    layer = make(kind)
    good = layer(X)[1]
    good = (good,) if isinstance(good, torch.Tensor) else good
    for n, field in enumerate(good):
        for axis in range(field.dim()):
            shape = list(field.shape)
            shape[axis] += 1
            state = [*good[:n], field.new_zeros(shape), *good[n + 1 :]]
            assert_refused(lambda state=state: layer(X, tuple(state)), str(tuple(shape)), str(tuple(field.shape)))
    unbatched = tuple(field[:, 0] for field in good)
    assert_refused(lambda: layer(X, unbatched), str(tuple(good[0][:, 0].shape)), "B")
    assert_refused(lambda: layer(X[:, 0], tuple(good)), str(tuple(good[0].shape)))


@every_kind
def test_a_state_of_whole_numbers(kind):
    layer = make(kind)
    state = layer(X)[1]
    state = (state,) if isinstance(state, torch.Tensor) else state
    for n, name in enumerate(FIELDS.get(kind, "h").strip("()").split(", ")):
        wrong = tuple(field.long() if at == n else field for at, field in enumerate(state))
        assert_refused(lambda wrong=wrong: layer(X, wrong), f"state.{name}", "torch.int64", "floating point")


# ---- steps -----------------------------------------------------------------------------------------------------------


@every_kind
def test_a_bidirectional_layer_says_why_it_has_no_step(kind):
    assert_refused(lambda: make(kind, bidirectional=True).step(X[0]), "bidirectional", "end")


FRAMES = {
    "None": (None, ["NoneType", "(B, 3)", "(3,)"]),
    "a sequence": (X, ["(5, 2, 3)", "(B, 3)", "(3,)"]),
    "a number": (torch.tensor(1.0), ["()", "(B, 3)", "(3,)"]),
    "features": (torch.zeros(2, 4), ["4", "3"]),
    "features, unbatched": (torch.zeros(4), ["4", "3"]),
    "whole numbers": (X[0].long(), ["torch.int64", "floating point"]),
    "wider": (X[0].double(), ["torch.float64", "torch.float32"]),
    "packed": (pack_padded_sequence(X, [5, 2]), ["PackedSequence", "(B, 3)", "(3,)"]),
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("what", FRAMES)
@every_kind
def test_a_frame_that_does_not_fit(kind, what, batch_first):
    x, said = FRAMES[what]
    assert_refused(lambda: make(kind, batch_first=batch_first).step(x), *said)


STEP_RESETS = {
    "a word": ("yes", ["reset", "bool"]),
    "one for two": (True, ["reset", "(2,)"]),
    "three for two": (torch.zeros(3).bool(), ["reset", "(3,)", "(2,)"]),
    "two axes": (torch.zeros(2, 1).bool(), ["reset", "(2, 1)", "(2,)"]),
    "whole numbers": (torch.zeros(2).long(), ["reset", "torch.int64", "bool"]),
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("what", STEP_RESETS)
@every_kind
def test_a_steps_reset_that_does_not_fit(kind, what, batch_first):
    reset, said = STEP_RESETS[what]
    assert_refused(lambda: make(kind, batch_first=batch_first).step(X[0], reset=reset), *said)
