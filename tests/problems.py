"""Random problems for every cell and form, and what of their answers is compared.

Needs torch alone: the GPU's tests use it too.
"""

from typing import Any, NamedTuple

import torch

from longshort import functional
from longshort.functional import LSTMState, MLSTMState, RNNState, SLSTMState

# Every cell and form: a name, its door, and the options that make it.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn-tanh": ("rnn", {}),
    "rnn-relu": ("rnn", {"nonlinearity": "relu"}),
    "lstm-2000": ("lstm", {}),
    "lstm-1997": ("lstm", {"forget": "one"}),
    "lstm-proj": ("lstm", {"proj": 2}),
    "slstm-sigmoid": ("slstm", {}),
    "slstm-exp": ("slstm", {"forget": "exp"}),
    "mlstm-reference": ("mlstm", {"kernel": "reference"}),
    "mlstm-parallel": ("mlstm", {"kernel": "parallel"}),
    "mlstm-chunkwise": ("mlstm", {"kernel": "chunkwise", "chunk_size": 4}),
}
LENGTHS = [1, 2, 3, 7, 63, 64, 65, 100]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


class Problem(NamedTuple):
    """A call of a door: its tensors by name (inputs over time first), a start state, and options."""

    door: str
    inputs: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
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


def problem(
    case: str, T: int = 7, *, B: int = 2, N: int = 2, H: int = 3, dtype=torch.float64, seed: int = 0
) -> Problem:
    """A random problem of a case, its start state a state that was reached from the empty one."""
    door, options = CASES[case]
    options = dict(options)
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape, scale=1.0: torch.randn(*shape, generator=random, dtype=torch.float64).mul(scale).to(dtype)  # noqa: E731
    weights = {}
    if door == "rnn":
        inputs, weights["R"], state = {"x_pre": draw(B, T, N, H)}, draw(N, H, H, scale=0.5), RNNState(draw(B, N, H))
    elif door == "mlstm":
        K, V = H, H + 2
        inputs = {"q": draw(B, T, N, K), "k": draw(B, T, N, K), "v": draw(B, T, N, V)}
        inputs |= {"i_pre": draw(B, T, N, scale=2), "f_pre": draw(B, T, N, scale=2)}
        state = MLSTMState(draw(B, N, K, V), draw(B, N, K), draw(B, N).abs())
    elif door == "lstm":
        P = options.pop("proj", None)
        G = 3 if options.get("forget") == "one" else 4
        inputs, weights["R"] = {"x_pre": draw(B, T, G, N, H)}, draw(G, N, H, P or H, scale=0.5)
        if P:
            weights["proj"] = draw(N, P, H)
        state = LSTMState(draw(B, N, P or H).tanh(), draw(B, N, H))
    else:
        inputs, weights["R"] = {"x_pre": draw(B, T, 4, N, H, scale=1.5)}, draw(4, N, H, H, scale=0.5)
        n = 1 + draw(B, N, H).abs()
        state = SLSTMState(draw(B, N, H).tanh(), draw(B, N, H).tanh() * n, n, draw(B, N, H))
    return Problem(door, inputs, weights, state, options)


def content(state) -> dict[str, torch.Tensor]:
    """What a state means, whatever its stabiliser: c e^m and n e^m, C e^m."""
    if state is None:
        return {}
    if not hasattr(state, "m"):
        return state._asdict()
    meant = {}
    for name, x in state._asdict().items():
        if name == "m":
            continue
        scale = state.m.detach().exp()
        meant[name] = x if name == "h" else x * scale.reshape(*scale.shape, *[1] * (x.dim() - scale.dim()))
    return meant


def raw(state) -> dict[str, torch.Tensor]:
    """A state as it is stored, but for m: finite where the content e^m is not."""
    return {name: x for name, x in state._asdict().items() if name != "m"}


def everything(p: Problem, *, run=Problem.run, means=content, **more) -> dict[str, torch.Tensor]:
    """Outputs, the last state's content and m, and the gradients of every tensor that went in, each under its name.

    The gradients are of a random linear function of h and of the content, the same for every kernel.
    """
    leaf = lambda x: x.detach().clone().requires_grad_()  # noqa: E731
    inputs, weights = ({k: leaf(x) for k, x in xs.items()} for xs in (p.inputs, p.weights))
    state = p.state
    if state is not None:
        state = type(state)(*(x.detach() if name == "m" else leaf(x) for name, x in state._asdict().items()))
    h, last = run(p._replace(inputs=inputs, weights=weights, state=state), **more)
    random = torch.Generator().manual_seed(1)
    loss = 0.0
    for x in [h, *means(last).values()]:
        loss = loss + (x * torch.randn(x.shape, generator=random, dtype=torch.float64).to(x)).sum()
    loss.backward()
    answers = {"h": h.detach(), **{f"last {k}": x.detach() for k, x in means(last).items()}}
    if hasattr(last, "m"):
        answers["last m"] = last.m.detach()
    leaves = (
        inputs | weights | ({} if state is None else {f"state.{k}": x for k, x in state._asdict().items() if k != "m"})
    )
    return answers | {f"d {k}": x.grad if x.grad is not None else torch.zeros_like(x) for k, x in leaves.items()}


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], tolerance: float) -> None:
    """Every named answer equals, to `tolerance` of its own largest value; the first that does not is named."""
    assert got.keys() == want.keys()
    for name, x in want.items():
        y = got[name]
        assert y.shape == x.shape, f"{name}: shape {tuple(y.shape)}, not {tuple(x.shape)}"
        same = (y == x) | (y.isnan() & x.isnan())
        x, y = x.double().masked_fill(same, 0), y.double().masked_fill(same, 0)
        scale = max(1.0, want[name].double().nan_to_num(0, 0, 0).abs().max().item()) if x.numel() else 1.0
        error = (x - y).abs().max().item() if x.numel() else 0.0
        assert error <= tolerance * scale, f"{name}: off by {error:.3g} on a scale of {scale:.3g}"
