"""`longshort.accelerate`: the `nn.LSTM`, `nn.GRU` and `nn.RNN` of any model computed by the C++ core, in place.

A module stays the object it is: weights, state dict, hooks, names and `isinstance` do not change, only its class does,
to a subclass that computes with longshort's layer where the core can and with torch's own where not.
"""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree

from longshort.cells import core
from longshort.kernels import KERNELS, all_float32, recording
from longshort.layers.classic import GRU, LSTM, RNN


class Accelerated:
    """What the three have in common: when the core runs, and torch's own arguments and answers."""

    torch_type: ClassVar[Any]
    cell: ClassVar[str]
    num_heads = 1
    kernel = "native"
    worth: ClassVar[int] = 1
    """Steps from which on the core is faster than torch, whose call of a GRU or an RNN asks less of Python."""

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:  # torch's names
        """As torch's: the outputs, and the state after the last step."""
        x = input.data if isinstance(input, PackedSequence) else input
        if self.steps_of(input) < self.worth or not self.core_can(x, hx):
            return self.torch_type.forward(self, input, hx)
        try:
            y, state = super().forward(input, hx)  # type: ignore[misc]
        except ValueError:  # what is wrong is told as torch tells it
            return self.torch_type.forward(self, input, hx)
        return y, state.as_subclass(Tensor) if isinstance(state, Tensor) else tuple(state)

    def flatten_parameters(self) -> None:
        """As torch's: cuDNN wants the weights side by side."""
        self.torch_type.flatten_parameters(self)

    def steps_of(self, input: Any) -> int:
        """How long the longest sequence is; 0 of what is no sequence, which torch refuses."""
        if isinstance(input, PackedSequence):
            return len(input.batch_sizes)
        if not isinstance(input, Tensor) or input.dim() not in (2, 3):
            return 0
        return input.shape[int(self.batch_first and input.dim() == 3)]  # type: ignore[attr-defined]

    def core_can(self, x: Any, hx: Any) -> bool:
        """Whether the core computes this call: plain float32 on the CPU, at least one step, nobody recording."""
        given = (hx,) if isinstance(hx, Tensor) else hx or ()
        tensors = (x, *given, *self._flat_weights)  # type: ignore[attr-defined]
        if recording() or torch.is_autocast_enabled("cpu") or not all(isinstance(each, Tensor) for each in tensors):
            return False
        return (
            x.numel() > 0 and all_float32(*tensors) and KERNELS[self.cell]["native"].why_not(x, None, tensors) is None
        )


class AcceleratedLSTM(Accelerated, LSTM, nn.LSTM):
    """An `nn.LSTM` that the C++ core computes."""

    torch_type = nn.LSTM
    cell = "lstm"
    forget, gates = "learned", 4


class AcceleratedGRU(Accelerated, GRU, nn.GRU):
    """An `nn.GRU` that the C++ core computes."""

    torch_type = nn.GRU
    cell = "gru"
    worth = 4


class AcceleratedRNN(Accelerated, RNN, nn.RNN):
    """An `nn.RNN` that the C++ core computes."""

    torch_type = nn.RNN
    cell = "rnn"
    worth = 8


KINDS: dict[type, type] = {nn.LSTM: AcceleratedLSTM, nn.GRU: AcceleratedGRU, nn.RNN: AcceleratedRNN}


@dataclass
class Acceleration:
    """What `accelerate` did to a model. As text, a report."""

    replaced: dict[str, nn.Module]
    """The modules that the core computes now, by name."""
    left: dict[str, str]
    """Recurrent modules that stay as they are, and why."""
    seconds: dict[str, tuple[float, float]]
    """Of a call with the example: (before, after), the medians; "forward", and "forward and backward" if it trains."""
    difference: float | None
    """The largest difference between the outputs before and after, relative to the largest output."""

    def undo(self) -> None:
        """Give every module its own class back."""
        for module in self.replaced.values():
            slow_down(module)

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} of {len(self.replaced) + len(self.left)} recurrent modules replaced"]
        lines += [f"  {name or 'the model itself'}: {module.extra_repr()}" for name, module in self.replaced.items()]
        lines += [f"  {name} left as it is: {why}" for name, why in self.left.items()]
        for what, (before, after) in self.seconds.items():
            lines.append(f"{what}: {1e3 * before:.2f} ms before, {1e3 * after:.2f} ms now, {before / after:.2f} times")
        if self.difference is not None:
            lines.append(f"outputs equal to {self.difference:.0e} of the largest")
        return "\n".join(lines)


