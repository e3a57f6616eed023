"""The mLSTM: the step-by-step reference, and the parallel and chunkwise forms. One answer and one state from all.

A matrix memory C written with k v^T and read with q; exponential input gate, sigmoid forget gate, normaliser n,
stabiliser m. Beck et al. 2024, "xLSTM" (arXiv 2405.04517), equations (19)-(27); the chunkwise form after
"xLSTM 7B" (2503.13427) and "Tiled Flash Linear Attention" (2503.14376), derived anew with exact gradients.

Ours throughout: q is scaled by K**-0.5 at read-out and k is stored as it is; m_t = max(log f + m_{t-1}, i_pre, 0)
starts at 0, so exp(-m) stays in [0, 1] and every form ends at the same m. m carries no gradient: the state means
C e^m and n e^m, and is differentiated at fixed m.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from longshort.cells.derivatives import differentiable, looked_into
from longshort.cells.loop import carried, clean, detached, pick, run, steps_within, without_autocast
from longshort.shapes import Bool, Float, Int


@carried
class MLSTMState(NamedTuple):
    """What an mLSTM carries: memory C, normaliser n, stabiliser m. The memory *means* C e^m and n e^m."""

    C: Float[Tensor, "B N K V"]
    n: Float[Tensor, "B N K"]
    m: Float[Tensor, "B N"]
    detach = detached


class MLSTMStep(NamedTuple):
    """Every quantity of one step. i and f are the stabilised weights, the paper's i' and f'; h is num / bound."""

    q: Float[Tensor, "B N K"]
    k: Float[Tensor, "B N K"]
    v: Float[Tensor, "B N V"]
    i_pre: Float[Tensor, "B N"]
    f_pre: Float[Tensor, "B N"]
    log_f: Float[Tensor, "B N"]
    i: Float[Tensor, "B N"]
    f: Float[Tensor, "B N"]
    C: Float[Tensor, "B N K V"]
    n: Float[Tensor, "B N K"]
    m: Float[Tensor, "B N"]
    num: Float[Tensor, "B N V"]
    bound: Float[Tensor, "B N"]
    h: Float[Tensor, "B N V"]


def mlstm_start(B: int, N: int, K: int, V: int, *, dtype: torch.dtype, device: torch.device) -> MLSTMState:
    """The empty state."""
    C, n, m = (torch.zeros(shape, dtype=dtype, device=device) for shape in [(B, N, K, V), (B, N, K), (B, N)])
    return MLSTMState(C, n, m)


def bound_of(den: Float[Tensor, "..."], m: Float[Tensor, "..."], eps: float) -> tuple[Tensor, Tensor]:
    """max(|den|, e^-m) (21): the paper's max(|n q|, 1), both sides divided by e^m. And where |den| is the larger.

    The third floor, far below rounding, only turns 0/0 (a query that matches nothing, at large m) into 0.
    """
    floor = torch.exp(-m).clamp(min=torch.finfo(m.dtype).eps ** 2)
    above = den.abs() > floor
    return torch.where(above, den.abs(), floor) + eps, above


# ---- reference: the recurrence -------------------------------------------------------------------------------------


def mlstm_update(q, k, v, i_pre, f_pre, state: MLSTMState, eps: float) -> MLSTMStep:
    """One step: q, k (B, N, K), v (B, N, V), gates (B, N)."""
    log_f = F.logsigmoid(f_pre)
    kept = log_f + state.m
    m = torch.maximum(kept, i_pre).clamp(min=0).detach()
    i = torch.exp(i_pre - m)
    f = torch.exp(kept - m)
    written = i[..., None] * k
    C = f[..., None, None] * state.C + written[..., :, None] * v[..., None, :]  # (19)
    n = f[..., None] * state.n + written  # (20)
    scaled = q * q.shape[-1] ** -0.5
    num = (scaled[..., None, :] @ C).squeeze(-2)
    bound, _ = bound_of((scaled * n).sum(-1), m, eps)
    return MLSTMStep(q, k, v, i_pre, f_pre, log_f, i, f, C, n, m, num, bound, h=num / bound[..., None])


