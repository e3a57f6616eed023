"""An exercise from a layer has the layer's own numbers: whole or in part, of every kind, direction, head and option."""

import json
import math
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import longshort
from longshort.byhand import Exercise, exact
from longshort.byhand.from_layer import exercise_from, exercise_from_checkpoint
from longshort.checkpoints import save
from longshort.config import xLSTMConfig
from longshort.data import ByteTokenizer, save_tokenizer
from longshort.model import xLSTMLM

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
FIRST: dict[str, Any] = {"batch_first": True, **DOUBLE}
T = 5


def sequence(layer, T: int = T) -> torch.Tensor:
    return torch.randn(T, layer.input_size, dtype=next(layer.parameters()).dtype)


def assert_traced(exercise: Exercise, part, units: list[int], *, outputs=None, head=None, keys=None, reverse=False,
                  atol: float = 1e-12) -> None:  # fmt: skip
    """Every quantity with a counterpart in a trace equals it at every step; and there are such quantities."""
    numbers, compared = exercise.work(exact), 0
    for quantity in exercise.quantities:
        if not quantity.traced:
            continue
        value = part[quantity.traced][0].detach().double()
        value = value.flip(0) if reverse else value
        for t in range(1, exercise.sizes["T"] + 1):
            want = value[t - 1] if head is None else value[t - 1, head]
            if head is None:
                want = want.flatten()[outputs if quantity.name == "h" and outputs else units]
            elif quantity.traced == "C":
                want = want[keys][:, units].T
            elif quantity.traced in ("q", "k", "n"):
                want = want[keys]
            elif want.dim():
                want = want[units]
            got = torch.tensor(numbers.value(quantity.name, t), dtype=torch.float64)
            torch.testing.assert_close(
                got, want, rtol=0, atol=atol, msg=lambda m, q=quantity, t=t: f"{q.name} {t}: {m}"
            )
            compared += 1
    assert compared >= 2 * exercise.sizes["T"]
    assert all(math.isfinite(number) or number == -math.inf for number in numbers.found.values())
    assert Exercise.from_dict(json.loads(exercise.to_json())).work(exact).found == numbers.found


