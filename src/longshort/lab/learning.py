"""What each kind of block learns: the same model code, width and optimiser on every task. Not a way to train for use.

python -m longshort.lab.learning            both tasks, every stack, three seeds
python -m longshort.lab.learning --quick    smaller tasks, fewer steps, one seed
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from longshort.config import xLSTMConfig
from longshort.lab.tasks import UNSCORED, Batch, Task, parity_task, recall_task
from longshort.model import xLSTMLM
from longshort.shapes import Float

SETTINGS: dict[str, Any] = dict(width=32, heads=1, conv=2, steps=1000, lr=1e-2, batch=64, weight_decay=0.0)
TASKS = (parity_task(), recall_task())
STACKS = ("slstm,slstm", "mlstm,mlstm", "slstm,mlstm")

QUICK_SETTINGS = SETTINGS | dict(steps=400, test_rows=128)
QUICK_TASKS = (parity_task(longest=20, tested=120), recall_task(pairs=8, keys=32, values=32))

TEST_SEED = 2**31
"""Test rows come from a seed that no training run has."""


@dataclass(frozen=True)
class Result:
    """What a run learned, and what it took."""

    accuracy: Float[torch.Tensor, "T"]
    """At every position of the test rows; NaN where nothing is asked."""
    spans: dict[str, float]
    """The mean accuracy over each of the task's spans."""
    losses: list[float]
    """Of every training step, in nats."""
    parameters: int
    seconds: float
    """Training and testing together."""


def learn(
    task: Task,
    kinds: Sequence[str],
    *,
    width: int,
    heads: int,
    steps: int,
    lr: float,
    batch: int,
    seed: int,
    conv: int = 2,
    weight_decay: float = 0.0,
    warmup: float = 0.1,
    test_rows: int = 512,
) -> Result:
    """Train a language model of `kinds` on a task, every step on fresh rows, and test it once, at the end.

    Args:
        task: where rows come from.
        kinds: the mixer of each block: "slstm", "mlstm", "lstm" or "rnn".
        width, heads, conv: the model's width, the heads of every cell, and the width of the causal convolutions.
        steps, lr, batch, weight_decay, warmup: AdamW at `lr`, reached over the share `warmup` of the steps and left
            along a cosine; gradients clipped at norm 1. No early stopping, no curriculum.
        seed: decides the first weights and the training rows. Test rows are the same for every seed.
        test_rows: how many rows to test on.
    """
    start = time.perf_counter()
    torch.manual_seed(seed)
    model = xLSTMLM(
        xLSTMConfig(
            embedding_dim=width,
            blocks=tuple(kinds),
            num_heads=heads,
            conv1d_kernel_size=conv,
            vocab_size=task.vocab_size,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps, warmup))
    losses = []
    for step in range(steps):
        losses.append(train_step(model, optimizer, task.train(batch, seed=seed, step=step)))
        schedule.step()
    accuracy = accuracy_by_position(model, task.test(test_rows, seed=TEST_SEED, step=0))
    spans = {name: accuracy[first - 1 : last].mean().item() for name, (first, last) in task.spans.items()}
    return Result(accuracy, spans, losses, model.num_parameters(), time.perf_counter() - start)


def warm_cosine(step: int, steps: int, warmup: float) -> float:
    """The factor on the learning rate: up to 1 over the first `warmup` of the steps, then down to 0 along a cosine.

    >>> [round(warm_cosine(step, 6, warmup=1 / 3), 2) for step in range(7)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / warm
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(steps - warm, 1))


def train_step(model: xLSTMLM, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """One step on one batch; returns the mean loss of what was scored, in nats."""
    logits, _ = model(batch.tokens)
    loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=UNSCORED)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy_by_position(model: xLSTMLM, batch: Batch) -> Float[torch.Tensor, "T"]:
    """The share of right answers at each position; NaN where nothing is asked."""
    logits, _ = model(batch.tokens)
    right = (logits.argmax(-1) == batch.targets).float()
    return right.masked_fill(batch.targets == UNSCORED, torch.nan).nanmean(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every stack on every task and print a table of scaled accuracies: 0 is guessing, 1 is perfect."""
    parser = argparse.ArgumentParser(description="Parity and associative recall: which kind of block learns which?")
    parser.add_argument("--quick", action="store_true", help="smaller tasks, fewer steps, one seed")
    parser.add_argument("--seeds", type=int, help="how many seeds, from 0 on (3, or 1 with --quick)")
    parser.add_argument("--stacks", nargs="+", default=STACKS, help="the mixers of each stack, such as lstm,mlstm")
    chosen = parser.parse_args(arguments)
    tasks, settings = (QUICK_TASKS, QUICK_SETTINGS) if chosen.quick else (TASKS, SETTINGS)
    seeds = chosen.seeds or (1 if chosen.quick else 3)
    print(", ".join(f"{name} {value}" for name, value in settings.items()), end="; ")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for task in tasks:
        print(f"\n{task.name}: scaled accuracy on {', '.join(task.spans)}; guessing is {task.chance:.3g}, scaled to 0")
        print("".join(f"{title:>16}" for title in ("stack", "seed", *task.spans, "parameters", "seconds")), flush=True)
        for stack in chosen.stacks:
            for seed in range(seeds):
                result = learn(task, stack.split(","), seed=seed, **settings)
                scores = (f"{task.scaled(accuracy):.5f}" for accuracy in result.spans.values())
                row = (stack, seed, *scores, result.parameters, round(result.seconds))
                print("".join(f"{entry:>16}" for entry in row), flush=True)


if __name__ == "__main__":
    main()
