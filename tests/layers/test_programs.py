"""What PyTorch people do to a module: compile, export, transform, cast, copy, hook, checkpoint, put on meta."""

import copy
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from functools import cache, partial

import pytest
import torch
from layers import programs
from layers.programs import LAYERS, MODELS, carried, cuts, inputs, learn, leaves, loss_of, make, only_tensors, same
from problems import content
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import longshort
from longshort import checking
from longshort.operators import SIGNATURES

SLOW_VMAP = "ignore:There is a performance drop"
each_layer = pytest.mark.parametrize("name", LAYERS)
with_cuts = pytest.mark.parametrize("cut", [False, True], ids=["", "lengths-reset"])


def run(*args) -> str:
    command, env = [sys.executable, *map(str, args)], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def wrong(group: str, *args) -> dict[str, str | None]:
    """What went wrong in each check of `programs.py`, run in a process without the tests' import hook."""
    return json.loads(run(programs.__file__, group, *args).splitlines()[-1])


# ---- compile and export ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", programs.CHECKS["compile"])
def test_compiled(check):
    assert not wrong("compile")[check], wrong("compile")[check]


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
@pytest.mark.parametrize("check", programs.CHECKS["inductor"])
def test_compiled_by_inductor(check):
    assert not wrong("inductor")[check], wrong("inductor")[check]


