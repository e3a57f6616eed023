"""Whatever the sizes, lengths, resets and layout: one answer. Hypothesis draws the cases, the same ones every time."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import CASES, TOLERANCE, assert_same, content, everything, problem

from longshort.config import xLSTMConfig
from longshort.model import map_state, xLSTM

settings.register_profile("here", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("here")
small = st.integers(1, 5)


@st.composite
def calls(draw, cases):
    """A problem, and the lengths and resets to run it with."""
    B, T = draw(small), draw(st.integers(1, 40))
    p = problem(draw(st.sampled_from(cases)), T=T, B=B, N=draw(small), H=draw(small), seed=draw(st.integers(0, 999)))
    if draw(st.booleans()):
        p = p._replace(state=None)
    more = {}
    if draw(st.booleans()):
        more["lengths"] = torch.tensor(draw(st.lists(st.integers(0, T), min_size=B, max_size=B)))
    if draw(st.booleans()):
        more["reset"] = torch.rand(B, T, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) < 0.2
    if draw(st.booleans()):
        p = p._replace(inputs={k: x.transpose(0, 1).contiguous().transpose(0, 1) for k, x in p.inputs.items()})
    return p, more


@given(calls(["mlstm-reference"]), st.integers(1, 50), st.sampled_from([0.0, 1e-6]))
def test_mlstm_forms_agree(call, chunk_size, eps):
    p, more = call
    want = everything(p, eps=eps, **more)
    assert_same(everything(p, kernel="parallel", eps=eps, **more), want, 1e-11)
    assert_same(everything(p, kernel="chunkwise", chunk_size=chunk_size, eps=eps, **more), want, 1e-11)


@given(calls(list(CASES)))
def test_rows_equal_each_alone(call):
    p, more = call
    h, last = p.run(**more)
    for b in range(h.shape[0]):
        alone, state = p.rows([b]).run(**{name: x[[b]] for name, x in more.items()})
        got = {"h": h[[b]], **{k: x[[b]] for k, x in content(last).items()}}
        assert_same(got, {"h": alone, **content(state)}, TOLERANCE[h.dtype])


@given(st.data())
def test_a_stack_cut_anywhere_with_lengths_and_resets_equals_the_whole(data):
    kinds = tuple(data.draw(st.lists(st.sampled_from(["mlstm", "slstm", "lstm", "rnn"]), min_size=1, max_size=3)))
    conv = data.draw(st.integers(0, 5))
    generation = data.draw(st.sampled_from(["paper", "7b"]))
    config = xLSTMConfig(embedding_dim=8, num_heads=2, blocks=kinds, round_up_to=8, conv1d_kernel_size=conv,
                         chunk_size=data.draw(st.integers(1, 9)), block=generation)  # fmt: skip
    torch.manual_seed(data.draw(st.integers(0, 99)))
    model = xLSTM(config).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    B, T = 2, data.draw(st.integers(1, 20))
    x, reset = torch.randn(B, T, 8, dtype=torch.float64), torch.rand(B, T) < 0.2
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B)))
    cuts = sorted({0, T, *data.draw(st.lists(st.integers(0, T), max_size=3))})
    whole, last = model(x, lengths=lengths, reset=reset)
    pieces, state = [], None
    for a, b in itertools.pairwise(cuts):
        y, state = model(x[:, a:b], state, lengths=(lengths - a).clamp(0, b - a), reset=reset[:, a:b])
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-11)
    flat = []
    map_state(flat.append, (state, last))
    assert all(x.isfinite().all() or (x == -torch.inf).any() for x in flat)
    # What both states remember: they go on alike.
    again = torch.randn(B, 3, 8, dtype=torch.float64)
    torch.testing.assert_close(model(again, state)[0], model(again, last)[0], rtol=0, atol=1e-11)
