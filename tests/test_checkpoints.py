"""Checkpoints: there and back in every format, everything that can be wrong with a file, and writing that is atomic."""

import errno
import json
import os
import pickle
import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from longshort import checkpoints
from longshort.checkpoints import FORMATS, CheckpointError, export, load, newest, save
from longshort.config import xLSTMConfig
from longshort.files import write_atomically, write_json
from longshort.model import xLSTMLM

SMALL: dict[str, Any] = dict(embedding_dim=16, vocab_size=11, num_heads=2, eps=1e-6)
LARGE: dict[str, Any] = dict(SMALL, block="7b", round_up_to=16)
PAPER = {
    "mixed": xLSTMConfig(**SMALL, num_blocks=3, slstm_at=(1,)),
    "mlstm": xLSTMConfig(**SMALL, num_blocks=2, conv1d_kernel_size=3, qkv_proj_blocksize=8),
    "slstm": xLSTMConfig(**SMALL, blocks=("slstm",) * 2, conv1d_kernel_size=0, ffn_proj_factor=3.1, round_up_to=10),
    "widths": xLSTMConfig(**SMALL, blocks="[1:1]", mlstm_proj_factor=1.7, ffn_proj_factor=2.3, round_up_to=8),
    "tied": xLSTMConfig(**SMALL, blocks="[1:1]", tie_weights=True, dropout=0.1),
    "many": xLSTMConfig(**SMALL, blocks=("mlstm", "slstm") * 6, round_up_to=16),
}
SEVEN_B = {
    "plain": xLSTMConfig(**LARGE, num_blocks=12),
    "wide": xLSTMConfig(**dict(LARGE, eps=0.0), num_blocks=2, qk_dim_factor=1.0, v_dim_factor=2.0, gate_soft_cap=7.0),
}
OURS = {
    **PAPER,
    **SEVEN_B,
    "classical": xLSTMConfig(**SMALL, blocks=("lstm", "rnn")),
    "7b mixed": xLSTMConfig(**LARGE, blocks=("mlstm", "slstm", "lstm"), tie_weights=True, slstm_forget="exp"),
}
UNCAPPED = xLSTMConfig(**LARGE, num_blocks=1, gate_soft_cap=0.0, output_logit_soft_cap=0.0)


def build(config: xLSTMConfig, seed: int = 0) -> xLSTMLM:
    """A model with every weight random. Vectors lie in [0.5, 1.5), where NX-AI's 1 + w loses no bit."""
    generator = torch.Generator().manual_seed(seed)
    model = xLSTMLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.uniform_(0.5, 1.5, generator=generator)
            else:
                weight.normal_(std=0.4, generator=generator)
    return model.eval()


def logits(model: xLSTMLM) -> torch.Tensor:
    tokens = torch.arange(14).reshape(2, 7) % model.config.vocab_size
    with torch.no_grad():
        return model(tokens)[0]


