"""A run stops and goes on bit for bit, survives kill -9, tells what went wrong and loses nothing."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from longshort import training
from longshort.checkpoints import load, newest
from longshort.config import TrainConfig, xLSTMConfig
from longshort.training import TrainingError, build_optimizer, learning_rate, train

TINY = TrainConfig(
    model=xLSTMConfig(embedding_dim=16, num_heads=2, blocks="[1:1]", round_up_to=16, dropout=0.1),
    steps=8,
    batch_size=2,
    context=12,
    warmup=2,
    eval_every=3,
    eval_tokens=200,
    log_every=2,
    sample_tokens=5,
)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Season of mists and mellow fruitfulness, close bosom-friend of the maturing sun.\n" * 30)
    return str(path)


def weights(folder):
    return load_file(newest(folder) / "model.safetensors") | load_file(newest(folder) / "training.safetensors")


def assert_same_run(folder, other):
    one, two = weights(folder), weights(other)
    assert one.keys() == two.keys()
    for name, x in one.items():
        assert torch.equal(x, two[name]), name


def stop_at(monkeypatch, step, number=signal.SIGINT):
    """Send the process a signal while it is at a step."""
    made = training.train_step

    def stopping_step(run):
        if run.step == step:
            signal.raise_signal(number)
        return made(run)

    monkeypatch.setattr(training, "train_step", stopping_step)


@pytest.mark.parametrize(
    "more",
    [
        {},
        dict(carry_state=True),
        dict(accumulate=2, checkpoint_activations=True),
        dict(bf16=True),
        dict(tokenizer="char"),
    ],
    ids=str,
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, text, monkeypatch, capsys, more, number):
    config = replace(TINY, data=text, **more)
    train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 4, number)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "parts")
    assert newest(tmp_path / "parts").name == "step-00000005"
    assert f"longshort train --resume {tmp_path / 'parts'}" in capsys.readouterr().out.replace("\n", "")
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "parts")]
    whole, parts = (
        [{k: x for k, x in json.loads(line).items() if k != "tokens_per_second"} for line in run] for run in lines
    )
    assert whole == parts


def test_kill_at_any_moment_leaves_a_checkpoint_that_loads_and_goes_on(tmp_path, text):
    """kill -9, four times at times of no choosing; what is left always loads, and the end is the same."""
    config = replace(TINY, data=text, steps=40, eval_every=2)
    train(config, tmp_path / "whole")
    (tmp_path / "go.py").write_text(
        "import json, sys\nfrom longshort.config import TrainConfig\nfrom longshort.training import train\n"
        f"config = TrainConfig.from_dict(json.loads({json.dumps(json.dumps(config.to_dict()))}))\n"
        f"train(config, {str(tmp_path / 'killed')!r}, resume=len(sys.argv) > 1)\n"
    )
    first = tmp_path / "killed" / "checkpoints" / "step-00000000"
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    for attempt in range(4):
        again = ["again"] if first.parent.exists() else []
        run = subprocess.Popen(
            [sys.executable, str(tmp_path / "go.py"), *again], env=environment, stdout=subprocess.DEVNULL
        )
        while run.poll() is None and not any(first.parent.glob("step-*")):
            time.sleep(0.01)
        time.sleep(0.05 + 0.13 * attempt)
        run.kill()
        run.wait()
        assert load(tmp_path / "killed").num_parameters() > 0
    train(config, tmp_path / "killed", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_run_leaves_all_it_should(tmp_path, text):
    train(replace(TINY, data=text, steps=7, keep=2), tmp_path / "run")
    run = tmp_path / "run"
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-00000006", "step-00000007"]
    assert {p.name for p in newest(run).iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "training.json", "training.safetensors", "README.md",
    }  # fmt: skip
    assert TrainConfig.from_dict(json.loads((run / "config.json").read_text())).model.vocab_size == 256
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 7]
    assert [line["step"] for line in lines if "heldout" in line] == [3, 6, 7]
    picture = ElementTree.fromstring((run / "loss.svg").read_text())
    assert sum(each.tag.endswith("polyline") for each in picture.iter()) == 2
    card = (run / "README.md").read_text()
    assert "step 7 of 7" in card
    assert "held-out bits per character" in card
    assert "mlstm slstm" in card


def test_training_learns(tmp_path, text):
    config = replace(TINY, data=text, steps=60, batch_size=8, context=32, lr=1e-2, eval_every=60)
    train(config, tmp_path / "run")
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1]["heldout"] < 3.0 < 8.0 < losses[0]["loss"] / math.log(2) + 1


def test_decay_falls_on_matrices_alone():
    from longshort.model import xLSTMLM

    model = xLSTMLM(replace(TINY.model, vocab_size=7, blocks=("mlstm", "slstm", "lstm")))
    decayed = {id(p) for p in build_optimizer(model, TINY).param_groups[0]["params"]}
    named = dict(model.named_parameters())
    free = {name for name, p in named.items() if id(p) not in decayed}
    assert {"embedding.weight", "stack.norm.weight", "stack.blocks.0.mixer.skip", "stack.blocks.1.mixer.R"} <= free
    assert {"stack.blocks.0.mixer.conv.bias", "stack.blocks.1.mixer.bias", "stack.blocks.0.mixer.f_gate.bias"} <= free
    assert "head.weight" not in free
    assert all(named[name].dim() >= 2 for name in set(named) - free)


def test_learning_rate_rises_and_falls():
    config = replace(TINY, steps=100, warmup=10, lr=1.0)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


# ---- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(tmp_path, text, monkeypatch):
    made = training.train_step
    monkeypatch.setattr(training, "train_step", lambda run: (math.nan, 1.0, 1) if run.step == 4 else made(run))
    with pytest.raises(
        TrainingError, match=r"step 5: the loss is nan .* last good checkpoint is .*step-00000003.* --lr"
    ):
        train(replace(TINY, data=text), tmp_path / "run")
    assert all(x.isfinite().all() for x in load(tmp_path / "run").state_dict().values())


def test_a_learning_rate_far_too_high_is_caught_by_itself(tmp_path, text):
    for every in (1, 3):
        run = tmp_path / f"run {every}"
        with pytest.raises(TrainingError, match=r"(the loss is|norm|the held-out loss is) (nan|inf)"):
            train(replace(TINY, data=text, lr=1e30, steps=30, warmup=0, eval_every=every, keep=1), run)
        assert load(run)(torch.zeros(1, 3, dtype=torch.long))[0].isfinite().all()


@pytest.mark.parametrize("step", [0, 3])
def test_a_full_disk_loses_nothing(tmp_path, text, monkeypatch, step):
    made = training.save_file

    def full(tensors, path, *more):
        if f"step-{step:08d}" in str(path):
            raise SafetensorError("I/O error: No space left on device")  # as safetensors puts it
        return made(tensors, path, *more)

    monkeypatch.setattr(training, "save_file", full)
    kept = "step-00000000, is untouched" if step else "nothing was saved before"
    with pytest.raises(TrainingError, match=rf"step {step} could not be saved in .*No space left on device.*{kept}"):
        train(replace(TINY, data=text), tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    if step:
        assert load(tmp_path / "run").num_parameters() > 0


def test_a_run_is_never_begun_over_another(tmp_path, text):
    train(replace(TINY, data=text, steps=1), tmp_path / "run")
    with pytest.raises(TrainingError, match="already holds a run: go on with --resume"):
        train(replace(TINY, data=text), tmp_path / "run")
    with pytest.raises(TrainingError, match="holds no run to resume"):
        train(replace(TINY, data=text), tmp_path / "nothing", resume=True)


@pytest.mark.parametrize(("name", "value"), [("lr", 0.5), ("steps", 9), ("seed", 3), ("context", 13)])
def test_resuming_with_other_settings_is_refused(tmp_path, text, name, value):
    config = replace(TINY, data=text, steps=1)
    train(config, tmp_path / "run")
    with pytest.raises(TrainingError, match=f"was started with {name}=.*and now {name}={value!r} is asked for"):
        train(replace(config, **{name: value}), tmp_path / "run", resume=True)
    train(replace(config, log_every=1, keep=5), tmp_path / "run", resume=True)


def test_a_text_shorter_than_the_context_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(TrainingError, match=r"the training text is 9 tokens .*fewer than one sequence of 12 \+ 1"):
        train(replace(TINY, data=str(tmp_path / "short.txt")), tmp_path / "run")


def test_an_unknown_device_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="device 'gpu' cannot be used here"):
        train(replace(TINY, data=text, device="gpu"), tmp_path / "run")


def test_an_early_failure_leaves_no_text_behind_for_the_next_run(tmp_path, text):
    other = tmp_path / "other.txt"
    other.write_text("To be, or not to be, that is the question.\n" * 30)
    with pytest.raises(TrainingError, match="fewer than one sequence"):
        train(replace(TINY, data=text, context=100_000), tmp_path / "run")
    train(replace(TINY, data=str(other), steps=1), tmp_path / "run")
    assert "on other" in (tmp_path / "run" / "README.md").read_text()


def test_resuming_on_another_text_is_refused(tmp_path, text):
    from longshort.data import ByteTokenizer, Corpus, prepare

    prepare(Corpus("one", "a b c " * 200, (0,)), ByteTokenizer(), tmp_path / "tokens")
    config = replace(TINY, data=str(tmp_path / "tokens"), steps=3)
    stop = replace(config, steps=3)
    train(stop, tmp_path / "run")
    prepare(Corpus("two", "x y z " * 200, (0,)), ByteTokenizer(), tmp_path / "tokens")
    with pytest.raises(ValueError, match=r"the text or its tokenizer is not the one that .* was trained on"):
        train(stop, tmp_path / "run", resume=True)


def test_a_tokenizer_that_the_token_folder_does_not_have_is_refused(tmp_path):
    from longshort.data import CharTokenizer, Corpus, prepare

    prepare(Corpus("one", "a b c " * 200, (0,)), CharTokenizer("abc "), tmp_path / "tokens")
    with pytest.raises(TrainingError, match=r"tokenizer='bpe' was asked for, but .* holds tokens of kind 'char'"):
        train(replace(TINY, data=str(tmp_path / "tokens"), tokenizer="bpe"), tmp_path / "run")
    config = replace(TINY, data=str(tmp_path / "tokens"), steps=1)
    train(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["tokenizer"] == "char"
    train(config, tmp_path / "run", resume=True)


def test_samples_need_a_prompt_the_vocabulary_has(tmp_path):
    (tmp_path / "line.txt").write_text("no line break in it, none at all, not one " * 30)
    config = replace(TINY, data=str(tmp_path / "line.txt"), tokenizer="char", steps=1)
    train(config, tmp_path / "run")
    with pytest.raises(ValueError, match="'Q' is not in this model's vocabulary"):
        train(replace(config, sample_prompt="Q"), tmp_path / "other")
    with pytest.raises(TrainingError, match="sample_prompt is empty"):
        train(replace(config, sample_prompt=""), tmp_path / "another")


def test_a_line_cut_short_in_the_metrics_stops_no_run(tmp_path, text):
    config = replace(TINY, data=text, steps=2)
    train(config, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    before = metrics.read_text()
    metrics.write_text(before + '{"step": 2, "lo')
    train(config, tmp_path / "run", resume=True)
    assert metrics.read_text() == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("training.json", b"{}"),
        ("training.json", b"[]"),
        ("training.json", b"nonsense"),
        ("training.safetensors", b"cut"),
        ("config.json", b"[]"),
        ("config.json", b"{}"),
    ],
)
def test_a_tampered_run_is_refused_in_words(tmp_path, text, name, content):
    config = replace(TINY, data=text, steps=2)
    train(config, tmp_path / "run")
    place = tmp_path / "run" if name == "config.json" else newest(tmp_path / "run")
    (place / name).write_bytes(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        train(config, tmp_path / "run", resume=True)


def test_training_tensors_of_another_run_are_refused(tmp_path, text):
    train(replace(TINY, data=text, steps=2), tmp_path / "run")
    wide = replace(TINY.model, embedding_dim=32)
    train(replace(TINY, data=text, steps=2, model=wide), tmp_path / "wide")
    foreign = newest(tmp_path / "wide") / "training.safetensors"
    (newest(tmp_path / "run") / "training.safetensors").write_bytes(foreign.read_bytes())
    with pytest.raises(ValueError, match=r"training.safetensors: the optimizer's state of .* has another shape"):
        train(replace(TINY, data=text, steps=2), tmp_path / "run", resume=True)


def test_a_failed_replacement_leaves_the_checkpoint_that_was_there(tmp_path, text, monkeypatch):
    config = replace(TINY, data=text, steps=3)
    with monkeypatch.context() as patch:
        stop_at(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True)
    assert newest(tmp_path / "run").name == "step-00000003"


def test_train_returns_a_model_ready_for_use(tmp_path, text):
    assert not train(replace(TINY, data=text, steps=1), tmp_path / "run").training
