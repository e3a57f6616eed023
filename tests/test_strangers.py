"""Strangers: models that others' code builds and runs, and ours loaded from what they save, must give equal logits.

NX-AI's small models (the package xlstm) and Hugging Face's xLSTM run as they are. NX-AI's xlstm_large runs with a stub
in place of mlstm_kernels, whose cell is the recurrence as the paper prints it.

Tolerances are relative to the largest logit: 1e-5 in float32, 1e-10 in float64. Others' mLSTM adds eps = 1e-6 to the
denominator *after* dividing by e^m, so its effect depends on the m they chose, and ours is max(theirs, 0). Below 0 the
two differ by less than 1e-6 of h before the head norm, which float32 does not see. The tests in float64 therefore push
the input gates up until i_pre >= 0 at every step, and check that they did: then m >= i_pre >= 0, both are the same
number, and nothing is left to explain.
"""

import importlib
import json
import math
import os
import subprocess
import sys
import types
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from longshort.checkpoints import export, load
from longshort.config import xLSTMConfig
from longshort.functional import mlstm, mlstm_step, slstm
from longshort.model import xLSTMLM

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
needs_xlstm = pytest.mark.skipif(find_spec("xlstm") is None, reason="needs the package xlstm")
needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="needs the package transformers")


def assert_equal_logits(got: Tensor, want: Tensor, dtype: torch.dtype = torch.float32) -> None:
    assert want.isfinite().all()
    assert want.std() > 0.1, "logits this small would hide a difference"
    assert got.dtype == want.dtype == dtype
    apart = float((got - want).abs().max() / want.abs().max())
    assert apart < TOLERANCE[dtype], f"{apart:.1e} of the largest logit apart"


def assert_equal_state(got: Tensor, want: Tensor, name: str) -> None:
    limit = TOLERANCE[want.dtype]
    torch.testing.assert_close(got, want, atol=limit, rtol=limit, msg=lambda message: f"{name}: {message}")


def randomise(module: torch.nn.Module) -> None:
    """Fill every parameter: matrices so that they keep the scale, vectors (norms, biases) around theirs."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.3)
            else:
                weight.copy_(torch.randn_like(weight) * weight.shape[-1] ** -0.5 * (4 if "embed" in name else 1))


def ours(config: xLSTMConfig, dtype: torch.dtype = torch.float32) -> xLSTMLM:
    model = xLSTMLM(config).to(dtype)
    randomise(model)
    return model.eval()


def mixers(model: xLSTMLM, kind: str) -> list[Any]:
    """The mixers of one kind."""
    return [block.mixer for block in model.stack.blocks if block.kind == kind]


# ---- NX-AI's small models --------------------------------------------------------------------------------------------

SMALL = {
    "mixed": dict(slstm_at=[1]),
    "mlstm": dict(slstm_at=[], mlstm=dict(proj_factor=1.5, qkv_proj_blocksize=8)),
    "slstm": dict(slstm_at=[0, 1, 2], feedforward=dict(proj_factor=2.7, round_proj_up_to_multiple_of=16)),
    "narrow": dict(slstm_at=[0, 2], heads=dict(num_heads=4, conv1d_kernel_size=2), embedding_dim=16),
    "tied": dict(slstm_at=[2], tie_weights=True, heads=dict(num_heads=1, conv1d_kernel_size=4)),
}
CONTEXT = 40


def their_tree(
    *, slstm_at, mlstm=None, feedforward=None, heads=None, embedding_dim=32, tie_weights=False
) -> dict:  # the settings of an xLSTMLMModel, as its README writes them
    heads = heads or {"num_heads": 2, "conv1d_kernel_size": 4}
    return {
        "vocab_size": 17,
        "embedding_dim": embedding_dim,
        "num_blocks": 3,
        "slstm_at": slstm_at,
        "context_length": CONTEXT,
        "tie_weights": tie_weights,
        "mlstm_block": {"mlstm": {**heads, **(mlstm or {})}},
        "slstm_block": {"slstm": {"backend": "vanilla", **heads}, "feedforward": feedforward or {}},
    }


def their_small(tree: dict) -> torch.nn.Module:
    """An xLSTMLMModel from a tree of settings."""
    x = importlib.import_module("xlstm")
    tree = dict(tree)
    if (block := tree.pop("mlstm_block")) is not None:
        tree["mlstm_block"] = x.mLSTMBlockConfig(mlstm=x.mLSTMLayerConfig(**block["mlstm"]))
    if (block := tree.pop("slstm_block")) is not None:
        feedforward = x.FeedForwardConfig(**block["feedforward"])
        tree["slstm_block"] = x.sLSTMBlockConfig(slstm=x.sLSTMLayerConfig(**block["slstm"]), feedforward=feedforward)
    return x.xLSTMLMModel(x.xLSTMLMModelConfig(**tree)).eval()


def push_input_gates_up(model: Any) -> list[float]:
    """Add 6 to every mLSTM's input gate bias. Returns a list that will hold the least i_pre of each call."""
    least: list[float] = []
    for block in model.xlstm_block_stack.blocks:
        if hasattr(block.xlstm, "mlstm_cell"):
            gate = block.xlstm.mlstm_cell.igate
            gate.bias.data += 6
            gate.register_forward_hook(lambda module, inputs, i_pre: least.append(float(i_pre.min())))
    return least