SMALL = {
    "rnn": lambda: longshort.RNN(4, 3, **FIRST),
    "rnn relu": lambda: longshort.RNN(4, 3, nonlinearity="relu", **FIRST),
    "rnn heads": lambda: longshort.RNN(4, 2, num_heads=2, bias=False, **FIRST),
    "lstm": lambda: longshort.LSTM(4, 3, **FIRST),
    "lstm no bias": lambda: longshort.LSTM(4, 3, bias=False, **FIRST),
    "lstm carousel": lambda: longshort.LSTM(4, 3, forget="one", **FIRST),
    "lstm projected": lambda: longshort.LSTM(4, 3, proj_size=2, **FIRST),
    "slstm": lambda: longshort.sLSTM(4, 2, num_heads=2, **FIRST),
    "slstm exp": lambda: longshort.sLSTM(4, 3, forget="exp", bias=False, **FIRST),
    "time first": lambda: longshort.sLSTM(4, 3, **DOUBLE),
}
LARGE = {
    "rnn": lambda: longshort.RNN(9, 8, num_heads=2, **FIRST),
    "rnn relu": lambda: longshort.RNN(9, 8, nonlinearity="relu", **FIRST),
    "lstm": lambda: longshort.LSTM(9, 8, **FIRST),
    "lstm heads": lambda: longshort.LSTM(9, 8, num_heads=2, **FIRST),
    "lstm carousel": lambda: longshort.LSTM(9, 8, forget="one", **FIRST),
    "slstm": lambda: longshort.sLSTM(9, 8, num_heads=2, **FIRST),
    "slstm exp": lambda: longshort.sLSTM(9, 8, num_heads=2, forget="exp", bias=False, **FIRST),
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_small_layer_is_shown_whole_with_its_weights(kind):
    layer = SMALL[kind]()
    x = sequence(layer)
    exercise = exercise_from(layer, x)
    assert exercise.sizes["D"] == 4 and not any(given.role == "rest" for given in exercise.givens)
    width = layer.hidden_size
    assert_traced(exercise, longshort.trace(layer, x)["l0"], list(range(width)), outputs=list(range(layer.output_size)))


@pytest.mark.parametrize("units", [[0, 1], [2, 5], [7, 0, 4]])
@pytest.mark.parametrize("kind", LARGE)
def test_units_of_a_large_layer_keep_its_numbers(kind, units):
    layer = LARGE[kind]()
    x = sequence(layer)
    exercise = exercise_from(layer, x, units=units, steps=T)
    assert exercise.sizes["H"] == len(units) and "D" not in exercise.sizes and exercise.sizes["T"] == T
    assert_traced(exercise, longshort.trace(layer, x)["l0"], units)


def test_all_units_of_a_layer_with_many_inputs_are_folded():
    layer = longshort.LSTM(20, 3, **FIRST)
    x = sequence(layer)
    exercise = exercise_from(layer, x)
    assert "a_f" in exercise.values and "x" not in exercise.values
    assert_traced(exercise, longshort.trace(layer, x)["l0"], [0, 1, 2])


def test_chosen_units_of_few_inputs_may_be_all_in_any_order():
    layer = longshort.sLSTM(2, 4, num_heads=2, **FIRST)
    x = sequence(layer)
    exercise = exercise_from(layer, x, units=[2, 0, 3, 1])
    assert "W_i" in exercise.values
    assert_traced(exercise, longshort.trace(layer, x)["l0"], [2, 0, 3, 1])


def test_units_are_counted_within_a_head_that_is_named():
    layer = longshort.sLSTM(9, 8, num_heads=2, **FIRST)
    x = sequence(layer)
    assert_traced(exercise_from(layer, x, head=1, units=[0, 3]), longshort.trace(layer, x)["l0"], [4, 7])
    assert_traced(exercise_from(layer, x, head=1), longshort.trace(layer, x)["l0"], [4, 5])


def test_a_large_projection_is_shown_in_part():
    layer = longshort.LSTM(9, 8, proj_size=4, **FIRST)
    x = sequence(layer)
    exercise = exercise_from(layer, x, units=[1, 6])
    assert exercise.sizes == {"H": 2, "P": 2, "T": 3}
    assert_traced(exercise, longshort.trace(layer, x)["l0"], [1, 6], outputs=[0, 1])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("part", ["l0", "l0_reverse", "l1", "l1_reverse"])
@pytest.mark.parametrize("hidden", [2, 6])
def test_every_layer_and_direction_can_be_chosen(part, hidden, batch_first):
    layer = nn.LSTM(3, hidden, 2, bidirectional=True, batch_first=batch_first, **DOUBLE)
    x = sequence(layer)[None] if batch_first else sequence(layer)[:, None]
    exercise = exercise_from(layer, x, part=part)
    assert ("x" in exercise.values) == (hidden == 2)  # two of 2 units, or four inputs; but of six units no input
    seen = longshort.trace(longshort.LSTM.from_torch(layer), x)[part]
    assert_traced(exercise, seen, [0, 1], reverse=part.endswith("reverse"))
    at = ["l0", "l0_reverse", "l1", "l1_reverse"].index(part)
    assert exercise_from(layer, x, part=at).values == exercise.values


@pytest.mark.parametrize("make", [lambda: nn.LSTM(3, 2, **DOUBLE), lambda: nn.RNN(3, 2, nonlinearity="relu", **DOUBLE)])
def test_torch_layers_come_to_their_own_outputs(make):
    layer = make()
    x = sequence(layer)
    y, _ = layer(x)
    exercise = exercise_from(layer, x, steps=T)
    h = [exercise.work().value("h", t) for t in range(1, T + 1)]
    torch.testing.assert_close(torch.tensor(h, **DOUBLE), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 1e-2)])
def test_other_precisions_are_worked_in_float64_and_it_is_said(dtype, atol):
    layer = longshort.LSTM(3, 2, dtype=dtype)
    x = sequence(layer)
    exercise = exercise_from(layer, x)
    assert any("float64" in line and str(dtype).removeprefix("torch.") in line for line in exercise.about)
    assert_traced(exercise, longshort.trace(layer, x)["l0"], [0, 1], atol=atol)
    assert next(layer.parameters()).dtype == dtype and layer.training


