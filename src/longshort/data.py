"""Text to tokens and tokens to batches: tokenizers, corpora, token files, batches addressed by (seed, step). No models.

Held-out text is the last 10 % of the characters, always: fixed before any tokenizer sees them.
"""

import hashlib
import json
import lzma
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from longshort.checkpoints import newest
from longshort.config import suggest
from longshort.files import write_atomically, write_json
from longshort.shapes import Bool, Int

HELD_OUT = 0.1
TOKENIZERS = ("byte", "char", "bpe")


class DataError(ValueError):
    """A text, tokenizer or token folder that cannot be used: which, what is wrong with it, what would do."""


# ---- tokenizers ------------------------------------------------------------------------------------------------------


class Tokenizer(Protocol):
    """Text to whole numbers and back, without loss."""

    @property
    def vocab_size(self) -> int: ...
    def encode(self, text: str) -> np.ndarray: ...
    def decode(self, ids) -> str: ...
    def to_json(self) -> dict[str, Any]: ...


class ByteTokenizer:
    """UTF-8 bytes: 256 tokens, any text at all.

    >>> ByteTokenizer().decode(ByteTokenizer().encode("São"))
    'São'
    """

    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def decode(self, ids) -> str:
        return bytes(int(i) for i in ids).decode(errors="replace")

    def to_json(self) -> dict[str, Any]:
        return {"longshort": "byte"}


class CharTokenizer:
    """One token for each character it was built with; any other character is an error.

    >>> CharTokenizer.of("hello").encode("hole").tolist()
    [1, 3, 2, 0]
    """

    def __init__(self, characters: str):
        self.characters = characters
        self._id = {c: i for i, c in enumerate(characters)}

    @classmethod
    def of(cls, text: str) -> "CharTokenizer":
        """The tokenizer of the characters in `text`, in code-point order."""
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        try:
            return np.fromiter((self._id[c] for c in text), np.int64, len(text))
        except KeyError as stranger:
            raise DataError(
                f"the character {stranger.args[0]!r} is not in this model's vocabulary of {self.vocab_size} characters"
                f": {self.characters!r}. Leave it out, or train with the byte tokenizer, which takes any text."
            ) from None

    def decode(self, ids) -> str:
        return "".join(self.characters[int(i)] for i in ids)

    def to_json(self) -> dict[str, Any]:
        return {"longshort": "char", "characters": self.characters}