def assert_same(got: xLSTMLM, want: xLSTMLM) -> None:
    got_weights, want_weights = got.state_dict(), want.state_dict()
    assert got_weights.keys() == want_weights.keys()
    for name, weight in want_weights.items():
        assert torch.equal(got_weights[name], weight), name
    assert torch.equal(logits(got), logits(want))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with one of our checkpoints."""
    save(build(PAPER["mixed"]), tmp_path / "model")
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


# ---- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_save_and_load_give_the_model_back(name, tmp_path):
    model = build(OURS[name])
    model.save(tmp_path)
    again = load(tmp_path)
    assert_same(again, model)
    assert again.config == model.config
    assert not again.training
    assert all(weight.requires_grad for weight in again.parameters())
    assert sorted(contents(tmp_path)) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("format", ["nxai-small", "nxai-small-cuda"])
@pytest.mark.parametrize("name", PAPER)
def test_export_of_the_papers_blocks_comes_back(name, format, tmp_path):
    model = build(PAPER[name])
    export(model, tmp_path, format)
    assert_same(load(tmp_path), model)
    alone = tmp_path / "elsewhere" / "weights.safetensors"
    alone.parent.mkdir()
    (tmp_path / "model.safetensors").rename(alone)
    again = load(alone)  # the tensors say it all
    assert_same(again, model)
    for setting in ("kinds", "num_heads", "tie_weights", "conv1d_kernel_size", "vocab_size"):
        assert getattr(again.config, setting) == getattr(model.config, setting), setting


@pytest.mark.parametrize("format", ["hf", "nxai-large", "nxai-large-fused"])
@pytest.mark.parametrize("name", SEVEN_B)
def test_export_of_7b_blocks_comes_back(name, format, tmp_path):
    model = build(SEVEN_B[name])
    export(model, tmp_path, format)
    again = load(tmp_path)
    assert_same(again, model)
    for setting in ("ffn_proj_factor", "gate_soft_cap", "output_logit_soft_cap", "norm_eps"):
        assert again.config.setting(setting) == model.config.setting(setting), setting
    for setting in ("eps", "chunk_size", "qk_dim_factor", "v_dim_factor", "round_up_to", "kinds"):
        assert getattr(again.config, setting) == getattr(model.config, setting), setting


@pytest.mark.parametrize("format", ["nxai-large", "nxai-large-fused"])
def test_export_without_caps_comes_back(format, tmp_path):
    export(build(UNCAPPED), tmp_path, format)
    assert "gate_soft_cap: null" in (tmp_path / "config.yaml").read_text()
    assert_same(load(tmp_path), build(UNCAPPED))


def test_export_longshort_is_save(tmp_path):
    model = build(PAPER["mixed"])
    save(model, tmp_path / "a")
    export(model, tmp_path / "b", "longshort")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_load_finds_numbered_shards(tmp_path):
    model = build(SEVEN_B["plain"])
    export(model, tmp_path, "nxai-large")
    weights = load_file(tmp_path / "model.safetensors")
    names = sorted(weights)
    for n in range(3):
        save_file({name: weights[name] for name in names[n::3]}, tmp_path / f"model_{n}.safetensors")
    (tmp_path / "model.safetensors").unlink()
    assert_same(load(tmp_path), model)


def test_load_finds_indexed_shards(tmp_path):
    model = build(SEVEN_B["plain"])
    export(model, tmp_path, "hf")
    shard(tmp_path)
    assert_same(load(tmp_path), model)


def shard(folder: Path) -> None:
    """Cut a Hugging Face checkpoint in two, with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    files = {f"model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for file, held in files.items():
        save_file({name: weights[name] for name in held}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, held in files.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def test_load_of_a_file_reads_the_settings_beside_it(folder):
    assert_same(load(folder / "model.safetensors"), load(folder))


def test_load_says_when_a_device_is_not_there(folder):
    for device in ("gpu", "cuda:99", "meta", ""):
        with pytest.raises(ValueError, match=f"device '{device}' cannot be used here .*; use 'cpu', 'cuda' or 'auto'"):
            load(folder, device=device)
    assert load(folder, device="auto").embedding.weight.device.type in ("cpu", "cuda")
    assert load(folder, device=torch.device("cpu")).embedding.weight.device.type == "cpu"


def test_load_converts_to_a_dtype(folder):
    model = load(folder, dtype=torch.float64)
    assert {weight.dtype for weight in model.parameters()} == {torch.float64}
    torch.testing.assert_close(logits(model).float(), logits(load(folder)), atol=1e-4, rtol=1e-4)


def test_load_keeps_the_stored_dtype(tmp_path):
    model = build(SEVEN_B["plain"]).bfloat16()
    export(model, tmp_path, "hf")
    assert load(tmp_path).embedding.weight.dtype == torch.bfloat16
    assert_same(load(tmp_path), model)


def test_load_leaves_no_two_weights_in_one_storage(tmp_path):
    export(build(SEVEN_B["plain"]), tmp_path, "nxai-large-fused")
    storages = [weight.untyped_storage().data_ptr() for weight in load(tmp_path).parameters()]
    assert len(set(storages)) == len(storages)


def test_load_of_a_tied_model_ties_it(tmp_path):
    save(build(PAPER["tied"]), tmp_path)
    assert "head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load(tmp_path)
    assert model.head.weight is model.embedding.weight


@pytest.mark.parametrize("dropped", ["lm_head.weight", "token_embedding.weight"])
def test_load_of_a_small_model_takes_a_matrix_stored_once_as_tied(dropped, tmp_path):
    export(build(PAPER["tied"]), tmp_path, "nxai-small")
    weights = load_file(tmp_path / "model.safetensors")
    del weights[dropped]
    save_file(weights, tmp_path / "model.safetensors")
    assert load(tmp_path).config.tie_weights
    assert_same(load(tmp_path), build(PAPER["tied"]))


# ---- the names that others use, as PEERS lists them ------------------------------------------------------------------

NAMES_7B = [
    "backbone.blocks.0.norm_mlstm.weight", "backbone.blocks.0.mlstm_layer.q.weight",
    "backbone.blocks.0.mlstm_layer.k.weight", "backbone.blocks.0.mlstm_layer.v.weight",
    "backbone.blocks.0.mlstm_layer.ogate_preact.weight", "backbone.blocks.0.mlstm_layer.out_proj.weight",
    "backbone.blocks.0.mlstm_layer.igate_preact.weight", "backbone.blocks.0.mlstm_layer.igate_preact.bias",
    "backbone.blocks.0.mlstm_layer.fgate_preact.weight", "backbone.blocks.0.mlstm_layer.fgate_preact.bias",
    "backbone.blocks.0.mlstm_layer.multihead_norm.weight", "backbone.blocks.0.norm_ffn.weight",
    "backbone.blocks.0.ffn.proj_up_gate.weight", "backbone.blocks.0.ffn.proj_up.weight",
    "backbone.blocks.0.ffn.proj_down.weight", "backbone.out_norm.weight", "lm_head.weight",
]  # fmt: skip
FUSED_SHAPES = {
    "backbone.blocks.0.mlstm_layer.qkv_opreact.weight": (8 + 8 + 16 + 16, 16),
    "backbone.blocks.0.mlstm_layer.ifgate_preact.weight": (4, 16),
    "backbone.blocks.0.mlstm_layer.ifgate_preact.bias": (4,),
    "backbone.blocks.0.ffn.proj_up_gate_z.weight": (2 * 48, 16),
}
SHAPES_SMALL = {
    "xlstm_block_stack.blocks.0.xlstm_norm.weight": (16,),
    "xlstm_block_stack.blocks.0.xlstm.learnable_skip": (64,),
    "xlstm_block_stack.blocks.0.xlstm.proj_up.weight": (128, 16),
    "xlstm_block_stack.blocks.0.xlstm.q_proj.weight": (16, 4, 4),
    "xlstm_block_stack.blocks.0.xlstm.k_proj.weight": (16, 4, 4),
    "xlstm_block_stack.blocks.0.xlstm.v_proj.weight": (16, 4, 4),
    "xlstm_block_stack.blocks.0.xlstm.conv1d.conv.weight": (64, 1, 4),
    "xlstm_block_stack.blocks.0.xlstm.conv1d.conv.bias": (64,),
    "xlstm_block_stack.blocks.0.xlstm.mlstm_cell.igate.weight": (2, 192),
    "xlstm_block_stack.blocks.0.xlstm.mlstm_cell.igate.bias": (2,),
    "xlstm_block_stack.blocks.0.xlstm.mlstm_cell.fgate.weight": (2, 192),
    "xlstm_block_stack.blocks.0.xlstm.mlstm_cell.fgate.bias": (2,),
    "xlstm_block_stack.blocks.0.xlstm.mlstm_cell.outnorm.weight": (64,),
    "xlstm_block_stack.blocks.0.xlstm.proj_down.weight": (16, 64),
    "xlstm_block_stack.blocks.1.xlstm_norm.weight": (16,),
    "xlstm_block_stack.blocks.1.xlstm.conv1d.conv.weight": (16, 1, 4),
    "xlstm_block_stack.blocks.1.xlstm.conv1d.conv.bias": (16,),
    "xlstm_block_stack.blocks.1.xlstm.fgate.weight": (2, 8, 8),
    "xlstm_block_stack.blocks.1.xlstm.igate.weight": (2, 8, 8),
    "xlstm_block_stack.blocks.1.xlstm.zgate.weight": (2, 8, 8),
    "xlstm_block_stack.blocks.1.xlstm.ogate.weight": (2, 8, 8),
    "xlstm_block_stack.blocks.1.xlstm.slstm_cell._recurrent_kernel_": (2, 32, 8),
    "xlstm_block_stack.blocks.1.xlstm.slstm_cell._bias_": (64,),
    "xlstm_block_stack.blocks.1.xlstm.group_norm.weight": (16,),
    "xlstm_block_stack.blocks.1.ffn_norm.weight": (16,),
    "xlstm_block_stack.blocks.1.ffn.proj_up.weight": (128, 16),
    "xlstm_block_stack.blocks.1.ffn.proj_down.weight": (16, 64),
    "xlstm_block_stack.post_blocks_norm.weight": (16,),
    "token_embedding.weight": (16, 16),
    "lm_head.weight": (16, 16),
}
HF_FIELDS = [
    "vocab_size", "hidden_size", "embedding_dim", "num_hidden_layers", "num_blocks", "num_heads", "use_bias",
    "norm_reduction_force_float32", "tie_word_embeddings", "add_out_norm", "norm_eps", "qk_dim_factor", "v_dim_factor",
    "chunkwise_kernel", "sequence_kernel", "step_kernel", "mode", "chunk_size", "return_last_states",
    "autocast_kernel_dtype", "eps", "inference_state_dtype", "ffn_proj_factor", "ffn_round_up_to_multiple_of",
    "gate_soft_cap", "output_logit_soft_cap", "weight_mode", "use_cache", "max_inference_chunksize", "pad_token_id",
    "bos_token_id", "eos_token_id",
]  # fmt: skip


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in load_file(folder / "model.safetensors").items()}


@pytest.mark.parametrize(
    "format, embedding", [("hf", "backbone.embeddings.weight"), ("nxai-large", "embedding.weight")]
)
def test_export_of_7b_blocks_uses_their_names(format, embedding, tmp_path):
    export(build(xLSTMConfig(**LARGE, num_blocks=1)), tmp_path, format)
    assert stored_shapes(tmp_path).keys() == {*NAMES_7B, embedding}


def test_export_of_fused_weights_uses_their_names_and_rows(tmp_path):
    model = build(xLSTMConfig(**LARGE, num_blocks=1))
    export(model, tmp_path, "nxai-large-fused")
    shapes = stored_shapes(tmp_path)
    assert {name: shapes.get(name) for name in FUSED_SHAPES} == FUSED_SHAPES
    parts = ("mlstm_layer.q.", "mlstm_layer.k.", "mlstm_layer.v.", "gate_preact", "proj_up_gate.", "proj_up.")
    kept = {name for name in NAMES_7B if not any(part in name for part in parts)}
    assert shapes.keys() == {*FUSED_SHAPES, *kept, "embedding.weight"}
    stored = load_file(tmp_path / "model.safetensors")
    mixer: Any = model.stack.blocks[0].mixer
    rows = torch.cat([mixer.q.weight, mixer.k.weight, mixer.v.weight, mixer.o_gate.weight])
    assert torch.equal(stored["backbone.blocks.0.mlstm_layer.qkv_opreact.weight"], rows)


def test_export_of_the_papers_blocks_uses_their_names_and_shapes(tmp_path):
    export(build(xLSTMConfig(**dict(SMALL, vocab_size=16), num_blocks=2, slstm_at=(1,))), tmp_path, "nxai-small")
    assert stored_shapes(tmp_path) == SHAPES_SMALL


def test_export_to_hugging_face_writes_every_setting(tmp_path):
    export(build(SEVEN_B["wide"]), tmp_path, "hf")
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["model_type"] == "xlstm"
    assert set(HF_FIELDS) <= settings.keys()


# ---- what a format cannot hold ---------------------------------------------------------------------------------------

REFUSED = [
    ("hf", dict(SMALL, num_blocks=1), "block='7b'"),
    ("hf", dict(LARGE, blocks=("mlstm", "slstm")), "block 1 is slstm"),
    ("hf", dict(LARGE, blocks=("rnn", "mlstm")), "block 0 is rnn"),
    ("hf", dict(LARGE, num_blocks=1, tie_weights=True), "cannot be tied"),
    ("hf", dict(LARGE, num_blocks=1, gate_soft_cap=0.0), "gate_soft_cap=0 means no cap"),
    ("nxai-large", dict(LARGE, num_blocks=1, tie_weights=True), "cannot be tied"),
    ("nxai-large-fused", dict(LARGE, blocks=("lstm",)), "block 0 is lstm"),
    ("nxai-small", dict(LARGE, num_blocks=1), "block='paper'"),
    ("nxai-small", dict(SMALL, blocks=("mlstm", "lstm")), "block 1 is lstm"),
    ("nxai-small", dict(SMALL, blocks=("slstm",), slstm_forget="exp"), "slstm_forget='exp'"),
    ("nxai-small", dict(SMALL, num_blocks=1, output_logit_soft_cap=30.0), "output_logit_soft_cap=30.0"),
    ("nxai-small", dict(SMALL, num_blocks=1, norm_eps=1e-6), "norm_eps=1e-06"),
    ("nxai-small", dict(SMALL, num_blocks=1, conv1d_kernel_size=0), "conv1d_kernel_size=2 or more"),
    ("nxai-small-cuda", dict(SMALL, num_blocks=1, eps=0.0), "build the model with eps=1e-6"),
]


@pytest.mark.parametrize("format, settings, words", REFUSED)
def test_export_refuses_what_a_format_cannot_hold(format, settings, words, tmp_path):
    with pytest.raises(ValueError, match=re.escape(words)):
        export(xLSTMLM(xLSTMConfig(**settings)), tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


def test_export_refuses_an_unknown_format(tmp_path):
    with pytest.raises(ValueError, match=r"no format 'nxai-smal'\. Did you mean 'nxai-small'"):
        export(build(PAPER["mixed"]), tmp_path, "nxai-smal")


@pytest.mark.parametrize("first", ["hf", "nxai-large"])
@pytest.mark.parametrize("second", ["longshort", "hf", "nxai-large-fused"])
def test_export_never_mixes_two_formats_in_a_folder(first, second, tmp_path):
    model = build(SEVEN_B["wide"])
    export(model, tmp_path, first)
    before = contents(tmp_path)
    if second.startswith(first):
        export(model, tmp_path, second)
        assert_same(load(tmp_path), model)
    else:
        with pytest.raises(CheckpointError, match="choose another folder"):
            export(model, tmp_path, second)
        assert contents(tmp_path) == before


# ---- bad files -------------------------------------------------------------------------------------------------------


def edit_settings(folder: Path, **changes) -> None:
    """Change settings in config.json; None removes one."""
    settings = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


def edit_model(folder: Path, **changes) -> None:
    model = json.loads((folder / "config.json").read_text())["model"]
    edit_settings(folder, model={**model, **changes})


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def cut(folder: Path, size: int) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:size])


