"""The sLSTM equals the paper's unstabilised equations in float64; its normaliser stays at 1 or above."""

import pytest
import torch
from problems import problem

from longshort.functional import SLSTMState, slstm


@pytest.mark.parametrize("case", ["slstm-sigmoid", "slstm-exp"])
def test_slstm_equals_the_unstabilised_equations(case):
    p = problem(case, T=20, B=1, N=1)._replace(state=None)
    h = c = n = torch.zeros(3, dtype=torch.float64)
    want = []
    for t in range(20):
        i, f, z, o = p.inputs["x_pre"][0, t, :, 0] + p.weights["R"][:, 0] @ h
        f = f.exp() if case == "slstm-exp" else f.sigmoid()
        c = f * c + i.exp() * z.tanh()  # (8)
        n = f * n + i.exp()  # (9)
        h = o.sigmoid() * c / n  # (10)
        want.append(h)
    got, last = p.run()
    torch.testing.assert_close(got[0, :, 0], torch.stack(want), rtol=0, atol=1e-13)
    torch.testing.assert_close((last.c * last.m.exp())[0, 0], c, rtol=1e-12, atol=0)
    torch.testing.assert_close((last.n * last.m.exp())[0, 0], n, rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", ["slstm-sigmoid", "slstm-exp"])
def test_slstm_normaliser_is_at_least_one(case):
    p = problem(case, T=1, B=50)._replace(state=None)
    state = None
    for seed in range(30):
        x = problem(case, T=1, B=50, seed=seed).inputs["x_pre"] * 5
        _, state = slstm(x, p.weights["R"], state, **p.options)
        assert (state.n >= 1).all()


def test_slstm_state_with_nothing_in_it_counts_as_empty_element_by_element():
    p = problem("slstm-sigmoid", B=2)
    n = p.state.n.clone()
    n[0, 0, 1] = 0
    h, _ = p._replace(state=p.state._replace(n=n)).run()
    m = p.state.m.clone()
    m[0, 0, 1] = -torch.inf
    want, _ = p._replace(state=SLSTMState(p.state.h, p.state.c * (n > 0), n, m)).run()
    torch.testing.assert_close(h, want, rtol=0, atol=0)


def test_slstm_forget_gate_at_minus_infinity_clears_the_memory_but_not_the_mixing():
    p = problem("slstm-sigmoid", T=1)
    p.inputs["x_pre"][:, :, 1] = -torch.inf
    kept, _ = p.run()
    emptied, _ = p.run(reset=torch.ones(2, 1, dtype=torch.bool))
    assert not torch.allclose(kept, emptied)
    _, last = p.run()
    i, z = (p.inputs["x_pre"][:, 0, g] + torch.einsum("noi,bni->bno", p.weights["R"][g], p.state.h) for g in (0, 2))
    torch.testing.assert_close(last.c / last.n, z.tanh(), rtol=0, atol=1e-14)
    torch.testing.assert_close(last.m, i, rtol=0, atol=1e-14)
