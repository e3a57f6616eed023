"""When gradients are wanted; and a written-out backward that is differentiated itself, or mapped, by autograd.

No cell here.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor  # type: ignore[import-not-found]


def wants_gradients(tensors: Iterable[Tensor | None]) -> bool:
    """Whether autograd is to follow what is computed from `tensors`."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def batched(x: Tensor | None) -> bool:
    """Whether `x` is seen by vmap, as `is_grads_batched=True` does: what is in place, or reads memory, then fails."""
    return x is not None and (is_batchedtensor(x) or is_legacy_batchedtensor(x))


def looked_into(grads: Sequence[Tensor | None]) -> bool:
    """Whether a backward that was given `grads` will be differentiated (`create_graph`), or is being mapped."""
    return torch.is_grad_enabled() or any(map(batched, grads))


def differentiable(run: Callable, inputs: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of `inputs` as a graph of their own, by autograd through `run(*inputs)`: for any further order.

    `grads` are those of what `run` returns, None where there is none. Inputs may be one tensor twice, or come from one
    another: each is taken as a thing of its own, for autograd follows the ways between them itself.
    """
    again = torch.is_grad_enabled()
    if again:
        inputs = [x.view_as(x) for x in inputs]
    else:  # what they came from is not ours to free
        inputs = [x.detach().requires_grad_(x.requires_grad) for x in inputs]
    wanted = [x for x in inputs if x.requires_grad]
    with torch.enable_grad():
        outputs = run(*inputs)
    asked = [(y, dy) for y, dy in zip(outputs, grads, strict=True) if dy is not None and y.requires_grad]
    if not asked:
        return [None] * len(inputs)
    ends, given = zip(*asked, strict=True)
    found = iter(torch.autograd.grad(ends, wanted, given, create_graph=again, allow_unused=True))
    return [next(found) if x.requires_grad else None for x in inputs]
