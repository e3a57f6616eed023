"""Text to tokens and tokens to batches: tokenizers, corpora, token files, batches addressed by (seed, step). No models.

Held-out text is the last 10 % of the characters, always: fixed before any tokenizer sees them.
"""

import codecs
import hashlib
import json
import lzma
from collections import Counter
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
from longshort.files import CheckpointError, read_settings, write_atomically, write_json
from longshort.shapes import Bool, Int

HELD_OUT = 0.1
TOKENIZERS = ("byte", "char", "bpe")
DTYPES = ("uint8", "uint16", "uint32", "uint64")  # of token files: the smallest that holds the vocabulary


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
        return bytes(within(ids, 256)).decode(errors="replace")

    def to_json(self) -> dict[str, Any]:
        return {"longshort": "byte"}


class CharTokenizer:
    """One token for each character it was built with; any other character is an error.

    >>> CharTokenizer.of("hello").encode("hole").tolist()
    [1, 3, 2, 0]
    """

    def __init__(self, characters: str):
        if not isinstance(characters, str) or not characters:
            raise DataError(f"a char tokenizer is made of the characters of its text, not of {characters!r}")
        if twice := next((c for c, count in Counter(characters).items() if count > 1), ""):
            raise DataError(f"the character {twice!r} stands twice among a char tokenizer's characters: give each once")
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
        return "".join(self.characters[i] for i in within(ids, self.vocab_size))

    def to_json(self) -> dict[str, Any]:
        return {"longshort": "char", "characters": self.characters}


