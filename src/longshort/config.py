"""Every setting of a model, explained where it stands. Plain data: no torch here, so that `--help` is instant."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, ClassVar, get_args, get_origin


def suggest(name: str, allowed) -> str:
    """' Did you mean ...?' for the nearest of the allowed names, or nothing."""
    near = get_close_matches(str(name), list(allowed), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def divisors(number: int) -> list[int]:
    """The numbers that divide `number`, up to 65536 (more would help nobody, and take long)."""
    return [d for d in range(1, min(number, 65536) + 1) if number % d == 0]


def round_up(value: float, multiple: int) -> int:
    """The next multiple of `multiple` from `value` on."""
    return -int(-value // multiple) * multiple


# ---- what the settings classes share --------------------------------------------------------------------------------

KINDS = {int: "a whole number", float: "a finite number", bool: "True or False", str: "text", NoneType: "None"}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a declared type. A whole number will do for a float; True and False are no numbers.

    >>> fits(4, int | None), fits(True, int), fits(float("nan"), float), fits(["mlstm"], tuple[str, ...])
    (True, False, False, False)
    """
    if get_origin(kind) is UnionType:
        return any(fits(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(fits(each, get_args(kind)[0]) for each in value)
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:  # the comparison refuses NaN, the infinities, and whole numbers that no float holds
        return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    return isinstance(value, kind)


def in_words(kind: Any) -> str:
    """A declared type, for a message.

    >>> in_words(tuple[int, ...] | None)
    'a tuple (of a whole number each) or None'
    """
    if get_origin(kind) is UnionType:
        return " or ".join(map(in_words, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a tuple (of {in_words(get_args(kind)[0])} each)"
    return KINDS.get(kind, f"a {kind.__name__}")


class Settings:
    """What the settings classes share: types checked; as a dict, as JSON, and back, strangers refused."""

    def check_types(self) -> None:
        """Raise ValueError unless every setting is of its declared type, in words."""
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if not fits(value, each.type):
                hint = f"; this is a list: use a tuple, {tuple(value)!r}" if isinstance(value, list) else ""
                raise ValueError(f"{each.name}={value!r} must be {in_words(each.type)}{hint}")
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"{each.name}={value} must be a whole number of at most 63 bits")

    def check_range(self, names: str, fine: Callable[[Any], bool], words: str) -> None:
        """Raise ValueError unless the settings named (None aside) are fine."""
        for name in names.split():
            value = getattr(self, name)
            if value is not None and not fine(value):
                raise ValueError(f"{name}={value}: {words}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it stands in a config.json."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, data: dict[str, Any]):
        """From what `to_dict` gave; a name that is no setting is an error, as is one that is missing."""
        if not isinstance(data, dict):
            raise ValueError(f"{cls.__name__} is made of settings by name, not of {data!r}")
        names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        for name in data:
            if name not in names:
                raise ValueError(f"{cls.__name__} has no setting {name!r}.{suggest(name, names)}")
        required = [f.name for f in fields(cls) if f.default is MISSING]  # type: ignore[arg-type]
        if missing := [name for name in required if name not in data]:
            raise ValueError(f"{cls.__name__} needs the setting {missing[0]!r}, and it is missing")
        return cls(**{name: tuple(x) if isinstance(x, list) else x for name, x in data.items()})


# What the two generations of blocks differ in. `block` picks a column; a setting given by name overrules it.
GENERATIONS: dict[str, dict[str, Any]] = {
    "paper": dict(ffn_proj_factor=1.3, norm_eps=1e-5, gate_soft_cap=0.0, output_logit_soft_cap=0.0),
    "7b": dict(ffn_proj_factor=2.667, norm_eps=1e-6, gate_soft_cap=15.0, output_logit_soft_cap=30.0),
}
FORGETS = ("sigmoid", "exp")


@dataclass(frozen=True, kw_only=True)
class xLSTMConfig(Settings):
    """The shape of an xLSTM. Names are those of NX-AI's and Hugging Face's configurations.

    >>> xLSTMConfig(embedding_dim=64, num_blocks=4, blocks="[3:1]").kinds
    ('mlstm', 'mlstm', 'mlstm', 'slstm')
    """

    embedding_dim: int
    """Width D of the residual stream."""
    num_blocks: int | None = None
    """How many blocks. May be left out where `blocks` spells them."""
    blocks: tuple[str, ...] | str | None = None
    """The mixer of each block, spelled out ("mlstm", "slstm", "lstm", "rnn"), or "[a:b]": in each group of a + b
    blocks, the last b are sLSTM. None: mLSTM, but for `slstm_at`."""
    slstm_at: tuple[int, ...] = ()
    """Positions of sLSTM blocks, from 0; an alternative to `blocks`."""
    block: str = "paper"
    """The generation of blocks: "paper" (2405.04517) or "7b" (2503.13427)."""
    vocab_size: int = 50304
    """How many tokens the language model knows."""
    num_heads: int = 4
    """Heads N of every cell; must divide embedding_dim."""
    tie_weights: bool = False
    """Whether the head shares the embedding's matrix."""
    dropout: float = 0.0
    """Share of each mixer's and feed-forward's output dropped in training."""
    chunk_size: int = 64
    """Steps per chunk of the chunkwise mLSTM. Changes speed, never results."""
    conv1d_kernel_size: int = 4
    """Width of the causal convolution before the cells of the paper's blocks; 0: none."""
    qkv_proj_blocksize: int = 4
    """Block size of the block-diagonal q, k, v projections of the paper's mLSTM block."""
    mlstm_proj_factor: float = 2.0
    """Up-projection of the paper's mLSTM block."""
    slstm_forget: str = "sigmoid"
    """Forget gate of the sLSTM: "sigmoid" or "exp"."""
    ffn_proj_factor: float | None = None
    """Width of the gated feed-forward over embedding_dim. None: 1.3 in the paper's blocks, 2.667 in 7B's."""
    round_up_to: int = 64
    """Projected widths are rounded up to a multiple of this."""
    qk_dim_factor: float = 0.5
    """Query and key width over embedding_dim, in the 7B block."""
    v_dim_factor: float = 1.0
    """Value width over embedding_dim, in the 7B block."""
    gate_soft_cap: float | None = None
    """Soft cap of the 7B mLSTM's gate pre-activations; 0: none. None: none in the paper's blocks, 15 in 7B's."""
    output_logit_soft_cap: float | None = None
    """Soft cap of the logits; 0: none. None: none with the paper's blocks, 30 with 7B's."""
    norm_eps: float | None = None
    """Added to the variance in every norm. None: 1e-5 in the paper's blocks, 1e-6 in 7B's."""
    eps: float = 0.0
    """Added to the mLSTM's denominator. 0 is the paper; trained checkpoints of NX-AI use 1e-6."""

    def __post_init__(self):
        self.check_types()
        if self.block not in GENERATIONS:
            raise ValueError(f"block={self.block!r} is not one of 'paper', '7b'.{suggest(self.block, GENERATIONS)}")
        if self.slstm_forget not in FORGETS:
            near = suggest(self.slstm_forget, FORGETS)
            raise ValueError(f"slstm_forget={self.slstm_forget!r} is not one of 'sigmoid', 'exp'.{near}")
        counts = "embedding_dim num_heads vocab_size chunk_size qkv_proj_blocksize round_up_to"
        self.check_range(counts, lambda x: x >= 1, "it must be at least 1")
        factors = "mlstm_proj_factor ffn_proj_factor qk_dim_factor v_dim_factor"
        self.check_range(factors, lambda x: 0 < x <= 1e6, "it must be over 0, and a million at most")
        self.check_range("norm_eps", lambda x: x > 0, "it must be over 0")
        at_least_0 = "eps conv1d_kernel_size gate_soft_cap output_logit_soft_cap"
        self.check_range(at_least_0, lambda x: x >= 0, "0 or more")
        self.check_range("dropout", lambda x: 0 <= x < 1, "a share from 0 up to, not including, 1")
        self._divides("num_heads", self.embedding_dim, "embedding_dim")
        self._check_widths(self.kinds)

    def _check_widths(self, kinds: tuple[str, ...]) -> None:
        """What the factors lead to is wide enough, and splits over the heads."""
        used = ["ffn_dim"] + ["qk_dim", "v_dim"] * (self.block == "7b" and "mlstm" in kinds)
        for name in used:
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name}={getattr(self, name)}: the width that its factor makes of "
                    f"embedding_dim={self.embedding_dim} must be at least 1; use a larger factor"
                )
        if self.block == "paper" and "mlstm" in kinds:
            inner = f"the mLSTM's inner width {self.mlstm_dim} (mlstm_proj_factor x embedding_dim, rounded up)"
            self._divides("num_heads", self.mlstm_dim, inner)
            self._divides("qkv_proj_blocksize", self.mlstm_dim, inner)
        if self.block == "7b" and "mlstm" in kinds:
            self._divides("num_heads", self.qk_dim, f"the query width {self.qk_dim} (qk_dim_factor x embedding_dim)")
            self._divides("num_heads", self.v_dim, f"the value width {self.v_dim} (v_dim_factor x embedding_dim)")

    def _divides(self, name: str, whole: int, meaning: str) -> None:
        if whole % getattr(self, name):
            raise ValueError(
                f"{name}={getattr(self, name)} does not divide {meaning}={whole}; what does: {divisors(whole)}"
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The mixer of each block."""
        if self.blocks is not None and self.slstm_at:
            raise ValueError("give blocks or slstm_at, not both: they say the same thing")
        if isinstance(self.blocks, tuple):
            if self.num_blocks not in (None, len(self.blocks)):
                raise ValueError(
                    f"num_blocks={self.num_blocks}, but blocks spells out {len(self.blocks)}; leave it out"
                )
            kinds = self.blocks
        elif isinstance(self.blocks, str):
            found = re.fullmatch(r"\[(\d+):(\d+)\]", self.blocks)
            if not found or not (a := int(found[1])) + (b := int(found[2])):
                raise ValueError(f'blocks={self.blocks!r}: write a ratio as "[7:1]", or the mixers as a tuple')
            kinds = (("mlstm",) * a + ("slstm",) * b) * -(-(self.num_blocks or a + b) // (a + b))
            kinds = kinds[: self.num_blocks]
        else:
            if self.num_blocks is None:
                raise ValueError("how many blocks? Give num_blocks, or spell them out in blocks")
            if outside := [at for at in self.slstm_at if not 0 <= at < self.num_blocks]:
                raise ValueError(
                    f"slstm_at={outside} lies outside the {self.num_blocks} blocks 0..{self.num_blocks - 1}"
                )
            kinds = tuple("slstm" if at in self.slstm_at else "mlstm" for at in range(self.num_blocks))
        if not kinds:
            raise ValueError("a stack has at least one block")
        return kinds

    def setting(self, name: str) -> Any:
        """A setting, with None read as what this generation of blocks uses."""
        value = getattr(self, name)
        return GENERATIONS[self.block][name] if value is None else value

    @property
    def mlstm_dim(self) -> int:
        """Inner width of the paper's mLSTM block."""
        return round_up(self.mlstm_proj_factor * self.embedding_dim, self.round_up_to)

    @property
    def qk_dim(self) -> int:
        """Query and key width of the 7B mLSTM, all heads together."""
        return int(self.embedding_dim * self.qk_dim_factor)

    @property
    def v_dim(self) -> int:
        """Value width of the 7B mLSTM, all heads together."""
        return int(self.embedding_dim * self.v_dim_factor)

    @property
    def ffn_dim(self) -> int:
        """Hidden width of the feed-forward layers."""
        width = self.setting("ffn_proj_factor") * self.embedding_dim
        # xLSTM-7B's own code drops the fraction first: 2.667 * 768 = 2048.256 gives 2048; the paper's gives 2112.
        return round_up(int(width) if self.block == "7b" else width, self.round_up_to)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "xLSTMConfig":
        """A named size: the paper's (`xlstm-125m-7-1`), `xlstm-7b`, or `tiny` and `small` for a laptop.

        >>> xLSTMConfig.preset("xlstm-125m-7-1").slstm_at
        (3, 20)
        """
        if name not in PRESETS:
            raise ValueError(f"no preset {name!r}.{suggest(name, PRESETS)} There are: {', '.join(PRESETS)}")
        return PRESETS[name].changed(**changes)

    def changed(self, **changes: Any) -> "xLSTMConfig":
        """A copy with other settings. New `blocks` or `slstm_at` replace the whole layout, the number of blocks too.

        >>> xLSTMConfig.preset("tiny").changed(blocks=("slstm", "rnn")).kinds
        ('slstm', 'rnn')
        """
        known = [f.name for f in fields(self)]
        for change in changes:
            if change not in known:
                raise ValueError(f"{type(self).__name__} has no setting {change!r}.{suggest(change, known)}")
        if "blocks" in changes:
            changes = {"num_blocks": None, "slstm_at": ()} | changes
        elif "slstm_at" in changes:
            changes = {"num_blocks": len(self.kinds), "blocks": None} | changes
        return replace(self, **changes)


def _paper_sizes() -> dict[str, xLSTMConfig]:
    """The sizes of 2405.04517, each without sLSTM and with it in a ratio the paper calls 7:1."""
    early_and_late, spread = (3, 20), (3, 5, 7, 40, 42, 44)
    sizes = {"125m": (768, 24, early_and_late), "350m": (1024, 48, spread), "760m": (1536, 48, spread),
             "1.3b": (2048, 48, spread)}  # fmt: skip
    presets = {}
    for size, (dim, num_blocks, slstm_at) in sizes.items():
        presets[f"xlstm-{size}-1-0"] = xLSTMConfig(embedding_dim=dim, num_blocks=num_blocks)
        presets[f"xlstm-{size}-7-1"] = xLSTMConfig(embedding_dim=dim, num_blocks=num_blocks, slstm_at=slstm_at)
    return presets


PRESETS: dict[str, xLSTMConfig] = {
    "tiny": xLSTMConfig(embedding_dim=128, num_blocks=4, blocks="[3:1]", vocab_size=256),
    "small": xLSTMConfig(embedding_dim=256, num_blocks=8, blocks="[7:1]", vocab_size=256),
    **_paper_sizes(),
    "xlstm-7b": xLSTMConfig(embedding_dim=4096, num_blocks=32, num_heads=8, block="7b", eps=1e-6),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """A training run. Everything that decides its numbers is here, so the same settings give the same model."""

    model: xLSTMConfig = PRESETS["tiny"]
    """The model's shape. Its vocab_size is set by the tokenizer."""
    data: str = "shakespeare"
    """A text file, a folder of them, a token folder made by `longshort data`, or "shakespeare", the embedded corpus."""
    tokenizer: str = "byte"
    """How text becomes tokens: "byte", "char", or "bpe" (needs `longshort[bpe]`)."""
    vocab_size: int = 4096
    """How many tokens a "bpe" tokenizer learns."""
    steps: int = 2000
    """Optimizer steps."""
    batch_size: int = 32
    """Sequences a step."""
    context: int = 256
    """Tokens of a sequence; the model itself has no limit."""
    accumulate: int = 1
    """Batches whose gradients are added up before each step."""
    carry_state: bool = False
    """Truncated back-propagation through time: read the text in order and carry the state from step to step."""
    lr: float = 3e-3
    """Peak learning rate."""
    min_lr: float = 0.1
    """Where the cosine ends, as a share of lr."""
    warmup: int = 100
    """Steps over which the learning rate rises to its peak."""
    weight_decay: float = 0.1
    """On the matrices; not on embeddings, norms, biases, skips and recurrent weights."""
    beta1: float = 0.9
    """Adam's memory of the gradient."""
    beta2: float = 0.95
    """Adam's memory of its square."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: no clipping."""
    bf16: bool = False
    """Compute in bfloat16 where it is safe (autocast); weights and states stay in float32."""
    checkpoint_activations: bool = False
    """Recompute each block in the backward pass: less memory, about a third more time."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": CUDA where there is one."""
    seed: int = 0
    """Decides the first weights, the batches, dropout and samples."""
    log_every: int = 10
    """Steps between two lines of the log."""
    eval_every: int = 200
    """Steps between two looks at the held-out text, each with a sample and a checkpoint."""
    eval_tokens: int = 16384
    """Held-out tokens scored each time, from all over the text; at the end every one is."""
    keep: int = 2
    """Checkpoints kept; older ones go."""
    sample_prompt: str = "\n"
    """What each sample continues."""
    sample_tokens: int = 200
    """Length of each sample; 0: none."""

    # What may differ when a run is resumed: it changes what is shown and kept, not what is learnt.
    REPORTING: ClassVar = ("device", "log_every", "eval_every", "eval_tokens", "keep", "sample_prompt", "sample_tokens")

    def __post_init__(self):
        self.check_types()
        counts = "vocab_size steps batch_size context accumulate log_every eval_every eval_tokens keep"
        self.check_range(counts, lambda x: x >= 1, "it must be at least 1")
        self.check_range("lr adam_eps", lambda x: x > 0, "it must be over 0")
        self.check_range("clip weight_decay warmup sample_tokens min_lr seed", lambda x: x >= 0, "0 or more")
        self.check_range("beta1 beta2", lambda x: 0 <= x < 1, "a share from 0 up to, not including, 1")
        if self.tokenizer not in ("byte", "char", "bpe"):
            raise ValueError(
                f"tokenizer={self.tokenizer!r}: there are 'byte', 'char' and 'bpe'."
                f"{suggest(self.tokenizer, ('byte', 'char', 'bpe'))}"
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "TrainConfig":
        """From what `to_dict` gave."""
        if not isinstance(data, dict):
            return super().from_dict(data)  # which says what is wrong
        if not isinstance(data.get("model"), dict):
            raise ValueError(f"the settings of the model belong under 'model', not {data.get('model')!r}")
        return super().from_dict({**data, "model": xLSTMConfig.from_dict(data["model"])})
