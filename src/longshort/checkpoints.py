"""Checkpoints: a model written to a folder and read back, in our format, NX-AI's and Hugging Face's. Safetensors only.

A foreign format is a table of two columns, ours and theirs, read both ways by one function; a name that the table
lacks is an error. Not here: optimiser and data state (training.py).
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longshort.config import round_up, suggest, xLSTMConfig
from longshort.model import xLSTMLM

VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; the message names the file and the reason."""


# ---- the tables: ours <-> theirs; {} is the block's number; a tuple is stored as one tensor, rows one below another ----

XLSTM_7B_ENDS = {
    "stack.norm.weight": "backbone.out_norm.weight",
    "head.weight": "lm_head.weight",
}
HF_ENDS = {"embedding.weight": "backbone.embeddings.weight", **XLSTM_7B_ENDS}
NXAI_LARGE_ENDS = {"embedding.weight": "embedding.weight", **XLSTM_7B_ENDS}

XLSTM_7B = {
    "stack.blocks.{}.norm.weight": "backbone.blocks.{}.norm_mlstm.weight",
    "stack.blocks.{}.mixer.q.weight": "backbone.blocks.{}.mlstm_layer.q.weight",
    "stack.blocks.{}.mixer.k.weight": "backbone.blocks.{}.mlstm_layer.k.weight",
    "stack.blocks.{}.mixer.v.weight": "backbone.blocks.{}.mlstm_layer.v.weight",
    "stack.blocks.{}.mixer.o_gate.weight": "backbone.blocks.{}.mlstm_layer.ogate_preact.weight",
    "stack.blocks.{}.mixer.i_gate.weight": "backbone.blocks.{}.mlstm_layer.igate_preact.weight",
    "stack.blocks.{}.mixer.i_gate.bias": "backbone.blocks.{}.mlstm_layer.igate_preact.bias",
    "stack.blocks.{}.mixer.f_gate.weight": "backbone.blocks.{}.mlstm_layer.fgate_preact.weight",
    "stack.blocks.{}.mixer.f_gate.bias": "backbone.blocks.{}.mlstm_layer.fgate_preact.bias",
    "stack.blocks.{}.mixer.norm.weight": "backbone.blocks.{}.mlstm_layer.multihead_norm.weight",
    "stack.blocks.{}.mixer.down.weight": "backbone.blocks.{}.mlstm_layer.out_proj.weight",
    "stack.blocks.{}.ffn_norm.weight": "backbone.blocks.{}.norm_ffn.weight",
    "stack.blocks.{}.ffn.gate.weight": "backbone.blocks.{}.ffn.proj_up_gate.weight",
    "stack.blocks.{}.ffn.up.weight": "backbone.blocks.{}.ffn.proj_up.weight",
    "stack.blocks.{}.ffn.down.weight": "backbone.blocks.{}.ffn.proj_down.weight",
}


def fused(table: dict, *groups: tuple[tuple[str, ...], str]) -> dict:
    """The table, with each group of ours in one row."""
    single = {ours for group, _ in groups for ours in group}
    return {**{ours: theirs for ours, theirs in table.items() if ours not in single}, **dict(groups)}


XLSTM_7B_FUSED = fused(
    XLSTM_7B,
    (
        tuple(f"stack.blocks.{{}}.mixer.{each}.weight" for each in ("q", "k", "v", "o_gate")),
        "backbone.blocks.{}.mlstm_layer.qkv_opreact.weight",
    ),
    (
        tuple(f"stack.blocks.{{}}.mixer.{each}.weight" for each in ("i_gate", "f_gate")),
        "backbone.blocks.{}.mlstm_layer.ifgate_preact.weight",
    ),
    (
        tuple(f"stack.blocks.{{}}.mixer.{each}.bias" for each in ("i_gate", "f_gate")),
        "backbone.blocks.{}.mlstm_layer.ifgate_preact.bias",
    ),
    (
        tuple(f"stack.blocks.{{}}.ffn.{each}.weight" for each in ("gate", "up")),
        "backbone.blocks.{}.ffn.proj_up_gate_z.weight",
    ),
)
