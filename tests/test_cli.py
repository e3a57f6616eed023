"""The command line, as a stranger meets it: help at once, wrong words corrected, every verb doing its work."""

import json
import subprocess
import sys
import time

import pytest

from longshort.cli import main

SHAPE = ["--embedding-dim", "16", "--num-heads", "2", "--blocks", "mlstm,slstm", "--round-up-to", "16"]
TINY = [*SHAPE, "--batch-size", "2", "--context", "12", "--eval-tokens", "100", "--sample-tokens", "5"]
FOUR = [*TINY, "--steps", "4", "--eval-every", "2"]


def run(*arguments, code=0, capsys):
    if code:
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, arguments)))
        assert stop.value.code == code
    else:
        main(list(map(str, arguments)))
    return capsys.readouterr()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text and a trained run."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "text.txt").write_text(
        "Season of mists and mellow fruitfulness, bosom-friend of the maturing sun.\n" * 30
    )
    main(["train", str(folder / "run"), "--data", str(folder / "text.txt"), *FOUR])
    return folder


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["generate", "--help"], ["--version"]])
def test_help_answers_at_once(arguments):
    best = 9.0
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "longshort.cli", *arguments], capture_output=True, text=True, check=False
        )
        best = min(best, time.perf_counter() - began)
        assert done.returncode == 0
        assert "longshort" in done.stdout
    assert best < 0.3


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["generate", "--help"], ["--version"]])
def test_help_waits_for_neither_torch_nor_numpy(arguments):
    look = "import atexit, sys, longshort.cli; atexit.register(lambda: print({'numpy', 'torch'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", f"{look}; longshort.cli.main()", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "longshort" in done.stdout
    assert done.stdout.endswith("\nset()\n")


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "--carry-state" in out
    assert "Peak learning rate. [0.003]" in out
    assert "Width D of the residual stream." in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "x"], "no 'trian'. Did you mean 'train'?"),
        (["train", "x", "--stepz", "3"], "no such argument: --stepz. Did you mean '--steps'?"),
        (["train", "x", "--preset", "tinny"], "no 'tinny'. Did you mean 'tiny'?"),
        (["train", "x", "--steps", "many"], "invalid int value: 'many'"),
        (["train"], "the following arguments are required: folder"),
    ],
)
def test_wrong_words_are_corrected(arguments, message, capsys):
    assert message in run(*arguments, code=2, capsys=capsys).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "{new}", "--data", "no-such-file.txt"], "no file or folder 'no-such-file.txt'"),
        (["train", "{run}"], "already holds a run: go on with --resume"),
        (["train", "{run}", "--resume", "--lr", "0.5"], "was started with lr=0.003, and now lr=0.5"),
        (["train", "{new}", "--embedding-dim", "10"], "num_heads=4 does not divide embedding_dim=10"),
        (["generate", "{place}", "--prompt", "a"], "holds no"),
        (["generate", "{run}", "--prompt", "a", "--load-state", "none.state"], "no state file 'none.state'"),
        (["generate", "{run}", "--prompt", "a", "--temperature", "-1"], "temperature=-1.0"),
        (["generate", "{run}", "--prompt", "a", "--temperature", "nan"], "temperature=nan"),
        (["generate", "{run}", "--prompt", "a", "--seed", "9" * 30], "at most 62 bits"),
        (["generate", "{run}", "--prompt", "a", "--device", "gpu"], "device 'gpu' cannot be used here"),
        (["generate", "{run}", "--prompt", "a", "--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
        (["generate", "{run}", "--prompt", "a", "--device", "meta"], "device 'meta' cannot be used here"),
        (["eval", "{run}", "--device", "gpu"], "device 'gpu' cannot be used here"),
        (["generate", "{run}", "--prompt-file", "none.txt"], "no file 'none.txt': give a text file"),
        (["generate", "{run}", "--prompt-file", "{place}"], "cannot be read: Is a directory"),
        (["generate", "{run}", "--prompt-file", "{place}/latin.txt"], "latin.txt is not UTF-8: byte 0xf6 at 1"),
        (["train", "{bad}", "--resume"], "config.json: settings by name belong here, not a list"),
        (["train", "{new}", "--clip", "nan"], "clip=nan must be a finite number"),
        (["train", "{new}", "--data", "{place}/text.txt", "--embedding-dim", "400000000000000"], "too little memory"),
        (["eval", "{place}/text.txt"], "text.txt"),
        (["data", "{place}/run/data", "--out", "{new}"], "holds no .txt"),
        (["convert", "{run}", "{new}", "--to", "hff"], "no format 'hff'. Did you mean 'hf'?"),
    ],
)
def test_bad_input_is_one_line_and_status_1(place, tmp_path, arguments, message, capsys):
    (place / "latin.txt").write_bytes("Böhm".encode("latin1"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("[]")
    names = {"run": place / "run", "place": place, "new": tmp_path / "new", "bad": tmp_path / "bad"}
    err = run(*(a.format(**names) for a in arguments), code=1, capsys=capsys).err
    assert err.startswith("longshort: ")
    assert message in err.replace("\n", " ")
    assert "Traceback" not in err


def test_generate_streams_and_tells_its_speed(place, capsys):
    out = run("generate", place / "run", "--prompt", "Season", "--max-tokens", "12", "--seed", "3", capsys=capsys)
    assert out.out.startswith("Season")
    for told in ("prompt: 6 tokens", "generation: 12 tokens", "tokens/s", "peak memory"):
        assert told in out.err
    again = run("generate", place / "run", "--prompt", "Season", "--max-tokens", "12", "--seed", "3", capsys=capsys)
    assert again.out == out.out


def test_generate_takes_many_prompts(place, capsys):
    out = run("generate", place / "run", "--prompt", "Season", "--prompt", "a", "--max-tokens", "3", capsys=capsys).out
    assert out.count("--- ") == 2


def test_a_book_is_read_once_and_asked_many_times(place, tmp_path, capsys):
    state = tmp_path / "book.state"
    read = ["generate", place / "run", "--prompt-file", place / "text.txt", "--max-tokens", "0", "--save-state", state]
    run(*read, capsys=capsys)
    asked = ["generate", place / "run", "--load-state", state, "--prompt", "Then", "--max-tokens", "8"]
    first, second = (run(*asked, capsys=capsys) for _ in range(2))
    assert first.out == second.out
    assert "prompt: 4 tokens" in first.err


def test_eval_prints_the_model_beside_the_compressor(place, capsys):
    out = run("eval", place / "run", capsys=capsys).out
    assert "bits per character, perplexity" in out
    assert "alone" in out
    assert "primed with the training text" in out
    assert run("eval", place / "run", "--data", place / "text.txt", capsys=capsys).out == out


def test_data_then_train_on_it_then_resume(place, tmp_path, capsys):
    tokens = tmp_path / "tokens"
    out = run(
        "data", place / "text.txt", "--out", tokens, "--tokenizer", "bpe", "--vocab-size", "300", capsys=capsys
    ).out
    assert "held-out" in out
    run("train", tmp_path / "run", "--data", tokens, *FOUR, capsys=capsys)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert 256 < config["model"]["vocab_size"] <= 300
    run("train", tmp_path / "run", "--resume", capsys=capsys)


def test_convert_there_and_back(place, tmp_path, capsys):
    out = run("convert", place / "run", tmp_path / "copy", capsys=capsys).out
    assert "weights)" in out
    first = run("generate", place / "run", "--prompt", "a", "--max-tokens", "5", capsys=capsys)
    copied = run("generate", tmp_path / "copy", "--prompt", "a", "--max-tokens", "5", capsys=capsys)
    assert copied.out == first.out  # the tokenizer went along
    (tmp_path / "copy" / "tokenizer.json").unlink()
    run("convert", tmp_path / "copy", tmp_path / "bare", capsys=capsys)
    assert not (tmp_path / "bare" / "tokenizer.json").exists()


def test_only_a_want_of_memory_is_told_in_a_line(monkeypatch, capsys):
    from longshort import cli

    def fail(arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "doctor", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["doctor"])


def test_doctor_prints_every_kernel(capsys):
    out = run("doctor", "--quick", capsys=capsys).out
    for word in ("torch", "rnn", "lstm", "slstm", "chunkwise", "taken by auto", "tokenizers"):
        assert word in out


def test_ctrl_c_saves_and_prints_how_to_go_on(place, tmp_path):
    import signal

    folder = tmp_path / "run"
    arguments = [
        "train",
        folder,
        "--data",
        place / "text.txt",
        *TINY,
        "--steps",
        "100000",
        "--eval-every",
        "99999",
        "--log-every",
        "1",
    ]
    command = [sys.executable, "-m", "longshort.cli", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        for line in started.stdout:
            if line.startswith("step 3/"):
                started.send_signal(signal.SIGINT)
                break
        out = started.stdout.read()
    assert started.returncode == 130
    assert f"To go on: longshort train --resume {folder}" in out
    saved = sorted(p.name for p in (folder / "checkpoints").iterdir())
    assert saved[-1] >= "step-00000003"
