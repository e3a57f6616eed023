"""Training a language model: one page, read from top to bottom. The loop is `train`; all it does is below it.

A run is a folder: config.json, metrics.jsonl, loss.svg, README.md (the model card), data/ and checkpoints/step-N/.
"""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longshort import __version__
from longshort.checkpoints import load, newest, save
from longshort.config import TrainConfig
from longshort.data import (
    TokenData,
    build_tokenizer,
    load_corpus,
    load_tokenizer,
    open_tokens,
    prepare,
    save_tokenizer,
)
from longshort.evaluation import evaluate
from longshort.files import CheckpointError, write_atomically, write_json, write_text
from longshort.generation import generate
from longshort.model import State, detach, map_state, xLSTMLM
from longshort.plot import loss_picture
from longshort.progress import Progress


class TrainingError(ValueError):
    """A run that cannot start or go on: what happened, and where the last good checkpoint is."""


def train(config: TrainConfig, folder: Path | str, *, resume: bool = False) -> xLSTMLM:
    """Train a language model into `folder`, or go on with the run that is there as if it had never stopped.

    Raises:
        TrainingError: the folder holds another run, the loss is not finite, or the text is too short.
        KeyboardInterrupt: on Ctrl-C, once the step is finished and saved.
    """
    folder = Path(folder)
    config = open_run(config, folder, resume)
    data = open_data(config, folder)
    config = replace(config, model=replace(config.model, vocab_size=data.tokenizer.vocab_size))
    run = restore(config, folder, data) if resume else start(config, data)
    write_json(folder / "config.json", config.to_dict())
    if run.step == 0:
        save_run(run, folder)  # so that there is something to load from the first moment
    with Progress(config, folder, run.step) as progress, stop_signal() as stopping:
        while run.step < config.steps:
            loss, norm, tokens = train_step(run)
            require_finite(loss, norm, run, folder)
            run.step += 1
            progress.step(run.step, loss, norm, learning_rate(config, run.step - 1), tokens)
            due = run.step % config.eval_every == 0 or run.step == config.steps
            with progress.pause():
                if due:
                    look(run, progress)
                if due or stopping():
                    save_run(run, folder)
            if stopping():
                progress.say(f"stopped after step {run.step}, saved. To go on: longshort train --resume {folder}")
                raise KeyboardInterrupt
    return run.model


@dataclass
class Run:
    """Everything that changes while training."""

    config: TrainConfig
    data: TokenData
    model: xLSTMLM
    optimizer: torch.optim.AdamW
    step: int = 0
    state: State | None = None
    """Carried from step to step with `carry_state`."""
    heldout: float = math.nan
    """Held-out bits per character at the last look."""


# ---- one step --------------------------------------------------------------------------------------------------------


def train_step(run: Run) -> tuple[float, float, int]:
    """One optimizer step: the mean loss (nats per token), the norm of the gradient, and how many tokens went in."""
    config, device = run.config, run.model.embedding.weight.device
    set_learning_rate(run.optimizer, learning_rate(config, run.step))
    run.optimizer.zero_grad(set_to_none=True)
    total, count = 0.0, 0
    for part in range(config.accumulate):
        tokens, reset = next_batch(run, run.step * config.accumulate + part)
        tokens, reset = tokens.to(device), None if reset is None else reset.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            loss, state = run.model.loss(tokens, run.state, reset=reset)
        (loss / config.accumulate).backward()
        run.state = detach(state) if config.carry_state else None
        total += loss.item() / config.accumulate
        count += tokens[:, 1:].numel()
    limit = config.clip or math.inf
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), limit).item()
    if math.isfinite(total) and math.isfinite(norm):
        run.optimizer.step()
    return total, norm, count


def next_batch(run: Run, number: int) -> tuple[Tensor, Tensor | None]:
    """Batch `number` of the run, whatever came before it."""
    config, text = run.config, run.data.train
    if config.carry_state:
        return text.lane_batch(number, config.batch_size, config.context + 1)
    return text.batch(config.seed, number, config.batch_size, config.context + 1)


