"""Writing with a model: prefill in parallel, decode with constant memory and time a token, many rows at once.

What a model has read is a value, a `Reading`: it can be kept, saved to a file and taken up again, so that a book is
read once and asked many times. No training here, and no files but readings.
"""

import hashlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longshort.data import TextStream, Tokenizer
from longshort.files import write_atomically
from longshort.model import State, map_state, xLSTMLM
from longshort.shapes import Float, Int

PIECE = 2048  # tokens of a prompt read at a time: bounds memory, changes no result


class Reading(NamedTuple):
    """All a model remembers of what it has read: the logits of the next token, and its state."""

    logits: Float[Tensor, "B vocab"]
    state: State


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 1.0
    """Divides the logits, in float64; 0 takes the likeliest token, always (as ever smaller ones do more and more)."""
    top_k: int | None = None
    """Only the k likeliest tokens are drawn from."""
    top_p: float | None = None
    """Only the likeliest tokens that together hold this probability are drawn from."""
    seed: int = 0
    """Row b of a batch draws from seed + b, so a row's text does not depend on the others'."""

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature}: 0 (greedy) or more, and finite")
        if not -(2**62) < self.seed < 2**62:
            raise ValueError(f"seed={self.seed}: a whole number of at most 62 bits")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: at least 1 token to choose from")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: a probability over 0, up to 1")

    def draw(self, logits: Float[Tensor, "vocab"], random: torch.Generator) -> int:
        """One token."""
        top = logits.max()
        if not top.isfinite():
            raise ValueError("the model's logits are not finite: its weights, or a state it went on from, are broken")
        if self.temperature == 0:
            return int(logits.argmax())
        # The largest becomes 0 before it is divided, so that none grows beyond all floats however small the divisor.
        logits = ((logits.double() - top.double()) / self.temperature).to(logits.dtype)
        if self.top_k is not None and self.top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[-1], -torch.inf)
        chances, order = logits.softmax(-1).sort(descending=True)
        if self.top_p is not None:  # the likeliest token stays, whatever it holds
            chances = chances.masked_fill(chances.cumsum(-1) - chances >= self.top_p, 0)
        return int(order[torch.multinomial(chances, 1, generator=random)])


@torch.no_grad()
def read(model: xLSTMLM, prompts: Sequence[Sequence[int] | np.ndarray], reading: Reading | None = None) -> Reading:
    """Read one prompt a row, of any lengths, in parallel over time; go on from `reading` if there is one.

    Raises:
        ValueError: no prompts; a prompt is empty and nothing was read before; a token is outside the vocabulary.
    """
    device, rows = model.embedding.weight.device, len(prompts)
    if reading is None and not rows:
        raise ValueError("no prompts: give at least one, or a state to go on from")
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    if reading is not None and reading.logits.shape[0] != rows:
        raise ValueError(f"{rows} prompts cannot go on from a reading of {reading.logits.shape[0]}: one prompt a row")
    if reading is None and not lengths.all():
        raise ValueError("an empty prompt: give at least one token, or a state to go on from")
    longest = int(lengths.max()) if rows else 0
    tokens = torch.zeros(rows, longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.as_tensor(np.asarray(prompt, np.int64))
    check_tokens(tokens, model.config.vocab_size)
    tokens, ragged = tokens.to(device), bool((lengths != longest).any())
    logits, state = reading if reading is not None else (None, None)
    for begin in range(0, longest, PIECE):
        piece = tokens[:, begin : begin + PIECE]
        left = (lengths - begin).clamp(0, piece.shape[1])
        h, state = model.hidden(piece, state, lengths=left if ragged else None)
        newest = model.logits(h[torch.arange(rows, device=device), (left - 1).clamp(min=0)]).float()
        logits = newest if logits is None else torch.where((left > 0)[:, None], newest, logits)
    assert logits is not None and state is not None
    return Reading(logits, state)


def check_tokens(tokens: Int[Tensor, "B T"], vocab_size: int) -> None:
    """Refuse tokens the model has no row for."""
    if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= vocab_size):
        worst = int(tokens.max()) if int(tokens.max()) >= vocab_size else int(tokens.min())
        raise ValueError(f"token {worst} is outside the vocabulary 0..{vocab_size - 1}: is this the model's tokenizer?")