def save_theirs(model: torch.nn.Module, path) -> None:
    save_file({name: weight.clone() for name, weight in model.state_dict().items()}, path)


@needs_xlstm
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", SMALL)
def test_load_of_nxai_small_gives_their_logits(name, dtype, tmp_path):
    theirs = their_small(their_tree(**SMALL[name])).to(dtype)
    randomise(theirs)
    least = push_input_gates_up(theirs) if dtype == torch.float64 else []
    save_theirs(theirs, tmp_path / "theirs.safetensors")
    model = load(tmp_path / "theirs.safetensors")
    for T in (1, 2, 7, CONTEXT):
        tokens = torch.randint(0, 17, (3, T))
        with torch.no_grad():
            assert_equal_logits(model(tokens)[0], theirs(tokens), dtype)
    assert all(i_pre >= 0 for i_pre in least), "below 0 their eps weighs less than ours: see above"


@needs_xlstm
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "shape",
    [
        dict(blocks="[2:1]", num_blocks=3),
        dict(blocks="[1:0]", num_blocks=2, mlstm_proj_factor=1.7, round_up_to=8, qkv_proj_blocksize=8),
        dict(blocks="[0:1]", num_blocks=2, conv1d_kernel_size=0, ffn_proj_factor=2.3, round_up_to=10),
        dict(blocks="[1:1]", num_blocks=4, tie_weights=True, num_heads=4),
    ],
    ids=lambda shape: shape["blocks"],
)
def test_export_to_nxai_small_gives_our_logits(shape, dtype, tmp_path):
    config = xLSTMConfig(**{"embedding_dim": 32, "vocab_size": 17, "num_heads": 2, "eps": 1e-6, **shape})
    model = ours(config, dtype)
    export(model, tmp_path, "nxai-small")
    theirs = their_small({**json.loads((tmp_path / "config.json").read_text()), "context_length": CONTEXT}).to(dtype)
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"))
    least = push_input_gates_up(theirs) if dtype == torch.float64 else []
    for mixer in mixers(model, "mlstm") if dtype == torch.float64 else []:
        mixer.i_gate.bias.data += 6
    tokens = torch.randint(0, 17, (3, CONTEXT))
    with torch.no_grad():
        assert_equal_logits(theirs(tokens), model(tokens)[0], dtype)
    assert all(i_pre >= 0 for i_pre in least)


@needs_xlstm
@pytest.mark.parametrize("weights", ["i_proj f_proj", "R", "bias"])
def test_load_of_nxai_small_depends_on_the_order_of_gates(weights, tmp_path):
    """The test above would see it if i and f were exchanged anywhere, or if they were not where they must be."""
    theirs = their_small(their_tree(**SMALL["slstm"]))
    randomise(theirs)
    save_theirs(theirs, tmp_path / "theirs.safetensors")
    model = load(tmp_path / "theirs.safetensors")
    for mixer in mixers(model, "slstm"):
        if weights == "i_proj f_proj":
            mixer.i_proj, mixer.f_proj = mixer.f_proj, mixer.i_proj
        else:
            weight = getattr(mixer, weights)
            weight.data = weight.data[[1, 0, 2, 3]]
    tokens = torch.randint(0, 17, (3, CONTEXT))
    with torch.no_grad(), pytest.raises(AssertionError, match="of the largest logit apart"):
        assert_equal_logits(model(tokens)[0], theirs(tokens))