@pytest.mark.parametrize("kind", ["lstm", "slstm", "rnn"])
def test_a_start_state_is_taken(kind):
    layer = LARGE[kind]()
    x = sequence(layer)[None]
    _, state = layer(x)
    exercise = exercise_from(layer, x, state=state, units=[3, 5])
    assert_traced(exercise, longshort.trace(layer, x, state)["l0"], [3, 5])
    assert exercise.values["h0"] == pytest.approx(state.h[0, 0, [3, 5]].tolist())


def test_a_start_that_holds_nothing_counts_as_empty():
    layer = longshort.sLSTM(3, 2, **FIRST)
    x, zeros = sequence(layer)[None], torch.zeros(1, 1, 2, **DOUBLE)
    exercise = exercise_from(layer, x, state=(zeros, zeros, zeros, zeros))
    assert exercise.values["m0"] == [-math.inf, -math.inf]
    assert_traced(exercise, longshort.trace(layer, x, (zeros,) * 4)["l0"], [0, 1])


# ---- mLSTM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [None, "head"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_small_mlstm_head_is_shown_whole(norm, bias):
    layer = longshort.mLSTM(4, 6, num_heads=2, qk_dim=4, norm=norm, bias=bias, **FIRST)
    x = sequence(layer)
    exercise = exercise_from(layer, x, head=1, units=[0, 1, 2])
    assert "W_q" in exercise.values
    assert_traced(exercise, longshort.trace(layer, x)["l0"], [0, 1, 2], head=1, keys=[0, 1])


@pytest.mark.parametrize("norm", [None, "head"])
@pytest.mark.parametrize(("units", "keys"), [([1, 4], [0, 3]), ([0, 1], None), (None, list(range(6))),
                                             (list(range(6)), [2])])  # fmt: skip
def test_part_of_an_mlstm_head_keeps_its_numbers(norm, units, keys):
    layer = longshort.mLSTM(9, 12, num_heads=2, norm=norm, **FIRST)
    with torch.no_grad():
        layer.get_parameter("weight_ih_l0").mul_(4)  # so that m moves
    x = sequence(layer)
    exercise = exercise_from(layer, x, head=1, units=units, keys=keys, steps=T)
    assert_traced(exercise, longshort.trace(layer, x)["l0"], units or [0, 1], head=1, keys=keys or [0, 1])


def test_mlstm_units_name_their_head():
    layer = longshort.mLSTM(9, 12, num_heads=2, **FIRST)
    x = sequence(layer)
    assert exercise_from(layer, x, units=[7, 8]).values == exercise_from(layer, x, head=1, units=[1, 2]).values
    with pytest.raises(ValueError, match="lie in heads 0 and 1"):
        exercise_from(layer, x, units=[5, 6])


def test_an_mlstm_goes_on_from_a_state_and_backwards():
    layer = longshort.mLSTM(9, 8, bidirectional=True, **FIRST)
    x = sequence(layer)[None]
    _, state = layer(x)
    exercise = exercise_from(layer, x, state=state, part="l0_reverse")
    seen = longshort.trace(layer, x, state)["l0_reverse"]
    assert_traced(exercise, seen, [0, 1], head=0, keys=[0, 1], reverse=True)


# ---- language models and files ---------------------------------------------------------------------------------------


@pytest.fixture(params=["paper", "7b"])
def folder(request, tmp_path):
    config = xLSTMConfig(
        embedding_dim=16, num_heads=2, blocks=("mlstm", "slstm", "lstm", "rnn"), vocab_size=256, round_up_to=16,
        block=request.param, slstm_forget="exp" if request.param == "7b" else "sigmoid", eps=1e-6,
    )  # fmt: skip
    model = xLSTMLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.4)
    save(model, tmp_path / "model")
    save_tokenizer(ByteTokenizer(), tmp_path / "model")
    return tmp_path / "model"


