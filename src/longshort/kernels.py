"""Which implementation of a cell runs: a table and one function; and of an input's product. It computes nothing."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Buffer, Parameter

from longshort.cells import core, native
from longshort.shapes import Float

PLAIN = (Tensor, Parameter, Buffer)  # what the C++ core reads: any other kind may be no numbers in memory


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
    knows_empty: bool = False
    """Takes an `Empty` for the empty state."""
    transforms: bool = True
    """Whether vmap, forward-mode derivatives and other transforms can look inside."""
    missing: Callable[[], str | None] = lambda: None
    """Says why this installation does not have it, or None."""

    @property
    def implementation(self) -> Callable:
        # A module that is there already is looked up: torch.compile cannot trace an import.
        return getattr(sys.modules.get(self.module) or import_module(self.module), self.function)

    def why_not(self, x: Tensor, dtype: torch.dtype | None = None, others: Iterable[Tensor | None] = ()) -> str | None:
        """Why it cannot run on `x` in the state's `dtype` (None: what `x` alone asks for), as a sentence; or None.

        `others`: the tensors that come along.
        """
        dtype = torch.promote_types(x.dtype, torch.float32) if dtype is None else dtype
        if self.device is not None and x.device.type != self.device:
            return f"it runs on {self.device}, and the input is on {x.device.type}"
        for each in (x, *others) if self.device is not None else ():
            if each is not None and type(each) not in PLAIN:
                return f"it reads plain tensors, and one is a {type(each).__name__}"
            if each is not None and each.device.type != self.device:
                return f"it runs on {self.device}, and a tensor is on {each.device.type}"
        if self.dtypes is not None and dtype not in self.dtypes:
            return f"it computes in {', '.join(map(str, self.dtypes))}, and these inputs ask for {dtype}"
        if self.needs is not None and find_spec(self.needs) is None:
            return f"it needs the package {self.needs}, which is not installed"
        if reason := self.missing():
            return reason
        if self.device is not None and seen_by_a_mode():
            return "a mode that records operators cannot look inside it"
        if not self.transforms and under_transform():
            return "vmap, jvp and other transforms of functions cannot look inside it"
        return None


def under_transform() -> bool:
    """Whether a functorch transform or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def seen_by_a_mode() -> bool:
    """Whether a mode sees every operator, as `make_fx` and `FakeTensorMode` do: what no operator does passes it by."""
    return torch._C._len_torch_dispatch_stack() > 0


def recording() -> bool:
    """Whether a program is being recorded: torch.compile, torch.export or torch.jit.trace."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def in_cpp(cell: str, knows_empty: bool = True) -> Kernel:
    """The C++ core's implementation of a cell."""
    options = {"device": "cpu", "dtypes": (torch.float32,), "transforms": False, "missing": core.missing}
    return Kernel("longshort.cells.native", cell, knows_empty=knows_empty, **options)


KERNELS: dict[str, dict[str, Kernel]] = {  # fastest first; the last one takes anything and defines the answer
    "rnn": {"native": in_cpp("rnn"), "reference": Kernel("longshort.cells.rnn", "rnn")},
    "lstm": {"native": in_cpp("lstm"), "reference": Kernel("longshort.cells.lstm", "lstm")},
    "gru": {"native": in_cpp("gru"), "reference": Kernel("longshort.cells.gru", "gru")},
    "slstm": {"native": in_cpp("slstm"), "reference": Kernel("longshort.cells.slstm", "slstm")},
    "mlstm": {
        "native": in_cpp("mlstm"),
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
    return chosen(cell, x, kernel).implementation


def chosen(
    cell: str,
    x: Float[Tensor, "B T ..."],
    kernel: str,
    dtype: torch.dtype | None = None,
    others: Sequence[Tensor | None] = (),
) -> Kernel:
    """The kernel of `cell` to run on `x`.

    Args:
        kernel: its name, or "auto".
        dtype: the state's, in which it computes; None: float32, or wider if x is.
        others: the tensors that come along.
    """
    check_name(cell, kernel)
    table = KERNELS[cell]
    if kernel == "auto":
        steps = x.shape[1]
        kernel = next(
            name
            for name, k in table.items()
            if not k.on_request and k.auto_from <= steps and k.why_not(x, dtype, others) is None
        )
    elif reason := table[kernel].why_not(x, dtype, others):
        raise ValueError(f"{cell} cannot use kernel={kernel!r} here: {reason}. Try kernel='auto'.")
    return table[kernel]


FEW_ROWS = 32  # below, laying the weights out anew costs more than it saves
LINEAR = in_cpp("linear", knows_empty=False)


def linear_of(x: Tensor, weight: Tensor, bias: Tensor | None, kernel: str) -> Callable:
    """What computes x W^T + b for a layer with this `kernel`: the C++ core where it can and pays, or torch."""
    if kernel not in ("auto", "native") or recording() or torch.is_autocast_enabled("cpu"):
        return F.linear
    if x.numel() < FEW_ROWS * x.shape[-1] or not all_float32(x, weight, bias):
        return F.linear
    return F.linear if LINEAR.why_not(x, None, (weight, bias)) else native.linear


def all_float32(*tensors: Tensor | None) -> bool:
    return all(x is None or x.dtype is torch.float32 for x in tensors)


def straight(kernel: str, tensors: Iterable[Tensor | None]) -> bool:
    """Whether a call goes to the C++ core, as far as these tensors tell: it then need not be asked anything else.

    What `recording`, `under_transform` and `seen_by_a_mode` ask is asked here: a short step feels the calls.
    """
    seen = (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
    )
    if seen or kernel not in ("auto", "native") or core.missing():
        return False
    for x in tensors:
        if x is None:
            continue
        if x.dtype is not torch.float32 or not x.is_cpu or type(x) not in PLAIN or not x.numel():
            return False
    return not (torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled("cpu"))
