"""What each kind of block learns: the same code, width and optimiser on every task. Run it: python -m longshort.lab.learning"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from longshort.config import xLSTMConfig
from longshort.lab.tasks import UNSCORED, Task, parity_task, recall_task
from longshort.model import xLSTMLM
from longshort.shapes import Float

TEST_SEED = 2**31
"""Test rows come from a seed that no training run has."""


@dataclass(frozen=True)
class Result:
    """What a run learned, and what it took."""

    spans: dict[str, float]
    by_position: Float[Tensor, "T"]
    losses: list[float]
    parameters: int
    seconds: float


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
    conv: int = 4,
    warmup: float = 0.1,
    weight_decay: float = 0.0,
    betas=(0.9,0.999),
    test_rows: int = 512,
    log=0,
) -> Result:
    start = time.perf_counter()
    torch.manual_seed(seed)
    model = xLSTMLM(
        xLSTMConfig(
            embedding_dim=width, blocks=tuple(kinds), num_heads=heads, conv1d_kernel_size=conv, vocab_size=task.vocab_size
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, betas=betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps, warmup))
    losses = []
    for step in range(steps):
        losses.append(train_step(model, optimizer, task.train(batch, seed=seed, step=step)))
        schedule.step()
        if log and (step+1) % log == 0:
            by = accuracy_by_position(model, task, 128)
            print(step + 1, round(sum(losses[-50:]) / 50, 4), {n: round(by[a-1:b].mean().item(), 4) for n, (a, b) in task.spans.items()}, round(time.perf_counter()-start), flush=True)
    by_position = accuracy_by_position(model, task, test_rows)
    spans = {name: by_position[first - 1 : last].mean().item() for name, (first, last) in task.spans.items()}
    return Result(spans, by_position, losses, model.num_parameters(), time.perf_counter() - start)


def warm_cosine(step: int, steps: int, warmup: float) -> float:
    """The learning rate's factor: up to 1 over the first `warmup` of the steps, then down to 0 along a cosine."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train_step(model: xLSTMLM, optimizer: torch.optim.Optimizer, batch) -> float:
    logits, _ = model(batch.tokens)
    loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=UNSCORED)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy_by_position(model: xLSTMLM, task: Task, rows: int) -> Float[Tensor, "T"]:
    """The share of right answers at each position of fresh test rows; NaN where nothing is asked."""
    tokens, targets = task.test(rows, seed=TEST_SEED, step=0)
    right = (model(tokens)[0].argmax(-1) == targets).float()
    return torch.where(targets == UNSCORED, torch.nan, right).nanmean(0)