def run_on(folder, text: str):
    model = longshort.load(folder).double()
    return longshort.trace(model, torch.tensor([list(text.encode())]))


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_block_of_a_model_keeps_its_numbers(folder, block):
    exercise = exercise_from_checkpoint(folder, block=block, text="abcde", units=[2, 11], steps=4)
    assert_traced(exercise, run_on(folder, "abcd")[f"stack.blocks.{block}.mixer"], [2, 11])
    assert any("'a' at t = 1, 'b' at t = 2" in line for line in exercise.about)


def test_an_mlstm_block_of_a_model_keeps_its_numbers(folder):
    exercise = exercise_from_checkpoint(folder, block="blocks.0", text="abc", head=1, units=[1, 2], keys=[0, 2])
    part = run_on(folder, "abc")["stack.blocks.0.mixer"]
    assert_traced(exercise, part, [1, 2], head=1, keys=[0, 2])


def test_the_first_slstm_is_taken_and_its_names_are_known(folder):
    first = exercise_from_checkpoint(folder)
    for name in ("1", "blocks.1", "blocks.1.mixer", "stack.blocks.1.mixer"):
        assert exercise_from_checkpoint(folder, block=name).values == first.values
    assert first.name == "my-slstm" and first.title == "Your sLSTM by hand: units 0 and 1 of 16"


def test_what_a_model_cannot_do_is_said(folder):
    with pytest.raises(ValueError, match=r"block='blocks\.9' is not there.*blocks\.1\.mixer \(sLSTM\)"):
        exercise_from_checkpoint(folder, block="blocks.9")
    with pytest.raises(ValueError, match="steps=4, and the sequence has 2"):
        exercise_from_checkpoint(folder, text="ab", steps=4)
    with pytest.raises(ValueError, match="steps='2': a whole number"):
        exercise_from_checkpoint(folder, text="ab", steps="2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no token"):
        exercise_from_checkpoint(folder, text="")
    with pytest.raises(ValueError, match="reads a text and not x"):
        exercise_from_checkpoint(folder, x=[[1.0]])


@pytest.mark.parametrize("prefix", ["", "encoder."])
@pytest.mark.parametrize("layer", [
    nn.LSTM(3, 2, 2, bidirectional=True, **DOUBLE), nn.LSTM(3, 3, proj_size=2, **DOUBLE), nn.RNN(3, 2, **DOUBLE),
    longshort.sLSTM(3, 2, num_heads=2, **DOUBLE),
], ids=["lstm", "projected", "rnn", "slstm"])  # fmt: skip
def test_a_saved_layer_is_told_by_its_weights(layer, prefix, tmp_path):
    weights = {prefix + name: weight for name, weight in layer.state_dict().items()}
    save_file(weights | {"out.weight": torch.zeros(2)}, tmp_path / "layer.safetensors")
    x = torch.randn(4, 3, **DOUBLE)
    made = exercise_from_checkpoint(tmp_path / "layer.safetensors", x=x, steps=4)
    assert made.values == exercise_from(layer, x, steps=4).values
    made_up = exercise_from_checkpoint(tmp_path / "layer.safetensors")
    assert any("made up" in line for line in made_up.about) and made_up.sizes["T"] == 3