def learning_rate(config: TrainConfig, step: int) -> float:
    """A linear rise to the peak, then half a cosine down to its share `min_lr`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (config.min_lr + (1 - config.min_lr) * (1 + math.cos(math.pi * done)) / 2)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def build_optimizer(model: xLSTMLM, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays the matrices; embeddings, norms, biases, skips and recurrent weights go free."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, weight in model.named_parameters():  # named, in order: a resumed optimizer finds its own
        groups[name.endswith("weight") and "norm" not in name and "embedding" not in name].append(weight)
    return torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": config.weight_decay}, {"params": groups[False], "weight_decay": 0.0}],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.adam_eps,
    )


def require_finite(loss: float, norm: float, run: Run, folder: Path) -> None:
    """Stop at the first loss or gradient that is not a number; the weights were not touched by it."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    good = newest_checkpoint(folder)
    raise TrainingError(
        f"step {run.step + 1}: the loss is {loss} and its gradient's norm {norm}, so the run stopped before using them."
        f" {f'The last good checkpoint is {good}.' if good else 'No checkpoint was saved before.'} "
        f"A lower --lr (now {run.config.lr:g}), a longer --warmup or a smaller --clip usually helps."
    )


def look(run: Run, progress: "Progress") -> None:
    """Score held-out text (all of it at the end), and write a sample."""
    config, last = run.config, run.step == run.config.steps
    scored = evaluate(run.model, run.data.heldout, run.data.tokenizer, limit=None if last else config.eval_tokens)
    run.heldout = scored.bits_per_character
    sample = ""
    if config.sample_tokens:
        sample = generate(run.model, run.data.tokenizer, config.sample_prompt, config.sample_tokens, seed=config.seed)
    progress.evaluated(run.step, run.heldout, sample)


# ---- beginning, going on, saving -------------------------------------------------------------------------------------


