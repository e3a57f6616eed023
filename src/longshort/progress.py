"""What a training run tells: a bar on a terminal, a plain line every N steps elsewhere, and metrics.jsonl always."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from longshort.config import TrainConfig
from longshort.files import write_atomically, write_text
from longshort.metrics import read_metrics

WARM = 5  # steps left out of the speed: the first are slower


class Progress:
    """Reports steps and looks at held-out text; a context manager."""

    def __init__(self, config: TrainConfig, folder: Path, step: int):
        self.config = config
        self.path = folder / "metrics.jsonl"
        self._forget_after(step)
        self.begun, self.timed_from, self.tokens, self.paused = step, None, 0, 0.0
        self.heldout = math.nan
        self.console = Console(highlight=False)
        self.bar = self._make_bar() if self.console.is_terminal else None

    def _forget_after(self, step: int) -> None:
        """Drop lines past the step a resumed run goes on from, they will be written again, and one cut short."""
        kept = [line for line in read_metrics(self.path) if line["step"] <= step] if step else []
        write_atomically(self.path, lambda path: write_text(path, "".join(json.dumps(line) + "\n" for line in kept)))

    def _make_bar(self) -> Bar:
        columns = (BarColumn(24), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
        bar = Bar(*columns, console=self.console)
        self.task = bar.add_task("", total=self.config.steps, completed=self.begun, told="")
        return bar

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, step: int, losses: list[float], norm: float, lr: float, tokens: int) -> bool:
        """One optimizer step was made. Whether the `losses` since the last line were told now."""
        if step - self.begun == min(WARM, self.config.steps - self.begun - 1):
            self.timed_from, self.tokens, self.paused = (time.perf_counter(), step), 0, 0.0
        else:
            self.tokens += tokens
        if step % self.config.log_every and step != self.config.steps:
            return False
        speed, left = self._speed(step)
        line = {"step": step, "loss": sum(losses) / len(losses), "lr": lr, "norm": norm}
        self._write(line | ({"tokens_per_second": round(speed)} if speed else {}))
        self._tell(step, line, speed, left)
        return True

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside does not count as training time."""
        began = time.perf_counter()
        yield
        self.paused += time.perf_counter() - began

    def _speed(self, step: int) -> tuple[float, float]:
        """Tokens a second and seconds left, warm-up steps not counted; 0 until known."""
        if self.timed_from is None or step <= self.timed_from[1]:
            return 0.0, 0.0
        seconds = time.perf_counter() - self.timed_from[0] - self.paused
        return self.tokens / seconds, seconds / (step - self.timed_from[1]) * (self.config.steps - step)

    def _tell(self, step: int, line: dict[str, float], speed: float, left: float) -> None:
        told = f"loss {line['loss']:.3f} nats"
        told += "" if math.isnan(self.heldout) else f" | held-out {self.heldout:.3f} bits/char"
        told += f" | lr {line['lr']:.1e} | grad {line['norm']:.2f}"
        told += f" | {speed:,.0f} tok/s | {int(left) // 60}:{int(left) % 60:02d} left" if speed else ""
        if self.bar:
            self.bar.update(self.task, completed=step, told=told)
        else:
            self.say(f"step {step}/{self.config.steps} ({step / self.config.steps:.0%}) | {told}")

    def evaluated(self, step: int, heldout: float, sample: str) -> None:
        """Held-out text was scored and a sample written."""
        self.heldout = heldout
        self._write({"step": step, "heldout": heldout})
        safe = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in sample)  # a raw model may write escapes
        shown = "\n".join("    " + line for line in safe.strip().splitlines())
        self.say(f"step {step} | held-out {heldout:.3f} bits/char" + (f" | sample:\n{shown}" if shown else ""))

    def say(self, text: str) -> None:
        """A line for people."""
        self.console.print(text, markup=False, soft_wrap=True)
        sys.stdout.flush()

    def _write(self, line: Mapping[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
