"""`longshort.accelerate`: the same module, weights, arguments and answers, computed by the core."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import longshort
from longshort.cells import core, native
from longshort.layers.accelerated import KINDS, Accelerated

KIND = pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])


class Tagger(nn.Module):
    """What people build: an embedding, a recurrent layer, a head; the layer called in its own way."""

    def __init__(self, kind=nn.LSTM, **options):
        super().__init__()
        self.rnn = kind(6, 8, batch_first=True, **options)
        self.again = self.rnn  # shared
        self.head = nn.Linear(8 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x, hx=None):
        y, state = self.rnn(x, hx=hx)
        return self.head(y), state


def learn(model, *args):
    """Every number that a call gives, and every gradient."""
    model.zero_grad()
    leaves, _ = torch.utils._pytree.tree_flatten(model(*args))
    leaves = [leaf.data if isinstance(leaf, PackedSequence) else leaf for leaf in leaves]
    outputs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    sum(y.square().sum() for y in outputs).backward()
    return [*outputs, *(p.grad for p in model.parameters())]


def both(model):
    """The model as it is, and a copy that the core computes."""
    fast = copy.deepcopy(model)
    assert longshort.accelerate(fast).replaced
    return model, fast


@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}],
    ids=["plain", "deep, both directions", "no bias"],
)
@KIND
def test_a_model_gives_what_it_gave(kind, options):
    slow, fast = both(Tagger(kind, **options))
    x = torch.randn(5, 12, 6)
    for a, b in zip(learn(slow, x), learn(fast, x), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
        assert type(a) is type(b)
    state = torch.utils._pytree.tree_map(torch.Tensor.detach, slow(x)[1])
    for a, b in zip(learn(slow, x, state), learn(fast, x, state), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


@KIND
def test_every_layout_torch_takes(kind):
    slow, fast = both(kind(6, 8))
    packed = pack_padded_sequence(torch.randn(9, 4, 6), [9, 3, 7, 1], enforce_sorted=False)
    for x in (
        torch.randn(9, 4, 6),
        torch.randn(9, 6),
        packed,
        torch.randn(7, 4, 6),
        torch.randn(7, 6),
        torch.randn(1, 1, 6),
    ):
        want, got = slow(x), fast(x)
        assert type(want[0]) is type(got[0])
        assert type(want[1]) is type(got[1])
        for a, b in zip(learn(slow, x), learn(fast, x), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


@KIND
def test_the_core_computes_from_as_many_steps_on_as_it_is_faster(kind, monkeypatch):
    calls, real = [], native.launch
    monkeypatch.setattr(native, "launch", lambda *args: calls.append(args[1][1]) or real(*args))
    for first in (False, True):
        layer = both(kind(6, 8, batch_first=first))[1]
        least = KINDS[kind].worth
        for steps in {1, max(1, least - 1), least, 20}:
            x = torch.randn(30, steps, 6) if first else torch.randn(steps, 30, 6)
            for given in (x, torch.randn(steps, 6), pack_padded_sequence(x, [steps] * 30, batch_first=first)):
                layer(given)
                assert calls == ([steps] if steps >= least else [])
                calls.clear()


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("make", [lambda: nn.RNN(6, 8, nonlinearity="relu"), lambda: nn.LSTM(6, 8, 2, proj_size=3)])
def test_relu_and_projections(make):
    slow, fast = both(make())
    x = torch.randn(7, 4, 6)
    for a, b in zip(learn(slow, x), learn(fast, x), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_the_module_stays_what_it_is():
    model = Tagger()
    module, weights = model.rnn, dict(model.named_parameters())
    keys, text = list(model.state_dict()), str(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    model.rnn.register_forward_hook(lambda *_: seen.append(1))
    done = longshort.accelerate(model)
    assert list(done.replaced) == ["rnn"]  # the shared one once
    assert model.rnn is module
    assert model.again is module
    assert isinstance(module, nn.LSTM)
    assert list(model.state_dict()) == keys
    assert all(p is weights[name] for name, p in model.named_parameters())
    before = module.weight_hh_l0.detach().clone()
    model(torch.randn(2, 5, 6))[0].sum().backward()
    optimizer.step()
    assert seen
    assert not torch.equal(module.weight_hh_l0, before)
    assert not longshort.accelerate(model).replaced  # again: nothing is left to do
    done.undo()
    assert type(module) is nn.LSTM
    assert str(model) == text


@KIND
def test_copies_files_and_casts(kind):
    model = Tagger(kind)
    longshort.accelerate(model)
    x = torch.randn(2, 5, 6)
    want = model(x)[0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x)[0], want)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    plain = Tagger(kind)
    file.seek(0)
    plain.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(plain(x)[0], want, rtol=1e-4, atol=1e-5)
    assert model.double()(x.double())[0].dtype == torch.float64
    torch.testing.assert_close(model.float()(x)[0], want, rtol=0, atol=0)


def counted(monkeypatch):
    """A list that grows with every call of the core."""
    calls, real = [], native.recurrent

    def recurrent(*args):
        calls.append(args[0])
        return real(*args)

    monkeypatch.setattr(native, "recurrent", recurrent)
    return calls


def outcome(model, x):
    """The dtype a call gives, or what it raises: oneDNN has no 16-bit LSTM on a processor without AVX-512."""
    try:
        return model(x)[1][0].dtype
    except RuntimeError as error:
        return str(error)


def test_the_core_computes_what_it_can_and_torch_the_rest(monkeypatch):
    calls = counted(monkeypatch)
    slow, fast = both(Tagger())
    x = torch.randn(3, 4, 6)
    fast(x)
    assert calls == ["lstm"]
    with torch.autocast("cpu", torch.bfloat16):
        assert outcome(fast, x) == outcome(slow, x)
    assert torch.equal(copy.deepcopy(fast).double()(x.double())[0], copy.deepcopy(slow).double()(x.double())[0])
    assert fast.to(torch.bfloat16)(x.bfloat16())[1][0].dtype == torch.bfloat16
    fast.float()
    for wrong in (torch.randn(3, 4, 5), x.long()):
        for model in (slow, fast):
            with pytest.raises((RuntimeError, ValueError)):
                model(wrong)
    fast.to("meta")(x.to("meta"))
    assert calls == ["lstm"]


def test_what_the_core_does_not_know_is_left_and_named():
    class Own(nn.LSTM):
        pass

    model = nn.ModuleDict({"own": Own(3, 4), "plain": nn.GRU(3, 4)})
    done = longshort.accelerate(model)
    assert list(done.replaced) == ["plain"]
    assert done.left == {"own": "Own is a class of its own"}
    assert str(done).splitlines() == [
        "1 of 2 recurrent modules replaced",
        "  plain: 3, 4",
        "  own left as it is: Own is a class of its own",
    ]


def test_a_recurrent_layer_by_itself_and_a_model_without_any():
    layer = nn.LSTM(3, 4)
    assert str(longshort.accelerate(layer)).splitlines()[1] == "  the model itself: 3, 4"
    assert isinstance(layer, Accelerated)
    assert str(longshort.accelerate(nn.Linear(2, 2))) == "0 of 0 recurrent modules replaced"


def test_the_speed_gained_is_reported_and_nothing_is_touched_for_it():
    model = nn.Sequential(nn.BatchNorm1d(6), nn.LSTM(12, 8, 2, batch_first=True, dropout=0.5))
    example = torch.randn(4, 6, 12)
    before, seed = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    done = longshort.accelerate(model, example, rounds=2)
    assert set(done.seconds) == {"forward", "forward and backward"}
    assert all(second > 0 for pair in done.seconds.values() for second in pair)
    assert done.difference < 1e-5
    assert "times" in str(done)
    assert "outputs equal to" in str(done)
    assert torch.equal(torch.get_rng_state(), seed)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert set(longshort.accelerate(Tagger().eval(), torch.randn(1, 2, 6), rounds=1).seconds) == {"forward"}


def test_errors_in_words(monkeypatch):
    with pytest.raises(ValueError, match=r"accelerate takes a torch.nn.Module, got list"):
        longshort.accelerate([nn.LSTM(2, 2)])
    monkeypatch.setattr(core, "missing", lambda: "it was not built")
    model = Tagger()
    with pytest.raises(RuntimeError, match="nothing to accelerate with: it was not built"):
        longshort.accelerate(model)
    assert type(model.rnn) is nn.LSTM


def test_whatever_goes_wrong_the_model_is_as_it_was_and_errors_are_torch_s():
    model = Tagger()
    with pytest.raises(RuntimeError):
        longshort.accelerate(model, torch.randn(2, 3, 5))
    with pytest.raises(ValueError, match="rounds=0: at least 1"):
        longshort.accelerate(model, torch.randn(2, 3, 6), rounds=0)
    assert type(model.rnn) is nn.LSTM
    example = torch.randn(2, 3, 6, requires_grad=True)
    done = longshort.accelerate(model, example, rounds=1)
    assert example.grad is None
    x = torch.randn(2, 3, 6)
    for wrong in ((torch.zeros(1, 3, 8),) * 2, (torch.zeros(1, 2, 8),) * 3):
        with pytest.raises((RuntimeError, ValueError)) as ours:
            model(x, wrong)
        with pytest.raises((RuntimeError, ValueError)) as theirs:
            Tagger()(x, wrong)
        assert type(ours.value) is type(theirs.value)
    torch.nn.utils.parametrizations.weight_norm(model.rnn, "weight_hh_l0")
    model(x)
    with pytest.raises(ValueError, match="parametrized since"):
        done.undo()


def test_every_kind_of_torch_s_has_its_own():
    assert {kind.torch_type for kind in KINDS.values()} == set(KINDS)
