"""`longshort.selfcheck()`: every kernel, form and dtype of every cell, here, against the float64 reference.

First the problems and what of their answers is compared (the tests and benchmarks use them too), then the check.
Needs torch alone.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longshort import functional
from longshort.functional import KERNELS, GRUState, LSTMState, MLSTMState, RNNState, SLSTMState

# ---- problems --------------------------------------------------------------------------------------------------------

# Every cell and form: a name, its door, and the options that make it.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn-tanh": ("rnn", {}),
    "rnn-relu": ("rnn", {"nonlinearity": "relu"}),
    "lstm-2000": ("lstm", {}),
    "lstm-1997": ("lstm", {"forget": "one"}),
    "lstm-proj": ("lstm", {"proj": 2}),
    "gru": ("gru", {}),
    "gru-bias": ("gru", {"bias": True}),
    "slstm-sigmoid": ("slstm", {}),
    "slstm-exp": ("slstm", {"forget": "exp"}),
    "mlstm": ("mlstm", {"chunk_size": 4}),
    "mlstm-eps": ("mlstm", {"eps": 1e-2}),
}


class Problem(NamedTuple):
    """A call of a door: its tensors by name (inputs over time first), a start state, and options."""

    door: str
    inputs: dict[str, Tensor]
    weights: dict[str, Tensor]
    state: Any
    options: dict[str, Any]

    def run(self, **more):
        """The door's answer."""
        options = self.options | more
        extra = {k: x for k, x in self.weights.items() if k != "R"}
        R = [self.weights["R"]] if "R" in self.weights else []
        return getattr(functional, self.door)(*self.inputs.values(), *R, self.state, **extra, **options)

    def part(self, begin: int, end: int, state=None) -> "Problem":
        """The same problem for the steps from `begin` to `end`."""
        return self._replace(inputs={k: x[:, begin:end] for k, x in self.inputs.items()}, state=state)

    def rows(self, rows) -> "Problem":
        """The same problem for some rows of the batch."""
        state = None if self.state is None else type(self.state)(*(x[rows] for x in self.state))
        return self._replace(inputs={k: x[rows] for k, x in self.inputs.items()}, state=state)

    def to(self, *args) -> "Problem":
        """The same problem in another dtype or on another device."""
        move = lambda xs: {k: x.to(*args) for k, x in xs.items()}  # noqa: E731
        state = None if self.state is None else type(self.state)(*(x.to(*args) for x in self.state))
        return self._replace(inputs=move(self.inputs), weights=move(self.weights), state=state)


def numbers(random: torch.Generator, *shape: int) -> Tensor:
    """Normal numbers in float64, whatever the default dtype and device."""
    return torch.randn(shape, generator=random, dtype=torch.float64, device="cpu")


