"""What each format is: its names, its settings, ours and theirs, and what it cannot hold. No files here."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from longshort.checkpoints.names import (
    CUDA,
    HF_ENDS,
    NXAI_LARGE_ENDS,
    NXAI_SMALL_ENDS,
    NXAI_SMALL_MLSTM,
    NXAI_SMALL_SLSTM,
    VANILLA,
    XLSTM_7B,
    XLSTM_7B_FUSED,
    Names,
    OwnNames,
)
from longshort.config import round_up, suggest, xLSTMConfig

VERSION = 1
Shapes = Mapping[str, tuple[int, ...]]

# ---- settings: ours <-> theirs, and what a format cannot hold --------------------------------------------------------

SETTINGS_7B = {
    name: name
    for name in ("embedding_dim", "num_blocks", "vocab_size", "num_heads", "qk_dim_factor", "v_dim_factor", "norm_eps",
                 "eps", "ffn_proj_factor", "gate_soft_cap", "output_logit_soft_cap", "chunk_size")
} | {"round_up_to": "ffn_round_up_to_multiple_of"}  # fmt: skip
CAPS = ("gate_soft_cap", "output_logit_soft_cap")  # no cap is 0 in ours and null in theirs, where 0 makes everything 0
REST_7B = dict(use_bias=False, add_out_norm=True, norm_reduction_force_float32=True, weight_mode="single",
               mode="inference", return_last_states=True, chunkwise_kernel="chunkwise--native_autograd",
               sequence_kernel="native_sequence__native", step_kernel="native", autocast_kernel_dtype="bfloat16",
               inference_state_dtype="float32")  # fmt: skip
REST_HF = dict(model_type="xlstm", architectures=["xLSTMForCausalLM"], tie_word_embeddings=False,
               max_inference_chunksize=16384, pad_token_id=1, bos_token_id=0, eos_token_id=2)  # fmt: skip
# What NX-AI's loader takes where config.yaml is silent. Hugging Face's differ, so its files must speak for themselves.
LARGE_DEFAULTS = dict(qk_dim_factor=0.5, v_dim_factor=1.0, ffn_proj_factor=2.6667, ffn_round_up_to_multiple_of=64,
                      gate_soft_cap=15.0, output_logit_soft_cap=30.0, norm_eps=1e-6, eps=1e-6,
                      chunk_size=64)  # fmt: skip


def config_from_longshort(data: dict[str, Any], shapes: Shapes) -> xLSTMConfig:
    if data["format"] != "longshort":
        raise ValueError(f"format {data['format']!r} is not 'longshort', the only one that is named in this way")
    if data.get("version") != VERSION:
        raise ValueError(f"version {data.get('version')!r} of the format; this longshort reads version {VERSION}")
    if not isinstance(data.get("model"), dict):
        raise ValueError("the settings of the model are missing ('model')")
    return xLSTMConfig.from_dict(data["model"])


def config_from_7b(theirs: dict[str, Any]) -> xLSTMConfig:
    """Our configuration from Hugging Face's or xlstm_large's."""
    for name in ("use_bias", "add_out_norm"):
        if theirs.get(name, REST_7B[name]) != REST_7B[name]:
            raise ValueError(f"{name}={theirs[name]!r} is not supported, only {name}={REST_7B[name]}")
    ours: dict[str, Any] = {}
    for name, their_name in SETTINGS_7B.items():
        if their_name not in theirs:
            raise ValueError(f"the setting {their_name!r} is missing, and a guess would not be safe")
        value = theirs[their_name]
        ours[name] = float(value) if isinstance(value, str) else value  # YAML reads 1e-6 as text
    for name in CAPS:
        if ours[name] == 0:
            raise ValueError(f"{name}=0 makes everything 0 in their code; where there is no cap, write null")
        ours[name] = ours[name] or 0.0
    return xLSTMConfig(block="7b", **ours)


def config_to_7b(config: xLSTMConfig) -> dict[str, Any]:
    ours = config.to_dict() | {"num_blocks": len(config.kinds)}
    ours |= {name: config.setting(name) for name in ("ffn_proj_factor", "norm_eps")}
    ours |= {name: config.setting(name) or None for name in CAPS}
    return {theirs: ours[name] for name, theirs in SETTINGS_7B.items()} | REST_7B


def config_from_hf(theirs: dict[str, Any], shapes: Shapes) -> xLSTMConfig:
    twice = {"hidden_size": "embedding_dim", "num_hidden_layers": "num_blocks"}
    return config_from_7b(theirs | {name: theirs[other] for other, name in twice.items() if other in theirs})


def config_to_hf(config: xLSTMConfig) -> dict[str, Any]:
    twice = {"hidden_size": config.embedding_dim, "num_hidden_layers": len(config.kinds)}
    # Their cache rounds both widths up to 64 and their layers do not: with others, the first call would fail.
    use_cache = config.qk_dim % 64 == 0 and config.v_dim % 64 == 0
    return config_to_7b(config) | twice | REST_HF | {"use_cache": use_cache}


def config_from_large(theirs: dict[str, Any], shapes: Shapes) -> xLSTMConfig:
    known = [*SETTINGS_7B.values(), *REST_7B]
    for name in theirs:
        if name not in known:
            raise ValueError(f"xlstm_large has no setting {name!r}.{suggest(name, known)}")
    return config_from_7b(LARGE_DEFAULTS | theirs)


def config_from_small(theirs: dict[str, Any], shapes: Shapes) -> xLSTMConfig:
    """From the tensors alone, but for what they cannot show: `theirs` may be empty."""
    if (act := (theirs.get("slstm_block") or {}).get("feedforward", {}).get("act_fn", "gelu")) != "gelu":
        raise ValueError(f"act_fn={act!r} is not supported, only 'gelu'")
    numbers = {int(found[1]) for name in shapes if (found := re.match(r"xlstm_block_stack\.blocks\.(\d+)\.", name))}
    if numbers != set(range(len(numbers))) or not numbers:
        raise ValueError(f"blocks are numbered from 0 on without gaps, not {sorted(numbers)}")
    seen: dict[str, Any] = {"slstm_at": ()}
    for block in range(len(numbers)):
        for name, value in small_block(block, shapes).items():
            if name == "slstm_at":
                seen[name] += value
            elif seen.setdefault(name, value) != value:
                raise ValueError(f"its blocks differ in {name}, {seen[name]} and {value}; here, all must agree")
    vocab_size, D = axes(shapes, "token_embedding.weight", 2)
    widths = {name: seen.pop(name) for name in ("mlstm_proj_factor", "ffn_proj_factor") if name in seen}
    multiple = 64 if all(width % 64 == 0 for width in widths.values()) else math.gcd(*widths.values())
    factors = {name: factor_for(width, D, multiple, name) for name, width in widths.items()}
    return xLSTMConfig(
        embedding_dim=D, num_blocks=len(numbers), vocab_size=vocab_size, tie_weights=bool(theirs.get("tie_weights")),
        round_up_to=multiple, eps=1e-6, **factors, **seen)  # fmt: skip


def small_block(block: int, shapes: Shapes) -> dict[str, Any]:
    """What the shapes of one block's tensors say; of the two factors, the widths they lead to."""
    prefix = f"xlstm_block_stack.blocks.{block}"
    conv = f"{prefix}.xlstm.conv1d.conv.weight"
    found: dict[str, Any] = {"conv1d_kernel_size": axes(shapes, conv, 3)[2] if conv in shapes else 0}
    if (kernel := f"{prefix}.xlstm.slstm_cell._recurrent_kernel_") in shapes:
        found["num_heads"] = axes(shapes, kernel, 3)[0]
        found["ffn_proj_factor"] = axes(shapes, f"{prefix}.ffn.proj_down.weight", 2)[1]
        return found | {"slstm_at": (block,)}
    found["num_heads"] = axes(shapes, f"{prefix}.xlstm.mlstm_cell.igate.bias", 1)[0]
    found["mlstm_proj_factor"] = axes(shapes, f"{prefix}.xlstm.proj_down.weight", 2)[1]
    return found | {"qkv_proj_blocksize": axes(shapes, f"{prefix}.xlstm.q_proj.weight", 3)[2]}