@needs_xlstm
def test_load_of_nxai_small_undoes_both_layouts_of_the_slstm(tmp_path):
    """Their two backends keep one kernel and bias in two orders; a file in either gives the same model."""
    cell = importlib.import_module("xlstm.blocks.slstm.cell")
    tree = their_tree(**SMALL["slstm"])
    theirs = their_small(tree)
    randomise(theirs)
    weights = {name: weight.clone() for name, weight in theirs.state_dict().items()}
    N, H = 2, 16
    for name, weight in weights.items():
        if not name.endswith(("_recurrent_kernel_", "_bias_")):
            continue
        config = importlib.import_module("xlstm").sLSTMLayerConfig(
            **{**tree["slstm_block"]["slstm"], "embedding_dim": N * H, "hidden_size": N * H}
        )
        vanilla = cell.sLSTMCell_vanilla(config, skip_backend_init=True)
        cuda = cell.sLSTMCell_cuda(config, skip_backend_init=True)
        part = "recurrent_kernel" if name.endswith("kernel_") else "bias"
        public = getattr(vanilla, f"_{part}_int2ext")(weight)
        weights[name] = getattr(cuda, f"_{part}_ext2int")(public).detach().contiguous().clone()
    save_theirs(theirs, tmp_path / "vanilla.safetensors")
    save_file(weights, tmp_path / "cuda.safetensors")
    one, other = load(tmp_path / "vanilla.safetensors"), load(tmp_path / "cuda.safetensors")
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
    export(one, tmp_path / "out", "nxai-small-cuda")
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(again[name], weight) for name, weight in weights.items() if name.endswith("_"))


# ---- NX-AI's cells ---------------------------------------------------------------------------------------------------


@needs_xlstm
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_slstm_equals_nxais_cell(dtype):
    """Outputs and the last state, also from a carried state."""
    B, T, N, H = 3, 33, 2, 8
    package = importlib.import_module("xlstm.blocks.slstm.cell")
    config = package.sLSTMCellConfig(hidden_size=N * H, num_heads=N, backend="vanilla", dtype="float32")
    cell = package.sLSTMCell(config).to(dtype)
    cell._recurrent_kernel_.data = torch.randn(N, 4 * H, H, dtype=dtype) * H**-0.5
    cell._bias_.data = torch.randn(4 * N * H, dtype=dtype)
    x = torch.randn(B, T, 4, N, H, dtype=dtype) * 2
    R = cell._recurrent_kernel_.detach().reshape(N, 4, H, H).transpose(0, 1)
    x_pre = x + cell._bias_.detach().reshape(4, N, H)
    their_state, our_state = None, None
    for start, end in pairwise((0, 1, 20, T)):
        with torch.no_grad():
            want, their_state = cell(x[:, start:end].flatten(2), state=their_state)
            got, our_state = slstm(x_pre[:, start:end], R, our_state)
        assert_equal_logits(got, want.transpose(1, 2), dtype)
        for name, ours, theirs in zip("hcnm", our_state, their_state, strict=True):
            assert_equal_state(ours.flatten(1), theirs, name)


def mlstm_problem(dtype: torch.dtype, T: int = 33):
    """q, k, v (B, T, N, K) and gates (B, T, N), the input gates not below 0: see the top of this file.

    In float32, q and k lean to one side: where n q is a small difference of large terms, nobody's float32 is exact.
    """
    q, k, v = torch.randn(3, 2, T, 2, 8, dtype=dtype)
    if dtype == torch.float32:
        q, k = q + 2, k + 2
    i_pre, f_pre = torch.randn(2, 2, T, 2, dtype=dtype) * 2
    return q, k, v, i_pre.abs(), f_pre + 2


def heads_first(*tensors: Tensor) -> list[Tensor]:
    return [x.transpose(1, 2).contiguous() for x in tensors]