def mlstm_reference(
    q: Float[Tensor, "B T N K"],
    k: Float[Tensor, "B T N K"],
    v: Float[Tensor, "B T N V"],
    i_pre: Float[Tensor, "B T N"],
    f_pre: Float[Tensor, "B T N"],
    state: MLSTMState,
    *,
    chunk_size: int = 64,
    eps: float = 0.0,
    lengths: Int[Tensor, "B"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    seen: list[MLSTMStep] | None = None,
) -> tuple[Float[Tensor, "B T N V"], MLSTMState]:
    """Run the recurrence over a sequence, one step after the other (`chunk_size` has nothing to do here).

    `seen` as for `rnn`.
    """

    def step(q, k, v, i_pre, f_pre, state):
        now = mlstm_update(q, k, v, i_pre, f_pre, state, eps)
        if seen is not None:
            seen.append(now)
        return now.h, MLSTMState(now.C, now.n, now.m)

    state = state._replace(m=state.m.detach())
    start = mlstm_start(*state.C.shape, dtype=state.m.dtype, device=state.m.device)
    # `whole`: not a matrix C for every piece at once.
    return run(step, [q, k, v, i_pre, f_pre], state, start, lengths, reset, whole=True)


# ---- what the other two forms share ---------------------------------------------------------------------------------


def fold_into_gates(q, k, v, i_pre, f_pre, lengths, reset) -> tuple[Tensor, ...]:
    """q, k, v, i_pre and log f with lengths and resets in them: past the end i = 0 and f = 1; at a reset f = 0."""
    if lengths is not None:
        within = steps_within(lengths, i_pre.shape[1])
        q, k, v, f_pre = (clean(x, within) for x in (q, k, v, f_pre))
        i_pre = i_pre.masked_fill(~within[..., None], -torch.inf)
    log_f = F.logsigmoid(f_pre)
    if reset is not None:
        log_f = log_f + torch.zeros_like(log_f).masked_fill_(reset[..., None], -torch.inf)  # NaN stays
    if lengths is not None:
        log_f = log_f.masked_fill(~within[..., None], 0)
    return q, k, v, i_pre, log_f


def segment_sums(log_f: Float[Tensor, "... L"]) -> Float[Tensor, "... L L"]:
    """[t, j] = log f_{j+1} + ... + log f_t: how much of input j is left at step t; -inf for j > t.

    Each is summed between its own two steps. Differences of one running sum would cancel, and give -inf - -inf.
    """
    L = log_f.shape[-1]
    below = torch.ones(L, L, dtype=torch.bool, device=log_f.device).tril(-1)
    sums = log_f[..., :, None].expand(*log_f.shape, L).masked_fill(~below, 0)
    return sums.cumsum_(-2).masked_fill_(below.T, -torch.inf)


# ---- parallel: every step at once, quadratic in T ------------------------------------------------------------------


def mlstm_parallel(
    q, k, v, i_pre, f_pre, state: MLSTMState, *, chunk_size: int = 64, eps: float = 0.0, lengths=None, reset=None
) -> tuple[Float[Tensor, "B T N V"], MLSTMState]:
    """The same as `mlstm_reference`, from T x T matrices: appendix A.3, equations (71)-(86), with a start state."""
    q, k, v, i_gate, log_f = fold_into_gates(q, k, v, i_pre, f_pre, lengths, reset)
    i_gate, log_f = i_gate.transpose(1, 2), log_f.transpose(1, 2)  # (B, N, T)
    q, k, v = (each.transpose(1, 2) for each in (q * q.shape[-1] ** -0.5, k, v))  # (B, N, T, ·)
    D = segment_sums(log_f) + i_gate[..., None, :]
    from_start = log_f.cumsum(-1) + state.m.detach()[..., None]
    m = torch.maximum(from_start, D.amax(-1)).clamp(min=0).detach()
    weight, decay = torch.exp(D - m[..., None]), torch.exp(from_start - m)
    S = weight * (q @ k.mT)
    num = S @ v + decay[..., None] * (q @ state.C)
    den = S.sum(-1) + decay * (q @ state.n[..., None]).squeeze(-1)
    last_k = weight[..., -1, :, None] * k
    C = decay[..., -1, None, None] * state.C + last_k.mT @ v
    n = decay[..., -1, None] * state.n + last_k.sum(-2)
    h = (num / bound_of(den, m, eps)[0][..., None]).transpose(1, 2)
    return h, keep_unread(state, MLSTMState(C, n, m[..., -1]), lengths)


def keep_unread(before: MLSTMState, after: MLSTMState, lengths: Tensor | None) -> MLSTMState:
    """`after`, but the very state `before` (another's m may be below 0) in rows of length 0."""
    return after if lengths is None else pick(lengths > 0, after, before._replace(m=before.m.detach()))


# ---- chunkwise: parallel within a chunk, a scan over the states between chunks; linear in T ------------------------
#
# The normaliser rides along as one more column: v1 = [v, 1] makes C1 = [C, n] and num1 = [num, den], in every product.
# In-place operations touch only what was made here and is needed no more; autograd allows each of them.


class Chunks(NamedTuple):
    """What the chunkwise forward keeps for its backward. c counts chunks, L the steps of one."""

    q: Float[Tensor, "B c N L K"]
    k: Float[Tensor, "B c N L K"]
    v1: Float[Tensor, "B c N L V1"]
    h: Float[Tensor, "B c N L V"]
    weight: Float[Tensor, "B c N L L"]  # e^(D - m): input j as seen from step t
    S: Float[Tensor, "B c N L L"]  # weight * q k^T / sqrt K
    C1: Float[Tensor, "B c N K V1"]  # [C, n] at the start of each chunk
    read: Float[Tensor, "B c N L"]  # weight of C1 at step t, over sqrt K
    write: Float[Tensor, "B c N L"]  # weight of input j in the C1 after the chunk
    carry: Float[Tensor, "B c N"]  # weight of C1 in the C1 after the chunk
    bound: Float[Tensor, "B c N L"]  # what num was divided by
    slope: Float[Tensor, "B c N L"]  # d bound / d den: the sign of den, or 0 where a floor held


def chunkwise_forward(q, k, v, i_gate, log_f, state: MLSTMState, L: int, eps: float):
    """All chunks of L steps at once. Returns h, still in chunks (B, c, N, L, V), the last state, and the `Chunks`."""
    q, k, v, scale = split(q, L, 0.0), split(k, L, 0.0), split(v, L, 0.0), q.shape[-1] ** -0.5
    i_gate, log_f = split(i_gate, L, -torch.inf), split(log_f, L, 0.0)
    v1 = F.pad(v, (0, 1), value=1.0)
    D = segment_sums(log_f).add_(i_gate[..., None, :])
    decay, to_end, peak = log_f.cumsum(-1), D[..., -1, :].clone(), D.detach().amax(-1)
    m_start, m_end = scan_m(decay[..., -1].detach(), peak[..., -1], state.m.detach())
    m = torch.maximum(decay.detach() + m_start[..., None], peak).clamp_(min=0)
    carry = torch.exp(decay[..., -1] + m_start - m_end)
    write = torch.exp(to_end - m_end[..., None])
    read = torch.exp(decay + m_start[..., None] - m) * scale
    weight = D.sub_(m[..., None]).exp_()

    written = (k * write[..., None]).mT @ v1
    C1, last = scan_state(carry[..., None, None], written, torch.cat([state.C, state.n[..., None]], -1))
    S = bmm_add(torch.zeros_like(weight), q, k.mT, scale).mul_(weight)
    num1 = bmm_add((q * read[..., None]) @ C1, S, v1)
    num, den = num1[..., :-1], num1[..., -1]
    bound, above = bound_of(den, m, eps)
    h = num / bound[..., None]
    slope = torch.where(above, den.sign(), 0)
    chunks = Chunks(q, k, v1, h, weight, S, C1, read, write, carry, bound, slope)
    return h, MLSTMState(last[..., :-1], last[..., -1], m_end[:, -1]), chunks


def scan_m(decay: Float[Tensor, "B c N"], peak: Float[Tensor, "B c N"], m: Float[Tensor, "B N"]):
    """The stabiliser at the start and at the end of every chunk."""
    ms = [m]
    for g, a in zip(decay.unbind(1), peak.unbind(1), strict=True):
        ms.append(torch.maximum(g + ms[-1], a).clamp_(min=0))
    return torch.stack(ms[:-1], 1), torch.stack(ms[1:], 1)


def scan_state(carry: Float[Tensor, "B c ..."], written: Float[Tensor, "B c ..."], state: Float[Tensor, "B ..."]):
    """The states at the start of every chunk, and the one after the last: state = carry * state + written."""
    if not torch.is_grad_enabled():
        return scan_unrecorded(carry, written, state, range(carry.shape[1]))
    states = [state]
    for f, new in zip(carry.unbind(1), written.unbind(1), strict=True):
        states.append(torch.addcmul(new, f, states[-1]))
    return torch.stack(states[:-1], 1), states[-1]


def scan_unrecorded(carry: Tensor, written: Tensor, state: Tensor, order: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`scan_state` in any order of chunks, each state put straight into its place: only where no graph is recorded."""
    states, last = torch.empty_like(written), torch.empty_like(state)
    states[:, order[0]] = state
    for at, j in enumerate(order):
        after = states[:, order[at + 1]] if at + 1 < len(order) else last
        torch.addcmul(written[:, j], carry[:, j], states[:, j], out=after)
    return states, last


def bmm_add(
    x: Float[Tensor, "... I J"], a: Float[Tensor, "... I L"], b: Float[Tensor, "... L J"], scale: float = 1.0
) -> Tensor:
    """x + scale * a @ b, into x."""
    return x.flatten(0, -3).baddbmm_(a.flatten(0, -3), b.flatten(0, -3), alpha=scale).view(x.shape)


class Chunkwise(torch.autograd.Function):
    """`chunkwise_forward` with its exact gradient written out: faster than autograd's, and it keeps less.

    A few rows of the batch at a time, so that what is computed stays in the processor's cache. Differentiating a
    second time goes through `chunkwise_forward` and autograd instead: any order is right.
    """

    @staticmethod
    def forward(ctx, L, eps, *inputs):  # inputs: q, k, v, i_gate, log_f, C, n, m
        ctx.L, ctx.eps, ctx.rows = L, eps, rows_at_a_time(inputs[0])
        groups = [
            chunkwise_forward(q, k, v, i_gate, log_f, MLSTMState(*state), L, eps)
            for q, k, v, i_gate, log_f, *state in zip(*(x.split(ctx.rows) for x in inputs), strict=True)
        ]
        h, last, chunks = zip(*groups, strict=True)
        ctx.save_for_backward(*inputs, *(x for group in chunks for x in group))
        C, n, m = (torch.cat(x) for x in zip(*last, strict=True))
        ctx.mark_non_differentiable(m)
        return gather(h, inputs[0].shape[1]), C, n, m

    @staticmethod
    def backward(ctx, dh, dC, dn, _):  # type: ignore[override]
        saved = ctx.saved_tensors  # once: activation checkpointing allows no second look
        inputs, saved = saved[:8], saved[8:]
        with without_autocast(dh.device.type):  # `backward()` may be called where autocast is on
            # create_graph: somebody will differentiate this backward. Or maps it: nothing may be in place then.
            if looked_into((dh, dC, dn)):

                def again(q, k, v, i_gate, log_f, C, n):
                    state = MLSTMState(C, n, inputs[7])
                    h, last, _ = chunkwise_forward(q, k, v, i_gate, log_f, state, ctx.L, ctx.eps)
                    return unsplit(h, dh.shape[1]), last.C, last.n

                return None, None, *differentiable(again, inputs[:7], (dh, dC, dn)), None
            each = len(Chunks._fields)
            groups = [Chunks(*saved[at : at + each]) for at in range(0, len(saved), each)]
            parts = zip(groups, *(x.split(ctx.rows) for x in (dh, dC, dn)), strict=True)
            *grads, dC0, dn0 = zip(*(chunkwise_backward(*part) for part in parts), strict=True)
        return None, None, *(gather(x, dh.shape[1]) for x in grads), torch.cat(dC0), torch.cat(dn0), None


def rows_at_a_time(q: Float[Tensor, "B T N K"]) -> int:
    """How many rows of the batch to treat together: on the CPU, as many as stay in cache."""
    row = q[0].numel()
    return max(1, CACHED // row) if q.device.type == "cpu" else q.shape[0]


CACHED = 2**20  # numbers in one tensor


def split(x: Float[Tensor, "B T N ..."], L: int, fill: float) -> Float[Tensor, "B c N L ..."]:
    """Cut time into chunks of L steps, the last one filled up with steps that change nothing."""
    missing = -x.shape[1] % L
    if missing:
        x = torch.cat([x, x.new_full((x.shape[0], missing, *x.shape[2:]), fill)], 1)
    return x.unflatten(1, (-1, L)).transpose(2, 3).contiguous()


def unsplit(x: Float[Tensor, "B c N L ..."], T: int) -> Float[Tensor, "B T N ..."]:
    """Undo `split`."""
    return x.transpose(2, 3).flatten(1, 2)[:, :T]


def gather(groups: Sequence[Float[Tensor, "_ c N L ..."]], T: int) -> Float[Tensor, "B T N ..."]:
    """Undo `split` and put the rows together again, each copied once. Only where no graph is recorded."""
    B, (_, c, N, L, *width) = sum(x.shape[0] for x in groups), groups[0].shape
    whole = groups[0].new_empty(B, c * L, N, *width)
    for rows, x in zip(whole.split([x.shape[0] for x in groups]), groups, strict=True):
        rows.unflatten(1, (c, L)).copy_(x.transpose(2, 3))
    return whole[:, :T]


def chunkwise_backward(chunks: Chunks, dh, dC, dn) -> tuple[Tensor, ...]:
    """The gradients of q, k, v, i_gate, log_f, the start C and the start n. Letters as in `chunkwise_forward`."""
    q, k, v1, h, weight, S, C1, read, write, carry, bound, slope = chunks
    dh = split(dh, h.shape[-2], 0.0)
    # h = num / bound: divide by the bound twice, never by its square.
    dnum1 = torch.empty_like(v1)
    dnum = torch.div(dh, bound[..., None], out=dnum1[..., :-1])
    torch.mul((dnum * h).sum(-1), -slope, out=dnum1[..., -1])

    # What the steps read from the chunk's start state, and the scan of that state's gradient back in time.
    reads = (q * read[..., None]).mT @ dnum1
    back_in_time = range(carry.shape[1])[::-1]
    dC1, dC1_start = scan_unrecorded(carry[..., None, None], reads, torch.cat([dC, dn[..., None]], -1), back_in_time)
    dcarry = carry * (dC1 * C1).sum((-2, -1))
    dq = (dnum1 @ C1.mT).mul_(read[..., None])
    dread = (dq * q).sum(-1)

    # What the inputs wrote into the chunk's end state.
    dk = (v1 @ dC1.mT).mul_(write[..., None])
    dwrite = (dk * k).sum(-1)
    dv1 = (k * write[..., None]) @ dC1

    # Within the chunk.
    dS = dnum1 @ v1.mT
    dD = dS * S
    dS.mul_(weight)
    scale = q.shape[-1] ** -0.5
    bmm_add(dq, dS, k, scale)
    bmm_add(dk, dS.mT, q, scale)
    bmm_add(dv1, S.mT, dnum1)
    di = dD.sum(-2) + dwrite

    # log f_s stands in every sum that passes step s: from inputs j < s to steps t >= s, from the start, and to the end.
    passing = torch.cumsum(dD, -1, out=dD).tril_(-1).sum(-2) + dwrite.cumsum(-1)
    dlog_f = F.pad(passing[..., :-1], (1, 0)) + dread.flip(-1).cumsum(-1).flip(-1) + dcarry[..., None]
    return dq, dk, dv1[..., :-1], di, dlog_f, dC1_start[..., :-1], dC1_start[..., -1]


def mlstm_chunkwise(
    q, k, v, i_pre, f_pre, state: MLSTMState, *, chunk_size: int = 64, eps: float = 0.0, lengths=None, reset=None
) -> tuple[Float[Tensor, "B T N V"], MLSTMState]:
    """The same as `mlstm_reference`, a chunk at a time: matrix products inside, a scan of C between."""
    T = q.shape[1]
    L = min(chunk_size, T)
    q, k, v, i_gate, log_f = fold_into_gates(q, k, v, i_pre, f_pre, lengths, reset)
    h, *last = Chunkwise.apply(L, eps, q, k, v, i_gate, log_f, *state)  # type: ignore[misc]
    return h, keep_unread(state, MLSTMState(*last), lengths)