def axes(shapes: Shapes, name: str, count: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there, with so many axes, none of them empty."""
    if name not in shapes:
        raise ValueError(f"the tensor {name} is missing")
    if len(shapes[name]) != count or 0 in shapes[name]:
        raise ValueError(f"{name} has shape {shapes[name]}, and should have {count} axes")
    return shapes[name]


def factor_for(width: int, dim: int, multiple: int, name: str) -> float:
    """The factor that leads to this very width: the usual one where it does."""
    usual = {"mlstm_proj_factor": 2.0, "ffn_proj_factor": 1.3}[name]
    # width / dim * dim may come out above width, and would be rounded up from there.
    candidates = (usual, width / dim, (width - 0.5) / dim)
    return next(factor for factor in candidates if round_up(factor * dim, multiple) == width)


def config_to_small(config: xLSTMConfig, backend: str) -> dict[str, Any]:
    """The tree that NX-AI's xLSTMLMModelConfig is made from."""
    heads = {"num_heads": config.num_heads, "conv1d_kernel_size": config.conv1d_kernel_size}
    multiple = {"round_proj_up_to_multiple_of": config.round_up_to}
    mlstm = {"proj_factor": config.mlstm_proj_factor, "qkv_proj_blocksize": config.qkv_proj_blocksize, **multiple}
    feedforward = {"proj_factor": config.setting("ffn_proj_factor"), "act_fn": "gelu", **multiple}
    slstm = {"slstm": {"backend": backend, **heads}, "feedforward": feedforward}
    top = {name: getattr(config, name) for name in ("vocab_size", "embedding_dim", "tie_weights", "dropout")}
    return top | {
        "num_blocks": len(config.kinds),
        "slstm_at": [i for i, kind in enumerate(config.kinds) if kind == "slstm"],
        "context_length": 2048,  # ours has no such limit
        "mlstm_block": {"mlstm": {**mlstm, **heads}} if "mlstm" in config.kinds else None,
        "slstm_block": slstm if "slstm" in config.kinds else None,
    }


def why_not_7b(config: xLSTMConfig) -> str | None:
    if config.block != "7b":
        return "it holds xLSTM-7B's blocks (block='7b'), and these are the paper's"
    if config.tie_weights:
        return "its head cannot be tied to the embedding"
    return other_kinds(config, {"mlstm"})


def why_not_hf(config: xLSTMConfig) -> str | None:
    uncapped = next((name for name in CAPS if not config.setting(name)), None)
    return why_not_7b(config) or (uncapped and f"it always caps, and {uncapped}=0 means no cap")


def why_not_small(config: xLSTMConfig) -> str | None:
    if config.block != "paper":
        return "it holds the paper's blocks (block='paper'), and these are xLSTM-7B's"
    if other := other_kinds(config, {"mlstm", "slstm"}):
        return other
    if "slstm" in config.kinds and config.slstm_forget != "sigmoid":
        return f"its sLSTM forgets with a sigmoid, not slstm_forget={config.slstm_forget!r}"
    if config.setting("output_logit_soft_cap"):
        return f"it has no soft cap of the logits, and output_logit_soft_cap={config.output_logit_soft_cap}"
    if config.setting("norm_eps") != 1e-5:
        return f"its norms add 1e-5, not norm_eps={config.norm_eps}"
    if "mlstm" in config.kinds and config.conv1d_kernel_size < 2:
        return f"its mLSTM block needs conv1d_kernel_size=2 or more, not {config.conv1d_kernel_size}"
    if "mlstm" in config.kinds and config.eps != 1e-6:
        return f"its mLSTM adds 1e-6 to the denominator, not eps={config.eps}; build the model with eps=1e-6"
    return None


def other_kinds(config: xLSTMConfig, held: set[str]) -> str | None:
    strangers = (f"block {i} is {kind}" for i, kind in enumerate(config.kinds) if kind not in held)
    stranger = next(strangers, None)
    return stranger and f"it holds {' and '.join(sorted(held))} blocks, and {stranger}"


# ---- formats ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Format:
    """A way to store a model: the names of its weights, its settings, and what it cannot hold."""

    title: str
    names: Names
    settings: Callable[[xLSTMConfig], dict[str, Any]]
    config_file: str = "config.json"
    why_not: Callable[[xLSTMConfig], str | None] = lambda config: None
    """Why it cannot hold a model, as a sentence; None if it can."""


SMALL = Names(
    ends=NXAI_SMALL_ENDS,
    blocks={"mlstm": NXAI_SMALL_MLSTM, "slstm": NXAI_SMALL_SLSTM},
    prefix="xlstm_block_stack.blocks",
    values=VANILLA,
)
FORMATS: dict[str, Format] = {
    "longshort": Format(
        title="longshort",
        names=OwnNames(),
        settings=lambda config: {"format": "longshort", "version": VERSION, "model": config.to_dict()},
    ),
    "hf": Format(
        title="Hugging Face's xLSTM",
        names=Names(ends=HF_ENDS, blocks={"mlstm": XLSTM_7B}),
        settings=config_to_hf,
        why_not=why_not_hf,
    ),
    "nxai-large": Format(
        title="NX-AI's xlstm_large",
        names=Names(ends=NXAI_LARGE_ENDS, blocks={"mlstm": XLSTM_7B}),
        settings=config_to_7b,
        config_file="config.yaml",
        why_not=why_not_7b,
    ),
    "nxai-large-fused": Format(
        title="NX-AI's xlstm_large",
        names=Names(ends=NXAI_LARGE_ENDS, blocks={"mlstm": XLSTM_7B_FUSED}),
        settings=lambda config: config_to_7b(config) | {"weight_mode": "fused"},
        config_file="config.yaml",
        why_not=why_not_7b,
    ),
    "nxai-small": Format(
        title="NX-AI's small xLSTM",
        names=SMALL,
        settings=lambda config: config_to_small(config, "vanilla"),
        why_not=why_not_small,
    ),
    "nxai-small-cuda": Format(
        title="NX-AI's small xLSTM",
        names=replace(SMALL, values=CUDA),
        settings=lambda config: config_to_small(config, "cuda"),
        why_not=why_not_small,
    ),
}
CONFIG_FROM: dict[str, Callable[[dict[str, Any], Shapes], xLSTMConfig]] = {
    "longshort": config_from_longshort,
    "hf": config_from_hf,
    "nxai-large": config_from_large,
    "nxai-small": config_from_small,
}


def kind_of(settings: dict[str, Any]) -> str:
    """Whose settings these are: a key of CONFIG_FROM, or "unknown"."""
    if "format" in settings:
        return "longshort"
    if "model_type" in settings:
        return "hf" if settings["model_type"] == "xlstm" else "unknown"
    if "mlstm_block" in settings or "slstm_block" in settings:
        return "nxai-small"
    return "nxai-large" if "embedding_dim" in settings else "unknown"


def layout(kind: str, shapes: Shapes) -> str:
    """The very format of this kind, as its tensors show it."""
    if kind == "nxai-large" and any(name.endswith(".qkv_opreact.weight") for name in shapes):
        return "nxai-large-fused"
    kernels = [shape for name, shape in shapes.items() if name.endswith("._recurrent_kernel_")]
    if kind == "nxai-small" and kernels and kernels[0][1:2] < kernels[0][2:3]:  # (N, H, 4 H), not (N, 4 H, H)
        return "nxai-small-cuda"
    return kind
