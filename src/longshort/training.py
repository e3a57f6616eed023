"""Training a language model: one page, read from top to bottom. The loop is `train`; all it does is below it.

A run is a folder: config.json, metrics.jsonl, loss.svg, README.md (the model card), data/ and checkpoints/step-N/.
"""

import hashlib
import itertools
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longshort import __version__
from longshort.checkpoints import load, newest, pick_device, save
from longshort.config import TrainConfig
from longshort.data import (
    TokenData,
    build_tokenizer,
    load_corpus,
    open_tokens,
    prepare,
    save_tokenizer,
)
from longshort.evaluation import evaluate
from longshort.files import CheckpointError, about, read_settings, write_atomically, write_json, write_text
from longshort.generation import generate
from longshort.metrics import read_metrics
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
    pick_device(config.device)
    data = open_data(config, folder, anew=not resume or newest_checkpoint(folder) is None)
    config = settled(config, data)
    run = restore(config, folder, data) if resume else start(config, data)
    write_json(folder / "config.json", config.to_dict())
    if newest_checkpoint(folder) is None:
        save_run(run, folder)  # so that there is something to load from the first moment
    with Progress(config, folder, run.step) as progress, stop_signal() as stopping:
        while run.step < config.steps:
            loss, norm, tokens = train_step(run)
            require_finite(loss, norm, run, folder)
            run.step += 1
            run.losses.append(loss)
            if progress.step(run.step, run.losses, norm, learning_rate(config, run.step - 1), tokens):
                run.losses.clear()
            with progress.pause():
                if due := run.step % config.eval_every == 0 or run.step == config.steps:
                    look(run, folder, progress)
                if due or stopping():
                    save_run(run, folder)
            if stopping():
                progress.say(f"stopped after step {run.step}, saved. To go on: longshort train --resume {folder}")
                raise KeyboardInterrupt
    return run.model.eval()


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
    losses: list[float] = field(default_factory=list)
    """Since the last line of the log."""
    heldout: float = math.nan
    """Held-out bits per character at the last look …"""
    looked: int = 0
    """… and the step of that look."""


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
    if not (math.isfinite(loss) and math.isfinite(norm)):
        run.step += 1
        raise diverged(run, folder, f"the loss is {loss} and its gradient's norm {norm}")


def diverged(run: Run, folder: Path, what: str) -> TrainingError:
    good = newest_checkpoint(folder)
    return TrainingError(
        f"step {run.step}: {what}, so the run stopped without saving. "
        f"{f'The last good checkpoint is {good}.' if good else 'No checkpoint was saved before.'} "
        f"A lower --lr (now {run.config.lr:g}), a longer --warmup or a smaller --clip usually helps."
    )


def look(run: Run, folder: Path, progress: Progress) -> None:
    """Score held-out text (all of it at the end), and write a sample."""
    config, last = run.config, run.step == run.config.steps
    scored = evaluate(run.model, run.data.heldout, run.data.tokenizer, limit=None if last else config.eval_tokens)
    if not math.isfinite(scored.bits_per_character):
        raise diverged(run, folder, f"the held-out loss is {scored.bits_per_character}")
    run.heldout, run.looked, sample = scored.bits_per_character, run.step, ""
    if config.sample_tokens:
        prompt = sample_prompt(config, run.data)
        sample = generate(run.model, run.data.tokenizer, prompt, config.sample_tokens, seed=config.seed)
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
    with about(path):
        before = TrainConfig.from_dict(read_settings(path))
    given = {"tokenizer": before.tokenizer} if (Path(config.data) / "data.json").exists() else {}
    config = replace(config, model=replace(config.model, vocab_size=before.model.vocab_size), **given)
    for name, value in asdict(config).items():
        if name not in TrainConfig.REPORTING and value != asdict(before)[name]:
            raise TrainingError(
                f"this run was started with {name}={asdict(before)[name]!r}, and now {name}={value!r} "
                "is asked for: leave it as it was, or start a new run"
            )
    return config


def open_data(config: TrainConfig, folder: Path, *, anew: bool) -> TokenData:
    """The token files of the run: a folder of them given by name, or the run's own, made `anew` or made before."""
    given, own = Path(config.data), folder / "data"
    if (given / "data.json").exists():
        data = open_tokens(given)
    elif anew:
        corpus = load_corpus(config.data)
        data = prepare(corpus, build_tokenizer(config.tokenizer, corpus, config.vocab_size), own)
    else:
        data = open_tokens(own)
    if len(data.train) < config.context + 1:
        raise TrainingError(
            f"the training text is {len(data.train)} tokens (the last 10 % are held out), fewer than one "
            f"sequence of {config.context} + 1: use a longer text or a smaller --context"
        )
    if not len(data.heldout):
        raise TrainingError("the text is too short to hold 10 % of it out for evaluation: use a longer one")
    if config.sample_tokens:
        sample_prompt(config, data)
    return data


def settled(config: TrainConfig, data: TokenData) -> TrainConfig:
    """The settings with what the data decides: which tokenizer it is, and how many tokens it knows."""
    kind = data.tokenizer.to_json().get("longshort", "bpe")
    if config.tokenizer not in (kind, TrainConfig.tokenizer):
        raise TrainingError(
            f"tokenizer={config.tokenizer!r} was asked for, but {config.data} holds tokens of kind {kind!r}: "
            "leave --tokenizer out, or give the text itself"
        )
    return replace(config, tokenizer=kind, model=replace(config.model, vocab_size=data.tokenizer.vocab_size))


