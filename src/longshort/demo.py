"""`longshort demo`: the whole road in one run. An LSTM step by hand, an xLSTM trained on Shakespeare, what it learnt.

Each part that was done before is said so and not done again; a run that was stopped goes on where it stopped.
"""

import json
import statistics
import time
from pathlib import Path

import torch

from longshort.byhand import exercise
from longshort.byhand.terminal import first_step
from longshort.byhand.to_layer import layer_of
from longshort.checkpoints import load
from longshort.config import TrainConfig, xLSTMConfig
from longshort.data import load_tokenizer, open_tokens, xz_bits
from longshort.evaluation import evaluate
from longshort.files import write_json
from longshort.generation import Reading, Writer, named_tensors, read
from longshort.model import xLSTMLM
from longshort.training import newest_checkpoint, train

PROMPT = "Season of mists and mellow fruitfulness,"

SETTINGS = TrainConfig(
    model=xLSTMConfig(embedding_dim=128, blocks=("mlstm", "slstm", "mlstm"), vocab_size=256),
    steps=700,
    batch_size=16,
    context=128,
    warmup=50,
    lr=4e-3,
    log_every=25,
    eval_every=175,
    eval_tokens=8192,
    sample_tokens=160,
)


def run_demo(folder: Path | str = "runs/demo", settings: TrainConfig = SETTINGS) -> None:
    """The four parts, one after the other."""
    folder, began = Path(folder), time.perf_counter()
    show_by_hand()
    train_or_go_on(settings, folder)
    model = load(folder)
    show_evaluation(model, folder)
    show_writing(model, folder)
    show_constant_cost(model)
    print(f"\nAll of it took {time.perf_counter() - began:.0f} s. The run: {folder} (loss.svg is its picture).")
    print(f"Go on: longshort generate {folder} --prompt 'To be' · longshort train runs/mine --data your-book.txt")


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def show_by_hand() -> None:
    """The first step of the worked exercise."""
    heading("1. One LSTM step by hand, and the library's own numbers")
    lstm = exercise("lstm")
    print(first_step(lstm))
    layer, x, state = layer_of(lstm)
    print(f"longshort.LSTM with these weights: h1 = {show(layer(x, state)[0][0, 0].tolist(), 4)}, the exact one.")
    print("All 14 steps, to fill in, change and check: longshort hand")


def show(vector: list[float], digits: int) -> str:
    return "[" + ", ".join(f"{x:.{digits}f}" for x in vector) + "]"


def train_or_go_on(settings: TrainConfig, folder: Path) -> None:
    """Train, or finish what was begun, or say that it is done."""
    heading("2. Training an xLSTM with mLSTM and sLSTM blocks on eight tragedies of Shakespeare")
    newest = newest_checkpoint(folder)
    if newest is not None and newest.name == f"step-{settings.steps:08d}":
        print(f"already done: {newest}")
        return
    print(
        f"{xLSTMLM(settings.model).num_parameters():,} weights, {settings.steps} steps of "
        f"{settings.batch_size} x {settings.context} characters; Ctrl-C saves, and running this again goes on."
    )
    train(settings, folder, resume=(folder / "config.json").exists())


def show_evaluation(model: xLSTMLM, folder: Path) -> None:
    """Held-out bits per character, beside a compressor's."""
    heading("3. Held-out text: bits per character")
    path = folder / "evaluation.json"
    if path.exists():
        print("already done:")
        scores = json.loads(path.read_text())
    else:
        data = open_tokens(folder / "data")
        scored, xz = evaluate(model, data.heldout, data.tokenizer), xz_bits(data)
        scores = {"xLSTM": scored.bits_per_character, "xz -9e alone": xz.alone, "xz -9e, primed": xz.primed}
        write_json(path, scores)
    for name, bits in scores.items():
        print(f"{name:16} {bits:.3f}")


def show_writing(model: xLSTMLM, folder: Path) -> None:
    """The model continues a line of Keats."""
    heading("4. It writes")
    writer = Writer(model, load_tokenizer(folder), [PROMPT], 300)
    print(PROMPT, end="", flush=True)
    for _, piece in writer:
        print(piece, end="", flush=True)
    print(f"\n({writer.stats['generation_tokens_per_second']:.0f} tokens/s)")


@torch.no_grad()
def show_constant_cost(model: xLSTMLM, tokens: int = 1000, window: int = 50) -> None:
    """Time and memory of the first tokens and of the thousandth."""
    heading("5. The thousandth token costs what the first did")
    reading, seconds = read(model, [[10]]), []
    sizes = [state_bytes(reading)]
    for _ in range(tokens):
        began = time.perf_counter()
        logits, state = model(reading.logits.argmax(-1, keepdim=True), reading.state)
        reading = Reading(logits[:, 0], state)
        seconds.append(time.perf_counter() - began)
    sizes.append(state_bytes(reading))
    for name, part, size in [("first", seconds[:window], sizes[0]), ("last", seconds[-window:], sizes[1])]:
        print(f"{name} {window} of {tokens}: {statistics.median(part) * 1e3:.2f} ms a token, state {size:,} bytes")


def state_bytes(reading: Reading) -> int:
    """What a model carries from token to token."""
    return sum(x.numel() * x.element_size() for x in named_tensors(reading.state).values())
