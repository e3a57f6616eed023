"""A trace holds what a run computed: every quantity obeys its written equation, and the output is the run's own."""

import json
import sys
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import longshort
from longshort.functional import watchers
from longshort.layers.frame import backwards

T, B = 7, 3
KINDS = {
    "rnn": lambda **k: longshort.RNN(2, 4, **k),
    "relu": lambda **k: longshort.RNN(2, 4, nonlinearity="relu", **k),
    "lstm": lambda **k: longshort.LSTM(2, 4, **k),
    "lstm-1997": lambda **k: longshort.LSTM(2, 4, forget="one", **k),
    "lstm-proj": lambda **k: longshort.LSTM(2, 4, proj_size=2, **k),
    "gru": lambda **k: longshort.GRU(2, 4, **k),
    "slstm": lambda **k: longshort.sLSTM(2, 4, **k),
    "slstm-exp": lambda **k: longshort.sLSTM(2, 4, forget="exp", **k),
    "mlstm": lambda **k: longshort.mLSTM(2, 4, qk_dim=6, **k),
    "mlstm-norm": lambda **k: longshort.mLSTM(2, 4, norm="head", **k),
}


def build(kind: str, **options):
    torch.manual_seed(1)
    return KINDS[kind](batch_first=True, num_heads=2, dtype=torch.float64, **options)


def close(x, y):
    torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def before(seen, name: str, lengths=None, reverse: bool = False):
    """The value that a step found: its neighbour's, or the start's."""
    value = backwards(seen[name], lengths) if reverse else seen[name]
    earlier = torch.cat([seen.start[name][:, None], value[:, :-1]], 1)
    return backwards(earlier, lengths) if reverse else earlier


def equations(kind: str, seen, layer, **way) -> list[tuple[Tensor, Tensor]]:
    """Both sides of every equation of a cell, over the whole sequence."""
    v, was = seen, lambda name: before(seen, name, **way)
    if kind in ("rnn", "relu"):
        return [(v["h"], v["pre"].tanh() if kind == "rnn" else v["pre"].relu())]
    if kind == "gru":
        n_pre = v["n_pre"]
        return [
            (v["r"], v["r_pre"].sigmoid()),
            (v["z"], v["z_pre"].sigmoid()),
            (v["n"], n_pre.tanh()),
            (v["h"], v["z"] * was("h") + (1 - v["z"]) * v["n"]),
        ]
    if kind.startswith("lstm"):
        f = 1.0 if kind == "lstm-1997" else v["f"]
        shown = v["o"] * v["tanh_c"]
        if kind == "lstm-proj":
            proj = layer.weight_hr_l0_reverse if way.get("reverse") else layer.weight_hr_l0
            shown = torch.einsum("nph,btnh->btnp", proj.unflatten(0, (2, -1)), shown)
        forget = [] if kind == "lstm-1997" else [(v["f"], v["f_pre"].sigmoid())]
        return [
            *forget,
            (v["i"], v["i_pre"].sigmoid()),
            (v["g"], v["g_pre"].tanh()),
            (v["o"], v["o_pre"].sigmoid()),
            (v["c"], f * was("c") + v["i"] * v["g"]),
            (v["tanh_c"], v["c"].tanh()),
            (v["h"], shown),
        ]
    m, kept = v["m"], v["log_f"] + was("m")
    gates = [(v["i"], (v["i_pre"] - m).exp()), (v["f"], (kept - m).exp())]
    if kind.startswith("slstm"):
        log_f = v["f_pre"] if kind == "slstm-exp" else torch.nn.functional.logsigmoid(v["f_pre"])
        return [
            *gates,
            (v["log_f"], log_f),
            (m, torch.maximum(kept, v["i_pre"])),
            (v["z"], v["z_pre"].tanh()),
            (v["o"], v["o_pre"].sigmoid()),
            (v["c"], v["f"] * was("c") + v["i"] * v["z"]),
            (v["n"], v["f"] * was("n") + v["i"]),
            (v["h"], v["o"] * v["c"] / v["n"]),
        ]
    q = v["q"] * v["q"].shape[-1] ** -0.5
    h = v["h"]
    if kind == "mlstm-norm":
        h = torch.nn.functional.layer_norm(h, h.shape[-1:], eps=1e-6) * layer.weight_norm_l0.unflatten(0, (2, -1))
    return [
        *gates,
        (m, torch.maximum(kept, v["i_pre"]).clamp(min=0)),
        (v["C"], v["f"][..., None, None] * was("C") + torch.einsum("btn,btnk,btnv->btnkv", v["i"], v["k"], v["v"])),
        (v["n"], v["f"][..., None] * was("n") + v["i"][..., None] * v["k"]),
        (v["num"], torch.einsum("btnk,btnkv->btnv", q, v["C"])),
        (v["bound"], torch.maximum((q * v["n"]).sum(-1).abs(), torch.exp(-m))),
        (v["h"], v["num"] / v["bound"][..., None]),
        (v["o"], v["o_pre"].sigmoid()),
        (v["y"], v["o"] * h),
    ]


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_quantity_obeys_its_equation(kind, reverse):
    layer = build(kind, bidirectional=reverse)
    x = torch.randn(B, T, 2, dtype=torch.float64)
    _, state = layer(x)
    seen = longshort.trace(layer, x, state.detach())
    part = seen["l0_reverse" if reverse else "l0"]
    for left, right in equations(kind, part, layer, reverse=reverse):
        assert left.shape[:3] == (B, T, 2)
        close(left, right.broadcast_to(left.shape))