def sample_prompt(config: TrainConfig, data: TokenData) -> str:
    """What samples continue; where the vocabulary lacks the default's line break, the text's first character."""
    prompt = config.sample_prompt
    if prompt == TrainConfig.sample_prompt and prompt not in getattr(data.tokenizer, "characters", prompt):
        prompt = data.tokenizer.decode(data.train.ids[:1])
    if not len(data.tokenizer.encode(prompt)):
        raise TrainingError("sample_prompt is empty: give at least one character, or sample_tokens=0 for no samples")
    return prompt


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, if it has one."""
    return newest(folder) if any((folder / "checkpoints").glob("step-*/model.safetensors")) else None


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
    temporary, before = (checkpoints / f".{target.name}.{name}.tmp" for name in ("new", "old"))
    try:
        for left in checkpoints.glob(".step-*.tmp"):  # by a run that was killed
            shutil.rmtree(left)
        temporary.mkdir(parents=True)
        save(run.model, temporary)
        save_tokenizer(run.data.tokenizer, temporary)
        tensors = progress_tensors(run)
        write_atomically(temporary / "training.safetensors", lambda path: save_file(tensors, path))
        write_json(temporary / "training.json", progress_notes(run))
        write_text(temporary / "README.md", model_card(run))
        if target.exists():
            os.replace(target, before)
        os.replace(temporary, target)
        shutil.rmtree(before, ignore_errors=True)
    except (OSError, CheckpointError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        good = newest_checkpoint(folder)
        kept = f"the last good checkpoint, {good}, is untouched" if good else "nothing was saved before"
        raise TrainingError(f"step {run.step} could not be saved in {checkpoints}: {error}; {kept}") from error
    picture = loss_picture(read_metrics(folder / "metrics.jsonl"))
    write_atomically(folder / "README.md", lambda path: write_text(path, model_card(run)))
    write_atomically(folder / "loss.svg", lambda path: write_text(path, picture))
    for old in sorted(checkpoints.glob("step-*"))[: -run.config.keep]:
        shutil.rmtree(old)
    return target


def progress_notes(run: Run) -> dict[str, Any]:
    """What a resumed run needs to know, in words and numbers."""
    heldout = run.heldout if math.isfinite(run.heldout) else None
    return {"step": run.step, "losses": run.losses, "heldout": heldout, "looked": run.looked, **identity(run.data)}


def identity(data: TokenData) -> dict[str, str]:
    """Tells texts and tokenizers apart."""
    tokenizer = json.dumps(data.tokenizer.to_json(), sort_keys=True).encode()
    return {"text": data.notes["sha256"], "tokenizer": hashlib.sha256(tokenizer).hexdigest()}


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
    notes = read_settings(newest / "training.json")
    with about(newest / "training.json"):
        if {key: notes.get(key) for key in identity(data)} != identity(data):
            raise TrainingError(f"the text or its tokenizer is not the one that {newest} was trained on: bring it back")
        heldout = math.nan if notes["heldout"] is None else float(notes["heldout"])
        step, losses, looked = int(notes["step"]), [float(x) for x in notes["losses"]], int(notes["looked"])
    model = load(newest, device=pick_device(config.device))
    run = Run(config, data, model, build_optimizer(model, config), step, None, losses, heldout, looked)
    with about(newest / "training.safetensors"):
        take_up(run, load_file(newest / "training.safetensors"))
    return prepared(run)


def take_up(run: Run, tensors: dict[str, Tensor]) -> None:
    """Put back what `progress_tensors` took: nothing may be missing, left over or of another shape."""
    for name, weight in run.model.named_parameters() if run.step else ():
        moments = {key: tensors.pop(f"optimizer.{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
        if any(x.shape != (() if key == "step" else weight.shape) for key, x in moments.items()):
            raise ValueError(f"the optimizer's state of {name} has another shape than the weight")
        run.optimizer.state[weight] = {k: x if k == "step" else x.to(weight.device) for k, x in moments.items()}
    if run.config.carry_state and run.step:
        rows = torch.zeros(run.config.batch_size, 1, dtype=torch.long, device=run.model.embedding.weight.device)
        with torch.no_grad():
            _, template = run.model(rows)
        names = (f"state.{i}" for i in itertools.count())
        run.state = map_state(lambda x: tensors.pop(next(names)).to(x.device).view_as(x), template)
    torch.set_rng_state(tensors.pop("random.cpu"))
    cuda = tensors.pop("random.cuda", None)
    if cuda is not None and run.model.embedding.weight.is_cuda:
        torch.cuda.set_rng_state(cuda)
    if tensors:
        raise ValueError(f"{next(iter(tensors))} does not belong here")


def model_card(run: Run) -> str:
    """What this model is, in a page."""
    notes, config = run.data.notes, run.config
    part = "" if run.looked == config.steps else f", on {config.eval_tokens:,} tokens of it"
    measured = f"{run.heldout:.3f} (step {run.looked}{part})" if run.looked else "not measured yet"
    settings = "\n".join(f"    {name} = {value!r}" for name, value in asdict(config).items() if name != "model")
    shape = "\n".join(f"    {name} = {value!r}" for name, value in asdict(config.model).items())
    part = "" if run.looked == config.steps else f", on {config.eval_tokens:,} tokens of it"
    measured = f"{run.heldout:.3f} (step {run.looked}{part})" if run.looked else "not measured yet"
    return f"""# An xLSTM language model, step {run.step} of {config.steps}

Trained by longshort {__version__} (torch {torch.__version__}) on {notes["name"]} (SHA-256 {notes["sha256"][:16]}…):
{notes["train"]["characters"]:,} characters; the last {notes["heldout"]["characters"]:,} were held out.

- weights: {run.model.num_parameters():,}
- blocks: {" ".join(config.model.kinds)}
- held-out bits per character: {measured}
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
