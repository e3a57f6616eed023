"""The layers and models that `test_programs.py` puts through PyTorch's machinery, and what needs a process of its own.

Under torch.compile nothing may be changed by an import hook, and the tests' conftest installs one. So
`python programs.py compile` (or inductor, or export FOLDER) runs those checks and prints {check: what went wrong}.
"""

import json
import sys
import traceback
from functools import partial

import torch
from torch.export import Dim
from torch.func import functional_call, grad, jvp, vmap
from torch.utils._pytree import tree_map_only

import longshort
from longshort import functional

LAYERS = {
    "RNN": ("RNN", dict(nonlinearity="tanh")),
    "GRU": ("GRU", {}),
    "LSTM": ("LSTM", {}),
    "LSTM-1997-proj": ("LSTM", dict(forget="one", proj_size=2, num_heads=2)),
    "sLSTM": ("sLSTM", {}),
    "mLSTM": ("mLSTM", dict(chunk_size=3)),
    "mLSTM-all": ("mLSTM", dict(num_layers=2, bidirectional=True, num_heads=2, norm="head", qk_dim=6, chunk_size=3)),
}
MODELS = {
    "paper": dict(blocks=("mlstm", "slstm"), embedding_dim=8, num_heads=2, round_up_to=8, vocab_size=11),
    "7b": dict(num_blocks=1, block="7b", embedding_dim=8, num_heads=2, round_up_to=8, vocab_size=11),
}
only_tensors = partial(tree_map_only, torch.Tensor)


def make(name: str, seed: int = 0, **more):
    """A layer of 3 features and 4 units, or a model, in float64, no weight of it 0."""
    torch.manual_seed(seed)
    if name in MODELS:
        layer = longshort.xLSTMLM(longshort.xLSTMConfig(**MODELS[name])).to(more.get("dtype", torch.float64))
    else:
        kind, options = LAYERS[name]
        layer = getattr(longshort, kind)(3, 4, batch_first=True, **{"dtype": torch.float64} | options | more)
    if not next(layer.parameters()).is_meta:
        for weight in layer.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    return layer


def inputs(layer, B: int = 2, T: int = 5) -> torch.Tensor:
    """Random inputs of a layer or a model."""
    if isinstance(layer, longshort.xLSTMLM):
        return torch.randint(11, (B, T))
    return torch.randn(B, T, 3, dtype=next(layer.parameters()).dtype)


def carried(layer, B: int = 2):
    """A state that the layer reached, cut from its past."""
    return only_tensors(lambda x: x.detach(), layer(inputs(layer, B))[1])


