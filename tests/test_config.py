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


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("lr", 0.0), ("clip", -1.0), ("tokenizer", "bits")])
def test_bad_training_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}="):
        TrainConfig(**{name: value})


def test_changed_layouts_replace_the_whole_layout():
    tiny = PRESETS["tiny"]
    assert tiny.changed(num_blocks=8).kinds == ("mlstm", "mlstm", "mlstm", "slstm") * 2
    assert tiny.changed(slstm_at=(0,)).kinds == ("slstm", "mlstm", "mlstm", "mlstm")
    assert xLSTMConfig.preset("xlstm-125m-7-1", blocks=("rnn",)).kinds == ("rnn",)
