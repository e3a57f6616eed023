"""Models in folders: save, export, load. What lies in a folder is recognised by its settings and its tensors' names."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from longshort.checkpoints.formats import (
    CONFIG_FROM,
    FORMATS,
    Format,
    kind_of,
    layout,
)
from longshort.config import suggest, xLSTMConfig
from longshort.files import (
    CheckpointError,
    Stored,
    about,
    json_writer,
    read_settings,
    write_together,
    yaml_writer,
)
from longshort.model import xLSTMLM

CONFIG_FILES = ("config.json", "config.yaml")
OUR_FILES = ("config.json", "model.safetensors")
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
CONVERT = """\
python -c "import torch, safetensors.torch as s; w = torch.load('{name}', map_location='cpu', weights_only=True); \
s.save_file({{k: v.clone() for k, v in w.items()}}, '{stem}.safetensors')\""""


# ---- out -------------------------------------------------------------------------------------------------------------


def save(model: xLSTMLM, folder: Path | str) -> None:
    """Write config.json and model.safetensors into `folder`, which `load` reads back. A tied head is stored once.

    A checkpoint of ours that is there is replaced once the new one is whole on the disk. Raises CheckpointError, with
    what was there untouched, where the disk refuses or the folder holds a checkpoint of another format.
    """
    export(model, folder, "longshort")


def export(model: xLSTMLM, folder: Path | str, format: str) -> None:
    """Write a model as another library would, settings and weights, so that it computes the same there.

    Args:
        format: "longshort", "hf" (transformers), "nxai-large" and "nxai-large-fused" (xlstm_large), "nxai-small" and
            "nxai-small-cuda" (xLSTMLMModel; the sLSTM laid out for the backend named).

    Raises ValueError where the format cannot hold the model, and CheckpointError as `save` does. Dropout, a matter of
    training, is not carried over. The small formats store the norms' weights less 1, which rounds those below 0.5.
    """
    if format not in FORMATS:
        raise ValueError(f"no format {format!r}.{suggest(format, FORMATS)} There are: {', '.join(FORMATS)}")
    folder, target = Path(folder), FORMATS[format]
    if reason := target.why_not(model.config):
        raise ValueError(f"{target.title} cannot hold this model: {reason}")
    refuse_to_mix(folder, format)
    weights = {name: weight.detach() for name, weight in model.state_dict().items()}
    tensors = {row.theirs: row.give(weights) for row in target.names.rows(model.config, set(weights))}
    if model.config.tie_weights and format != "longshort":  # they store the head too, and safetensors shares nothing
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    writer = json_writer if target.config_file.endswith(".json") else yaml_writer
    write_together(
        {
            folder / "model.safetensors": lambda file: save_file(tensors, file, {"format": "pt"}),
            folder / target.config_file: writer(target.settings(model.config)),
        }
    )


def refuse_to_mix(folder: Path, format: str) -> None:
    """Two formats in one folder could not be told apart, and one would overwrite the other's files."""
    kind, file, _ = settings_in(folder)
    if kind is not None and not format.startswith(kind):
        raise CheckpointError(
            f"{file} is not of a {format} checkpoint ({kind}); choose another folder, or move it away"
        )


# ---- in --------------------------------------------------------------------------------------------------------------