def cuts(B: int = 2, T: int = 5) -> dict[str, torch.Tensor]:
    """Lengths and resets, some of each."""
    reset = torch.rand(B, T) < 0.3
    reset[:, T // 2 : T // 2 + 1] = True
    return {"lengths": (T - 2 * torch.arange(B)).clamp(min=0), "reset": reset}


def leaves(answer) -> list[torch.Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(answer) if isinstance(x, torch.Tensor)]


def same(got, want, tolerance: float = 1e-12) -> None:
    """Every tensor within is equal, in shape and dtype too."""
    got, want = leaves(got), leaves(want)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.requires_grad == b.requires_grad
        torch.testing.assert_close(a.detach(), b.detach(), rtol=tolerance, atol=tolerance, equal_nan=True)


def loss_of(answer) -> torch.Tensor:
    """A linear function of it, always the same."""
    torch.manual_seed(1)
    parts = [y for y in leaves(answer) if y.requires_grad]
    return sum((y * torch.randn(y.shape, dtype=torch.float64).to(y.dtype)).sum() for y in parts)


def learn(layer, call, x, state=None, **cuts):
    """What `call` answers, and every gradient of a linear function of it: of x, the state, and the weights."""
    x, state = only_tensors(lambda x: x.detach().requires_grad_(x.is_floating_point()), (x, state))
    layer.zero_grad()
    answer = call(x, state, **cuts)
    loss_of(answer).backward()
    return answer, grads_of((x, state, list(layer.parameters())))


def grads_of(tensors) -> list[torch.Tensor]:
    """The gradients of those that want one."""
    return [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves(tensors) if x.requires_grad]


# ---- compile ---------------------------------------------------------------------------------------------------------

graphs: list[torch.fx.GraphModule] = []
SHAPES = [(2, 5), (3, 7), (4, 11)]


def counted(module, example):
    """A backend that counts the programs it is given: all that precedes the compiler proper, gradients included."""
    graphs.append(module)
    return torch._dynamo.lookup_backend("aot_eager")(module, example)


def compiled(layer, backend=counted):
    torch._dynamo.reset()
    graphs.clear()
    return torch.compile(layer, backend=backend, fullgraph=True)


def plain(state):
    """The state, cut from its past, in plain tensors.

    PyTorch's aot_eager backend (not inductor: see below) takes no subclass of Tensor beside an operator of ours.
    """
    return only_tensors(lambda x: x.detach().as_subclass(torch.Tensor), state)


def trains(name):
    """Another batch and another length at every step: values, states, gradients as without, and two programs."""
    layer = make(name)
    program = compiled(layer)
    for B, T in SHAPES:
        x = inputs(layer, B, T)
        same(learn(layer, program, x), learn(layer, layer, x))
    assert len(graphs) <= 2, f"{len(graphs)} programs"


def cut(name):
    """The same with a state, lengths and resets."""
    layer = make(name)
    program = compiled(layer)
    for B, T in SHAPES:
        x, state, more = inputs(layer, B, T), plain(carried(layer, B)), cuts(B, T)
        same(learn(layer, program, x, state, **more), learn(layer, layer, x, state, **more))
    assert len(graphs) <= 2, f"{len(graphs)} programs"


def carries(name):
    """Truncated back-propagation: the state handed on, at first None."""
    layer = make(name)
    program = compiled(layer)
    mine = theirs = None
    for T in (5, 5, 7, 9):
        x = inputs(layer, 2, T)
        (got, grads), (want, others) = learn(layer, program, x, mine), learn(layer, layer, x, theirs)
        same((got, grads), (want, others))
        mine, theirs = plain((got[1], want[1]))
    assert len(graphs) <= 3, f"{len(graphs)} programs"


def listed(name):
    """Lengths as a list of other numbers each time."""
    layer = make(name)
    program = compiled(layer)
    for T in (5, 7, 9):
        x, lengths = inputs(layer, 2, T), [T - 1, T - 3]
        same(program(x, lengths=lengths), layer(x, lengths=lengths))
    assert len(graphs) <= 2, f"{len(graphs)} programs"


def infers(name):
    """Under no_grad, with weights that want no gradient, and in bfloat16's autocast."""
    layer = make(name, dtype=torch.float32).requires_grad_(False)
    program = compiled(layer)
    x = inputs(layer)
    with torch.no_grad():
        same(program(x), layer(x), 1e-6)
    if x.is_floating_point():
        same(learn(layer, program, x), learn(layer, layer, x), 1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        same(program(x), layer(x), 2e-2)


def forced(kernel):
    """A kernel asked for by name."""
    wide = kernel != "native"
    layer = make("mLSTM", kernel=kernel, dtype=torch.float64 if wide else torch.float32)
    x = inputs(layer)
    same(learn(layer, compiled(layer), x), learn(layer, layer, x), 1e-12 if wide else 1e-5)


def door(name):
    """A door of `longshort.functional`, its weights arguments."""
    form = {"rnn": "rnn-relu", "lstm": "lstm-proj", "gru": "gru-bias", "slstm": "slstm-exp", "mlstm": "mlstm-eps"}[name]
    program = compiled(getattr(functional, name))

    def learn_door(p, call, **more):
        inputs, weights, state = only_tensors(lambda x: x.clone().requires_grad_(), (p.inputs, p.weights, p.state))
        R = [weights.pop("R")] if "R" in weights else []
        answer = call(*inputs.values(), *R, state, **weights, **p.options, **more)
        loss_of(answer).backward()
        return answer, grads_of((inputs, R, weights, state))

    for B, T in SHAPES:
        p, more = longshort.checking.problem(form, T, B=B), cuts(B, T)
        same(learn_door(p, program, **more), learn_door(p, getattr(functional, name), **more))
    assert len(graphs) <= 2, f"{len(graphs)} programs"


def too_long():
    """Wrong lengths are told when the program runs, in the words they always are."""
    layer = make("sLSTM")
    program = compiled(layer)
    program(inputs(layer), lengths=torch.tensor([5, 4]))
    for lengths in ([6, 5], [5, -1]):
        try:
            program(inputs(layer), lengths=torch.tensor(lengths))
        except ValueError as error:
            assert f"lengths must be between 0 and T=5, got {min(lengths)} to {max(lengths)}" in str(error)
        else:
            raise AssertionError(f"{lengths} went through")


def steps(name):
    """One frame at a time: a program for the first, and one for all others."""
    layer = make(name)
    step, x = compiled(layer.step), inputs(layer)
    mine = theirs = None
    for frame in x.unbind(1):
        (got, mine), (want, theirs) = step(frame, mine), layer.step(frame, theirs)
        same((got, mine), (want, theirs))
        mine = plain(mine)
    assert len(graphs) <= 2, f"{len(graphs)} programs"


def transforms(name):
    """Derivatives taken inside of a program look inside the layer; one without a formula would be silently 0."""
    layer = make(name)
    x, weights = inputs(layer, 2, 3), {k: w.detach() for k, w in layer.named_parameters()}

    def loss(weights, x):
        return functional_call(layer, weights, (x,))[0].square().sum()

    for f in (
        lambda x: jvp(partial(loss, weights), (x,), (torch.ones_like(x),))[1],
        lambda x: vmap(grad(loss), in_dims=(None, 0))(weights, x),
        grad(lambda x: grad(loss, argnums=1)(weights, x).square().sum()),
    ):
        want = f(x)
        assert all(d.any() for d in leaves(want))
        same(compiled(f)(x), want)


def refused():
    """Arguments that do not fit are told when the program is made."""
    layer = make("mLSTM")
    x = inputs(layer)
    for call, words in (
        (lambda layer: layer(x[..., :2]), "x has 2 features, input_size is 3"),
        (lambda layer: layer(x, lengths=torch.tensor([5, 5, 5])), "lengths must be 2 whole numbers"),
        (lambda layer: layer(x, x[0]), "mLSTM's state is (h, C, n, m) of tensors"),
    ):
        try:
            call(compiled(layer))
        except Exception as error:  # PyTorch's own, ours within
            assert words in str(error), error
        else:
            raise AssertionError(f"no word of {words}")


def twice():
    """A second derivative of a compiled program is an error, never 0."""
    layer = make("LSTM")
    x = inputs(layer).requires_grad_()
    y, _ = compiled(layer)(x)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    try:
        dx.square().sum().backward()
    except RuntimeError as error:
        assert "double backward" in str(error)
    else:
        raise AssertionError("no error")


def inductor(name):
    """PyTorch's own compiler, with a state that is still attached to its past."""
    layer = make(name)
    program = compiled(layer, "inductor")
    for T in (5, 7):
        state, x, more = layer(inputs(layer))[1], inputs(layer, 2, T), cuts(2, T)
        same(program(x, state, **more), layer(x, state, **more))
        same(learn(layer, program, x, state), learn(layer, layer, x, state))


# ---- export ----------------------------------------------------------------------------------------------------------


def export(name, folder):
    """Any B and T; state, lengths, resets in, state out; written to FOLDER with calls and what they answer."""
    layer = make(name)
    B, T = Dim("B"), Dim("T")
    batch = 0 if name in MODELS else 1
    state = carried(layer)
    shapes = {"state": only_tensors(lambda _: {batch: B}, state), "lengths": {0: B}, "reset": {0: B, 1: T}}
    program = torch.export.export(
        layer, (inputs(layer),), {"state": state} | cuts(), dynamic_shapes={first(layer): {0: B, 1: T}} | shapes
    )
    assert len([n for n in program.graph.nodes if "longshort" in str(n.target)]) == parts(layer), "unrolled"
    torch.export.save(program, f"{folder}/{name}.pt2")
    calls = []
    for b, t in ((2, 5), (3, 9), (1, 1), (7, 2), (2, 0), (0, 3)):
        if t or name != "paper":  # the convolution's export does not take T = 0
            args, more = (inputs(layer, b, t),), {"state": carried(layer, b)} | cuts(b, t)
            calls.append((args, more, leaves(layer(*args, **more))))
    torch.save(calls, f"{folder}/{name}.pt")


def first(layer):
    return "tokens" if isinstance(layer, longshort.xLSTMLM) else "x"


def parts(layer):
    return len(layer.config.kinds) if isinstance(layer, longshort.xLSTMLM) else len(layer.parts)


# ---- running them ----------------------------------------------------------------------------------------------------

CHECKS = {
    "compile": {
        **{f"trains {name}": partial(trains, name) for name in ("LSTM", "mLSTM")},
        **{f"cut {name}": partial(cut, name) for name in [*LAYERS, "paper"]},
        **{f"steps {name}": partial(steps, name) for name in ("GRU", "mLSTM")},
        **{f"transforms {name}": partial(transforms, name) for name in ("mLSTM",)},
        "refused": refused,
        **{f"carries {name}": partial(carries, name) for name in ("sLSTM",)},
        **{f"listed {name}": partial(listed, name) for name in ("LSTM",)},
        **{f"infers {name}": partial(infers, name) for name in ("mLSTM", "paper")},
        **{f"forced {kernel}": partial(forced, kernel) for kernel in functional.KERNELS["mlstm"]},
        **{f"door {cell}": partial(door, cell) for cell in functional.KERNELS},
        "too long": too_long,
        "twice": twice,
    },
    "inductor": {f"inductor {name}": partial(inductor, name) for name in ("GRU", "mLSTM")},
    "export": {f"export {name}": partial(export, name) for name in LAYERS | MODELS},
}


def main(group: str, *more: str) -> None:
    wrong = {}
    for name, check in CHECKS[group].items():
        torch.manual_seed(0)
        try:
            check(*more)
            wrong[name] = None
        except Exception:
            wrong[name] = traceback.format_exc()
    print(json.dumps(wrong))


if __name__ == "__main__":
    main(*sys.argv[1:])