def open_run(config: TrainConfig, folder: Path, resume: bool) -> TrainConfig:
    """The settings of the run in `folder`: new, or those it was started with, what is shown and kept aside."""
    path = folder / "config.json"
    if not resume:
        if newest_checkpoint(folder):
            raise TrainingError(f"{folder} already holds a run: go on with --resume, or choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        return config
    if not path.exists():
        raise TrainingError(f"{folder} holds no run to resume: it has no config.json")
    before = TrainConfig.from_dict(json.loads(path.read_text()))
    config = replace(config, model=replace(config.model, vocab_size=before.model.vocab_size))
    for name, value in asdict(config).items():
        if name not in TrainConfig.REPORTING and value != asdict(before)[name]:
            raise TrainingError(
                f"this run was started with {name}={asdict(before)[name]!r}, and now {name}={value!r} "
                "is asked for: leave it as it was, or start a new run"
            )
    return config


def open_data(config: TrainConfig, folder: Path) -> TokenData:
    """The token files of the run: given, made before, or made now."""
    given, own = Path(config.data), folder / "data"
    if (given / "data.json").exists():
        data = open_tokens(given)
    elif (own / "data.json").exists():
        data = open_tokens(own)
    else:
        corpus = load_corpus(config.data)
        data = prepare(corpus, build_tokenizer(config.tokenizer, corpus, config.vocab_size), own)
    if len(data.train) < config.context + 1:
        raise TrainingError(
            f"the training text is {len(data.train)} tokens (the last 10 % are held out), fewer than one "
            f"sequence of {config.context} + 1: use a longer text or a smaller --context"
        )
    return data


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, if it has one."""
    return newest(folder) if any((folder / "checkpoints").glob("step-*/model.safetensors")) else None


def pick_device(name: str) -> torch.device:
    """A device by name; "auto" is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def start(config: TrainConfig, data: TokenData) -> Run:
    """A run at step 0."""
    torch.manual_seed(config.seed)
    model = xLSTMLM(config.model).to(pick_device(config.device))
    return prepared(Run(config, data, model, build_optimizer(model, config)))


def prepared(run: Run) -> Run:
    run.model.stack.checkpointing = run.config.checkpoint_activations
    run.model.train()
    return run


def save_run(run: Run, folder: Path) -> Path:
    """Write checkpoints/step-N whole, under a temporary name first; drop all but the newest `keep`."""
    checkpoints = folder / "checkpoints"
    target = checkpoints / f"step-{run.step:08d}"
    temporary = checkpoints / f".{target.name}.tmp"
    try:
        for left in checkpoints.glob(".step-*.tmp"):  # by a run that was killed
            shutil.rmtree(left)
        temporary.mkdir(parents=True)
        save(run.model, temporary)
        save_tokenizer(run.data.tokenizer, temporary)
        save_file(progress_tensors(run), temporary / "training.safetensors")
        (temporary / "training.json").write_text(
            json.dumps({"step": run.step, "heldout": None if math.isnan(run.heldout) else run.heldout})
        )
        (temporary / "README.md").write_text(model_card(run))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    except (OSError, CheckpointError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        good = newest_checkpoint(folder)
        kept = f"the last good checkpoint, {good}, is untouched" if good else "nothing was saved before"
        raise TrainingError(f"step {run.step} could not be saved in {checkpoints}: {error}; {kept}") from error
    write_atomically(folder / "README.md", lambda path: write_text(path, model_card(run)))
    write_atomically(folder / "loss.svg", lambda path: write_text(path, loss_picture(folder / "metrics.jsonl")))
    for old in sorted(checkpoints.glob("step-*"))[: -run.config.keep]:
        shutil.rmtree(old)
    return target


def progress_tensors(run: Run) -> dict[str, Tensor]:
    """What a resumed run needs beside the weights: Adam's moments, the random number generators, a carried state."""
    tensors = {"random.cpu": torch.get_rng_state()}
    device = run.model.embedding.weight.device
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    for name, weight in run.model.named_parameters():
        for key, value in run.optimizer.state[weight].items():
            tensors[f"optimizer.{name}.{key}"] = value.detach().cpu().contiguous()
    carried: list[Tensor] = []
    map_state(carried.append, run.state)
    return tensors | {f"state.{i}": x.cpu().contiguous() for i, x in enumerate(carried)}


def restore(config: TrainConfig, folder: Path, data: TokenData) -> Run:
    """The run as its newest checkpoint left it; a run that was stopped before its first one starts again."""
    newest = newest_checkpoint(folder)
    if newest is None:
        return start(config, data)
    model = load(newest, device=str(pick_device(config.device)))
    notes, tensors = json.loads((newest / "training.json").read_text()), load_file(newest / "training.safetensors")
    run = Run(
        config,
        data,
        model,
        build_optimizer(model, config),
        notes["step"],
        heldout=math.nan if notes["heldout"] is None else notes["heldout"],
    )
    for name, weight in model.named_parameters() if run.step else ():
        moments = {key: tensors[f"optimizer.{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        run.optimizer.state[weight] = {k: x if k == "step" else x.to(weight.device) for k, x in moments.items()}
    if config.carry_state and run.step:
        rows = torch.zeros(config.batch_size, 1, dtype=torch.long, device=model.embedding.weight.device)
        with torch.no_grad():
            _, template = model(rows)
        carried = iter([tensors[f"state.{i}"] for i in range(sum(name.startswith("state.") for name in tensors))])
        run.state = map_state(lambda x: next(carried).to(x.device), template)
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and model.embedding.weight.is_cuda:
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return prepared(run)


def model_card(run: Run) -> str:
    """What this model is, in a page."""
    notes, config = run.data.notes, run.config
    settings = "\n".join(f"    {name} = {value!r}" for name, value in asdict(config).items() if name != "model")
    shape = "\n".join(f"    {name} = {value!r}" for name, value in asdict(config.model).items())
    scored = "" if run.step == config.steps else f" (of {config.eval_tokens:,} tokens)"
    return f"""# An xLSTM language model, step {run.step} of {config.steps}

Trained by longshort {__version__} (torch {torch.__version__}) on {notes["name"]} (SHA-256 {notes["sha256"][:16]}…):
{notes["train"]["characters"]:,} characters; the last {notes["heldout"]["characters"]:,} were held out.

- weights: {run.model.num_parameters():,}
- blocks: {" ".join(config.model.kinds)}
- held-out bits per character: {run.heldout:.3f}{scored}
- seed: {config.seed}

Use it: `longshort generate FOLDER --prompt "…"`, or `longshort.load(FOLDER)` in Python.

## Model

{shape}

## Training

{settings}
"""


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Whether somebody asked to stop: the first Ctrl-C (or SIGTERM) is noted, the second quits at once."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL if each == signal.SIGTERM else signal.default_int_handler)
        print("\nfinishing this step and saving; once more to quit now", flush=True)

    try:
        before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


__all__ = ["TrainingError", "load_tokenizer", "train"]