def load(path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> xLSTMLM:
    """Read a language model from a folder or a file, whoever wrote it; in evaluation mode.

    Recognised: our folders; a run's folder (its newest complete checkpoint); Hugging Face's xLSTM, sharded or not;
    NX-AI's xlstm_large (config.yaml; fused weights or single); NX-AI's small models, from the tensors alone.
    Pickles are refused.

    Args:
        device: where the weights go; "auto" is CUDA where there is one.
        dtype: what they are converted to; None leaves them as they are stored.

    Raises CheckpointError, naming the file and what is wrong with it, and ValueError for a device that is not there.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save(xLSTMLM(xLSTMConfig.preset("tiny")), folder)
    ...     load(folder).config.kinds
    ('mlstm', 'mlstm', 'mlstm', 'slstm')
    """
    path, device = Path(path), pick_device(device)
    format, config, stored = recognise(path)
    with about(path), torch.device("meta"):
        model = xLSTMLM(config)
    empty = model.state_dict()
    shapes = {name: weight.shape for name, weight in empty.items()}
    table = format.names.rows(config, set(empty))
    stored.check({row.theirs: row.give(empty).shape for row in table})
    weights = {}
    for row in table:
        theirs = stored.tensor(row.theirs).to(device=device, dtype=dtype)
        for name, weight in row.take(theirs, shapes).items():
            weights[name] = weight.clone(memory_format=torch.contiguous_format)
    if config.tie_weights:
        weights["head.weight"] = weights["embedding.weight"]
    model.load_state_dict(weights, assign=True)
    if config.tie_weights:
        model.head.weight = model.embedding.weight
    return model.eval()


def pick_device(name: torch.device | str) -> torch.device:
    """A device by name; "auto" is CUDA where there is one. Raises ValueError where it cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" makes tensors, and holds no numbers
    except Exception as error:  # each backend has its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"device {str(name)!r} cannot be used here ({reason}); use 'cpu', 'cuda' or 'auto'") from None
    return device


def newest(folder: Path | str) -> Path:
    """The checkpoint of the highest step, among step-XXXXXXXX folders in a run's folder, that has both its files."""
    folder = Path(folder)
    inside = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    steps = {int(each.name[5:]): each for each in inside.glob("step-*") if re.fullmatch(r"step-\d+", each.name)}
    complete = [step for step, each in steps.items() if all((each / name).is_file() for name in OUR_FILES)]
    if not steps:
        raise CheckpointError(f"{folder}: it holds no weights (*.safetensors), and no checkpoints of a run (step-…)")
    if not complete:
        raise CheckpointError(f"{folder}: {len(steps)} checkpoints (step-…), none of them complete")
    return steps[max(complete)]


def recognise(path: Path) -> tuple[Format, xLSTMConfig, Stored]:
    """What lies at `path`: its format, its configuration, and its tensors, not read yet."""
    if path.suffix in PICKLES and not path.is_dir():
        raise pickled(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder (a model on a hub must be downloaded first)")
    if path.is_file() and path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: this is no checkpoint; give its folder, or a .safetensors file")
    folder = path if path.is_dir() else path.parent
    files = weight_files(folder) if path.is_dir() else [path]
    if not files:
        return recognise(newest(folder))
    stored = Stored(files)
    kind, file, settings = settings_in(folder)
    if kind in (None, "unknown") and any(name.startswith("xlstm_block_stack.") for name in stored.shapes):
        kind = "nxai-small"
    if kind not in CONFIG_FROM:
        raise CheckpointError(
            f"{folder}: {stored} needs settings beside it, {' or '.join(CONFIG_FILES)}, of ours, of "
            f"model_type 'xlstm', or of xlstm_large; {file or 'neither'} is there"
        )
    if kind == "nxai-small":
        settings = settings | {"tie_weights": is_tied(stored)}
    with about(file or files[0]):
        return FORMATS[layout(kind, stored.shapes)], CONFIG_FROM[kind](settings, stored.shapes), stored


def settings_in(folder: Path) -> tuple[str | None, Path | None, dict[str, Any]]:
    """The kind of checkpoint that a folder's settings speak of (None: there are none), their file, and what it says."""
    for name in CONFIG_FILES:
        if (file := folder / name).is_file():
            settings = read_settings(file)
            return kind_of(settings), file, settings
    return None, None, {}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a model, or none."""
    if (whole := folder / "model.safetensors").is_file():
        return [whole]
    if (index := folder / "model.safetensors.index.json").is_file():
        return shards(index)
    if (folder / "model_0.safetensors").is_file():
        return [folder / f"model_{n}.safetensors" for n in range(len(list(folder.glob("model_*.safetensors"))))]
    found = list(folder.glob("*.safetensors"))
    if len(found) > 1:
        raise CheckpointError(f"{folder} holds {len(found)} .safetensors files; give the one to load")
    if not found and (pickles := [file for file in folder.iterdir() if file.suffix in PICKLES]):
        raise pickled(pickles[0])
    return found


def shards(index: Path) -> list[Path]:
    """The files that Hugging Face's index of a sharded model names; they lie beside it."""
    names = read_settings(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index}: its weight_map should say which file holds which tensor")
    if outside := [name for name in names.values() if Path(name).name != name]:
        raise CheckpointError(f"{index}: {outside[0]!r} is not the name of a file beside it")
    return [index.parent / name for name in sorted(set(names.values()))]


def pickled(path: Path) -> CheckpointError:
    convert = CONVERT.format(name=path.name, stem=path.stem)
    return CheckpointError(
        f"{path} is a pickle: whoever opens it runs the code in it, so it is not opened here. Convert it once, where "
        f"you trust it, and load the .safetensors file:\n{convert}"
    )


def is_tied(stored: Stored) -> bool:
    """Whether a small model's head and embedding are one matrix, stored twice or, as safetensors may, once."""
    ends = ("token_embedding.weight", "lm_head.weight")
    there = [name for name in ends if name in stored.shapes]
    if len(there) == 1:
        stored.alias(next(name for name in ends if name not in there), there[0])
    return len(there) == 1 or (len(there) == 2 and torch.equal(*(stored.tensor(name) for name in ends)))