def test_what_a_file_lacks_is_said(tmp_path):
    def saved(**weights):
        save_file(weights, tmp_path / "layer.safetensors")
        return tmp_path / "layer.safetensors"

    two = {f"{name}.{key}": w for name in ("a", "b") for key, w in nn.RNN(3, 2).state_dict().items()}
    with pytest.raises(ValueError, match="holds 2 layers; name one as block: 'a', 'b'"):
        exercise_from_checkpoint(saved(**two))
    assert exercise_from_checkpoint(saved(**two), block="b").name == "my-rnn"
    with pytest.raises(ValueError, match="no GRU exercise"):
        exercise_from_checkpoint(saved(**nn.GRU(3, 2).state_dict()))
    with pytest.raises(ValueError, match="lacks weight_ih_l0 or weight_hh_l0"):
        exercise_from_checkpoint(saved(**longshort.mLSTM(3, 2).state_dict()))
    with pytest.raises(ValueError, match="reads numbers and no text"):
        exercise_from_checkpoint(saved(**nn.RNN(3, 2).state_dict()), text="hello")
    torch.save(nn.LSTM(3, 2).state_dict(), tmp_path / "layer.pt")
    with pytest.raises(ValueError, match="is a pickle"):
        exercise_from_checkpoint(tmp_path / "layer.pt")


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    (dict(units=[0, 8]), "units: 8 is not there; there are 8, 0 to 7"),
    (dict(units=[1, 1]), "different whole numbers"),
    (dict(units=[]), "different whole numbers"),
    (dict(units="01"), "different whole numbers"),
    (dict(units=[True]), "different whole numbers"),
    (dict(steps=6), "steps=6, and the sequence has 5"),
    (dict(steps=0), "a whole number from 1 on"),
    (dict(steps=2.0), "a whole number from 1 on"),
    (dict(head=2), "head=2 is not there; there are 1"),
    (dict(part="l1"), "part='l1' is not there; the layer has l0"),
    (dict(part=1), "part=1 is not there"),
    (dict(keys=[0]), "keys=.* are an mLSTM's"),
    (dict(decimals=12), "decimals=12"),
    (dict(state=torch.zeros(3)), "state is"),
])  # fmt: skip
def test_a_choice_that_is_not_there_is_refused(options, message):
    layer = longshort.LSTM(9, 8, **FIRST)
    with pytest.raises(ValueError, match=message):
        exercise_from(layer, sequence(layer), **options)


def test_too_many_steps_and_units_are_refused():
    layer = longshort.RNN(3, 40, **FIRST)
    with pytest.raises(ValueError, match="at most 16"):
        exercise_from(layer, sequence(layer, 20), steps=17)
    with pytest.raises(ValueError, match="choose at most 12"):
        exercise_from(layer, sequence(layer), units=list(range(13)))


@pytest.mark.parametrize(("x", "message"), [
    (torch.zeros(5, 4), "4 features"), (torch.zeros(2, 5, 3), "x has 2 rows"), (torch.zeros(5), "1 axes"),
    ([[1.0, math.nan, 0.0]], "x holds nan"), ("abc", "tensor or nested lists"), ([[1.0], [2.0, 3.0]], "nested lists"),
    (nn.utils.rnn.pack_sequence([torch.zeros(5, 3)]), "PackedSequence"),
])  # fmt: skip
def test_an_input_that_does_not_fit_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        exercise_from(longshort.LSTM(3, 2, batch_first=True), x)


def test_numbers_in_plain_lists_are_an_input():
    assert exercise_from(nn.RNN(2, 2), [[1, 2], [0, -1]]).values["x"] == [[1.0, 2.0], [0.0, -1.0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_named(bad):
    layer = nn.LSTM(3, 2)
    with torch.no_grad():
        layer.get_parameter("weight_hh_l0")[5, 1] = bad
    with pytest.raises(ValueError, match=rf"weight_hh_l0 holds {bad} at \[5, 1\]"):
        exercise_from(layer, torch.zeros(4, 3))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(3, 2), longshort.sLSTM(3, 2)


@pytest.mark.parametrize(("module", "message"), [
    (nn.GRU(3, 2), "no GRU exercise yet"), (longshort.GRU(3, 2), "no GRU exercise yet"),
    (nn.Linear(3, 2), "Linear is no recurrent layer"), (nn.LSTM, "an nn.Module, got a type"),
    (Two(), r"holds 2: encoder \(LSTM\), decoder \(sLSTM\). Give one of them, such as model.encoder"),
    (nn.LSTM(3, 2, device="meta"), "meta device"),
    (xLSTMLM(xLSTMConfig.preset("tiny")), "exercise_from_checkpoint"),
], ids=["gru", "our gru", "linear", "class", "two", "meta", "model"])  # fmt: skip
def test_a_module_that_is_no_such_layer_is_refused(module, message):
    with pytest.raises(ValueError, match=message):
        exercise_from(module, torch.zeros(4, 3))


def test_rounding_may_be_asked_for():
    exercise = exercise_from(nn.LSTM(3, 2), torch.ones(4, 3), decimals=2)
    assert exercise.decimals == 2 and all(round(n, 2) == n for n in exercise.work().found.values())
    assert exercise_from(nn.LSTM(3, 2), torch.ones(4, 3)).decimals is None
