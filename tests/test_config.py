"""Settings: what they derive, what they refuse, presets that have the paper's very sizes."""

import json

import pytest
import torch

from longshort.config import PRESETS, TrainConfig, xLSTMConfig
from longshort.model import xLSTMLM

COUNTS = {
    "xlstm-125m-1-0": 163_806_144,
    "xlstm-125m-7-1": 163_690_928,
    "xlstm-350m-1-0": 409_290_112,
    "xlstm-350m-7-1": 408_436_048,
    "xlstm-760m-1-0": 840_427_392,
    "xlstm-760m-7-1": 839_736_144,
    "xlstm-1.3b-1-0": 1_422_559_616,
    "xlstm-1.3b-7-1": 1_420_065_104,
    "xlstm-7b": 6_865_424_896,
}


@pytest.mark.parametrize("name", COUNTS)
def test_preset_has_the_papers_very_number_of_weights(name):
    with torch.device("meta"):
        model = xLSTMLM(xLSTMConfig.preset(name))
    assert model.num_parameters() == COUNTS[name]


def test_every_preset_is_counted_or_small():
    assert set(PRESETS) == {*COUNTS, "tiny", "small"}


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        (dict(num_blocks=3), ("mlstm",) * 3),
        (dict(num_blocks=4, slstm_at=(1, 3)), ("mlstm", "slstm", "mlstm", "slstm")),
        (dict(blocks="[2:1]"), ("mlstm", "mlstm", "slstm")),
        (dict(blocks="[1:1]", num_blocks=5), ("mlstm", "slstm", "mlstm", "slstm", "mlstm")),
        (dict(blocks="[0:1]", num_blocks=2), ("slstm", "slstm")),
        (dict(blocks=("rnn", "lstm")), ("rnn", "lstm")),
    ],
)
def test_kinds_of_blocks(settings, kinds):
    assert xLSTMConfig(embedding_dim=8, **settings).kinds == kinds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            dict(embedding_dim=10, num_heads=4),
            r"num_heads=4 does not divide embedding_dim=10; what does: \[1, 2, 5, 10\]",
        ),
        (dict(embedding_dim=0), "embedding_dim=0: it must be at least 1"),
        (dict(block="papre"), "block='papre' is not one of 'paper', '7b'. Did you mean 'paper'?"),
        (dict(blocks="7:1"), r'write a ratio as "\[7:1\]"'),
        (dict(blocks="[0:0]"), r'write a ratio as "\[7:1\]"'),
        (dict(blocks=("mlstm",), slstm_at=(0,)), "give blocks or slstm_at, not both"),
        (dict(blocks=("mlstm",), num_blocks=2), "num_blocks=2, but blocks spells out 1"),
        (dict(num_blocks=2, slstm_at=(2,)), r"slstm_at=\[2\] lies outside the 2 blocks 0..1"),
        (dict(num_blocks=None), "how many blocks"),
        (dict(blocks=()), "a stack has at least one block"),
        (dict(dropout=1.0), "dropout=1.0: a share"),
        (dict(embedding_dim=12, num_heads=3, block="7b", qk_dim_factor=0.4), "does not divide the query width 4"),
        (dict(qkv_proj_blocksize=5), "qkv_proj_blocksize=5 does not divide"),
    ],
)
def test_bad_settings_are_refused_in_words(settings, message):
    with pytest.raises(ValueError, match=message):
        xLSTMConfig(**{"embedding_dim": 8} | ({} if "blocks" in settings else {"num_blocks": 1}) | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_heads="4"), "num_heads='4' must be a whole number$"),
        (dict(num_heads=True), "num_heads=True must be a whole number$"),
        (dict(num_heads=2.0), "num_heads=2.0 must be a whole number$"),
        (dict(num_blocks="1"), "num_blocks='1' must be a whole number or None"),
        (dict(chunk_size=2**64), "chunk_size=18446744073709551616 must be a whole number of at most 63 bits"),
        (dict(tie_weights=1), "tie_weights=1 must be True or False"),
        (dict(block=["paper"]), r"block=\['paper'\] must be text"),
        (dict(dropout=float("nan")), "dropout=nan must be a finite number"),
        (dict(eps=float("inf")), "eps=inf must be a finite number"),
        (dict(mlstm_proj_factor=10**400), "mlstm_proj_factor=1000.* must be a finite number"),
        (dict(norm_eps=float("nan")), "norm_eps=nan must be a finite number or None"),
        (dict(blocks=["mlstm"]), r"blocks=\['mlstm'\] must be a tuple .*list: use a tuple, \('mlstm',\)"),
        (dict(blocks=(1,)), r"blocks=\(1,\) must be a tuple \(of text each\) or text or None"),
        (dict(slstm_at=[0]), r"slstm_at=\[0\] must be a tuple .* use a tuple, \(0,\)"),
        (dict(slstm_at=("0",)), r"slstm_at=\('0',\) must be a tuple \(of a whole number each\)"),
        (dict(slstm_forget="sigmoit"), "slstm_forget='sigmoit' is not one of .* Did you mean 'sigmoid'"),
        (dict(mlstm_proj_factor=0.0), "mlstm_proj_factor=0.0: it must be over 0"),
        (dict(ffn_proj_factor=-1.0), "ffn_proj_factor=-1.0: it must be over 0"),
        (dict(v_dim_factor=1e300), "v_dim_factor=1e.300: it must be over 0, and a million at most"),
        (dict(norm_eps=0.0), "norm_eps=0.0: it must be over 0"),
        (dict(eps=-1e-6), "eps=-1e-06: 0 or more"),
        (dict(conv1d_kernel_size=-1), "conv1d_kernel_size=-1: 0 or more"),
        (dict(gate_soft_cap=-1.0), "gate_soft_cap=-1.0: 0 or more"),
        (dict(output_logit_soft_cap=-1.0), "output_logit_soft_cap=-1.0: 0 or more"),
        (dict(block="7b", qk_dim_factor=0.01), "qk_dim=0: the width that its factor makes of embedding_dim=8"),
        (dict(block="7b", v_dim_factor=0.01), "v_dim=0: the width"),
        (dict(block="7b", ffn_proj_factor=0.01), "ffn_dim=0: the width"),
    ],
)
def test_settings_of_a_wrong_type_or_range_are_refused_in_words(settings, message):
    with pytest.raises(ValueError, match=message):
        xLSTMConfig(**{"embedding_dim": 8} | ({} if "blocks" in settings else {"num_blocks": 1}) | settings)