def accelerate(model: nn.Module, example: Any = None, *, rounds: int = 7) -> Acceleration:
    """Let the C++ core compute every `nn.LSTM`, `nn.GRU` and `nn.RNN` inside a model on the CPU, in place.

    Weights, state dict, hooks and arguments stay what they are; optimizers go on. A call that the core cannot compute
    (float64, a GPU, autocast, `torch.compile`, forward-mode derivatives) is computed as before; so is one that torch
    computes faster: an `nn.GRU` of fewer than 4 steps, an `nn.RNN` of fewer than 8. A model saved whole by `torch.save`
    afterwards needs longshort to be loaded, and tools that look for exactly `nn.LSTM` (`quantize_dynamic`,
    `torch.jit.script`, `torch.fx`) do not see it: `undo()` the answer first.

    Args:
        model: any module; what is not on the CPU is computed as before.
        example: an input, or a tuple of arguments: the call is timed before and after, on a copy of the model.
        rounds: how often each is timed.

    Raises:
        ValueError: `model` is no module, or `rounds` is under 1.
        RuntimeError: this installation has no C++ core.

    >>> model = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 5), "head": torch.nn.Linear(5, 2)})
    >>> print(accelerate(model))
    1 of 1 recurrent modules replaced
      rnn: 3, 5
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"accelerate takes a torch.nn.Module, got {type(model).__name__}")
    if reason := core.missing():
        raise RuntimeError(f"nothing to accelerate with: {reason}")
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: at least 1")
    seconds, difference = {}, None
    if example is not None:  # on copies: whatever goes wrong, the model is as it was
        after = copy.deepcopy(model)
        replace(after)
        seconds, difference = compare(copy.deepcopy(model), after, example, rounds)
    replaced, left = replace(model)
    return Acceleration(replaced, left, seconds, difference)


def replace(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Give every recurrent module the class that the core computes: those, and those left, each by name."""
    replaced, left = {}, {}
    for name, module in model.named_modules():
        if type(module) in KINDS:
            module.__class__ = KINDS[type(module)]
            replaced[name] = module
        elif isinstance(module, nn.RNNBase) and not isinstance(module, Accelerated):
            left[name] = f"{type(module).__name__} is a class of its own"
    return replaced, left


def slow_down(module: nn.Module) -> None:
    """Give a module the class back that it came with."""
    if type(module) in KINDS.values():
        module.__class__ = module.torch_type  # type: ignore[assignment]
    elif isinstance(module, Accelerated):
        raise ValueError(
            f"{type(module).__name__} was parametrized since: torch.nn.utils.parametrize.remove_parametrizations"
        )


def compare(before: nn.Module, after: nn.Module, example: Any, rounds: int) -> tuple[dict, float]:
    """The seconds of a call of each, interleaved, and how far their outputs are apart. Both models are used up."""
    args = _pytree.tree_map_only(Tensor, Tensor.detach, example if isinstance(example, tuple) else (example,))
    wants = before.training and any(p.requires_grad for p in before.parameters())
    calls: dict[str, Callable] = {"forward": forward} | ({"forward and backward": forward_backward} if wants else {})
    with torch.random.fork_rng(devices=[]):
        training = [{name: part.training for name, part in model.named_modules()} for model in (before, after)]
        difference = largest_difference(*[forward(model.eval(), args) for model in (before, after)])  # without dropout
        for model, modes in zip((before, after), training, strict=True):
            for name, part in model.named_modules():
                part.training = modes[name]
        seconds = {}
        for what, call in calls.items():
            times: list[list[float]] = [[], []]
            for _ in range(rounds + 1):
                for spent, model in zip(times, (before, after), strict=True):
                    began = time.perf_counter()
                    call(model, args)
                    spent.append(time.perf_counter() - began)
            seconds[what] = tuple(statistics.median(spent[1:]) for spent in times)
    return seconds, difference


def forward(model: nn.Module, args: tuple) -> list[Tensor]:
    with torch.no_grad():
        return numbers_in(model(*args))


def forward_backward(model: nn.Module, args: tuple) -> None:
    model.zero_grad()
    with torch.enable_grad():
        learned = [x.sum() for x in numbers_in(model(*args)) if x.requires_grad]
        if learned:
            torch.stack(learned).sum().backward()


def numbers_in(answer: Any) -> list[Tensor]:
    """Every floating-point tensor within."""
    leaves, _ = _pytree.tree_flatten(answer)
    leaves = [leaf.data if isinstance(leaf, PackedSequence) else leaf for leaf in leaves]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def largest_difference(before: list[Tensor], after: list[Tensor]) -> float:
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a.numel()]
    scale = max((a.abs().max().item() for a, _ in pairs), default=0) or 1.0
    return max(((a - b).abs().max().item() for a, b in pairs), default=0) / scale