def problem(
    form: str, T: int = 7, *, B: int = 2, N: int = 2, H: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Problem:
    """A random problem of a form, its start state a state that was reached from the empty one."""
    door, options = FORMS[form]
    options = dict(options)
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape, scale=1.0: numbers(random, *shape).mul(scale).to(dtype)  # noqa: E731
    mix = 0.5 * (3 / H) ** 0.5  # of recurrent weights: the same gain at every width
    weights = {}
    if door == "rnn":
        inputs, weights["R"], state = {"x_pre": draw(B, T, N, H)}, draw(N, H, H, scale=mix), RNNState(draw(B, N, H))
    elif door == "mlstm":
        K, V = H, H + 2
        inputs = {"q": draw(B, T, N, K), "k": draw(B, T, N, K), "v": draw(B, T, N, V)}
        inputs |= {"i_pre": draw(B, T, N, scale=2), "f_pre": draw(B, T, N, scale=2)}
        state = MLSTMState(draw(B, N, K, V), draw(B, N, K), draw(B, N).abs())
    elif door == "lstm":
        P = options.pop("proj", None)
        G = 3 if options.get("forget") == "one" else 4
        inputs, weights["R"] = {"x_pre": draw(B, T, G, N, H)}, draw(G, N, H, P or H, scale=mix)
        if P:
            weights["proj"] = draw(N, P, H)
        state = LSTMState(draw(B, N, P or H).tanh(), draw(B, N, H))
    elif door == "gru":
        inputs, weights["R"] = {"x_pre": draw(B, T, 3, N, H)}, draw(3, N, H, H, scale=mix)
        if options.pop("bias", False):
            weights["bias"] = draw(N, H)
        state = GRUState(draw(B, N, H).tanh())
    else:
        inputs, weights["R"] = {"x_pre": draw(B, T, 4, N, H, scale=1.5)}, draw(4, N, H, H, scale=mix)
        n = 1 + draw(B, N, H).abs()
        state = SLSTMState(draw(B, N, H).tanh(), draw(B, N, H).tanh() * n, n, draw(B, N, H))
    return Problem(door, inputs, weights, state, options)


BIG = 1e4


def extreme(p: Problem, what: str) -> Problem:
    """The problem with its exponential and forget gates at a limit, written in place. The RNN has no gates."""
    gates = []
    if p.door == "mlstm":
        gates = [p.inputs["i_pre"], p.inputs["f_pre"]]
    elif p.door != "rnn":
        gates = p.inputs["x_pre"].unbind(2)[: 2 if p.door == "slstm" else None]
    for g, gate in enumerate(gates):
        T = gate.shape[1]
        if what == "alternating":
            gate[:] = BIG * (-1.0) ** torch.arange(T, device="cpu").add(g).view(1, T, *[1] * (gate.dim() - 2))
        elif what == "random":
            gate[:] = BIG * numbers(torch.Generator().manual_seed(g), *gate.shape)
        elif what == "first -inf":
            gate[:, 0] = -torch.inf
        elif what == "all -inf" or (what == "inputs -inf" and g == 0):
            gate[:] = -torch.inf
        elif what == "forget -inf" and g == 1:
            gate[:, ::3] = -torch.inf
        else:
            gate[:] = {"up": BIG, "down": -BIG}.get(what, gate)
    return p


def raw(state) -> dict[str, Tensor]:
    """A state as it is stored, but for m: finite where the content e^m is not."""
    return {name: x for name, x in state._asdict().items() if name != "m"}


def everything(p: Problem, *, run=Problem.run, means=raw, **more) -> dict[str, Tensor]:
    """Outputs, what the last state `means` and its m, and the gradients of every tensor that went in, by name.

    The gradients are of a random linear function of h and of the meaning, the same for every kernel; its weights are
    quarters, which every dtype holds.
    """
    leaf = lambda x: x.detach().clone().requires_grad_()  # noqa: E731
    inputs, weights = ({k: leaf(x) for k, x in xs.items()} for xs in (p.inputs, p.weights))
    state = p.state
    if state is not None:
        state = type(state)(*(x.detach() if name == "m" else leaf(x) for name, x in state._asdict().items()))
    h, last = run(p._replace(inputs=inputs, weights=weights, state=state), **more)
    random = torch.Generator().manual_seed(1)
    loss = h.new_zeros(())
    for x in [h, *means(last).values()]:
        loss = loss + (x * (numbers(random, *x.shape) * 4).round().div(4).to(x)).sum()
    loss.backward()
    answers = {"h": h.detach(), **{f"last {k}": x.detach() for k, x in means(last).items()}}
    if hasattr(last, "m"):
        answers["last m"] = last.m.detach()
    leaves = (
        inputs | weights | ({} if state is None else {f"state.{k}": x for k, x in state._asdict().items() if k != "m"})
    )
    return answers | {f"d {k}": x.grad if x.grad is not None else torch.zeros_like(x) for k, x in leaves.items()}


def distance(got: Tensor, want: Tensor) -> tuple[float, float]:
    """The largest difference, NaN if one is, and the scale it is seen on: the largest value wanted, at least 1."""
    if not want.numel():
        return 0.0, 1.0
    got, want = got.double(), want.double()
    scale = max(1.0, want.nan_to_num(0, 0, 0).abs().max().item())
    return (got - want).masked_fill(got == want, 0).abs().max().item(), scale


# ---- what is asked ---------------------------------------------------------------------------------------------------

# How far from float64 an answer may be, relative to the largest value of its tensor (at least 1). The kernels here
# reach 1e-14 in float64 and 2e-6 in float32; 16-bit answers are rounded once, at the end, by 2^-8 and 2^-11 at most.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}

# (T, H, what else): short, of odd width, and long enough for several chunks.
CALLS = [
    (1, 3, ""),
    (1, 3, "lengths, reset"),
    (3, 5, "on as many threads as torch has"),
    (7, 5, ""),
    (7, 5, "lengths"),
    (7, 5, "reset"),
    (7, 5, "lengths, reset"),
    (65, 19, ""),
    (65, 19, "lengths, reset"),
    (9, 3, "extreme gates"),
]
LIMITS = ["up", "down", "alternating", "first -inf", "all -inf", "inputs -inf", "forget -inf"]


def pose(form: str, T: int, H: int, what: str) -> tuple[Problem, dict[str, Tensor]]:
    """A problem of numbers that every dtype holds, and the lengths and resets it comes with."""
    p = problem(form, T, B=len(LIMITS) if "extreme" in what else 4, H=H, dtype=torch.bfloat16, seed=2)
    more = {}
    if "extreme" in what:
        for b, limit in enumerate(LIMITS):
            extreme(p.rows(slice(b, b + 1)), limit)
        if p.door == "slstm":  # float32 would round a sum of a gate of 1e4 and R h, and the exponential show it
            p.weights["R"][:2] = 0
        p = p._replace(state=None)
    if "lengths" in what:
        more["lengths"] = torch.tensor([T, T - 1, T // 2, 0], device="cpu")
        for x in p.inputs.values():
            x.masked_fill_(padding(x, more["lengths"]), torch.nan)
    if "reset" in what:
        random = torch.Generator().manual_seed(T)
        more["reset"] = torch.rand(4, T, generator=random, device="cpu") < 0.3
        more["reset"][0, T // 2] = True
    return p, more


def padding(x: Tensor, lengths: Tensor) -> Tensor:
    """True past each row's end, of a shape that broadcasts with x (B, T, ...)."""
    past = torch.arange(x.shape[1], device="cpu") >= lengths[:, None]
    return past.view(*past.shape, *[1] * (x.dim() - 2))


def answers(p: Problem, **more) -> dict[str, Tensor] | str:
    """Everything, on the CPU; or what was raised, in words."""
    try:
        return {name: x.cpu() for name, x in everything(p, **more).items()}
    except Exception as error:  # each backend has its own
        return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def wanted(p: Problem, more: dict[str, Tensor]) -> dict[str, Tensor] | str:
    """The float64 reference's answers, on the CPU; outputs and gradients past a row's end are 0 whatever it says."""
    want = answers(p.to(torch.float64), kernel="reference", **more)
    if isinstance(want, dict) and "lengths" in more:
        for name in ("h", *(f"d {k}" for k in p.inputs)):
            want[name] = want[name].masked_fill(padding(want[name], more["lengths"]), 0)
    return want


# ---- the check -------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """How far one kernel is from the float64 reference, in one dtype on one device. Errors are relative to the largest
    value of each tensor; infinite for NaN, a wrong shape or dtype, or where something was raised; NaN if not here."""

    cell: str
    """And its form, such as lstm-proj."""
    kernel: str
    device: str
    dtype: torch.dtype
    forward: float
    """The worst error of outputs and last states."""
    gradient: float
    """The worst error of gradients."""
    allowed: float
    verdict: str
    """"ok", "not here: …" and why, or "FAILED: …" and what."""

    @property
    def ok(self) -> bool:
        return not self.verdict.startswith("FAILED")


@dataclass(frozen=True)
class SelfCheck:
    """What `selfcheck` found: true if nothing failed; as text, a table."""

    rows: tuple[Row, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return "\n".join(table(self))


def selfcheck(cells: Sequence[str] | None = None) -> SelfCheck:
    """Compare every kernel, form and dtype of every cell, on every device here, with the float64 reference on the CPU.

    Outputs, last states and all gradients; lengths 1, 7 and 65, with and without `lengths` and `reset`, gates at their
    limits. A kernel that cannot run here is told with its reason, and is no failure. Takes seconds, on one thread, and
    leaves everything as it was.

    Args:
        cells: which cells, names in `longshort.functional.KERNELS`; None: all.

    Returns:
        An object that is true if all is well, prints as a table, and has `ok`, `rows` and `seconds`.

    >>> bool(selfcheck(["rnn"]))
    True
    """
    cells = list(KERNELS) if cells is None else cells
    if isinstance(cells, str) or not cells or any(cell not in KERNELS for cell in cells):
        raise ValueError(f"cells={cells!r} must be a list of names out of {', '.join(KERNELS)}")
    began = time.perf_counter()
    own = torch.get_num_threads()
    with undisturbed():
        rows = tuple(row for form, (cell, _) in FORMS.items() if cell in cells for row in check_form(form, own))
    return SelfCheck(rows, time.perf_counter() - began)


def devices_here() -> list[str]:
    """The device types there are."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Gradients on, no autocast, float32 in full and one thread, whatever the caller has."""
    with torch.inference_mode(False), torch.enable_grad(), full_float32(), threads(1), ExitStack() as stack:
        for device in devices_here():
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads inside. More than one wait long for each other on a busy machine, and problems here are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def full_float32() -> Iterator[None]:
    """No TensorFloat32 nor bfloat16 inside float32's products: its own tolerance is meant here."""
    on_cpu = getattr(torch.backends.mkldnn, "matmul", None)
    if on_cpu is None:  # torch before 2.9
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
        return
    products = [torch.backends.cuda.matmul, on_cpu]
    before = [each.fp32_precision for each in products]
    try:
        for each in products:
            each.fp32_precision = "ieee"
        yield
    finally:
        for each, precision in zip(products, before, strict=True):
            each.fp32_precision = precision


def check_form(form: str, own_threads: int) -> Iterator[Row]:
    """A row for each kernel, device and dtype of a form."""
    posed = [pose(form, *call) for call in CALLS]
    wants = [wanted(*each) for each in posed]
    cell = FORMS[form][0]
    for kernel, implementation in KERNELS[cell].items():
        for device in devices_here():
            for dtype, allowed in TOLERANCE.items():
                x = next(iter(posed[0][0].inputs.values())).to(device, dtype)
                if reason := implementation.why_not(x):
                    found = math.nan, math.nan, allowed, f"not here: {reason}"
                else:
                    found = check(kernel, device, dtype, posed, wants, own_threads)
                yield Row(form, kernel, device, dtype, *found)


def check(
    kernel: str, device: str, dtype: torch.dtype, posed, wants, own_threads: int
) -> tuple[float, float, float, str]:
    """The worst errors of outputs and of gradients, what is allowed, and a verdict, the first call at fault in it."""
    worst, verdict = {"forward": 0.0, "gradient": 0.0}, "ok"
    for (T, _, what), (p, more), want in zip(CALLS, posed, wants, strict=True):
        more = {name: x.to(device) for name, x in more.items()}
        with threads(own_threads if "threads" in what else 1):
            got = answers(p.to(device, dtype), kernel=kernel, **more)
        faults = []
        for name, (error, fault) in compare(got, want, dtype).items():
            kind = "gradient" if name.startswith("d ") else "forward"
            worst[kind] = max(worst[kind], error)
            if error > TOLERANCE[dtype]:
                faults.append(fault)
        if faults and verdict == "ok":
            others = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
            verdict = f"FAILED: T={T}{what and ', '}{what}: {'; '.join(faults[:3])}{others}"
    return worst["forward"], worst["gradient"], TOLERANCE[dtype], verdict


def compare(
    got: dict[str, Tensor] | str, want: dict[str, Tensor] | str, dtype: torch.dtype
) -> dict[str, tuple[float, str]]:
    """By name of the answer: its relative error, infinite if it cannot be compared; and that in words."""
    if isinstance(want, str):
        return {"h": (math.inf, f"the float64 reference raised {want}")}
    if isinstance(got, str):
        return {"h": (math.inf, f"raised {got}")}
    found = {}
    for name, y in want.items():
        if (x := got.get(name)) is None:
            found[name] = math.inf, f"{name} is missing"
            continue
        kept = torch.promote_types(dtype, torch.float32) if name.startswith("last") else dtype
        if x.shape != y.shape:
            found[name] = math.inf, f"{name} has shape {tuple(x.shape)}, not {tuple(y.shape)}"
        elif x.dtype != kept:
            found[name] = math.inf, f"{name} is {x.dtype}, not {kept}"
        else:
            error, scale = distance(x, y)
            words = f"{name} is off by {error:.2g} on a scale of {scale:.2g}"
            found[name] = (math.inf, f"{name} holds NaN") if math.isnan(error) else (error / scale, words)
    return found


# ---- the table -------------------------------------------------------------------------------------------------------


def table(found: SelfCheck) -> list[str]:
    """A line for each cell, kernel and device, a column for each dtype; below, what failed, and a summary."""
    figure = lambda x: f"{x:.0e}" if x else "0"  # noqa: E731
    line = lambda a, b, c, cells: f"{a:14} {b:10} {c:6} " + " ".join(f"{x:15}" for x in cells)  # noqa: E731
    dtypes = [str(dtype).removeprefix("torch.") for dtype in TOLERANCE]
    lines = ["largest errors of outputs and last states · of gradients, relative to the largest value, against the",
             "float64 reference on the CPU", "", line("cell", "kernel", "device", dtypes)]  # fmt: skip
    below = []
    for place, rows in groupby(found.rows, key=lambda row: row[:3]):
        shown, verdicts = [], {}
        for row, dtype in zip(rows, dtypes, strict=True):
            errors = f"{figure(row.forward)} · {figure(row.gradient)}"
            shown.append(errors if row.verdict == "ok" else row.verdict.split(":")[0])
            verdicts.setdefault(row.verdict, []).append(dtype)
        if len(verdicts) == 1 and shown[0] == "not here":
            shown = verdicts
        else:
            below += [f"{' '.join(place)} {', '.join(of)} {told}" for told, of in verdicts.items() if told != "ok"]
        lines.append(line(*place, shown))
    lines += [line("allowed", "", "", [f"{figure(x)} · {figure(x)}" for x in TOLERANCE.values()]), *below, ""]
    return [text.rstrip() for text in (*lines, summary(found.rows, found.seconds))]


def summary(rows: Sequence[Row], seconds: float) -> str:
    """One line."""
    failed, absent = (sum(row.verdict.startswith(word) for row in rows) for word in ("FAILED", "not here"))
    told = f"{len(rows) - absent} checked, {failed} failed, {absent} not here, {seconds:.1f} s"
    return f"self-check {'FAILED' if failed else 'passed'}: {told}"