class StopFilter:
    """Lets text through up to the first stop string; holds back what may yet become one."""

    def __init__(self, stops: Sequence[str]):
        self.stops = [s for s in stops if s]
        self.held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is certain now, and whether a stop string came."""
        self.held += text
        found = [at for s in self.stops if (at := self.held.find(s)) >= 0]
        if found:
            return self.held[: min(found)], True
        keep = max((n for s in self.stops for n in range(1, len(s)) if self.held.endswith(s[:n])), default=0)
        out, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return out, False


@dataclass
class Row:
    """One text in the making."""

    random: torch.Generator
    stream: TextStream
    stop: StopFilter
    text: str = ""
    done: bool = False

    def push(self, token: int) -> str:
        """Take a token in; return the text it lets out."""
        piece, self.done = self.stop.push(self.stream.push(token))
        self.text += piece
        return piece

    def finish(self) -> str:
        """What was held back to the end."""
        if self.done:
            return ""
        piece, stopped = self.stop.push(self.stream.flush())
        piece += "" if stopped else self.stop.held
        self.text += piece
        return piece


@dataclass
class Writer:
    """Reads the prompts and writes on, a piece of text at a time: iterate over it for `(row, text)`.

    Afterwards `texts` holds each row's whole text, `reading` all that was read and written (to go on from, or to
    save), and `stats` the speed. Iterating again starts from the same reading, and writes the same.
    """

    model: xLSTMLM
    tokenizer: Tokenizer
    prompts: str | Sequence[str]
    max_tokens: int = 200
    sampling: Sampling = field(default_factory=Sampling)
    stop: str | Sequence[str] = ()
    reading: Reading | None = None
    texts: list[str] = field(default_factory=list)
    stats: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        self.prompts, self.stop = listed(self.prompts), listed(self.stop)
        self.start = self.reading

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[int, str]]:
        if self.max_tokens < 0:
            raise ValueError(f"max_tokens={self.max_tokens}: 0 or more")
        was_training = self.model.training
        self.model.eval()
        try:
            yield from self._write()
        finally:
            self.model.train(was_training)

    def _write(self) -> Iterator[tuple[int, str]]:
        self.texts, self.stats, self.reading = [], {}, self.start
        prompts = [self.tokenizer.encode(p) for p in self.prompts]
        if not prompts and self.start is None:
            return
        began = time.perf_counter()
        self.reading = read(self.model, prompts, self.start)
        self._count("prompt", sum(map(len, prompts)), began)
        rows = [self._row(b) for b in range(len(prompts))]
        began, written = time.perf_counter(), 0
        for _ in range(self.max_tokens):
            alive = [row for row in rows if not row.done]
            if not alive:
                break
            logits = self.reading.logits.float().cpu()
            tokens = [0 if row.done else self.sampling.draw(logits[b], row.random) for b, row in enumerate(rows)]
            going = [not row.done for row in rows]
            self.reading = self._step(tokens, going)
            written += len(alive)
            self._count("generation", written, began)
            for b, row in enumerate(rows):
                if going[b] and (piece := row.push(tokens[b])):
                    yield b, piece
        for b, row in enumerate(rows):
            if piece := row.finish():
                yield b, piece
        self.texts = [row.text for row in rows]

    def _row(self, b: int) -> Row:
        random = torch.Generator().manual_seed(self.sampling.seed + b)
        return Row(random, TextStream(self.tokenizer), StopFilter(self.stop))

    def _step(self, tokens: list[int], going: list[bool]) -> Reading:
        """Read one token a row; a row that has stopped stays as it is."""
        assert self.reading is not None
        device = self.model.embedding.weight.device
        column = torch.tensor(tokens, device=device)[:, None]
        moves = torch.tensor(going, device=device)
        lengths = None if all(going) else moves.long()
        logits, state = self.model(column, self.reading.state, lengths=lengths)
        logits = logits[:, 0].float()
        return Reading(logits if lengths is None else torch.where(moves[:, None], logits, self.reading.logits), state)

    def _count(self, what: str, tokens: int, began: float) -> None:
        seconds = time.perf_counter() - began
        self.stats |= {
            f"{what}_tokens": tokens,
            f"{what}_seconds": seconds,
            f"{what}_tokens_per_second": tokens / max(seconds, 1e-9),
        }


def listed(texts: str | Sequence[str]) -> list[str]:
    """Several texts, or one."""
    return [texts] if isinstance(texts, str) else list(texts)


def generate(
    model: xLSTMLM,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str],
    max_tokens: int = 200,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    reading: Reading | None = None,
) -> Any:
    """Continue one prompt (a string comes back) or several (a list): what follows, the prompts not repeated.

    Args:
        model, tokenizer: from `longshort.load` and `longshort.load_tokenizer`.
        prompts: any lengths; rows are read side by side without padding entering the model.
        max_tokens: at most so many tokens a row.
        temperature, top_k, top_p, seed: see `Sampling`.
        stop: a string that ends a row, or several; they are not part of its text.
        reading: what was read before, from `read`, `Writer.reading` or `load_reading`.
    """
    single = isinstance(prompts, str)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    writer = Writer(model, tokenizer, prompts, max_tokens, sampling, stop, reading)
    for _ in writer:
        continue
    return writer.texts[0] if single else writer.texts


# ---- readings as files -----------------------------------------------------------------------------------------------


def fingerprint(model: xLSTMLM) -> str:
    """Tells models apart, weights included: a state means nothing to another model."""
    sums = torch.stack([p.detach().double().sum().cpu() for p in model.parameters()])
    return hashlib.sha256(sums.numpy().tobytes()).hexdigest()[:16]


def named_tensors(state: Any, name: str = "state") -> dict[str, Tensor]:
    """A state's tensors under names like `state.0.cell.C`."""
    if state is None:
        return {}
    if isinstance(state, Tensor):
        return {name: state}
    keys = getattr(state, "_fields", range(len(state)))
    return {
        k: x for key, part in zip(keys, state, strict=True) for k, x in named_tensors(part, f"{name}.{key}").items()
    }


