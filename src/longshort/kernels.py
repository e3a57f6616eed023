"""Which implementation of a cell runs: a table and one function. The only dispatch there is; it computes nothing."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from longshort.shapes import Float


@dataclass(frozen=True)
class Kernel:
    """One implementation of a cell: where it is, and what it needs."""

    module: str
    function: str
    device: str | None = None
    """The only device type it runs on; None: any."""
    dtypes: tuple[torch.dtype, ...] | None = None
    """The state dtypes it computes in; None: any."""
    needs: str | None = None
    """A module that must be importable."""
    auto_from: int = 0
    """`kernel="auto"` takes it from this many steps on: below, the next one is faster."""
    on_request: bool = False
    """Only ever taken by name."""
    transforms: bool = True
    """Whether vmap, forward-mode derivatives and other transforms can look inside."""

    def why_not(self, x: Tensor) -> str | None:
        """Why it cannot run on `x`, as a sentence; None if it can."""
        if self.device is not None and x.device.type != self.device:
            return f"it runs on {self.device}, and the input is on {x.device.type}"
        if self.dtypes is not None and x.dtype not in self.dtypes:
            return f"it computes in {', '.join(map(str, self.dtypes))}, and the input is {x.dtype}"
        if self.needs is not None and find_spec(self.needs) is None:
            return f"it needs the package {self.needs}, which is not installed"
        if not self.transforms and under_transform():
            return "vmap, jvp and other transforms of functions cannot look inside it"
        return None


def under_transform() -> bool:
    """Whether a functorch transform or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


KERNELS: dict[str, dict[str, Kernel]] = {  # fastest first; the last one takes anything and defines the answer
    "rnn": {"reference": Kernel("longshort.cells.rnn", "rnn")},
    "lstm": {"reference": Kernel("longshort.cells.lstm", "lstm")},
    "gru": {"reference": Kernel("longshort.cells.gru", "gru")},
    "slstm": {"reference": Kernel("longshort.cells.slstm", "slstm")},
    "mlstm": {
        "chunkwise": Kernel("longshort.cells.mlstm", "mlstm_chunkwise", auto_from=2, transforms=False),
        "parallel": Kernel("longshort.cells.mlstm", "mlstm_parallel", on_request=True),
        "reference": Kernel("longshort.cells.mlstm", "mlstm_reference"),
    },
}


def check_name(cell: str, kernel: str) -> None:
    if kernel != "auto" and kernel not in list(KERNELS[cell]):
        raise ValueError(f"{cell} has no kernel {kernel!r}; it has {', '.join(KERNELS[cell])}, and auto")


def choose(cell: str, x: Float[Tensor, "B T ..."], kernel: str = "auto") -> Callable:
    """The implementation of `cell` to run on `x`: the one asked for, or the fastest that can."""
    check_name(cell, kernel)
    table = KERNELS[cell]
    if kernel == "auto":
        steps = x.shape[1]
        kernel = next(
            name for name, k in table.items() if not k.on_request and k.auto_from <= steps and k.why_not(x) is None
        )
    elif reason := table[kernel].why_not(x):
        raise ValueError(f"{cell} cannot use kernel={kernel!r} here: {reason}. Try kernel='auto'.")
    at = table[kernel]
    # A module that is there already is looked up: torch.compile cannot trace an import.
    return getattr(sys.modules.get(at.module) or import_module(at.module), at.function)
