"""What people do to a layer day by day: view, copy, shard, thread, trace with jit, start training."""

import copy
import io
import pickle
import subprocess
import sys
import textwrap
import threading
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import longshort

LAYERS = ["RNN", "LSTM", "GRU", "sLSTM", "mLSTM"]


def build(name: str, **options):
    torch.manual_seed(1)
    return getattr(longshort, name)(3, 4, **options)


class Leaky(longshort.Cell):
    gates, State = 1, NamedTuple("AnyName", [("h", Tensor)])  # as people write it

    def step(self, x_pre, state):
        z = torch.tanh(x_pre[:, 0])
        self.show(z=z)
        h = 0.9 * state.h + 0.1 * z
        return h, self.State(h)


class Sometimes(Leaky):
    def step(self, x_pre, state):
        h, state = super().step(x_pre, state)
        if (h > 0).any():
            self.show(positive=h)
        return h, state


class Shadow(Leaky):
    def step(self, x_pre, state):
        self.show(h=state.h)
        return super().step(x_pre, state)


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_can_be_viewed_in_either_layout(name):
    for batch_first in (False, True):
        y, _ = build(name, batch_first=batch_first, bidirectional=True)(torch.randn(5, 2, 3))
        assert y.view(-1, 8).shape == (10, 8)


@pytest.mark.parametrize("name", LAYERS)
def test_a_replica_without_parameters_runs(name):
    layer, x = build(name), torch.randn(5, 2, 3)
    replica = layer._replicate_for_data_parallel()  # what DataParallel runs; FSDP's shards are alike
    for key, weight in layer._parameters.items():
        replica.__dict__[key] = weight * 1
    torch.testing.assert_close(replica(x)[0], layer(x)[0])


def test_a_cell_of_ones_own_runs_parametrized_with_a_state():
    layer = longshort.Recurrent(Leaky, 3, 4)
    x = torch.randn(5, 2, 3)
    _, state = layer(x)
    want, _ = layer(x, state)
    nn.utils.parametrizations.weight_norm(layer, "weight_ih_l0")
    y, _ = layer(x, state)
    torch.testing.assert_close(y, want)
    y.sum().backward()
    assert all(weight.grad is not None for weight in layer.parameters())


def test_jit_trace_keeps_every_length():
    """In a process of its own: while torch.jit traces, sizes are tensors, which the checks of annotations refuse."""
    code = """
        import torch, longshort
        for name in ("RNN", "LSTM", "GRU", "sLSTM", "mLSTM"):
            layer = getattr(longshort, name)(3, 4).double()
            traced = torch.jit.trace(layer, torch.randn(5, 2, 3).double(), check_trace=False)
            x = torch.randn(9, 4, 3).double()
            torch.testing.assert_close(traced(x)[0], layer(x)[0])
        """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
def test_a_new_slstm_hears_every_step(forget):
    layer = longshort.sLSTM(8, 32, batch_first=True, forget=forget)
    x = torch.randn(1, 20, 8, requires_grad=True)
    (heard,) = torch.autograd.grad(layer(x)[0][:, -1].sum(), x)
    heard = heard.norm(dim=-1)[0]
    assert heard.min() > 1e-3 * heard.max()


def test_threads_do_not_see_each_others_traces():
    mine, other = build("sLSTM", batch_first=True), build("mLSTM", batch_first=True)
    x, failed, stop = torch.randn(2, 5, 3), [], threading.Event()

    def run():
        try:
            while not stop.is_set():
                other(x)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    parts = [list(longshort.trace(mine, x).parts) for _ in range(20)]
    stop.set()
    thread.join()
    assert not failed and parts == [["l0"]] * 20


def test_a_state_of_its_own_kind_is_copied_and_learnt():
    _, h_n = build("GRU")(torch.randn(5, 2, 3))
    assert type(copy.deepcopy(h_n.detach())) is type(h_n)
    first = copy.deepcopy(nn.Parameter(h_n.detach()))
    assert isinstance(first, nn.Parameter) and first.requires_grad
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(h_n)


def test_a_cell_of_ones_own_can_be_copied_and_stored_after_a_trace():
    layer, x = longshort.Recurrent(Leaky, 3, 4), torch.randn(5, 2, 3)
    y, state = layer(x)
    longshort.trace(layer, x)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(again(x, state)[0], layer(x, state)[0])
    file = io.BytesIO()
    torch.save(state.detach(), file)
    file.seek(0)
    assert torch.load(file, weights_only=False).h.shape == y[-1:].shape


def test_autocast_rounds_no_state_of_a_cell_of_ones_own():
    layer, x = longshort.Recurrent(Leaky, 3, 4), torch.randn(5, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer(x)
        again, _ = layer(x, state)
    assert (y.dtype, again.dtype, state.h.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


def test_what_a_cell_shows_must_have_a_name_of_its_own_at_every_step():
    x = torch.tensor([-5.0, 5.0]).view(2, 1, 1).expand(2, 1, 3)
    layer = longshort.Recurrent(Sometimes, 3, 4)
    nn.init.ones_(layer.weight_ih_l0)
    with pytest.raises(ValueError, match="Sometimes shows positive at some steps and not at others"):
        longshort.trace(layer, x)
    with pytest.raises(ValueError, match="a trace has h already; take another name"):
        longshort.trace(longshort.Recurrent(Shadow, 3, 4), x)


def test_a_door_called_before_a_child_is_booked_as_the_parents():
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.child = build("LSTM")

        def forward(self, x):
            longshort.functional.rnn(torch.zeros(2, 3, 1, 4), torch.zeros(1, 4, 4))
            return self.child(x)

    seen = longshort.trace(Parent(), torch.randn(5, 2, 3))
    assert {name: part.cell for name, part in seen.parts.items()} == {"cell": "rnn", "child.l0": "lstm"}


def test_from_torch_leaves_the_random_numbers_alone():
    theirs = nn.LSTM(3, 4)
    before = torch.get_rng_state()
    longshort.LSTM.from_torch(theirs).to_torch()
    assert torch.equal(torch.get_rng_state(), before)


def test_mixed_widths_are_refused_under_autocast_too():
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match=r"x is torch.float64"):
        build("LSTM")(torch.randn(5, 2, 3, dtype=torch.float64))


def test_cuts_that_cut_nothing_move_no_rows(monkeypatch):
    from longshort.cells import loop

    monkeypatch.setattr(loop, "run_pieces", lambda *_: pytest.fail("rows were moved"))
    build("LSTM")(torch.randn(5, 2, 3), lengths=[5, 5], reset=torch.zeros(5, 2, dtype=torch.bool))