def test_whole_numbers_will_do_for_floats_and_none_for_what_may_be_none():
    config = xLSTMConfig(embedding_dim=8, num_blocks=1, dropout=0, mlstm_proj_factor=2, norm_eps=None)
    assert (config.mlstm_dim, config.dropout) == (64, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"TrainConfig is made of settings by name, not of \[\]"),
        (None, "TrainConfig is made of settings by name"),
        ({}, "the settings of the model belong under 'model', not None"),
        ({"model": [1]}, r"the settings of the model belong under 'model', not \[1\]"),
        ({"model": {}}, "xLSTMConfig needs the setting 'embedding_dim', and it is missing"),
        ({"model": {"embedding_dim": "8"}}, "embedding_dim='8' must be a whole number"),
        ({"model": {"embedding_dim": 8, "num_blocks": 1}, "stepz": 3}, "no setting 'stepz'. Did you mean 'steps'"),
        ({"model": {"embedding_dim": 8, "num_blocks": 1}, "lr": "3"}, "lr='3' must be a finite number"),
    ],
)
def test_train_settings_that_are_none_are_refused_in_words(data, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(data)


def test_model_settings_that_are_none_are_refused_in_words():
    with pytest.raises(ValueError, match=r"xLSTMConfig is made of settings by name, not of 'tiny'"):
        xLSTMConfig.from_dict("tiny")  # type: ignore[arg-type]


def test_unknown_preset_and_setting_suggest_the_nearest():
    with pytest.raises(ValueError, match=r"no preset 'xlstm-125m'. Did you mean 'xlstm-125m-"):
        xLSTMConfig.preset("xlstm-125m")
    with pytest.raises(ValueError, match=r"no setting 'num_head'. Did you mean 'num_heads'"):
        xLSTMConfig.preset("tiny", num_head=3)
    with pytest.raises(ValueError, match=r"no setting 'embeding_dim'. Did you mean 'embedding_dim'"):
        xLSTMConfig.from_dict({"embeding_dim": 3})


@pytest.mark.parametrize("settings", [*PRESETS.values(), xLSTMConfig(embedding_dim=8, blocks=("rnn", "slstm"))])
def test_settings_survive_json(settings):
    assert xLSTMConfig.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    training = TrainConfig(model=settings, lr=0.5)
    assert TrainConfig.from_dict(json.loads(json.dumps(training.to_dict()))) == training


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        PRESETS["tiny"].embedding_dim = 3  # type: ignore[misc]


NAN, INF = float("nan"), float("inf")
BAD_TRAINING = [
    ("steps", 0), ("steps", "9"), ("steps", 1.5), ("lr", 0.0), ("lr", NAN), ("lr", True), ("clip", -1.0), ("clip", NAN),
    ("clip", INF), ("weight_decay", INF), ("beta1", 1.0), ("beta2", -0.1), ("seed", -1), ("bf16", "yes"), ("data", 3),
    ("model", "tiny"), ("tokenizer", "bits"), ("tokenizer", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_TRAINING)
def test_bad_training_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}="):
        TrainConfig(**{name: value})


def test_changed_layouts_replace_the_whole_layout():
    tiny = PRESETS["tiny"]
    assert tiny.changed(num_blocks=8).kinds == ("mlstm", "mlstm", "mlstm", "slstm") * 2
    assert tiny.changed(slstm_at=(0,)).kinds == ("slstm", "mlstm", "mlstm", "mlstm")
    assert xLSTMConfig.preset("xlstm-125m-7-1", blocks=("rnn",)).kinds == ("rnn",)