@pytest.mark.parametrize("kind", KINDS)
def test_the_traced_run_is_the_run(kind):
    layer = build(kind, bidirectional=True, num_layers=2)
    x, lengths = torch.randn(B, T, 2, dtype=torch.float64), [7, 3, 5]
    y, state = layer(x, lengths=lengths)
    seen = longshort.trace(layer, x, lengths=lengths)
    close(seen.output, y)
    for a, b in zip(state, seen.state, strict=True):
        close(a, b)
    assert list(seen.parts) == ["l0", "l0_reverse", "l1", "l1_reverse"]
    out = "y" if kind.startswith("mlstm") else "h"
    close(torch.cat([seen["l1"][out].flatten(2), seen["l1_reverse"][out].flatten(2)], -1), y)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_and_equations_of_a_reversed_direction(kind):
    layer = build(kind, bidirectional=True)
    lengths = torch.tensor([5, 2, 4])
    seen = longshort.trace(layer, torch.randn(B, T, 2, dtype=torch.float64), lengths=lengths)
    for name, way in (("l0", {}), ("l0_reverse", {"reverse": True, "lengths": lengths})):
        part = seen[name]
        for row, length in enumerate(lengths):
            assert all((value[row, length:] == 0).all() for value in part.values())
            for left, right in equations(kind, part, layer, **way):
                close(left[row, :length], right.broadcast_to(left.shape)[row, :length])


def test_nothing_is_recorded_outside_and_hooks_are_gone_even_after_an_error():
    layer = build("mlstm")
    with pytest.raises(ValueError, match="features"):
        longshort.trace(layer, torch.zeros(1, 2, 3, dtype=torch.float64))
    assert watchers() == [] and not layer._forward_hooks and not layer._forward_pre_hooks


def test_a_models_parts_are_named_by_its_modules():
    config = longshort.xLSTMConfig(embedding_dim=8, num_heads=2, blocks=("mlstm", "slstm"), vocab_size=11)
    model = longshort.xLSTMLM(config)
    tokens = torch.randint(11, (2, 9))
    seen = longshort.trace(model, tokens)
    assert [part.cell for part in seen.parts.values()] == ["mlstm", "slstm"]
    assert all(name.startswith("blocks.") or ".blocks." in name for name in seen.parts)
    torch.testing.assert_close(seen.output, model(tokens)[0], rtol=1e-4, atol=1e-5)


def test_a_layer_called_twice_in_a_model_is_traced_twice():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = build("gru")

        def forward(self, x):
            _, state = self.layer(x)
            return self.layer(x, state)

    seen = longshort.trace(Twice(), torch.zeros(1, 2, 2, dtype=torch.float64))
    assert list(seen.parts) == ["layer.l0", "layer.l0@1"]
    close(seen["layer.l0@1"].start["h"], seen["layer.l0"]["h"][:, -1])


class Leaky(longshort.Cell):
    gates = 1

    class State(NamedTuple):
        h: Tensor

    def __init__(self, hidden_size: int):
        super().__init__()

    def step(self, x_pre, state):
        z = x_pre[:, 0].tanh()
        self.show(z=z)
        h = 0.9 * state.h + 0.1 * z
        return h, self.State(h)


