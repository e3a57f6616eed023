"""Files, whole or not at all: atomic writing, and reading of safetensors, JSON and YAML. Knows nothing of models."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from torch import Tensor

FLOATS = ("F64", "F32", "F16", "BF16")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; the message names the file and the reason."""


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is a CheckpointError that names `path`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: {error}") from error


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_together(writes: Mapping[Path, Callable[[Path], None]]) -> None:
    """Write files so that each appears whole, in place of what was there, and none before all are on the disk.

    What fails while they are written leaves all as it was. The last act, putting them in place one after the other,
    takes an instant and is not one act: a kill or a power cut within it leaves some new and some old, each of them
    whole. Each function is given a temporary path beside the file's own. Raises CheckpointError where the disk refuses,
    and says so if some are new already.
    """
    temporary = {path: path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp") for path in writes}
    replaced: list[str] = []
    path = next(iter(writes))
    try:
        for path, write in writes.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path].touch(exist_ok=False)
            mode = temporary[path].stat().st_mode
            write(temporary[path])
            temporary[path].chmod(mode)  # safetensors leaves a file that its owner alone may read
            with temporary[path].open("rb+") as file:
                os.fsync(file.fileno())
        for path, written in temporary.items():
            os.replace(written, path)
            replaced.append(path.name)
    except (OSError, SafetensorError) as error:
        left = f"{' and '.join(replaced)} beside it is new already" if replaced else "what was there is untouched"
        raise CheckpointError(f"{path} could not be written ({error}); {left}") from error
    finally:
        for written in temporary.values():
            with suppress(OSError):
                written.unlink(missing_ok=True)


def write_atomically(path: Path | str, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, then put that file in its place: whole, or not at all.

    Raises CheckpointError, naming the path and the reason, where the disk refuses; what was there is then untouched.
    """
    write_together({Path(path): write})


def write_json(path: Path | str, data: Any) -> None:
    """Write plain data as indented JSON, atomically."""
    write_atomically(path, json_writer(data))


def json_writer(data: Any) -> Callable[[Path], None]:
    text = json.dumps(data, indent=2) + "\n"
    return lambda file: write_text(file, text)


def yaml_writer(data: Any) -> Callable[[Path], None]:
    text = yaml_module("to write config.yaml").safe_dump(data, sort_keys=False)
    return lambda file: write_text(file, text)


def write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def yaml_module(why: str) -> ModuleType:
    try:
        import yaml
    except ModuleNotFoundError:
        raise CheckpointError(f"{why}, PyYAML is needed: pip install 'longshort[yaml]'") from None
    return yaml


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON or YAML file that holds settings by name."""
    parse = json.loads if path.suffix == ".json" else yaml_module(f"to read {path}").safe_load
    with about(path):
        text = path.read_text(encoding="utf-8")
        try:
            data = parse(text)
        except Exception as error:  # each parser has its own, and deep nesting is a RecursionError
            raise ValueError(f"this is not {path.suffix[1:].upper()}: {error}") from error
        if not isinstance(data, dict):
            raise ValueError(f"settings by name belong here, not a {type(data).__name__}")
    return data


class Stored:
    """The tensors of one or more safetensors files, by name. Headers are read at once, tensors when asked for."""

    def __init__(self, files: list[Path]):
        self.files = files
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._tensors: dict[str, Callable[[], Tensor]] = {}
        for file in files:
            try:
                self._open(file)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{file} is not a whole safetensors file: {error}") from error

    def _open(self, file: Path) -> None:
        opened = safe_open(file, framework="pt")
        for name in opened.keys():  # noqa: SIM118 (not a dict)
            header = opened.get_slice(name)
            if header.get_dtype() not in FLOATS:
                raise CheckpointError(f"{file}: {name} is of type {header.get_dtype()}, and weights are floating point")
            self.shapes[name] = tuple(header.get_shape())
            self._tensors[name] = lambda name=name: opened.get_tensor(name)

    def __str__(self) -> str:
        return f"{self.files[0]}" + f" (and {len(self.files) - 1} more)" * (len(self.files) > 1)

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]()

    def alias(self, name: str, other: str) -> None:
        """Let `name` stand for `other` too."""
        self.shapes[name], self._tensors[name] = self.shapes[other], self._tensors[other]

    def check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Raise CheckpointError unless these very tensors are there, in these shapes."""
        missing = [name for name in wanted if name not in self.shapes]
        unknown = [name for name in self.shapes if name not in wanted]
        wrong = [
            f"{name} has shape {self.shapes[name]}, not {tuple(wanted[name])}"
            for name in wanted
            if name in self.shapes and self.shapes[name] != tuple(wanted[name])
        ]
        for what, found in [("missing", missing), ("unknown", unknown), ("wrong", wrong)]:
            if found:
                more = f" and {len(found) - 3} more" if len(found) > 3 else ""
                raise CheckpointError(f"{self}: {what} tensors: {'; '.join(found[:3])}{more}")
