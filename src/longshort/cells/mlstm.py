"""The mLSTM: the step-by-step reference, and the parallel and chunkwise forms. One answer and one state from all.

A matrix memory C written with k v^T and read with q; exponential input gate, sigmoid forget gate, normaliser n,
stabiliser m. Beck et al. 2024, "xLSTM" (arXiv 2405.04517), equations (19)-(27); the chunkwise form after
"xLSTM 7B" (2503.13427) and "Tiled Flash Linear Attention" (2503.14376), derived anew with exact gradients.

Ours throughout: q is scaled by K**-0.5 at read-out and k is stored as it is; m_t = max(log f + m_{t-1}, i_pre, 0)
starts at 0, so exp(-m) stays in [0, 1] and every form ends at the same m. m carries no gradient: the state means
C e^m and n e^m, and is differentiated at fixed m.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from longshort.cells.loop import pick, run, steps_within
from longshort.shapes import Bool, Float, Int


class MLSTMState(NamedTuple):
    """What an mLSTM carries: memory C, normaliser n, stabiliser m. The memory *means* C e^m and n e^m."""

    C: Float[Tensor, "B N K V"]
    n: Float[Tensor, "B N K"]
    m: Float[Tensor, "B N"]


def mlstm_start(B: int, N: int, K: int, V: int, *, dtype: torch.dtype, device: torch.device) -> MLSTMState:
    """The empty state."""
    C, n, m = (torch.zeros(shape, dtype=dtype, device=device) for shape in [(B, N, K, V), (B, N, K), (B, N)])
    return MLSTMState(C, n, m)


def normalise(num: Float[Tensor, "... V"], den: Float[Tensor, "..."], m: Float[Tensor, "..."], eps: float) -> Tensor:
    """h = num / max(|den|, e^-m) (21): the paper's max(|n q|, 1), both sides divided by e^m.

    The third floor, far below rounding, only turns 0/0 (a query that matches nothing, at large m) into 0.
    """
    tiny = torch.finfo(num.dtype).eps ** 2
    floor = torch.exp(-m).clamp(min=tiny)
    return num / (torch.where(den.abs() > floor, den.abs(), floor) + eps)[..., None]


# ---- reference: the recurrence -------------------------------------------------------------------------------------


def mlstm_update(q, k, v, i_pre, f_pre, state: MLSTMState, eps: float) -> tuple[Tensor, MLSTMState]:
    """One step: q, k (B, N, K), v (B, N, V), gates (B, N). Returns h (B, N, V) and the new state."""
    log_f = F.logsigmoid(f_pre) + state.m
    m = torch.maximum(log_f, i_pre).clamp(min=0).detach()
    i = torch.exp(i_pre - m)[..., None]
    f = torch.exp(log_f - m)[..., None]
    C = f[..., None] * state.C + (i * k)[..., :, None] * v[..., None, :]  # (19)
    n = f * state.n + i * k  # (20)
    q = q * q.shape[-1] ** -0.5
    num = (q[..., None, :] @ C).squeeze(-2)
    return normalise(num, (q * n).sum(-1), m, eps), MLSTMState(C, n, m)


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
) -> tuple[Float[Tensor, "B T N V"], MLSTMState]:
    """Run the recurrence over a sequence, one step after the other (`chunk_size` has nothing to do here)."""

    def step(q, k, v, i_pre, f_pre, state):
        return mlstm_update(q, k, v, i_pre, f_pre, state, eps)

    state = state._replace(m=state.m.detach())
    start = mlstm_start(*state.C.shape, dtype=state.m.dtype, device=state.m.device)
    return run(step, [q, k, v, i_pre, f_pre], state, start, lengths, reset)


# ---- what the other two forms share ---------------------------------------------------------------------------------


def fold_into_gates(i_pre, f_pre, lengths, reset) -> tuple[Float[Tensor, "B T N"], Float[Tensor, "B T N"]]:
    """The input gate and log f with lengths and resets in them: past the end i = 0 and f = 1; at a reset f = 0."""
    log_f = F.logsigmoid(f_pre)
    if reset is not None:
        log_f = log_f.masked_fill(reset[..., None], -torch.inf)
    if lengths is not None:
        ended = ~steps_within(lengths, i_pre.shape[1])[..., None]
        i_pre, log_f = i_pre.masked_fill(ended, -torch.inf), log_f.masked_fill(ended, 0)
    return i_pre, log_f


def segment_sums(log_f: Float[Tensor, "... L"]) -> Float[Tensor, "... L L"]:
    """[t, j] = log f_{j+1} + ... + log f_t: how much of input j is left at step t; -inf for j > t.

    Each is summed between its own two steps. Differences of one running sum would cancel, and give -inf - -inf.
    """
    L = log_f.shape[-1]
    below = torch.ones(L, L, dtype=torch.bool, device=log_f.device).tril(-1)
    sums = log_f[..., :, None].expand(*log_f.shape, L).masked_fill(~below, 0).cumsum(-2)
    return sums.masked_fill(below.T, -torch.inf)


# ---- parallel: every step at once, quadratic in T ------------------------------------------------------------------


def mlstm_parallel(
    q, k, v, i_pre, f_pre, state: MLSTMState, *, chunk_size: int = 64, eps: float = 0.0, lengths=None, reset=None
) -> tuple[Float[Tensor, "B T N V"], MLSTMState]:
    """The same as `mlstm_reference`, from T x T matrices: appendix A.3, equations (71)-(86), with a start state."""
    i_gate, log_f = (gate.transpose(1, 2) for gate in fold_into_gates(i_pre, f_pre, lengths, reset))  # (B, N, T)
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
    h = normalise(num, den, m, eps).transpose(1, 2)
    return h, keep_unread(state, MLSTMState(C, n, m[..., -1]), lengths)


def keep_unread(before: MLSTMState, after: MLSTMState, lengths: Tensor | None) -> MLSTMState:
    """`after`, but the very state `before` (another's m may be below 0) in rows of length 0."""
    return after if lengths is None else pick(lengths > 0, after, before._replace(m=before.m.detach()))


# ---- chunkwise: parallel within a chunk, a scan over the states between chunks; linear in T ------------------------


class Chunks(NamedTuple):
    """What the chunkwise forward computed on the way, for its backward. c counts chunks, L steps in a chunk."""

    weight: Float[Tensor, "B c N L L"]  # e^(D - m): input j as seen from step t
    S: Float[Tensor, "B c N L L"]  # weight * q k^T
    num: Float[Tensor, "B c N L V"]
    den: Float[Tensor, "B c N L"]
    m: Float[Tensor, "B c N L"]
    read: Float[Tensor, "B c N L"]  # weight of the chunk's start state at step t
    write: Float[Tensor, "B c N L"]  # weight of input j in the chunk's end state
    carry: Float[Tensor, "B c N"]  # weight of the chunk's start state in its end state
    C: Float[Tensor, "B c N K V"]  # the start states
    n: Float[Tensor, "B c N K"]


def chunkwise_forward(q, k, v, i_gate, log_f, state: MLSTMState, eps: float) -> tuple[Tensor, MLSTMState, Chunks]:
    """All chunks at once; q, k, v are (B, c, N, L, ·), gates (B, c, N, L), and q is scaled already."""
    D = segment_sums(log_f) + i_gate[..., None, :]
    decay = log_f.cumsum(-1)
    to_end = D[..., -1, :]
    m_start, m_end = scan_m(decay[..., -1].detach(), to_end.amax(-1).detach(), state.m.detach())
    carry = torch.exp(decay[..., -1] + m_start - m_end)
    write = torch.exp(to_end - m_end[..., None])
    k_written = write[..., None] * k
    C, last_C = scan_state(carry[..., None, None], k_written.mT @ v, state.C)
    n, last_n = scan_state(carry[..., None], k_written.sum(-2), state.n)

    from_start = decay + m_start[..., None]
    m = torch.maximum(from_start, D.amax(-1)).clamp(min=0).detach()
    read, weight = torch.exp(from_start - m), torch.exp(D - m[..., None])
    S = weight * (q @ k.mT)
    num = read[..., None] * (q @ C) + S @ v
    den = read * (q @ n[..., None]).squeeze(-1) + S.sum(-1)
    saved = Chunks(weight, S, num, den, m, read, write, carry, C, n)
    return normalise(num, den, m, eps), MLSTMState(last_C, last_n, m_end[:, -1]), saved


def scan_m(decay: Float[Tensor, "B c N"], peak: Float[Tensor, "B c N"], m: Float[Tensor, "B N"]):
    """The stabiliser at the start and at the end of every chunk."""
    ms = [m]
    for g, a in zip(decay.unbind(1), peak.unbind(1), strict=True):
        ms.append(torch.maximum(g + ms[-1], a).clamp(min=0))
    return torch.stack(ms[:-1], 1), torch.stack(ms[1:], 1)


def scan_state(carry: Float[Tensor, "B c ..."], written: Float[Tensor, "B c ..."], state: Float[Tensor, "B ..."]):
    """The states at the start of every chunk, and the one after the last: state = carry * state + written."""
    states = [state]
    for f, new in zip(carry.unbind(1), written.unbind(1), strict=True):
        states.append(torch.addcmul(new, f, states[-1]))
    return torch.stack(states[:-1], 1), states[-1]


class Chunkwise(torch.autograd.Function):
    """`chunkwise_forward` with its exact gradient written out: twice as fast as autograd's, and less memory.

    Differentiating a second time goes through `chunkwise_forward` and autograd instead: any order is right.
    """

    @staticmethod
    def forward(ctx, q, k, v, i_gate, log_f, C0, n0, m0, eps):
        h, last, chunks = chunkwise_forward(q, k, v, i_gate, log_f, MLSTMState(C0, n0, m0), eps)
        ctx.eps = eps
        ctx.save_for_backward(q, k, v, i_gate, log_f, C0, n0, m0, h, *chunks)
        ctx.mark_non_differentiable(last.m)
        return h, *last

    @staticmethod
    def backward(ctx, dh, dC, dn, _):  # type: ignore[override]
        *inputs, h = ctx.saved_tensors[:9]
        if torch.is_grad_enabled():  # create_graph: somebody will differentiate this backward
            return (*differentiable_backward(inputs, ctx.eps, dh, dC, dn), None, None)
        q, k, v = inputs[:3]
        return (*chunkwise_backward(q, k, v, h, Chunks(*ctx.saved_tensors[9:]), ctx.eps, dh, dC, dn), None, None)


def differentiable_backward(inputs, eps: float, dh, dC, dn) -> tuple[Tensor | None, ...]:
    """The gradients of q, k, v, both gates, C and n as a graph of their own, through autograd."""
    q, k, v, i_gate, log_f, C0, n0, m0 = inputs
    wanted = [x for x in inputs[:7] if x.requires_grad]
    h, last, _ = chunkwise_forward(q, k, v, i_gate, log_f, MLSTMState(C0, n0, m0), eps)
    grads = iter(torch.autograd.grad((h, last.C, last.n), wanted, (dh, dC, dn), create_graph=True, allow_unused=True))
    return tuple(next(grads) if x.requires_grad else None for x in inputs[:7])


def chunkwise_backward(q, k, v, h, chunks: Chunks, eps: float, dh, dC, dn) -> tuple[Tensor, ...]:
    """The gradients of q, k, v, i_gate, log_f, the start C and the start n. Letters as in `chunkwise_forward`."""
    weight, S, num, den, m, read, write, carry, C, n = chunks
    # h = num / bound; divide by the bound twice, never by its square.
    floor = torch.exp(-m).clamp(min=torch.finfo(num.dtype).eps ** 2)
    free = den.abs() > floor
    bound = torch.where(free, den.abs(), floor) + eps
    dnum = dh / bound[..., None]
    dden = torch.where(free, -(dnum * h).sum(-1) * den.sign(), 0)

    # What the steps read from the chunk's start state, and the scan of that state's gradient back in time.
    q_read, dnum_read, dden_read = read[..., None] * q, read[..., None] * dnum, read * dden
    dC, dC0 = scan_state_back(carry[..., None, None], q_read.mT @ dnum, dC)
    dn, dn0 = scan_state_back(carry[..., None], (q_read.mT @ dden[..., None]).squeeze(-1), dn)
    dq = dnum_read @ C.mT + dden_read[..., None] * n[..., None, :]
    dread = (dq * q).sum(-1)
    dcarry = carry * ((dC * C).sum((-2, -1)) + (dn * n).sum(-1))

    # What the inputs wrote into the chunk's end state.
    dk_written = v @ dC.mT + dn[..., None, :]
    dk = write[..., None] * dk_written
    dv = write[..., None] * (k @ dC)
    dwrite = (dk * k).sum(-1)

    # Within the chunk.
    dS = dnum @ v.mT + dden[..., None]
    dD = dS * S
    dS = dS * weight
    dq = dq + dS @ k
    dk = dk + dS.mT @ q
    dv = dv + S.mT @ dnum
    di = dD.sum(-2) + dwrite

    # log f_s stands in every sum that passes step s: from j < s to t >= s, from the start, and to the end.
    below = torch.ones(*dD.shape[-2:], dtype=torch.bool, device=dD.device).tril()
    passing = (before(dD) * below).sum(-2)
    dlog_f = passing + dread.flip(-1).cumsum(-1).flip(-1) + before(dwrite) + dcarry[..., None]
    return dq, dk, dv, di, dlog_f, dC0, dn0


def before(x: Tensor) -> Tensor:
    """The sum of all entries before each one."""
    return F.pad(x[..., :-1].cumsum(-1), (1, 0))


def scan_state_back(carry: Tensor, read: Tensor, dlast: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of every chunk's end state, and of the first start state."""
    grads = [dlast]
    for f, new in zip(reversed(carry.unbind(1)), reversed(read.unbind(1)), strict=True):
        grads.append(torch.addcmul(new, f, grads[-1]))
    return torch.stack(grads[-2::-1], 1), grads[-1]


def mlstm_chunkwise(
    q, k, v, i_pre, f_pre, state: MLSTMState, *, chunk_size: int = 64, eps: float = 0.0, lengths=None, reset=None
) -> tuple[Float[Tensor, "B T N V"], MLSTMState]:
    """The same as `mlstm_reference`, a chunk at a time: matrix products inside, a scan of C between."""
    T = q.shape[1]
    L = min(chunk_size, T)
    i_gate, log_f = fold_into_gates(i_pre, f_pre, lengths, reset)
    q, k, v, i_gate, log_f = (
        split(x, L, fill) for x, fill in [(q * q.shape[-1] ** -0.5, 0), (k, 0), (v, 0), (i_gate, -torch.inf), (log_f, 0)]
    )
    if under_transform():
        h, last, _ = chunkwise_forward(q, k, v, i_gate, log_f, state, eps)
    else:
        h, *last = Chunkwise.apply(q, k, v, i_gate, log_f, *state, eps)  # type: ignore[misc]
    h = h.transpose(2, 3).flatten(1, 2)[:, :T]
    return h, keep_unread(state, MLSTMState(*last), lengths)


def split(x: Float[Tensor, "B T N ..."], L: int, fill: float) -> Float[Tensor, "B c N L ..."]:
    """Cut time into chunks of L steps, the last one filled up with steps that change nothing."""
    missing = -x.shape[1] % L
    if missing:
        x = torch.cat([x, x.new_full((x.shape[0], missing, *x.shape[2:]), fill)], 1)
    return x.unflatten(1, (-1, L)).transpose(2, 3).contiguous()


def under_transform() -> bool:
    """Whether vmap, jvp, another functorch transform or forward-mode AD is at work: they see plain operations only."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