LOAD = """
import sys, torch, longshort
for path in sys.argv[1:]:
    program = torch.export.load(path + ".pt2").module()
    for args, more, want in torch.load(path + ".pt", weights_only=False):
        got = [x for x in torch.utils._pytree.tree_leaves(program(*args, **more)) if x is not None]
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    print(type(program(*args, **more)[1]).__name__)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.mark.parametrize("name", LAYERS | MODELS)
def test_exported_for_any_batch_and_length(name, folder):
    assert not wrong("export", folder)[f"export {name}"], wrong("export", folder)[f"export {name}"]


def test_an_exported_file_needs_torch_and_longshort_alone(folder):
    wrong("export", folder)
    want = dict.fromkeys(("RNN", "GRU"), "Tensor") | dict.fromkeys(("LSTM", "LSTM-1997-proj"), "LSTMState")
    want |= {"sLSTM": "SLSTMState", "mLSTM": "MLSTMLayerState", "mLSTM-all": "MLSTMLayerState"}
    want |= dict.fromkeys(MODELS, "tuple")
    assert run("-c", LOAD, *(folder / name for name in want)).split() == list(want.values())


# ---- transforms ------------------------------------------------------------------------------------------------------


def meaning(state) -> list[Tensor]:
    """What a state means, whatever its stabiliser: m carries no gradient, c e^m does."""
    return [state] if isinstance(state, Tensor) else list(content(state).values())


def function_of(layer, cut: bool = False, B: int = 2, T: int = 4):
    """The layer as a function of all that has a gradient: x, the weights, what the state holds. And a point."""
    weights = {name: w.detach() for name, w in layer.named_parameters()}
    x, state, more = inputs(layer, B, T), carried(layer, B), cuts(B, T) if cut else {}
    held = {"h": state} if isinstance(state, Tensor) else {k: s for k, s in state._asdict().items() if k != "m"}

    def f(x, weights, held):
        start = held["h"] if isinstance(state, Tensor) else state._replace(**held)
        y, last = functional_call(layer, weights, (x, start), more)
        return [y, *meaning(last)]

    return f, (x, weights, held)


@with_cuts
@each_layer
def test_forward_mode_equals_a_difference_and_reverse_mode(name, cut):
    f, point = function_of(make(name), cut)
    along = only_tensors(torch.randn_like, point)
    value, forward = jvp(f, point, along)
    same(value, f(*point))
    step = lambda eps: f(*torch.utils._pytree.tree_map(lambda x, dx: x + eps * dx, point, along))  # noqa: E731
    for d, a, b in zip(forward, step(1e-6), step(-1e-6), strict=True):
        assert d.abs().max() > 1e-3
        torch.testing.assert_close(d, (a - b) / 2e-6, rtol=1e-6, atol=1e-6)

    dy = only_tensors(torch.randn_like, value)
    back = vjp(f, *point)[1](dy)
    dot = lambda a, b: sum((x * y).sum() for x, y in zip(leaves(a), leaves(b), strict=True))  # noqa: E731
    torch.testing.assert_close(dot(forward, dy), dot(along, back), rtol=1e-11, atol=1e-11)

    with forward_ad.dual_level():
        dual = f(*torch.utils._pytree.tree_map(forward_ad.make_dual, point, along))
        same([forward_ad.unpack_dual(x).tangent for x in dual], forward)


@pytest.mark.parametrize("name", MODELS)
def test_forward_mode_of_a_model_equals_a_difference(name):
    model = make(name)
    weights = {name: w.detach() for name, w in model.named_parameters()}
    tokens, along = inputs(model), only_tensors(torch.randn_like, weights)
    f = lambda eps: functional_call(model, {k: w + eps * along[k] for k, w in weights.items()}, (tokens,))[0]  # noqa: E731
    zero = torch.zeros((), dtype=torch.float64)
    got = jvp(f, (zero,), (zero + 1,))[1]
    assert got.abs().max() > 1e-3
    torch.testing.assert_close(got, (f(1e-6) - f(-1e-6)) / 2e-6, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings(SLOW_VMAP)
@with_cuts
@each_layer
def test_vmap_over_inputs_and_states_equals_a_loop(name, cut):
    layer = make(name)
    calls = [(inputs(layer), carried(layer), cuts() if cut else {}) for _ in range(3)]
    many = torch.utils._pytree.tree_map(lambda *xs: torch.stack(xs), *calls)
    loop = [layer(x, state, **more) for x, state, more in calls]
    got = vmap(lambda x, state, more: layer(x, state, **more))(*many)
    same(got, torch.utils._pytree.tree_map(lambda *xs: torch.stack(xs), *loop))


@pytest.mark.filterwarnings(SLOW_VMAP)
@pytest.mark.parametrize("name", LAYERS | MODELS)
def test_vmap_over_an_ensemble_equals_a_loop(name):
    layers = [make(name, seed) for seed in range(3)]
    weights, buffers = stack_module_state(layers)
    base, x = copy.deepcopy(layers[0]).to("meta"), inputs(layers[0])
    got = vmap(lambda w, b: leaves(functional_call(base, (w, b), (x,))))(weights, buffers)
    same(got, [torch.stack(parts) for parts in zip(*(leaves(layer(x)) for layer in layers), strict=True)])


@pytest.mark.filterwarnings(SLOW_VMAP)
@each_layer
def test_gradients_of_each_sample_equal_a_loop(name):
    layer = make(name)
    x, weights = inputs(layer, 3), {k: w.detach() for k, w in layer.named_parameters()}

    def loss(weights, x):  # unbatched (T, input)
        y, state = functional_call(layer, weights, (x,))
        return sum(part.square().sum() for part in [y, *meaning(state)])

    got = vmap(grad(loss), in_dims=(None, 0))(weights, x)
    loop = [grad(loss)(weights, each) for each in x]
    same(got, {k: torch.stack([one[k] for one in loop]) for k in weights})
    assert all(w.any() for w in got.values())


@pytest.mark.filterwarnings(SLOW_VMAP)
@each_layer
def test_jacobians_agree_in_every_mode(name):
    f, (x, weights, held) = function_of(make(name), B=1, T=3)
    want = jacrev(f, argnums=(0, 2))(x, weights, held)
    same(jacfwd(f, argnums=(0, 2))(x, weights, held), want)
    assert all(d_dx.any() for d_dx, _ in want)
    for vectorize in (False, True):
        got = torch.autograd.functional.jacobian(lambda x: tuple(f(x, weights, held)), x, vectorize=vectorize)
        same(got, [d[0] for d in want])


@each_layer
def test_many_gradients_at_once_equal_one_at_a_time(name):
    layer = make(name)
    x = inputs(layer).requires_grad_()
    y, _ = layer(x)
    each = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
    at = [x, *layer.parameters()]
    loop = [torch.autograd.grad(y, at, dy, retain_graph=True) for dy in each]
    got = torch.autograd.grad(y, at, each, is_grads_batched=True, retain_graph=True)
    same(got, [torch.stack(parts) for parts in zip(*loop, strict=True)])


@each_layer
def test_hessian_vector_products_agree_in_every_mode(name):
    f, (x, weights, held) = function_of(make(name))
    along = torch.randn_like(x)

    def loss(x):
        return sum(part.square().sum() for part in f(x, weights, held))

    want = torch.autograd.functional.hvp(loss, x, along)[1]  # double backward
    assert want.abs().max() > 1e-3
    same(jvp(grad(loss), (x,), (along,))[1], want, 1e-10)
    same(grad(lambda x: (grad(loss)(x) * along).sum())(x), want, 1e-10)


@with_cuts
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM", "sLSTM", "mLSTM"])
def test_second_derivatives_are_exact(name, cut):
    f, point = function_of(make(name), cut, T=3)
    names = [k for part in point[1:] for k in part]
    tensors = [x.clone().requires_grad_() for x in leaves(point)]

    def answer(x, *rest):
        given = dict(zip(names, rest, strict=True))
        return tuple(f(x, *({k: given[k] for k in part} for part in point[1:])))

    assert torch.autograd.gradgradcheck(answer, tensors, fast_mode=True)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM", "mLSTM"])
def test_every_state_answers_h_within_transforms(name):
    layer = make(name)
    x = inputs(layer)
    want = layer(x)[1].h
    same(vmap(lambda x: layer(x[None])[1].h.squeeze(1), out_dims=1)(x), want)
    same(jvp(lambda x: layer(x)[1].h, (x,), (x,))[0], want)


# ---- the operators ---------------------------------------------------------------------------------------------------


def call_of(cell: str, variant: str):
    """An operator and what it takes: `cut` has lengths and resets, `None` leaves out what may be left out."""
    form = {"rnn": "rnn-tanh", "lstm": "lstm-proj", "gru": "gru-bias", "slstm": "slstm-sigmoid", "mlstm": "mlstm"}[cell]
    p = checking.problem(form, 4)
    inputs, weights = ([x.requires_grad_() for x in xs.values()] for xs in (p.inputs, p.weights))
    takes = SIGNATURES[cell]
    if variant == "None":
        weights = [*weights[:1], *[None] * (len(takes.weights) - 1)]
    if variant == "None" and cell == "lstm":
        weights[0] = torch.randn(4, 2, 3, 3, dtype=torch.float64)
        p = p._replace(state=p.state._replace(h=p.state.c.tanh()))
    state = [x if name == "m" else x.requires_grad_() for name, x in p.state._asdict().items()]
    given = {"nonlinearity": "tanh", "forget": "sigmoid", "chunk_size": 3, "eps": 0.0}
    more = cuts(2, 4) if variant == "cut" else {"lengths": None, "reset": None}
    args = (*inputs, *weights, *state, *more.values(), *(given[name] for name in takes.options), "auto")
    return getattr(torch.ops.longshort, cell).default, args


each_operator = pytest.mark.parametrize("cell", SIGNATURES)
each_variant = pytest.mark.parametrize("variant", ["plain", "cut", "None"])


@each_variant
@each_operator
def test_operators_are_what_torch_asks_of_one(cell, variant):
    operator, args = call_of(cell, variant)
    torch.library.opcheck(operator, args)


@pytest.mark.parametrize("variant", ["plain", "cut"])
@each_operator
def test_backward_operators_are_what_torch_asks_of_one(cell, variant):
    operator, args = call_of(cell, variant)
    args = only_tensors(torch.detach, args)
    grads = [torch.randn_like(x) for x in operator(*args)]
    backward = getattr(torch.ops.longshort, f"{cell}_backward").default
    torch.library.opcheck(backward, (grads, *args), test_utils=("test_schema", "test_faketensor"))
    many = [torch.stack([dy, dy.flip(0)]) for dy in grads]
    loop = [backward([dy[i] for dy in many], *args) for i in range(2)]
    got = vmap(lambda *grads: tuple(backward(list(grads), *args)))(*many)
    same(got, [torch.stack(x) for x in zip(*loop, strict=True)])


@each_operator
def test_differentiating_an_operator_twice_raises(cell):
    operator, args = call_of(cell, "plain")
    at = [x for x in args if isinstance(x, Tensor) and x.requires_grad]
    first = torch.autograd.grad(operator(*args)[0].square().sum(), at, create_graph=True)
    with pytest.raises(RuntimeError, match=f"longshort.*{cell}_backward"):
        sum(x.square().sum() for x in first).backward()


@each_operator
def test_an_operator_has_no_forward_mode_and_says_so(cell):
    """Else the tangents would be left out without a word, in an exported program too."""
    operator, args = call_of(cell, "plain")
    x, *rest = only_tensors(torch.detach, args)
    with pytest.raises(RuntimeError, match=f"longshort::{cell}.*forward-mode"):
        jvp(lambda x: operator(x, *rest)[0], (x,), (x,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=f"longshort::{cell}.*forward-mode"):
        operator(forward_ad.make_dual(x, x), *rest)


@each_variant
@each_operator
def test_vmap_over_operators_equals_a_loop(cell, variant):
    operator, args = call_of(cell, variant)
    args = only_tensors(torch.detach, args)
    many = only_tensors(lambda x: torch.stack([x, x.flip(0)]), args)
    for mapped in ([True] * len(args), [i == 0 for i in range(len(args))]):
        dims = tuple(0 if isinstance(x, Tensor) and m else None for x, m in zip(args, mapped, strict=True))
        given = [b if d == 0 else a for a, b, d in zip(args, many, dims, strict=True)]
        loop = [operator(*(x[i] if d == 0 else x for x, d in zip(given, dims, strict=True))) for i in range(2)]
        same(vmap(operator, in_dims=dims)(*given), [torch.stack(x) for x in zip(*loop, strict=True)])


# ---- dtypes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_layer
def test_autocast(name, dtype):
    layer = make(name, dtype=torch.float32, **({"norm": None} if name == "mLSTM-all" else {}))  # of 2 units it jumps
    x, state, more = 0.3 * inputs(layer), carried(layer), cuts()
    want, grads = learn(layer, layer, x, state, **more)

    def call(*args, **more):
        with torch.autocast("cpu", dtype):
            return layer(*args, **more)

    (y, last), others = learn(layer, call, x, state, **more)
    assert y.dtype == dtype and {s.dtype for s in leaves(last)} == {torch.float32}
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    for got, wanted in ((y, want[0]), (meaning(last), meaning(want[1])), (others, grads)):
        a, b = (torch.cat([x.detach().float().flatten() for x in leaves(xs)]) for xs in (got, wanted))
        assert (a - b).norm() <= 16 * torch.finfo(dtype).eps * b.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_layer
def test_16_bit_modules(name, dtype):
    layer = make(name).to(dtype)
    x, more = inputs(layer), cuts()
    (y, state), grads = learn(layer, layer, x, **more)
    assert y.dtype == dtype and {s.dtype for s in leaves(state)} == {torch.float32}
    assert {g.dtype for g in grads} == {dtype} and all(g.isfinite().all() for g in grads)
    want, _ = copy.deepcopy(layer).double()(x.double(), **more)
    torch.testing.assert_close(y.double(), want, rtol=0.05, atol=0.05)
    layer(x, state)  # a float32 state goes back in


@pytest.fixture
def default_dtype():
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@each_layer
def test_default_dtype(name, dtype, default_dtype):
    default_dtype(dtype)
    layer = make(name, dtype=None)
    y, state = layer(torch.randn(2, 5, 3), **cuts())
    assert {x.dtype for x in layer.parameters()} | {y.dtype} == {dtype}
    assert {s.dtype for s in leaves(state)} == {torch.promote_types(dtype, torch.float32)}
    default_dtype(torch.float64)
    same(layer(torch.ones(2, 5, 3, dtype=dtype)), make(name, dtype=dtype)(torch.ones(2, 5, 3, dtype=dtype)))


# ---- copies ----------------------------------------------------------------------------------------------------------


def saved(x, **how):
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, **how)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "torch.save": partial(saved, weights_only=False),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", LAYERS | MODELS)
def test_copies_of_modules_and_states(name, way):
    layer = make(name)
    x, state = inputs(layer), carried(layer)
    want = layer(x, state)
    other, again = COPIES[way](layer), COPIES[way](state)
    same(other(x, again), want)
    assert type(again) is type(state) and repr(other) == repr(layer)
    assert not {w.data_ptr() for w in layer.parameters()} & {w.data_ptr() for w in other.parameters()}


@pytest.mark.parametrize("name", LAYERS | MODELS)
def test_state_dicts_and_states_load_safely(name):
    layer, other = make(name), make(name, seed=1)
    assert other.load_state_dict(saved(layer.state_dict(), weights_only=True)) == ([], [])
    state = carried(layer)
    x, again = inputs(layer), saved(state, weights_only=True)
    assert type(again) is type(state)
    same(other(x, again), layer(x, state))


@each_layer
def test_shared_memory(name):
    layer = make(name).share_memory()
    assert all(w.is_shared() for w in layer.parameters())
    learn(layer, layer, inputs(layer))


# ---- other people's hands on the weights -----------------------------------------------------------------------------


@each_layer
def test_weight_norm(name):
    layer, plain = make(name), make(name)
    of = "weight_ih_l0" if "mLSTM" in name else "weight_hh_l0"  # the mLSTM has no recurrent weights
    parametrizations.weight_norm(layer, of)
    x = inputs(layer)
    same(layer(x), plain(x))
    learn(layer, layer, x)
    assert all(w.grad.any() for k, w in layer.named_parameters() if of in k)
    nn.utils.parametrize.remove_parametrizations(layer, of)
    same(layer(x), plain(x))


@each_layer
def test_pruning(name):
    layer, plain = make(name), make(name)
    of = "weight_ih_l0" if "mLSTM" in name else "weight_hh_l0"
    prune.random_unstructured(layer, of, amount=0.5)
    kept = getattr(layer, f"{of}_mask") != 0
    with torch.no_grad():
        getattr(plain, of).mul_(kept)
    x = inputs(layer)
    same(learn(layer, layer, x)[0], learn(plain, plain, x)[0])
    got, want = getattr(layer, f"{of}_orig").grad, getattr(plain, of).grad
    same(got, want * kept)
    assert got[kept].all()


@each_layer
def test_functional_call_takes_other_weights_and_leaves_its_own(name):
    layer, other = make(name), make(name, seed=1)
    x, more, weights = inputs(layer), cuts(), dict(other.named_parameters())
    before = layer(x, **more)
    got = functional_call(layer, weights, (x,), more)
    same(got, other(x, **more))
    loss_of(got).backward()
    assert all(w.grad is None for w in layer.parameters()) and all(w.grad is not None for w in other.parameters())
    same(layer(x, **more), before)


@each_layer
def test_hooks_fire(name):
    layer, fired = make(name), []
    layer.register_forward_pre_hook(lambda *_: fired.append("before"))
    layer.register_forward_hook(lambda *_: fired.append("after"))
    layer.register_full_backward_hook(lambda *_: fired.append("backward"))
    layer.register_state_dict_pre_hook(lambda *_: fired.append("state_dict"))
    next(layer.parameters()).register_hook(lambda _: fired.append("gradient"))
    layer(inputs(layer).requires_grad_())[0].sum().backward()
    layer.state_dict()
    assert sorted(fired) == ["after", "backward", "before", "gradient", "state_dict"]


# ---- nowhere yet: meta and fake tensors ------------------------------------------------------------------------------


def on_meta_by_default(name):
    with torch.device("meta"):
        return make(name)


@pytest.mark.parametrize("build", [partial(make, device="meta"), on_meta_by_default], ids=["argument", "context"])
@each_layer
def test_from_meta_to_the_same_start(name, build):
    layer = build(name)
    assert all(w.is_meta for w in layer.parameters())
    y, state = layer(torch.empty(2, 5, 3, dtype=torch.float64, device="meta"), lengths=[5, 3])
    assert y.shape[:2] == (2, 5) and all(s.is_meta for s in leaves(state))
    layer.to_empty(device="cpu")
    want = make(name)
    for each in (layer, want):
        torch.manual_seed(3)
        each.reset_parameters()
    same(list(layer.parameters()), list(want.parameters()))
    same(layer(x := inputs(layer)), want(x))


@pytest.mark.parametrize("kind", [longshort.RNN, longshort.GRU, longshort.LSTM, longshort.sLSTM, longshort.mLSTM])
def test_skip_init(kind):
    layer = nn.utils.skip_init(kind, 3, 4, dtype=torch.float64)
    assert {w.device.type for w in layer.parameters()} == {"cpu"}
    layer.reset_parameters()
    assert all(w.isfinite().all() for w in layer.parameters())


@with_cuts
@pytest.mark.parametrize("name", LAYERS | MODELS)
def test_fake_tensors_have_the_shapes_of_real_ones(name, cut):
    layer = make(name)
    x, state, more = inputs(layer), carried(layer), cuts() if cut else {}
    want = layer(x, state, **more)
    with FakeTensorMode() as mode:
        fake = partial(only_tensors, mode.from_tensor)
        got = functional_call(layer, fake(dict(layer.named_parameters())), fake((x, state)), fake(more))
    for a, b in zip(leaves(got), leaves(want), strict=True):
        assert isinstance(a, FakeTensor) and (a.shape, a.dtype) == (b.shape, b.dtype)


@each_layer
def test_a_default_device_elsewhere_changes_nothing(name):
    layer = make(name)
    x, reset = inputs(layer), cuts()["reset"]
    want = layer(x, lengths=[5, 3], reset=reset)
    with torch.device("meta"):
        got = layer(x, lengths=[5, 3], reset=reset)
        layer(x[0], lengths=[3])
        if not layer.bidirectional:
            layer.step(x[:, 0], reset=[True, False])
        with pytest.raises(ValueError, match="lengths must be between 0 and T=5"):
            layer(x, lengths=[6, 3])
    same(got, want)


# ---- memory and modes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM", "sLSTM", "mLSTM"])
def test_activation_checkpointing_changes_nothing(name, dropout, use_reentrant):
    layer = make(name, num_layers=2, dropout=dropout)
    x, state, more = inputs(layer), carried(layer), cuts()

    def call(x, state):
        torch.manual_seed(2)
        y, last = layer(x, state, **more)
        return y, *leaves(last)  # reentrant: torch sees to tensors alone, and takes all for differentiable

    again = partial(checkpoint, call, use_reentrant=use_reentrant)
    (got, grads), (want, others) = learn(layer, again, x, state), learn(layer, call, x, state)
    same((only_tensors(torch.detach, got), grads), (only_tensors(torch.detach, want), others))


@each_layer
def test_no_grad_and_inference_mode(name):
    layer = make(name)
    x, more = inputs(layer), cuts()
    want = layer(x, **more)
    with torch.no_grad():
        got = layer(x, **more)
    assert not any(t.requires_grad for t in leaves(got))
    same(got, only_tensors(torch.detach, want))
    with torch.inference_mode():
        got = layer(x, **more)
        again = layer(x, got[1])
    assert all(t.is_inference() for t in leaves(got))
    same(only_tensors(torch.clone, got), only_tensors(torch.detach, want))
    same(again[0].clone(), layer(x, want[1])[0].detach())


@each_layer
def test_gradients_of_some_alone(name):
    layer = make(name)
    x, state = inputs(layer), carried(layer)
    _, (dx, *rest) = learn(layer, layer, x, state)
    layer.requires_grad_(False)
    _, grads = learn(layer, layer, x, state)
    same(grads, [dx, *rest[: len(grads) - 1]])  # of x and the state
    assert len(grads) > 1 and all(w.grad is None for w in layer.parameters())
    for weight, want in zip(layer.parameters(), rest[len(grads) - 1 :], strict=True):
        weight.requires_grad_()
        loss_of(layer(x, state)).backward()
        same(weight.grad, want)
        weight.requires_grad_(False)


NO_WARNINGS = """
import copy, io, pickle, torch, longshort
from torch.nn.utils.rnn import pack_sequence
x = torch.randn(5, 2, 3)
for kind in (longshort.RNN, longshort.GRU, longshort.LSTM, longshort.sLSTM, longshort.mLSTM):
    for options in ({}, dict(num_layers=2, bidirectional=True, dropout=0.5, num_heads=2)):
        layer = kind(3, 4, **options)
        y, state = layer(x)
        y, state = layer(x, state.detach(), lengths=[5, 3], reset=torch.zeros(5, 2, dtype=torch.bool))
        (y.sum() + state.h.sum()).backward()
        layer(pack_sequence([torch.randn(4, 3), torch.randn(2, 3)]))
        repr(layer), repr(state), layer.flatten_parameters()
        copy.deepcopy(layer), pickle.loads(pickle.dumps((layer, state.detach())))
        torch.save((layer.state_dict(), state.detach()), file := io.BytesIO())
        file.seek(0), torch.load(file)
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)
        layer.eval()
        torch.func.vmap(lambda x: layer(x)[0])(x[None])
        layer.bfloat16()(x.bfloat16())
"""


def test_no_warnings_on_import_and_use():
    run("-W", "error", "-c", NO_WARNINGS)