@needs_xlstm
@pytest.mark.parametrize("kernel", ["chunkwise", "parallel", "reference"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_mlstm_equals_nxais_parallel_form(dtype, kernel):
    backends = importlib.import_module("xlstm.blocks.mlstm.backends")
    inputs = mlstm_problem(dtype)
    q, k, v, i_pre, f_pre = heads_first(*inputs)
    want = backends.parallel_stabilized_simple(q, k, v, i_pre[..., None], f_pre[..., None])
    got, _ = mlstm(*inputs, eps=1e-6, kernel=kernel, chunk_size=8)
    assert_equal_logits(got, want.transpose(1, 2), dtype)


@needs_xlstm
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_mlstm_step_equals_nxais_step_and_state(dtype):
    """They keep k / sqrt(K) in C and n, we keep k: the states differ by that factor, h does not."""
    backends = importlib.import_module("xlstm.blocks.mlstm.backends")
    inputs = mlstm_problem(dtype)
    K = inputs[0].shape[-1]
    C, n, m = (torch.zeros(2, 2, *tail, dtype=dtype) for tail in [(K, K), (K, 1), (1, 1)])
    state = None
    for t in range(33):
        q, k, v, i_pre, f_pre = (x[:, t, :, None].clone() for x in inputs)  # they change q
        want, (C, n, m) = backends.recurrent_step_stabilized_simple(
            C, n, m, q, k, v, i_pre[..., None], f_pre[..., None]
        )
        got, state = mlstm_step(*(x[:, t] for x in inputs), state=state, eps=1e-6)
        assert_equal_logits(got, want.squeeze(2), dtype)
        assert_equal_state(state.C, C * math.sqrt(K), "C")
        assert_equal_state(state.n, n.squeeze(-1) * math.sqrt(K), "n")
        assert_equal_state(state.m, m.flatten(1), "m")


# ---- Hugging Face's xLSTM --------------------------------------------------------------------------------------------

# Run in a process of its own that cannot find xlstm or mlstm_kernels: only then does transformers take its own code.
HF_SCRIPT = """
import importlib.abc, importlib.util, sys
from pathlib import Path

HIDDEN = ("xlstm", "mlstm_kernels")

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Hide())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in HIDDEN else find_spec(name, package)

import torch
from safetensors.torch import save_file
from transformers import xLSTMConfig, xLSTMForCausalLM

folder = Path(sys.argv[1])
T, sizes = TIMES, SIZES
tokens = torch.arange(2 * max(T)).reshape(2, -1) * 7919 % 64
torch.manual_seed(1)

def logits(model):
    with torch.no_grad():
        return {str(t): model.eval()(tokens[:, :t]).logits for t in T}

for name, size in sizes.items():
    config = dict(vocab_size=64, hidden_size=128, num_hidden_layers=2, num_heads=2, chunk_size=16, use_cache=False)
    model = xLSTMForCausalLM(xLSTMConfig(**{**config, **size}))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.3)
            else:
                weight.copy_(torch.randn_like(weight) * weight.shape[-1] ** -0.5 * (4 if "embed" in key else 1))
    model.save_pretrained(folder / name, max_shard_size="100KB" if name == "sharded" else "5GB")
    save_file(logits(model), folder / f"{name}.logits")

for exported in folder.glob("from-ours-*"):
    model, report = xLSTMForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"], report
    save_file(logits(model), folder / f"{exported.name}.logits")
"""
TIMES = (1, 7, 16, 33, 50)
HF_SIZES = {
    "plain": dict(),
    "sharded": dict(hidden_size=64, num_heads=1),
    "rounded": dict(hidden_size=192, num_heads=3, num_hidden_layers=1),  # 2.667 * 192 = 512.064; they take 512
    "other": dict(qk_dim_factor=1.0, ffn_proj_factor=1.5, gate_soft_cap=5.0, output_logit_soft_cap=3.0, norm_eps=1e-3,
                  ffn_round_up_to_multiple_of=32),
}  # fmt: skip
HF_EXPORTS = {
    "from-ours-plain": xLSTMConfig(embedding_dim=128, num_blocks=2, num_heads=2, vocab_size=64, block="7b"),
    "from-ours-other": xLSTMConfig(embedding_dim=64, num_blocks=3, num_heads=1, vocab_size=64, block="7b", eps=1e-6,
                                   qk_dim_factor=1.0, v_dim_factor=2.0, ffn_proj_factor=1.9, round_up_to=8,
                                   gate_soft_cap=4.0, output_logit_soft_cap=2.0, norm_eps=1e-4),
    "from-ours-odd": xLSTMConfig(embedding_dim=40, num_blocks=1, num_heads=4, vocab_size=64, block="7b", eps=1e-6),
}  # fmt: skip


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A folder where transformers has saved its models and run ours: `name`/ and `name`.logits of each."""
    folder = tmp_path_factory.mktemp("hugging_face")
    torch.manual_seed(2)
    for name, config in HF_EXPORTS.items():
        export(ours(config), folder / name, "hf")
    script = HF_SCRIPT.replace("TIMES", repr(TIMES)).replace("SIZES", repr(HF_SIZES))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@needs_transformers
@pytest.mark.parametrize("name", [*HF_SIZES, *HF_EXPORTS])
def test_load_of_hugging_face_gives_their_logits(name, hugging_face):
    model = load(hugging_face / name)
    tokens = torch.arange(2 * max(TIMES)).reshape(2, -1) * 7919 % 64
    for T, want in load_file(hugging_face / f"{name}.logits").items():
        with torch.no_grad():
            assert_equal_logits(model(tokens[:, : int(T)])[0], want)


@needs_transformers
def test_load_of_hugging_face_reads_shards(hugging_face):
    assert (hugging_face / "sharded" / "model.safetensors.index.json").exists()
    assert not (hugging_face / "plain" / "model.safetensors.index.json").exists()


# ---- NX-AI's xlstm_large ---------------------------------------------------------------------------------------------


class TextbookBackend(torch.nn.Module):
    """In place of mlstm_kernels' backend: the recurrence as the paper prints it, in float64, nothing stabilised."""

    def __init__(self, config):
        super().__init__()

    def forward(self, q, k, v, i, f, c_initial=None, n_initial=None, m_initial=None):
        C, n, hs = 0.0, 0.0, []
        for q_t, k_t, v_t, i_t, f_t in zip(*(x.double().unbind(2) for x in (q, k, v, i, f)), strict=True):
            i_t, f_t = i_t.exp()[..., None], F.sigmoid(f_t)[..., None]
            C = f_t[..., None] * C + (i_t * k_t)[..., None] * v_t[..., None, :]
            n = f_t * n + i_t * k_t
            q_t = q_t / math.sqrt(q_t.shape[-1])
            hs.append((q_t[..., None] * C).sum(-2) / (q_t * n).sum(-1, keepdim=True).abs().clamp(min=1))
        return torch.stack(hs, 2).to(q.dtype), None


@pytest.fixture
def xlstm_large(monkeypatch):
    """NX-AI's package, with `TextbookBackend` for its kernels."""
    stub = types.ModuleType("mlstm_kernels.torch.backend_module")
    names = ["ChunkwiseKernelType", "SequenceKernelType", "StepKernelType", "DtypeType", "BackendModeType"]
    vars(stub).update(dict.fromkeys(names, str), mLSTMBackend=TextbookBackend, mLSTMBackendConfig=types.SimpleNamespace)
    for name in ("mlstm_kernels", "mlstm_kernels.torch"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    yield importlib.import_module("xlstm.xlstm_large.from_pretrained")
    for name in [name for name in sys.modules if name.startswith("xlstm.xlstm_large")]:
        del sys.modules[name]


LARGE = xLSTMConfig(embedding_dim=48, num_blocks=3, num_heads=2, vocab_size=17, block="7b", eps=0.0, round_up_to=8,
                    qk_dim_factor=1.0, gate_soft_cap=3.0, output_logit_soft_cap=4.0)  # fmt: skip


def reduce_in(dtype: torch.dtype, model: Any) -> Any:
    """Their model in a dtype; their norms would go through float32 even in float64."""
    module: Any
    for module in model.modules():
        if hasattr(module, "force_float32_reductions"):
            module.force_float32_reductions = dtype == torch.float32
    return model.to(dtype)


@needs_xlstm
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_export_to_nxai_large_gives_our_logits(dtype, tmp_path, xlstm_large):
    """Through their own loader; with eps = 0, as the paper has it, nothing of theirs is left out."""
    model = ours(LARGE, dtype)
    export(model, tmp_path, "nxai-large")
    theirs = reduce_in(dtype, xlstm_large.load_from_pretrained(tmp_path, return_last_states=False))
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"))
    tokens = torch.randint(0, 17, (2, 21))
    with torch.no_grad():
        assert_equal_logits(theirs(tokens), model(tokens)[0], dtype)


@needs_xlstm
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_load_of_nxai_large_gives_their_logits(dtype, tmp_path, xlstm_large):
    """Single and fused weights, the latter made by their own converter."""
    export(ours(LARGE), tmp_path, "nxai-large-fused")
    package = importlib.import_module("xlstm.xlstm_large.model")
    settings = importlib.import_module("yaml").safe_load((tmp_path / "config.yaml").read_text())
    settings["return_last_states"] = False
    fused = reduce_in(dtype, package.xLSTMLarge(package.xLSTMLargeConfig(**settings)))
    settings["weight_mode"] = "single"
    single = reduce_in(dtype, package.xLSTMLarge(package.xLSTMLargeConfig(**settings)))
    randomise(single)
    convert = importlib.import_module("xlstm.xlstm_large.utils").convert_single_weights_to_fused_weights
    fused.load_state_dict(convert(single.state_dict()))
    save_theirs(fused, tmp_path / "model.safetensors")
    tokens = torch.randint(0, 17, (2, 21))
    model = load(tmp_path)
    with torch.no_grad():
        want = fused(tokens)
        assert_equal_logits(model(tokens)[0], want, dtype)
        assert_equal_logits(single(tokens), want, dtype)
    save_theirs(single, tmp_path / "model.safetensors")
    again = load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