class BPETokenizer:
    """Byte-level byte-pair encoding by Hugging Face's `tokenizers` (the extra `longshort[bpe]`): any text at all."""

    def __init__(self, inner: Any):
        self.inner = inner

    @classmethod
    def of(cls, text: str, vocab_size: int) -> "BPETokenizer":
        """Learn `vocab_size` tokens from `text`."""
        if vocab_size < 257:
            raise DataError(f"a byte-level BPE holds the 256 bytes and more: vocab_size={vocab_size} must be over 256")
        tokenizers = _tokenizers()
        inner = tokenizers.Tokenizer(tokenizers.models.BPE())
        inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = tokenizers.decoders.ByteLevel()
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=sorted(alphabet), show_progress=False
        )
        inner.train_from_iterator(_lines(text), trainer)
        return cls(inner)

    @property
    def vocab_size(self) -> int:
        return self.inner.get_vocab_size()

    def encode(self, text: str) -> np.ndarray:
        # A batch of lines: one long string takes the library quadratic time.
        ids = [np.asarray(e.ids, np.int64) for e in self.inner.encode_batch(_lines(text))]
        return np.concatenate([*ids, np.empty(0, np.int64)])

    def decode(self, ids) -> str:
        return self.inner.decode([int(i) for i in ids], skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        return json.loads(self.inner.to_str())


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ModuleNotFoundError:
        raise DataError("byte-pair encoding needs the package tokenizers: pip install 'longshort[bpe]'") from None
    return tokenizers


def save_tokenizer(tokenizer: Tokenizer, folder: Path | str) -> None:
    """Write `tokenizer.json` into `folder`."""
    write_json(Path(folder) / "tokenizer.json", tokenizer.to_json())


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Read the tokenizer beside a model or beside token files: from `folder`, or from its newest checkpoint."""
    folder = Path(folder)
    if folder.is_dir() and not (folder / "tokenizer.json").exists() and (folder / "checkpoints").is_dir():
        folder = newest(folder)
    path = folder / "tokenizer.json"
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{folder} holds no tokenizer.json: is it a run, a checkpoint or a token folder?") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    kind = data.get("longshort")
    if kind == "byte":
        return ByteTokenizer()
    if kind == "char":
        return CharTokenizer(data["characters"])
    if "model" in data:
        return BPETokenizer(_tokenizers().Tokenizer.from_str(json.dumps(data)))
    raise DataError(f"{path} is no tokenizer of ours (byte, char) nor of Hugging Face's tokenizers")


class TextStream:
    """Turns tokens into text one at a time; a character of several tokens comes out when it is whole."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.pending: list[int] = []

    def push(self, token: int) -> str:
        """The text this token completes, perhaps none."""
        self.pending.append(token)
        text = self.tokenizer.decode(self.pending)
        if text.endswith("\ufffd") and len(self.pending) < 4:  # a UTF-8 character has up to four bytes
            return ""
        return self.flush()

    def flush(self) -> str:
        """Whatever is still pending."""
        text, self.pending = self.tokenizer.decode(self.pending), []
        return text


# ---- corpora ---------------------------------------------------------------------------------------------------------


class Corpus(NamedTuple):
    """A text, and where each of its documents starts, in characters."""

    name: str
    text: str
    starts: tuple[int, ...]


def load_corpus(source: Path | str = "shakespeare") -> Corpus:
    """The embedded corpus, or a text file (one document), or a folder (each .txt and .md file in it a document)."""
    if source == "shakespeare":
        return _embedded()
    path = Path(source)
    if path.is_dir():
        paths = sorted(p for p in path.rglob("*") if p.suffix in {".txt", ".md"} and p.is_file())
        if not paths:
            raise DataError(f"{path} holds no .txt or .md files")
    elif path.exists():
        paths = [path]
    else:
        raise DataError(
            f"no file or folder {str(path)!r}.{suggest(str(source), ['shakespeare'])} "
            "Give a text file, a folder of them, or 'shakespeare', the embedded corpus."
        )
    texts, starts = [], []
    for each in paths:
        starts.append(sum(map(len, texts)))
        texts.append(_read_text(each))
    return Corpus(path.stem, "".join(texts), tuple(starts))


def _read_text(path: Path) -> str:
    raw = path.read_bytes()
    if not raw.strip():
        raise DataError(f"{path} is empty")
    if b"\0" in raw:
        raise DataError(f"{path} is binary, not text: it has a NUL byte at {raw.index(0)}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte {raw[error.start]:#04x} at {error.start}. "
            f"If it is Latin-1: iconv -f latin1 -t utf-8 {path.name} > fixed.txt"
        ) from None


def _embedded() -> Corpus:
    folder = files("longshort") / "corpora"
    notes = json.loads((folder / "shakespeare.json").read_text())
    raw = lzma.decompress((folder / "shakespeare.txt.xz").read_bytes())
    assert hashlib.sha256(raw).hexdigest() == notes["sha256"]
    return Corpus("shakespeare", raw.decode("ascii"), tuple(notes["documents"].values()))


# ---- token files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """One part of a corpus as tokens: a memory-mapped array, and where its documents start."""

    ids: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def window(self, offsets: np.ndarray, length: int) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"] | None]:
        """The `length` tokens from each offset, and where among them a document starts (None: nowhere)."""
        index = offsets[:, None] + np.arange(length)
        reset = np.isin(index, self.starts)
        tokens = torch.from_numpy(np.asarray(self.ids[index], np.int64))
        return tokens, torch.from_numpy(reset) if reset.any() else None

    def batch(self, seed: int, step: int, size: int, length: int) -> tuple[Tensor, Tensor | None]:
        """`size` windows at random places: the same for the same (seed, step), whatever came before."""
        offsets = np.random.default_rng((seed, step)).integers(0, len(self) - length + 1, size)
        return self.window(offsets, length)

    def lane_batch(self, step: int, size: int, length: int) -> tuple[Tensor, Tensor | None]:
        """The next window of each of `size` lanes that together cover the text, for a state carried from step to step.

        Windows overlap by one token, the first input being the last target before. Back at its start, a lane resets.
        """
        lane = len(self) // size
        if lane < length:
            raise DataError(
                f"{len(self)} tokens in {size} lanes make {lane} each, fewer than the {length} of one step: "
                "use a smaller batch or a shorter context"
            )
        at = step % ((lane - 1) // (length - 1))
        tokens, reset = self.window(np.arange(size) * lane + at * (length - 1), length)
        if at == 0:
            reset = torch.zeros(tokens.shape, dtype=torch.bool) if reset is None else reset
            reset[:, 0] = True
        return tokens, reset


class TokenData(NamedTuple):
    """A folder of token files: training part, held-out part, their tokenizer, and what is known about them."""

    train: Tokens
    heldout: Tokens
    tokenizer: Tokenizer
    notes: dict[str, Any]


def build_tokenizer(kind: str, corpus: Corpus, vocab_size: int = 4096) -> Tokenizer:
    """A tokenizer by name. Characters are counted over the whole corpus; BPE learns from the training part alone."""
    if kind == "byte":
        return ByteTokenizer()
    if kind == "char":
        return CharTokenizer.of(corpus.text)
    if kind == "bpe":
        return BPETokenizer.of(corpus.text[: cut(corpus.text)], vocab_size)
    raise DataError(f"no tokenizer {kind!r}.{suggest(kind, TOKENIZERS)} There are: {', '.join(TOKENIZERS)}")


def cut(text: str) -> int:
    """Where the held-out text begins."""
    return len(text) - int(len(text) * HELD_OUT)


def prepare(corpus: Corpus, tokenizer: Tokenizer, folder: Path | str) -> TokenData:
    """Write `corpus` as token files into `folder`, its tokenizer beside them, and open them."""
    folder, border = Path(folder), cut(corpus.text)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": (0, border), "heldout": (border, len(corpus.text))}
    notes: dict[str, Any] = {"format": "longshort tokens", "version": 1, "name": corpus.name,
                             "sha256": hashlib.sha256(corpus.text.encode()).hexdigest(),
                             "dtype": str(np.min_scalar_type(tokenizer.vocab_size - 1))}  # fmt: skip
    for part, (begin, end) in parts.items():
        inside = [s for s in corpus.starts if begin <= s < end]
        borders = [begin, *[s for s in inside if s > begin], end]
        ids = [tokenizer.encode(corpus.text[a:b]) for a, b in pairwise(borders)]
        starts = np.cumsum([0, *map(len, ids)])[:-1].tolist()
        whole = np.concatenate(ids).astype(notes["dtype"])
        write_atomically(folder / f"{part}.bin", lambda path, whole=whole: whole.tofile(path))
        text = corpus.text[begin:end]
        # A part that begins inside a document is no start: nothing was before it, but nothing was closed either.
        notes[part] = {"tokens": len(whole), "characters": len(text), "bytes": len(text.encode()),
                       "starts": starts if begin in inside else starts[1:]}  # fmt: skip
    save_tokenizer(tokenizer, folder)
    write_json(folder / "data.json", notes)
    return open_tokens(folder)


def open_tokens(folder: Path | str) -> TokenData:
    """Open the token files that `prepare` wrote."""
    folder = Path(folder)
    try:
        notes = json.loads((folder / "data.json").read_text())
    except FileNotFoundError:
        raise DataError(f"{folder} holds no data.json: make token files with `longshort data`") from None
    except ValueError as error:
        raise DataError(f"{folder / 'data.json'} is not JSON: {error}") from None
    if notes.get("format") != "longshort tokens" or notes.get("version") != 1:
        raise DataError(
            f"{folder / 'data.json'} is of format {notes.get('format')!r} {notes.get('version')!r}, "
            "not 'longshort tokens' 1"
        )
    train, heldout = (_open_part(folder, part, notes) for part in ("train", "heldout"))
    return TokenData(train, heldout, load_tokenizer(folder), notes)


def _open_part(folder: Path, part: str, notes: dict[str, Any]) -> Tokens:
    path, count = folder / f"{part}.bin", notes[part]["tokens"]
    size, want = path.stat().st_size, count * np.dtype(notes["dtype"]).itemsize
    if size != want:
        raise DataError(f"{path} has {size} bytes, its data.json says {want}: it was cut short or changed")
    ids = np.memmap(path, notes["dtype"], "r") if count else np.empty(0, notes["dtype"])
    return Tokens(ids, np.asarray(notes[part]["starts"], np.int64))


def find_tokens(model: Path | str, source: str | None, tokenizer: Tokenizer, scratch: Path | str) -> TokenData:
    """Token files for judging a model: of `source`, made in `scratch` if need be; else those of the model's own run."""
    if source is not None:
        made = (Path(source) / "data.json").exists()
        return open_tokens(source) if made else prepare(load_corpus(source), tokenizer, scratch)
    for folder in (Path(model), *Path(model).resolve().parents[:2]):
        if (folder / "data" / "data.json").exists():
            return open_tokens(folder / "data")
    raise DataError(f"{model} has no token files of its own: say which text with --data")


# ---- the yardstick ---------------------------------------------------------------------------------------------------


class XZ(NamedTuple):
    """What `xz -9e` needs for the held-out text, in bits per character: alone, and after the training text."""

    alone: float
    primed: float


def xz_bits(data: TokenData) -> XZ:
    """The bar for a language model: a compressor's bits per character on the same held-out text."""
    train, heldout = (data.tokenizer.decode(part.ids).encode() for part in (data.train, data.heldout))
    alone, before, both = (
        len(lzma.compress(x, preset=9 | lzma.PRESET_EXTREME)) for x in (heldout, train, train + heldout)
    )
    characters = data.notes["heldout"]["characters"]
    return XZ(alone * 8 / characters, (both - before) * 8 / characters)