def replace_weight(name: str, weight):
    return lambda weights: weights.update({name: weight})


MODEL = r"model\.safetensors"
CONFIG = r"config\.json"
TAMPERED = {
    "truncated": (lambda f: cut(f, -5), rf"{MODEL} is not a whole safetensors file"),
    "only a header": (lambda f: cut(f, 50), rf"{MODEL} is not a whole safetensors file"),
    "empty": (lambda f: cut(f, 0), rf"{MODEL} is not a whole safetensors file"),
    "foreign": (lambda f: (f / "model.safetensors").write_text("<!DOCTYPE html>" * 9), rf"{MODEL} is not a whole"),
    "missing tensor": (lambda f: edit_weights(f, lambda w: w.pop("stack.norm.weight")),
                       rf"{MODEL}: missing tensors: stack\.norm\.weight"),
    "unknown tensor": (lambda f: edit_weights(f, replace_weight("stack.extra", torch.ones(2))),
                       rf"{MODEL}: unknown tensors: stack\.extra"),
    "wrong shape": (lambda f: edit_weights(f, replace_weight("stack.norm.weight", torch.ones(3))),
                    rf"{MODEL}: wrong tensors: stack\.norm\.weight has shape \(3,\), not \(16,\)"),
    "integers": (lambda f: edit_weights(f, replace_weight("stack.norm.weight", torch.ones(16, dtype=torch.int32))),
                 rf"{MODEL}: stack\.norm\.weight is of type I32"),
    "no JSON": (lambda f: (f / "config.json").write_text("{'format': "), rf"{CONFIG}: this is not JSON"),
    "deep JSON": (lambda f: (f / "config.json").write_text("[" * 100_000), rf"{CONFIG}: this is not JSON"),
    "no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), rf"{CONFIG}: "),
    "a list": (lambda f: (f / "config.json").write_text("[1]"), rf"{CONFIG}: settings by name belong here, not a list"),
    "newer": (lambda f: edit_settings(f, version=2), rf"{CONFIG}: version 2 of the format"),
    "no version": (lambda f: edit_settings(f, version=None), rf"{CONFIG}: version None"),
    "other format": (lambda f: edit_settings(f, format="pt"), rf"{CONFIG}: format 'pt'"),
    "no model": (lambda f: edit_settings(f, model=None), rf"{CONFIG}: the settings of the model are missing"),
    "unknown setting": (lambda f: edit_model(f, num_head=2), rf"{CONFIG}: .* Did you mean 'num_heads'"),
    "no width": (lambda f: edit_model(f, embedding_dim=None), rf"{CONFIG}: "),
    "text for a width": (lambda f: edit_model(f, embedding_dim="16"), rf"{CONFIG}: "),
    "a bad setting": (lambda f: edit_model(f, num_heads=3), rf"{CONFIG}: num_heads=3 does not divide"),
    "unknown mixer": (lambda f: edit_model(f, blocks=["gru"], slstm_at=[], num_blocks=1), "no mixer 'gru'"),
    "absurd width": (lambda f: edit_model(f, embedding_dim=2**70), rf"{CONFIG}: embedding_dim=.* at most 63 bits"),
    "an infinite factor": (lambda f: edit_model(f, mlstm_proj_factor=1e400), rf"{CONFIG}: mlstm_proj_factor=inf must"),
    "other width": (lambda f: edit_model(f, vocab_size=12), rf"{MODEL}: wrong tensors: embedding.weight .*\(12, 16\)"),
    "more blocks": (lambda f: edit_model(f, num_blocks=4), rf"{MODEL}: missing tensors: .*blocks\.3\..* more"),
    "no settings": (lambda f: (f / "config.json").unlink(), r"needs settings beside it"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"model: it holds no weights"),
    "stranger": (lambda f: edit_settings(f, format=None, model_type="llama"), "of model_type 'xlstm'"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_load_names_the_file_and_what_is_wrong(name, folder):
    tamper, words = TAMPERED[name]
    tamper(folder)
    with pytest.raises(CheckpointError, match=words):
        load(folder)


TAMPERED_HF = {
    "biases": (lambda f: edit_settings(f, use_bias=True), rf"{CONFIG}: use_bias=True is not supported"),
    "no norm": (lambda f: edit_settings(f, add_out_norm=False), rf"{CONFIG}: add_out_norm=False is not supported"),
    "no factor": (lambda f: edit_settings(f, ffn_proj_factor=None), rf"{CONFIG}: .*'ffn_proj_factor' is missing"),
    "other factor": (lambda f: edit_settings(f, ffn_proj_factor=5.0), rf"{MODEL}: wrong tensors: .*ffn"),
    "zero cap": (lambda f: edit_settings(f, gate_soft_cap=0.0), rf"{CONFIG}: gate_soft_cap=0 makes everything 0"),
    "other name": (lambda f: edit_weights(f, lambda w: w.update({"embedding": w.pop("backbone.embeddings.weight")})),
                   rf"{MODEL}: missing tensors: backbone\.embeddings\.weight"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED_HF)
def test_load_of_hugging_face_names_what_is_wrong(name, tmp_path):
    export(build(SEVEN_B["wide"]), tmp_path, "hf")
    tamper, words = TAMPERED_HF[name]
    tamper(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


BAD_INDEX = {
    "no map": ({}, "its weight_map should say"),
    "no names": ({"weight_map": {"a": 3}}, "its weight_map should say"),
    "outside": (
        {"weight_map": {"a": "../x.safetensors"}},
        r"'\.\./x\.safetensors' is not the name of a file beside it",
    ),
    "absent": ({"weight_map": {"a": "x.safetensors"}}, r"x\.safetensors is not a whole safetensors file: No such file"),
}


@pytest.mark.parametrize("name", BAD_INDEX)
def test_load_of_shards_names_what_is_wrong(name, tmp_path):
    export(build(SEVEN_B["wide"]), tmp_path, "hf")
    shard(tmp_path)
    index, words = BAD_INDEX[name]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


def test_load_of_a_shard_alone_names_the_missing_tensors(tmp_path):
    export(build(SEVEN_B["wide"]), tmp_path, "hf")
    shard(tmp_path)
    with pytest.raises(CheckpointError, match=r"00001-of-00002\.safetensors: missing tensors: "):
        load(tmp_path / "model-00001-of-00002.safetensors")


STACK = "xlstm_block_stack.blocks"
TAMPERED_SMALL = {
    "a gap": (lambda w: [w.update({name.replace(".1.", ".7."): w.pop(name)}) for name in list(w) if ".1." in name],
              r"numbered from 0 on without gaps, not \[0, 2, 7\]"),
    "no cell": (lambda w: w.pop(f"{STACK}.0.xlstm.mlstm_cell.igate.bias"), r"igate\.bias is missing"),
    "no bias": (lambda w: w.pop(f"{STACK}.1.xlstm.slstm_cell._bias_"), r"missing tensors: .*_bias_"),
    "flat": (lambda w: w.update({f"{STACK}.0.xlstm.q_proj.weight": torch.ones(7)}), r"shape \(7,\), .* 3 axes"),
    "no width": (lambda w: w.update({f"{STACK}.0.xlstm.proj_down.weight": torch.ones(16, 0)}), r"shape \(16, 0\)"),
    "heads": (lambda w: w.update({f"{STACK}.0.xlstm.mlstm_cell.igate.bias": torch.ones(4)}),
              "blocks differ in num_heads, 4 and 2"),
    "causal mask": (lambda w: w.update({f"{STACK}.0.xlstm.mlstm_cell.causal_mask": torch.ones(4, 4)}),
                    r"unknown tensors: .*causal_mask"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED_SMALL)
def test_load_of_a_small_model_names_what_is_wrong(name, tmp_path):
    export(build(PAPER["mixed"]), tmp_path, "nxai-small")
    (tmp_path / "config.json").unlink()
    change, words = TAMPERED_SMALL[name]
    edit_weights(tmp_path, change)
    with pytest.raises(CheckpointError, match=rf"{MODEL}: .*{words}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "block, words",
    [({"feedforward": {"act_fn": "swish"}}, "act_fn='swish' is not supported, only 'gelu'"), (["slstm"], "")],
)
def test_load_of_a_small_model_reads_what_tensors_cannot_show(block, words, tmp_path):
    export(build(PAPER["mixed"]), tmp_path, "nxai-small")
    edit_settings(tmp_path, slstm_block=block)
    with pytest.raises(CheckpointError, match=rf"{CONFIG}: {words}"):
        load(tmp_path)


def test_load_of_xlstm_large_reads_numbers_that_yaml_takes_for_text(tmp_path):
    export(build(SEVEN_B["plain"]), tmp_path, "nxai-large")
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    kept = [line for line in lines if line.split(":")[0] not in ("eps", "norm_eps", "chunk_size", "qk_dim_factor")]
    (tmp_path / "config.yaml").write_text("\n".join([*kept, "norm_eps: 1e-6"]))
    again = load(tmp_path)
    assert (again.config.norm_eps, again.config.eps, again.config.chunk_size) == (1e-6, 1e-6, 64)
    assert_same(again, build(SEVEN_B["plain"]))


@pytest.mark.parametrize(
    "text, words",
    [
        ("chunk_sze: 3", "no setting 'chunk_sze'. Did you mean 'chunk_size'"),
        ("a: [", "this is not YAML"),
        ("- 1", "not a list"),
    ],
)
def test_load_of_xlstm_large_names_what_is_wrong(text, words, tmp_path):
    export(build(SEVEN_B["wide"]), tmp_path, "nxai-large")
    kept = (tmp_path / "config.yaml").read_text() if ":" in text and "[" not in text else ""
    (tmp_path / "config.yaml").write_text(kept + text)
    with pytest.raises(CheckpointError, match=rf"config\.yaml: .*{re.escape(words)}"):
        load(tmp_path)


def test_load_says_when_yaml_is_not_installed(tmp_path, monkeypatch):
    model = build(SEVEN_B["wide"])
    export(model, tmp_path, "nxai-large")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(CheckpointError, match=r"config\.yaml, PyYAML is needed: pip install 'longshort\[yaml\]'"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="PyYAML is needed"):
        export(model, tmp_path / "other", "nxai-large")
    assert not (tmp_path / "other").exists()


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "x.ckpt", "x.pkl"])
@pytest.mark.parametrize("through", ["the file", "its folder"])
def test_load_never_unpickles(name, through, tmp_path):
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(CheckpointError, match=rf"{name} is a pickle[\s\S]*save_file"):
        load(tmp_path / name if through == "the file" else tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_load_tells_how_to_convert_a_pickle(tmp_path, monkeypatch):
    """The command in the message does what it says."""
    model = build(PAPER["tied"])
    export(model, tmp_path / "small", "nxai-small")
    torch.save(load_file(tmp_path / "small" / "model.safetensors"), tmp_path / "model.pt")
    with pytest.raises(CheckpointError) as told:
        load(tmp_path / "model.pt")
    command = re.search(r'python -c "(.*)"', str(told.value))
    assert command
    monkeypatch.chdir(tmp_path)
    exec(command[1])
    assert_same(load(tmp_path / "model.safetensors"), model)


@pytest.mark.parametrize(
    "path, words",
    [
        ("nowhere", "no such file"),
        ("notes.txt", "this is no checkpoint"),
        ("several", "several holds 2 .safetensors files; give the one to load"),
        ("bare", "bare: it holds no weights"),
    ],
)
def test_load_says_what_a_path_is_not(path, words, tmp_path):
    (tmp_path / "notes.txt").touch()
    for file in ("several/a.safetensors", "several/b.safetensors", "bare/notes.txt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(CheckpointError, match=re.escape(words)):
        load(tmp_path / path)


# ---- the newest checkpoint of a run ----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> Path:
    """A run's folder: two whole checkpoints, two that were cut off, and what else may lie there."""
    inside = tmp_path / "run" / "checkpoints"
    for step in (8, 100):
        save(build(PAPER["mixed"], seed=step), inside / f"step-{step:08d}")
    (inside / "step-00000200").mkdir()
    (inside / "step-00000200" / "config.json").write_text("{}")
    (inside / "step-00000300").mkdir()
    (inside / "step-00000300" / "model.safetensors").touch()
    (inside / "step-last").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"steps": 300}')
    return tmp_path / "run"


@pytest.mark.parametrize("inside", ["", "checkpoints"])
def test_newest_is_the_highest_step_that_is_complete(run, inside):
    assert newest(run / inside) == run / "checkpoints" / "step-00000100"
    assert_same(load(run / inside), build(PAPER["mixed"], seed=100))


def test_newest_counts_steps_as_numbers(run):
    save(build(PAPER["mixed"]), run / "checkpoints" / "step-123456789")
    assert newest(run).name == "step-123456789"


def test_newest_says_when_none_is_complete(run):
    for step in ("step-00000008", "step-00000100"):
        (run / "checkpoints" / step / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"4 checkpoints .*, none of them complete"):
        load(run)


# ---- writing is atomic -----------------------------------------------------------------------------------------------


def full_disk(file, *_) -> None:
    """Write a little, then fail."""
    Path(file).write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def fail_weights(monkeypatch) -> None:
    monkeypatch.setattr("longshort.checkpoints.folders.save_file", lambda tensors, file, metadata: full_disk(file))


def fail_settings(monkeypatch) -> None:
    monkeypatch.setattr("longshort.files.write_text", full_disk)


def fail_sync(monkeypatch) -> None:
    def fsync(_):
        raise OSError(errno.EIO, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("fail", [fail_weights, fail_settings, fail_sync])
def test_save_that_fails_leaves_what_was_there(fail, folder, monkeypatch):
    before = contents(folder)
    fail(monkeypatch)
    with pytest.raises(CheckpointError, match=r"model/.* could not be written .*No space left.*untouched"):
        save(build(PAPER["tied"]), folder)
    assert contents(folder) == before
    monkeypatch.undo()
    save(build(PAPER["tied"]), folder)
    assert_same(load(folder), build(PAPER["tied"]))


def test_save_on_a_disk_that_is_really_full_leaves_what_was_there(folder):
    resource = pytest.importorskip("resource")
    before = contents(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(CheckpointError, match=r"model\.safetensors could not be written .*untouched"):
            save(build(PAPER["many"]), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(folder) == before


def test_save_that_is_interrupted_leaves_no_temporary_file(folder, monkeypatch):
    before = contents(folder)

    def interrupt(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("longshort.checkpoints.folders.save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(build(PAPER["tied"]), folder)
    assert contents(folder) == before


def test_save_says_when_only_a_part_could_be_replaced(folder, monkeypatch):
    replace = os.replace

    def refuse(source, target):
        if Path(target).name == "config.json":
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(
        CheckpointError, match=r"config\.json could not be written .*; model\.safetensors beside it is new"
    ):
        save(build(PAPER["mixed"]), folder)
    assert sorted(contents(folder)) == ["config.json", "model.safetensors"]


def test_save_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(CheckpointError, match=r"file/run/model\.safetensors could not be written"):
        save(build(PAPER["mixed"]), tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "text"


def test_save_leaves_files_that_others_may_read(tmp_path):
    (tmp_path / "plain").touch()
    save(build(PAPER["mixed"]), tmp_path)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "config.json", "model.safetensors")}
    assert len(modes) == 1


def write_bytes(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def test_write_atomically_replaces_or_leaves(tmp_path):
    path = tmp_path / "deep" / "state.bin"
    write_atomically(path, lambda file: write_bytes(file, b"one"))
    write_atomically(str(path), lambda file: write_bytes(file, b"two"))
    with pytest.raises(CheckpointError, match=r"state\.bin could not be written .*No space left.*untouched"):
        write_atomically(path, full_disk)
    with pytest.raises(ZeroDivisionError):
        write_atomically(path, lambda file: write_bytes(file, bytes([1 // 0])))
    assert contents(tmp_path) == {"deep/state.bin": b"two"}


def test_write_json_is_read_back(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, None, 1e-6]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, None, 1e-6]}
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert sorted(contents(tmp_path)) == ["a.json"]


def test_checkpoint_error_is_a_value_error():
    assert issubclass(CheckpointError, ValueError)
    assert set(FORMATS) == {"longshort", "hf", "nxai-large", "nxai-large-fused", "nxai-small", "nxai-small-cuda"}
    assert all(getattr(checkpoints, name) for name in checkpoints.__all__)
