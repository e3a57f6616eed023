"""The demonstration, in small: every part is shown, a second run says what is done, a stopped one goes on."""

from dataclasses import replace

import pytest

from longshort import training
from longshort.config import xLSTMConfig
from longshort.demo import PROMPT, SETTINGS, run_demo, show_constant_cost

SMALL = replace(SETTINGS, model=xLSTMConfig(embedding_dim=16, num_heads=2, blocks=("mlstm", "slstm"), round_up_to=16),
                steps=4, batch_size=2, context=16, eval_every=2, eval_tokens=160, sample_tokens=5)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("longshort.demo.show_constant_cost", lambda model: show_constant_cost(model, 20, 5))


def test_demo_shows_every_part_and_says_what_is_done(tmp_path, capsys):
    run_demo(tmp_path / "demo", SMALL)
    first = capsys.readouterr().out
    for shown in (
        "One LSTM step by hand",
        "step 4/4",
        "xz -9e alone",
        PROMPT,
        "thousandth token",
        "ms a token",
        "took",
    ):
        assert shown in first
    run_demo(tmp_path / "demo", SMALL)
    again = capsys.readouterr().out
    assert again.count("already done") == 2
    assert "step 4/4" not in again


def test_a_stopped_demo_goes_on(tmp_path, monkeypatch, capsys):
    made = training.train_step

    def stop(run):
        if run.step == 2:
            raise RuntimeError("power cut")
        return made(run)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            run_demo(tmp_path / "demo", SMALL)
    capsys.readouterr()
    run_demo(tmp_path / "demo", SMALL)
    out = capsys.readouterr().out
    assert "step 4/4" in out
    assert "step 2 |" not in out
