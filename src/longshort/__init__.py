"""longshort: recurrent networks, from an LSTM worked by hand to an xLSTM language model.

Importing compiles nothing and does not load torch: a public name is fetched when it is first used (PEP 562).
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from longshort.checking import selfcheck
    from longshort.checkpoints import CheckpointError, export, load
    from longshort.config import TrainConfig, xLSTMConfig
    from longshort.data import load_tokenizer
    from longshort.evaluation import evaluate
    from longshort.generation import Writer, generate, load_reading, read, save_reading
    from longshort.layers import GRU, LSTM, RNN, Acceleration, Cell, Recurrent, accelerate, mLSTM, sLSTM
    from longshort.model import xLSTM, xLSTMLM
    from longshort.tracing import trace
    from longshort.training import train

# The public names, and the module each comes from.
_HOME = {
    "Acceleration": "layers",
    "Cell": "layers",
    "CheckpointError": "checkpoints",
    "GRU": "layers",
    "LSTM": "layers",
    "RNN": "layers",
    "Recurrent": "layers",
    "TrainConfig": "config",
    "Writer": "generation",
    "accelerate": "layers",
    "evaluate": "evaluation",
    "export": "checkpoints",
    "generate": "generation",
    "load": "checkpoints",
    "load_reading": "generation",
    "load_tokenizer": "data",
    "mLSTM": "layers",
    "read": "generation",
    "sLSTM": "layers",
    "save_reading": "generation",
    "selfcheck": "checking",
    "trace": "tracing",
    "train": "training",
    "xLSTM": "model",
    "xLSTMConfig": "config",
    "xLSTMLM": "model",
}

__all__ = ["GRU", "LSTM", "RNN", "Acceleration", "Cell", "CheckpointError", "Recurrent", "TrainConfig", "Writer",
           "accelerate", "evaluate", "export", "generate", "load", "load_reading", "load_tokenizer", "mLSTM", "read",
           "sLSTM", "save_reading", "selfcheck", "trace", "train", "xLSTM", "xLSTMConfig", "xLSTMLM"]  # fmt: skip

if "torch" in sys.modules:  # so that exported programs with our operators load after `import torch, longshort`
    import longshort.blocks
    import longshort.layers  # noqa: F401


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"longshort.{_HOME[name]}"), name)
    try:  # a module of ours, such as longshort.functional
        return import_module(f"longshort.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"longshort.{name}":
            raise
        raise AttributeError(f"module 'longshort' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