def test_a_cell_of_ones_own_shows_its_state_and_what_it_names():
    layer = longshort.Recurrent(Leaky, 2, 4, batch_first=True, bidirectional=True, dtype=torch.float64)
    x = torch.randn(B, T, 2, dtype=torch.float64)
    seen = longshort.trace(layer, x)
    part = seen["l0"]
    assert part.cell == "Leaky" and set(part) == {"x_pre", "z", "h"}
    close(part["z"], part["x_pre"][..., 0, :].tanh())
    close(part["h"], 0.9 * before(part, "h") + 0.1 * part["z"])
    close(seen.output, layer(x)[0])


def test_as_a_dict_as_json_and_as_a_table():
    seen = longshort.trace(build("slstm"), torch.randn(B, 2, 2, dtype=torch.float64))
    assert seen.to_dict()["l0"]["i"] is seen["l0"]["i"]
    read = json.loads(seen.to_json(), parse_constant=lambda x: pytest.fail(f"{x} is no JSON"))
    assert read["parts"]["l0"]["start"]["m"][0][0][0] == "-inf"
    close(torch.tensor(read["parts"]["l0"]["quantities"]["c"], dtype=torch.float64), seen["l0"]["c"])
    lines = seen.table(row=1, head=1, digits=3).splitlines()
    assert lines[0].split() == ["step", "quantity", "unit", "0", "unit", "1"]
    assert len(lines) == 1 + 2 * len(seen["l0"])
    want = seen["l0"]["z"][1, 1, 1].tolist()
    assert lines[1 + len(seen["l0"]) + list(seen["l0"]).index("z")].split() == ["1", "z", *(f"{x:.3f}" for x in want)]


def test_a_matrix_memory_fills_a_line_for_each_of_its_rows():
    table = longshort.trace(build("mlstm"), torch.randn(1, 1, 2, dtype=torch.float64)).table()
    assert [line.split()[1] for line in table.splitlines() if " C[" in line] == ["C[0]", "C[1]", "C[2]"]


def test_gates_over_time_are_one_call(tmp_path):
    seen = longshort.trace(build("lstm"), torch.randn(B, T, 2, dtype=torch.float64))
    figure = seen.plot()
    names = ["i", "f", "g", "o", "c", "tanh_c", "h"]
    pictures = [axis for axis in figure.axes if axis.images]
    assert [axis.get_ylabel() for axis in pictures] == names
    assert pictures[0].images[0].get_array().tolist() == seen["l0"]["i"][0, :, 0].float().T.tolist()
    figure.savefig(tmp_path / "gates.png")
    assert seen.plot(["f"]).axes[0].get_ylabel() == "f"


@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_can_be_plotted(kind):
    pictures = [axis for axis in longshort.trace(build(kind), torch.randn(1, 5, 2).double()).plot().axes if axis.images]
    assert pictures and all(axis.images[0].get_array().shape[1] == 5 for axis in pictures)


def test_what_is_not_there_is_said_in_words(monkeypatch):
    seen = longshort.trace(build("lstm"), torch.zeros(B, 2, 2, dtype=torch.float64))
    with pytest.raises(KeyError, match="no part 'l1'; it has l0"):
        seen["l1"]
    with pytest.raises(KeyError, match="lstm has no quantity 'n'; it has i_pre"):
        seen["l0"]["n"]
    with pytest.raises(ValueError, match="row=3 is not there: this part has 3"):
        seen.table(row=3)
    with pytest.raises(ValueError, match="no quantity 'n' to show"):
        seen.plot(["n"])
    with pytest.raises(ValueError, match="no recurrent cell of longshort ran in this LSTM"):
        longshort.trace(torch.nn.LSTM(2, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="Module, got a method"):
        longshort.trace(build("lstm").step, torch.zeros(1, 2))
    cut = longshort.trace(build("lstm"), torch.zeros(B, 3, 2, dtype=torch.float64), lengths=[3, 2, 0])
    assert len(cut.table(row=1, names=["i", "c"]).splitlines()) == 1 + 2 * 2
    assert len(cut.table(names=["i", "c"], steps=1).splitlines()) == 1 + 2
    with pytest.raises(ValueError, match="row 2 has length 0"):
        cut.table(row=2)
    assert len(repr(cut)) < 500 and "i (3, 3, 2, 2)" in repr(cut)
    packed = torch.nn.utils.rnn.pack_sequence([torch.zeros(2, 2)])
    with pytest.raises(ValueError, match="padded batch and `lengths`"):
        longshort.trace(build("lstm"), packed)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"longshort\[plot\]"):
        seen.plot()


def test_nothing_to_trace_in_no_time():
    seen = longshort.trace(build("gru"), torch.zeros(B, 0, 2, dtype=torch.float64))
    assert list(seen.parts) == ["l0"] and len(seen["l0"]) == 0
