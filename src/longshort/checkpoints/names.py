"""The names of weights, ours and theirs, in two columns; and what they store otherwise than we do.

The tables are read both ways, by `Names.rows`; a name that they lack is an error, not a skip.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longshort.config import xLSTMConfig

# ---- ours <-> theirs: {} is the block, "stack.blocks.0" on our side; a tuple of ours is one tensor of theirs ---------

HF_ENDS = {
    "embedding.weight": "backbone.embeddings.weight",
    "stack.norm.weight": "backbone.out_norm.weight",
    "head.weight": "lm_head.weight",
}
NXAI_LARGE_ENDS = {**HF_ENDS, "embedding.weight": "embedding.weight"}
XLSTM_7B_SHARED = {
    "{}.norm.weight": "{}.norm_mlstm.weight",
    "{}.mixer.norm.weight": "{}.mlstm_layer.multihead_norm.weight",
    "{}.mixer.down.weight": "{}.mlstm_layer.out_proj.weight",
    "{}.ffn_norm.weight": "{}.norm_ffn.weight",
    "{}.ffn.down.weight": "{}.ffn.proj_down.weight",
}
XLSTM_7B = {
    **XLSTM_7B_SHARED,
    "{}.mixer.q.weight": "{}.mlstm_layer.q.weight",
    "{}.mixer.k.weight": "{}.mlstm_layer.k.weight",
    "{}.mixer.v.weight": "{}.mlstm_layer.v.weight",
    "{}.mixer.o_gate.weight": "{}.mlstm_layer.ogate_preact.weight",
    "{}.mixer.i_gate.weight": "{}.mlstm_layer.igate_preact.weight",
    "{}.mixer.i_gate.bias": "{}.mlstm_layer.igate_preact.bias",
    "{}.mixer.f_gate.weight": "{}.mlstm_layer.fgate_preact.weight",
    "{}.mixer.f_gate.bias": "{}.mlstm_layer.fgate_preact.bias",
    "{}.ffn.gate.weight": "{}.ffn.proj_up_gate.weight",
    "{}.ffn.up.weight": "{}.ffn.proj_up.weight",
}
QKVO = ("{}.mixer.q.weight", "{}.mixer.k.weight", "{}.mixer.v.weight", "{}.mixer.o_gate.weight")
XLSTM_7B_FUSED = {
    **XLSTM_7B_SHARED,
    QKVO: "{}.mlstm_layer.qkv_opreact.weight",
    ("{}.mixer.i_gate.weight", "{}.mixer.f_gate.weight"): "{}.mlstm_layer.ifgate_preact.weight",
    ("{}.mixer.i_gate.bias", "{}.mixer.f_gate.bias"): "{}.mlstm_layer.ifgate_preact.bias",
    ("{}.ffn.gate.weight", "{}.ffn.up.weight"): "{}.ffn.proj_up_gate_z.weight",
}

NXAI_SMALL_ENDS = {
    "embedding.weight": "token_embedding.weight",
    "stack.norm.weight": "xlstm_block_stack.post_blocks_norm.weight",
    "head.weight": "lm_head.weight",
}
NXAI_SMALL_SHARED = {
    "{}.norm.weight": "{}.xlstm_norm.weight",
    "{}.mixer.conv.weight": "{}.xlstm.conv1d.conv.weight",
    "{}.mixer.conv.bias": "{}.xlstm.conv1d.conv.bias",
}
NXAI_SMALL_MLSTM = {
    **NXAI_SMALL_SHARED,
    "{}.mixer.up.weight": "{}.xlstm.proj_up.weight",
    "{}.mixer.q.weight": "{}.xlstm.q_proj.weight",
    "{}.mixer.k.weight": "{}.xlstm.k_proj.weight",
    "{}.mixer.v.weight": "{}.xlstm.v_proj.weight",
    "{}.mixer.i_gate.weight": "{}.xlstm.mlstm_cell.igate.weight",
    "{}.mixer.i_gate.bias": "{}.xlstm.mlstm_cell.igate.bias",
    "{}.mixer.f_gate.weight": "{}.xlstm.mlstm_cell.fgate.weight",
    "{}.mixer.f_gate.bias": "{}.xlstm.mlstm_cell.fgate.bias",
    "{}.mixer.norm.weight": "{}.xlstm.mlstm_cell.outnorm.weight",
    "{}.mixer.skip": "{}.xlstm.learnable_skip",
    "{}.mixer.down.weight": "{}.xlstm.proj_down.weight",
}
NXAI_SMALL_SLSTM = {
    **NXAI_SMALL_SHARED,
    # Their two names are exchanged (NX-AI/xlstm issue 98): what they save as `fgate` drives the input gate. Only these
    # input weights are: R and the bias are in the order i f z o, as ours. Undone here and nowhere else.
    "{}.mixer.i_proj.weight": "{}.xlstm.fgate.weight",
    "{}.mixer.f_proj.weight": "{}.xlstm.igate.weight",
    "{}.mixer.z_proj.weight": "{}.xlstm.zgate.weight",
    "{}.mixer.o_proj.weight": "{}.xlstm.ogate.weight",
    "{}.mixer.R": "{}.xlstm.slstm_cell._recurrent_kernel_",
    "{}.mixer.bias": "{}.xlstm.slstm_cell._bias_",
    "{}.mixer.norm.weight": "{}.xlstm.group_norm.weight",
    "{}.ffn_norm.weight": "{}.ffn_norm.weight",
    ("{}.ffn.gate.weight", "{}.ffn.up.weight"): "{}.ffn.proj_up.weight",
    "{}.ffn.down.weight": "{}.ffn.proj_down.weight",
}


# ---- values ----------------------------------------------------------------------------------------------------------


class Value(NamedTuple):
    """How they store what we hold: `give` makes theirs, `take` makes ours, of the given shape."""

    give: Callable[[Tensor], Tensor]
    take: Callable[[Tensor, torch.Size], Tensor]


def permuted(*axes: int, join: tuple[int, int]) -> Value:
    """Our axes in their order, then some of them joined to one."""
    back = [axes.index(axis) for axis in range(len(axes))]
    return Value(
        lambda ours: ours.permute(axes).flatten(*join),
        lambda theirs, shape: theirs.reshape([shape[axis] for axis in axes]).permute(back),
    )


SAME = Value(lambda ours: ours, lambda theirs, shape: theirs)
ABOVE_ONE = Value(lambda ours: ours - 1, lambda theirs, shape: theirs + 1)  # they store w and use 1 + w
NORMS = dict.fromkeys(
    ("xlstm_norm.weight", "ffn_norm.weight", "post_blocks_norm.weight", "outnorm.weight", "group_norm.weight"),
    ABOVE_ONE,
)
# Ours: R (gate, head, out, in) and bias (gate, head, out). Their two backends order the axes each in its own way.
VANILLA = {"_recurrent_kernel_": permuted(1, 0, 2, 3, join=(1, 2)), "_bias_": permuted(0, 1, 2, join=(0, 2)), **NORMS}
CUDA = {"_recurrent_kernel_": permuted(1, 3, 0, 2, join=(2, 3)), "_bias_": permuted(1, 0, 2, join=(0, 2)), **NORMS}


# ---- a whole model ---------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One tensor of theirs, and what of ours it holds."""

    ours: tuple[str, ...]
    theirs: str
    value: Value = SAME

    def give(self, weights: dict[str, Tensor]) -> Tensor:
        """Their tensor, from our weights."""
        parts = [weights[name] for name in self.ours]
        return self.value.give(torch.cat(parts) if parts[1:] else parts[0])

    def take(self, theirs: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
        """Our weights, of these shapes, from their tensor."""
        parts = theirs.split([shapes[name][0] for name in self.ours]) if self.ours[1:] else [theirs]
        return {name: self.value.take(part, shapes[name]) for name, part in zip(self.ours, parts, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Names:
    """A format's tables: what stands once, what stands in every block of a kind, and what they store otherwise."""

    ends: dict[Any, str] = field(default_factory=dict)
    blocks: dict[str, dict[Any, str]] = field(default_factory=dict)
    prefix: str = "backbone.blocks"
    values: dict[str, Value] = field(default_factory=dict)
    """By the end of their names."""

    def rows(self, config: xLSTMConfig, weights: set[str]) -> list[Row]:
        """Both columns written out for a model that has these weights. ValueError if one has no name of theirs."""
        written = [row for row in self._all(config) if weights.issuperset(row.ours)]  # there may be no convolutions
        if strangers := weights - {name for row in written for name in row.ours}:
            raise ValueError(f"the weight {sorted(strangers)[0]!r} has no name in this format")
        return written

    def _all(self, config: xLSTMConfig) -> Iterator[Row]:
        yield from self._filled(self.ends, "", "")
        for i, kind in enumerate(config.kinds):
            yield from self._filled(self.blocks[kind], f"stack.blocks.{i}", f"{self.prefix}.{i}")

    def _filled(self, table: dict[Any, str], our_block: str, their_block: str) -> Iterator[Row]:
        for ours, theirs in table.items():
            held = ours if isinstance(ours, tuple) else (ours,)
            value = next((value for end, value in self.values.items() if theirs.endswith(end)), SAME)
            yield Row(tuple(name.format(our_block) for name in held), theirs.format(their_block), value)


class OwnNames(Names):
    """Our own: every weight under its name, a tied head once."""

    def rows(self, config: xLSTMConfig, weights: set[str]) -> list[Row]:
        return [Row((name,), name) for name in sorted(weights) if not (config.tie_weights and name == "head.weight")]