class BPETokenizer:
    """Byte-level byte-pair encoding by Hugging Face's `tokenizers` (the extra `longshort[bpe]`): any text at all.

    Holds their other tokenizers too, as a foreign tokenizer.json describes them. No special tokens are added to a text,
    none of it is cut off, and it is not padded.
    """

    def __init__(self, inner: Any):
        self.inner = inner
        inner.no_truncation()
        inner.no_padding()
        self.by_lines = _learned_by_lines(self.to_json())

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
        # A batch of lines: one long string takes the library quadratic time. Others' tokenizers may see across lines.
        parts = _lines(text) if self.by_lines else [text]
        ids = [np.asarray(e.ids, np.int64) for e in self.inner.encode_batch(parts, add_special_tokens=False)]
        return np.concatenate([*ids, np.empty(0, np.int64)])

    def decode(self, ids) -> str:
        return self.inner.decode([int(i) for i in ids], skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        return json.loads(self.inner.to_str())


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _learned_by_lines(data: dict[str, Any]) -> bool:
    """Whether `BPETokenizer.of` made it: bytes alone, with nothing before, after or beside them."""
    split = data.get("pre_tokenizer") or {}
    bare = not any(data.get(name) for name in ("normalizer", "post_processor", "added_tokens"))
    return bare and split.get("type") == "ByteLevel" and split.get("add_prefix_space") is False


def within(ids, vocab_size: int) -> list[int]:
    """Tokens as whole numbers, none of them outside the vocabulary."""
    tokens = [int(i) for i in ids]
    if outside := [i for i in tokens if not 0 <= i < vocab_size]:
        raise DataError(
            f"token {outside[0]} is outside the tokenizer's vocabulary 0..{vocab_size - 1}: is it the model's?"
        )
    return tokens


def describe(tokenizer: Tokenizer) -> str:
    """A tokenizer in a few words."""
    kind = tokenizer.to_json().get("longshort", "bpe")
    return f"a {kind} tokenizer of {tokenizer.vocab_size} tokens"


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
    path = tokenizer_file(folder)
    if path is None:
        raise DataError(f"{folder} holds no tokenizer.json: is it a run, a checkpoint or a token folder?")
    data = _read_json(path)
    try:
        if data.get("longshort") == "byte":
            return ByteTokenizer()
        if data.get("longshort") == "char":
            return CharTokenizer(data.get("characters", ""))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if "model" not in data:
        raise DataError(f"{path} is no tokenizer of ours (byte, char) nor of Hugging Face's tokenizers")
    library = _tokenizers()
    try:
        return BPETokenizer(library.Tokenizer.from_str(json.dumps(data)))
    except Exception as error:  # theirs are bare
        raise DataError(f"{path} is no tokenizer that Hugging Face's tokenizers can read: {error}") from None


def tokenizer_file(folder: Path | str) -> Path | None:
    """The tokenizer.json in `folder`, in a run's newest checkpoint, or beside a file of weights, if there is one."""
    folder = Path(folder)
    if folder.is_file():
        folder = folder.parent
    of_a_run = (folder / "checkpoints").is_dir() or any(folder.glob("step-*"))
    if of_a_run and not (folder / "tokenizer.json").exists():
        folder = newest(folder)
    path = folder / "tokenizer.json"
    return path if path.is_file() else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: names with values belong here, not a {type(data).__name__}; was it changed?")
    return data


class TextStream:
    """Turns tokens into text one at a time; a character of several tokens comes out when it is whole.

    All that comes out, the last `flush` included, is the text that the tokenizer decodes all tokens to, at once.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.before: list[int] = []  # the last tokens whose text is out: some tokenizers join words to what was before
        self.pending: list[int] = []
        self.out = 0  # characters of the pending tokens that are out already

    def push(self, token: int) -> str:
        """The text this token completes, perhaps none."""
        self.pending.append(token)
        text = self._text()
        # What UTF-8 leaves open is always one \ufffd at the end; those before it are bytes that no token can mend.
        settled = text.removesuffix("\ufffd")
        piece, self.out = settled[self.out :], max(self.out, len(settled))
        if settled == text:
            self.before, self.pending, self.out = self.pending, [], 0
        elif len(self.pending) > 16:
            self._forget(text)
        return piece

    def flush(self) -> str:
        """Whatever is still pending."""
        piece = self._text()[self.out :]
        self.before, self.pending, self.out = [], [], 0
        return piece

    def _text(self) -> str:
        return self.tokenizer.decode(self.before + self.pending)[len(self.tokenizer.decode(self.before)) :]

    def _forget(self, text: str) -> None:
        """Let go of all but the last tokens of a long run of stray bytes, if no character reaches across the cut."""
        first, last = self.pending[:-4], self.pending[-4:]
        done = self.tokenizer.decode(self.before + first)[len(self.tokenizer.decode(self.before)) :]
        if done + self.tokenizer.decode(last) == text:
            self.before, self.pending, self.out = first, last, self.out - len(done)


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
        texts.append(read_text(each))
    return Corpus(path.stem, "".join(texts), tuple(starts))


def read_text(path: Path) -> str:
    """The text of a file. Raises DataError unless it is there, is UTF-8, and says something."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"no file {str(path)!r}: give a text file") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if not raw.removeprefix(codecs.BOM_UTF8).strip():
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
        """The next window of each of `size` lanes, equal parts of the text, for a state carried from step to step.

        Windows overlap by one token, the first input being the last target before. Back at its start, a lane resets.
        What is too little for a window is never read: up to length - 2 tokens at the end of each lane, and the up to
        size - 1 tokens at the end of the text that make no lane longer.
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
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: token files go into a folder of their own")
    if (folder / "config.json").exists():
        raise DataError(f"{folder} holds a model or a run: give the token files a folder of their own")
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": (0, border), "heldout": (border, len(corpus.text))}
    notes: dict[str, Any] = {"format": "longshort tokens", "version": 1, "name": corpus.name,
                             "sha256": hashlib.sha256(corpus.text.encode()).hexdigest(),
                             "dtype": str(np.min_scalar_type(tokenizer.vocab_size - 1))}  # fmt: skip
    for part, (begin, end) in parts.items():
        inside = sorted({s for s in corpus.starts if begin <= s < end})  # an empty document starts where the next does
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
    path = folder / "data.json"
    if not path.exists():
        raise DataError(f"{folder} holds no data.json: make token files with `longshort data`")
    notes = _read_json(path)
    if notes.get("format") != "longshort tokens" or notes.get("version") != 1:
        raise DataError(
            f"{path} is of format {notes.get('format')!r} {notes.get('version')!r}, not 'longshort tokens' 1"
        )
    if wrong := _why_not_notes(notes):
        raise DataError(f"{path}: {wrong}; it was changed. Make the token files anew with `longshort data`")
    tokenizer = load_tokenizer(folder)
    train, heldout = (_open_part(folder, part, notes, tokenizer) for part in ("train", "heldout"))
    return TokenData(train, heldout, tokenizer, notes)


def _why_not_notes(notes: dict[str, Any]) -> str | None:
    """What is wrong with a data.json, in words; None if nothing is."""
    for name in ("name", "sha256"):
        if not isinstance(notes.get(name), str):
            return f"{name}={notes.get(name)!r} should be text"
    if notes.get("dtype") not in DTYPES:
        return f"dtype={notes.get('dtype')!r} is not one of {', '.join(DTYPES)}"
    for part in ("train", "heldout"):
        about = notes.get(part)
        if not isinstance(about, dict):
            return f"{part}={about!r} should say what is in {part}.bin, by name"
        for name in ("tokens", "characters", "bytes"):
            if type(about.get(name)) is not int or about[name] < 0:
                return f"{part}.{name}={about.get(name)!r} should be a whole number, 0 or more"
        starts = about.get("starts")
        if not isinstance(starts, list) or not all(type(start) is int for start in starts):
            return f"{part}.starts should be a list of whole numbers"
        if starts and not (starts[0] >= 0 and all(a < b for a, b in pairwise(starts)) and starts[-1] < about["tokens"]):
            return f"{part}.starts should increase, within the {about['tokens']} tokens 0..{about['tokens'] - 1}"
    return None


def _open_part(folder: Path, part: str, notes: dict[str, Any], tokenizer: Tokenizer) -> Tokens:
    path, count, dtype = folder / f"{part}.bin", notes[part]["tokens"], np.dtype(notes["dtype"])
    if not path.is_file():
        raise DataError(f"{path} is missing: make the token files anew with `longshort data`")
    size, want = path.stat().st_size, count * dtype.itemsize
    if size != want:
        raise DataError(f"{path} has {size} bytes, its data.json says {want}: it was cut short or changed")
    ids = np.memmap(path, dtype, "r") if count else np.empty(0, dtype)
    if count and np.iinfo(dtype).max >= tokenizer.vocab_size and (most := int(ids.max())) >= tokenizer.vocab_size:
        raise DataError(
            f"{path} holds token {most}, and the tokenizer.json beside it is of {describe(tokenizer)}: one was changed"
        )
    return Tokens(ids, np.asarray(notes[part]["starts"], np.int64))


def find_tokens(model: Path | str, source: str | None, tokenizer: Tokenizer, scratch: Path | str) -> TokenData:
    """Token files for judging a model: of `source`, made in `scratch` if need be; else those its own run trained on.

    Raises DataError where the token files are another tokenizer's than the model's: their numbers mean nothing to it.
    """
    folder = _tokens_of_run(Path(model)) if source is None else Path(source)
    if folder is None:
        raise DataError(f"{model} has no token files of its own: say which text with --data")
    if not (folder / "data.json").exists():
        return prepare(load_corpus(str(source)), tokenizer, scratch)
    data = open_tokens(folder)
    if data.tokenizer.to_json() != tokenizer.to_json():
        raise DataError(
            f"the token files in {folder} were made with {describe(data.tokenizer)}, and the model {model} reads those "
            f"of {describe(tokenizer)}, another one: give the text itself with --data, to be tokenized for this model"
        )
    return data


def _tokens_of_run(model: Path) -> Path | None:
    """The token folder of the run that `model` is, or is a checkpoint of: its own, or the one it was given."""
    model = model.parent if model.is_file() else model
    for folder in (model, *model.resolve().parents[:2]):
        if (folder / "data" / "data.json").exists():
            return folder / "data"
        given = _data_setting(folder / "config.json")
        if given and (Path(given) / "data.json").exists():
            return Path(given)
    return None


def _data_setting(path: Path) -> str | None:
    """What a run's config.json says it was trained on. Any other file of that name has nothing to say."""
    try:
        settings = read_settings(path) if path.is_file() else {}
    except CheckpointError:
        return None
    given = settings.get("data")
    return given if isinstance(given, str) and isinstance(settings.get("model"), dict) else None


# ---- the yardstick ---------------------------------------------------------------------------------------------------


class XZ(NamedTuple):
    """What `xz -9e` needs for the held-out text, in bits per character: alone, and after the training text."""

    alone: float
    primed: float


def xz_bits(data: TokenData) -> XZ:
    """The bar for a language model: a compressor's bits per character on the same held-out text."""
    texts = [data.tokenizer.decode(part.ids) for part in (data.train, data.heldout)]
    if not texts[1]:
        raise DataError("there is no held-out text to compress")
    train, heldout = (text.encode() for text in texts)
    alone, before, both = (
        len(lzma.compress(x, preset=9 | lzma.PRESET_EXTREME)) for x in (heldout, train, train + heldout)
    )
    characters = len(texts[1])
    return XZ(alone * 8 / characters, (both - before) * 8 / characters)
