"""The mLSTM equals the paper's unstabilised equations in float64; its chunkwise gradient is linear in memory."""

import pytest
import torch
from problems import kept_for_backward, problem

from longshort.cells.mlstm import segment_sums
from longshort.functional import mlstm


def test_mlstm_equals_the_unstabilised_equations():
    p = problem("mlstm-reference", T=20, B=1, N=1)._replace(state=None)
    q, k, v, i, f = (x[0, :, 0] for x in p.inputs.values())
    C, n, want = torch.zeros(3, 5).double(), torch.zeros(3).double(), []
    for t in range(20):
        C = f[t].sigmoid() * C + i[t].exp() * torch.outer(k[t], v[t])  # (19)
        n = f[t].sigmoid() * n + i[t].exp() * k[t]  # (20)
        query = q[t] / 3**0.5
        want.append(C.T @ query / max(abs(n @ query), 1))  # (21)
    for kernel in ("reference", "parallel", "chunkwise"):
        h, last = p.run(kernel=kernel)
        torch.testing.assert_close(h[0, :, 0], torch.stack(want), rtol=0, atol=1e-13)
        torch.testing.assert_close((last.C * last.m.exp()[..., None, None])[0, 0], C, rtol=1e-12, atol=1e-13)


def test_mlstm_reads_back_what_it_stored():
    """Orthogonal keys: after storing 8 values, the query for each returns its own."""
    k = torch.eye(8).double().view(1, 8, 1, 8) * 8**0.5
    v = torch.randn(1, 8, 1, 4).double()
    remember, write = torch.full((1, 8, 1), 40.0).double(), torch.zeros(1, 8, 1).double()
    _, state = mlstm(k, k, v, write, remember)
    h, _ = mlstm(k, k, v, torch.full_like(write, -torch.inf), remember, state)
    torch.testing.assert_close(h, v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", ["native", "chunkwise"])
def test_backward_may_be_called_where_autocast_is_on(kernel):
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 2, 9, 1, 4))
    gates = torch.zeros(2, 9, 1)
    want = torch.autograd.grad(mlstm(q, k, v, gates, gates, kernel=kernel)[0].sum(), (q, k, v))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(mlstm(q, k, v, gates, gates, kernel=kernel)[0].sum(), (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_segment_sums_do_not_cancel():
    log_f = torch.tensor([-1e6, -1e-6, -torch.inf, -2e-6, -3e-6])
    sums = segment_sums(log_f)
    assert sums[4, 3] == -3e-6
    assert sums[1, 0] == -1e-6
    assert sums[4, 1] == -torch.inf
    assert (sums.diagonal() == 0).all()
    assert (sums.triu(1)[torch.ones(5, 5).triu(1).bool()] == -torch.inf).all()


def test_chunkwise_keeps_memory_linear_in_time():
    """What autograd keeps for the backward grows fourfold with fourfold T, not sixteenfold."""

    def kept(T):
        inputs = [torch.randn(1, T, 1, 8, requires_grad=True) for _ in range(3)]
        gate = torch.zeros(1, T, 1)
        return kept_for_backward(lambda: mlstm(*inputs, gate, gate, kernel="chunkwise", chunk_size=16))

    assert kept(4096) <= 4.2 * kept(1024)
