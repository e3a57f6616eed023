"""From a file: a block of a saved language model that reads a text, or a saved layer. Nothing is unpickled here."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longshort.byhand.from_layer.shown import NAMES
from longshort.byhand.from_layer.sources import Source, check_weights, source_of
from longshort.byhand.graph import LARGEST
from longshort.config import suggest

if TYPE_CHECKING:
    from torch import nn

    from longshort.files import Stored
    from longshort.model import xLSTMLM

TEXT = "The"
"""What a model reads if nothing else is asked for."""
ORDER = ("slstm", "lstm", "mlstm", "rnn")
"""Which cell of a model is taken if no block is named."""
MADE_UP = "No input was given, so it is made up: small whole numbers, always the same."
WEIGHT = re.compile(r"((?:.*\.)?)((?:weight_(?:ih|hh|hr)|bias(?:_ih|_hh)?)_l\d+(?:_reverse)?)")


def source_of_checkpoint(path: Path | str, block: Any, text: str | None, x: Any, steps: Any) -> Source:
    """What lies at a path, run: a model's block on a text, or a layer on numbers."""
    from longshort.files import Stored

    path = Path(path)
    if path.is_file() and path.suffix == ".safetensors":
        stored = Stored([path])
        if any(WEIGHT.fullmatch(name) for name in stored.shapes):
            if text is not None:
                raise ValueError(f"{path} holds a layer, which reads numbers and no text: give x instead")
            return source_of_file(path, stored, block, x)
    if x is not None:
        raise ValueError(f"{path} is a language model, which reads a text and not x: give text")
    return source_of_model(path, block, TEXT if text is None else text, steps)


# ---- a language model ------------------------------------------------------------------------------------------------


def source_of_model(path: Path, block: Any, text: str, steps: Any) -> Source:
    import torch

    from longshort.checkpoints import load
    from longshort.data import load_tokenizer
    from longshort.tracing import trace

    model, tokenizer = load(path), load_tokenizer(path)
    check_weights(model)
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    tokens = [int(token) for token in tokenizer.encode(text)]
    if not tokens:
        raise ValueError(f"text={text!r} holds no token: give the model something to read")
    fine = isinstance(steps, int) and not isinstance(steps, bool) and steps > 0  # if not, it is said further on
    read = tokens[: steps if fine else 3]
    with torch.no_grad():
        seen = trace(model.double(), torch.tensor([read]))
    name = block_of(model, seen.parts, block)
    part, mixer = seen[name], model.get_submodule(name)
    pieces = ", ".join(f"{tokenizer.decode([token])!r} at t = {t}" for t, token in enumerate(read, 1))
    return Source(
        cell=part.cell,
        label=f"{path}, {name.removeprefix('stack.')} ({NAMES[part.cell]})",
        part=part,
        R=None if part.cell == "mlstm" else mixer.R.detach(),  # type: ignore[union-attr]
        forget=model.config.slstm_forget if part.cell == "slstm" else "",
        eps=model.config.eps if part.cell == "mlstm" else 0.0,
        notes=(
            f"The model reads {pieces}.",
            *[f"Worked in float64; the model itself has {dtype} and rounds differently."] * (dtype != "float64"),
        ),
    )


def block_of(model: "xLSTMLM", parts: Mapping[str, Any], block: Any) -> str:
    """The part of a trace that a block's number or name means."""
    names = list(parts)
    if block is None:
        return next(name for kind in ORDER for name in names if parts[name].cell == kind)
    asked = str(block)
    for name in names:
        inner = name.removeprefix("stack.")
        if not isinstance(block, bool) and asked in (
            name, inner, inner.removesuffix(".mixer"), inner.split(".")[1]
        ):  # fmt: skip
            return name
    there = ", ".join(f"{name.removeprefix('stack.')} ({NAMES[parts[name].cell]})" for name in names)
    near = suggest(asked, [name.removeprefix("stack.") for name in names])
    raise ValueError(f"block={block!r} is not there.{near} The model has {there}")


# ---- a layer alone ---------------------------------------------------------------------------------------------------


def source_of_file(path: Path, stored: "Stored", block: Any, x: Any) -> Source:
    """A layer's state dict, as `safetensors.torch.save_file` writes it."""
    from dataclasses import replace

    found: dict[str, dict[str, str]] = {}
    for name in stored.shapes:
        if match := WEIGHT.fullmatch(name):
            found.setdefault(match[1].removesuffix("."), {})[match[2]] = name
    if block is None and len(found) > 1:
        raise ValueError(f"{path} holds {len(found)} layers; name one as block: {', '.join(map(repr, found))}")
    at = next(iter(found)) if block is None else str(block)
    if at not in found:
        raise ValueError(
            f"block={block!r} is not in {path}.{suggest(at, found)} It holds {', '.join(map(repr, found))}"
        )
    weights = {name: stored.tensor(full) for name, full in found[at].items()}
    layer = layer_with(weights, str(path))
    layer.load_state_dict(weights)
    made_up = x is None
    if made_up:
        D = weights["weight_ih_l0"].shape[1]
        x = [[float((3 * t + 2 * k + t * k) % 5 - 2) for k in range(D)] for t in range(LARGEST["T"])]
    source = source_of(layer, x, 0, None)
    notes = [MADE_UP] * made_up + ["That h is a tanh is assumed: the file does not say."] * (source.cell == "rnn")
    notes += ["That the forget gate is a sigmoid is assumed: the file does not say."] * (source.cell == "slstm")
    return replace(source, label=f"{path}: {source.label}", notes=(*source.notes, *notes))


def layer_with(weights: Mapping[str, Any], path: str) -> "nn.Module":
    """An empty layer of the kind that has such weights."""
    from torch import nn

    from longshort.layers import sLSTM

    if "weight_ih_l0" not in weights or "weight_hh_l0" not in weights:
        raise ValueError(
            f"{path} lacks weight_ih_l0 or weight_hh_l0, so what layer it is cannot be told from it (an mLSTM's heads, "
            "for instance): load it into the layer yourself and call exercise_from(layer, x)"
        )
    W, R = weights["weight_ih_l0"], weights["weight_hh_l0"]
    options: dict[str, Any] = {
        "num_layers": sum(re.fullmatch(r"weight_ih_l\d+", name) is not None for name in weights),
        "bias": any(name.startswith("bias") for name in weights),
        "bidirectional": any(name.endswith("_reverse") for name in weights),
        "dtype": W.dtype,
    }
    if R.dim() == 4:
        return sLSTM(W.shape[1], R.shape[1] * R.shape[2], num_heads=R.shape[1], **options)
    projection = weights.get("weight_hr_l0")
    hidden = R.shape[1] if projection is None else projection.shape[1]
    gates = W.shape[0] / hidden
    if gates == 3:
        raise ValueError(f"{path} holds a GRU, or an LSTM without a forget gate; there is no GRU exercise yet")
    if gates not in (1, 4):
        raise ValueError(f"{path}: weight_ih_l0 {tuple(W.shape)} and weight_hh_l0 {tuple(R.shape)} fit no RNN or LSTM")
    if gates == 1:
        return nn.RNN(W.shape[1], hidden, **options)
    return nn.LSTM(W.shape[1], hidden, proj_size=0 if projection is None else projection.shape[0], **options)