def save_reading(path: Path | str, reading: Reading, model: xLSTMLM) -> None:
    """Write what was read to a safetensors file."""
    tensors = {"logits": reading.logits, **named_tensors(reading.state)}
    tensors = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    notes = {"format": "longshort state", "version": "1", "model": fingerprint(model)}
    write_atomically(Path(path), lambda temporary: save_file(tensors, temporary, notes))


def load_reading(path: Path | str, model: xLSTMLM) -> Reading:
    """Read a file of `save_reading` back, for the model that wrote it."""
    if not Path(path).is_file():
        raise ValueError(f"no state file {str(path)!r}; --save-state writes one")
    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no state file, or was cut short: {error}") from None
    if notes.get("format") != "longshort state":
        raise ValueError(f"{path} holds no saved state: its format is {notes.get('format')!r}")
    if notes.get("version") != "1":
        raise ValueError(f"{path} is of version {notes.get('version')!r}; this longshort reads version '1'")
    if notes.get("model") != fingerprint(model):
        raise ValueError(f"{path} was saved by another model, or by this one before more training: read the text anew")
    logits, vocab = tensors.get("logits"), model.config.vocab_size
    if logits is None or logits.dim() != 2 or not len(logits) or logits.shape[1] != vocab:
        there = "are missing" if logits is None else f"have shape {tuple(logits.shape)}"
        raise ValueError(f"{path} was changed: its logits {there}, not (rows, {vocab})")
    device = model.embedding.weight.device
    with torch.no_grad():
        _, template = model(torch.zeros(len(logits), 1, dtype=torch.long, device=device))
    wanted = {"logits": logits.float(), **named_tensors(template)}
    if wanted.keys() != tensors.keys():
        raise ValueError(f"{path} was changed: {sorted(wanted.keys() ^ tensors.keys())} are missing or unknown")
    for name, want in wanted.items():
        if (tensors[name].shape, tensors[name].dtype) != (want.shape, want.dtype):
            raise ValueError(f"{path} was changed: {name} is {kind(tensors[name])}, and should be {kind(want)}")
    names = iter(named_tensors(template))
    return Reading(tensors["logits"].to(device), map_state(lambda _: tensors[next(names)].to(device), template))


def kind(x: Tensor) -> str:
    """A tensor's dtype and shape, for a message."""
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"


def peak_memory() -> int:
    """The most memory this process (on CUDA: its tensors) ever held, in bytes; 0 where the system does not tell."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
