"""What a door calls: the chosen kernel at once; in compiled and exported programs, one registered operator per cell.

`torch.ops.longshort.slstm` and its like keep a whole sequence one node of the graph, so that time is dynamic and
nothing is unrolled. An exported program that holds them loads once this module is imported. No maths here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longshort.cells.gru import GRUState
from longshort.cells.loop import Empty, check_within, readable, without_autocast
from longshort.cells.lstm import LSTMState
from longshort.cells.mlstm import MLSTMState
from longshort.cells.rnn import RNNState
from longshort.cells.slstm import SLSTMState
from longshort.kernels import chosen


class Signature(NamedTuple):
    """What a cell takes, by name: inputs over time, weights (which may be None), a state, options and their types."""

    inputs: list[str]
    weights: list[str]
    state: Any
    options: dict[str, str]


SIGNATURES = {
    "rnn": Signature(["x_pre"], ["R"], RNNState, {"nonlinearity": "str"}),
    "lstm": Signature(["x_pre"], ["R", "proj"], LSTMState, {}),
    "gru": Signature(["x_pre"], ["R", "bias"], GRUState, {}),
    "slstm": Signature(["x_pre"], ["R"], SLSTMState, {"forget": "str"}),
    "mlstm": Signature(["q", "k", "v", "i_pre", "f_pre"], [], MLSTMState, {"chunk_size": "int", "eps": "float"}),
}

# ---- a cell over a sequence ------------------------------------------------------------------------------------------


def run_cell(
    cell: str, inputs: Sequence[Tensor], weights: dict, state: Any, lengths, reset, kernel: str, options: dict
) -> tuple[Tensor, Any]:
    """Run the chosen kernel in the state's dtype, and hand back h in the input's dtype. `state` may be `Empty`."""
    x = inputs[0]
    empty = isinstance(state, Empty)
    dtype = state.dtype if empty else state[0].dtype
    found = chosen(cell, x, kernel, dtype, [*inputs[1:], *weights.values(), *(() if empty else state)])
    shape = *x.shape[:2], *output_shape(inputs, weights)
    nothing = 0 in shape
    if empty and (nothing or not found.knows_empty):
        state = state.made()
    if nothing:
        return x.new_zeros(shape) + 0 * x.sum(), state  # a part of the graph, as torch's
    inputs = [x if x.dtype is dtype else x.to(dtype) for x in inputs]
    weights = {name: w if w is None or w.dtype is dtype else w.to(dtype) for name, w in weights.items()}
    with without_autocast(x.device.type):  # gates, states and sums stay in the state's dtype
        h, state = found.implementation(*inputs, **weights, state=state, lengths=lengths, reset=reset, **options)
    return (h if h.dtype is x.dtype else h.to(x.dtype)), state


def output_shape(inputs: Sequence[Tensor], weights: dict) -> tuple[int, int]:
    """(N, width) of an output: of the mLSTM v's, of the others as R reads it."""
    shape = weights["R"].shape if weights else inputs[2].shape
    return shape[-3 if weights else -2], shape[-1]


# ---- the same as one operator ----------------------------------------------------------------------------------------


def call_operator(cell: str, inputs: Sequence[Tensor], weights: dict, state, lengths, reset, kernel: str, options):
    """`run_cell` as one node of a graph."""
    h, *last = getattr(torch.ops.longshort, cell)(
        *inputs, *weights.values(), *state, lengths, reset, *options.values(), kernel
    )
    last = type(state)(*last)
    return h, last._replace(m=last.m.detach()) if hasattr(last, "m") else last  # m carries no gradient


class Operator:
    """Registers `longshort::<cell>` and `longshort::<cell>_backward`.

    The backward runs the chosen kernel once more with gradients on, so it is that kernel's own exact gradient. It has
    no derivative itself: differentiating it again raises, as torch's operators without a formula do.
    """

    def __init__(self, cell: str):
        self.cell, self.signature = cell, SIGNATURES[cell]
        _, weights, state, options = self.signature
        self.tensors = len(self.signature.inputs) + len(weights) + len(state._fields)  # those that have gradients
        takes = [f"Tensor {name}" for name in self.signature.inputs] + [f"Tensor? {name}" for name in weights]
        takes += [f"Tensor {name}_0" for name in state._fields] + ["Tensor? lengths", "Tensor? reset"]
        takes += [f"{kind} {name}" for name, kind in options.items()] + ["str kernel"]
        gives = ", ".join(["Tensor"] * (1 + len(state._fields)))
        define = torch.library.custom_op
        forward = define(
            f"longshort::{cell}", self.forward, mutates_args=(), schema=f"({', '.join(takes)}) -> ({gives})"
        )
        backward = define(
            f"longshort::{cell}_backward",
            self.backward,
            mutates_args=(),
            schema=f"(Tensor[] grads, {', '.join(takes)}) -> Tensor[]",
        )
        forward.register_fake(self.fake)
        backward.register_fake(self.backward_fake)
        forward.register_autograd(self.differentiate, setup_context=self.remember)
        for operator in (forward, backward):
            operator.register_vmap(one_at_a_time(operator))

    def parts(self, args):
        """The operator's arguments, in their order, as inputs, weights by name, the state, and what follows it."""
        names, weights, state, _ = self.signature
        args = iter(args)
        take = lambda n: [next(args) for _ in range(n)]  # noqa: E731
        inputs, weights = take(len(names)), dict(zip(weights, take(len(weights)), strict=True))
        return inputs, weights, state(*take(len(state._fields))), *args

    def call(self, args):
        """`run_cell` with the operator's arguments."""
        inputs, weights, start, lengths, reset, *options, kernel = self.parts(args)
        if lengths is not None and readable(lengths):
            check_within(lengths, inputs[0].shape[1])
        options = dict(zip(self.signature.options, options, strict=True))
        return run_cell(self.cell, inputs, weights, start, lengths, reset, kernel, options)

    def forward(self, *args):
        if torch.autograd.forward_ad._current_level >= 0:  # torch would leave the tangents out without a word
            raise RuntimeError(f"longshort::{self.cell}, as compiled and exported, has no forward-mode derivative")
        h, last = self.call(args)
        if not h.numel():  # nothing ran: an operator's answers are never its arguments
            last = [x.clone() for x in last]
        return (h.contiguous(), *(x.contiguous() for x in last))

    def fake(self, *args):
        inputs, weights, state, *_ = self.parts(args)
        x, shape = inputs[0], output_shape(inputs, weights)
        return (x.new_empty(*x.shape[:2], *shape), *(s.new_empty(s.shape) for s in state))

    def remember(self, ctx, inputs, output):
        ctx.save_for_backward(*inputs[: self.tensors + 2])
        ctx.options = inputs[self.tensors + 2 :]

    def differentiate(self, ctx, *grads):
        args = *ctx.saved_tensors, *ctx.options
        got = iter(getattr(torch.ops.longshort, f"{self.cell}_backward")(grads, *args))
        given = [None if x is None else next(got) for x in args[: self.tensors]]
        return (*given, *[None] * (len(args) - self.tensors))

    def backward(self, grads, *args):
        leaves = [None if x is None else x.detach().requires_grad_() for x in args[: self.tensors]]
        with autograd_again():
            h, last = self.call([*leaves, *args[self.tensors :]])
            asked = [(y, dy) for y, dy in zip([h, *last], grads, strict=True) if y.requires_grad]
            wanted = [x for x in leaves if x is not None]
            outputs, given = zip(*asked, strict=True)
            answers = torch.autograd.grad(outputs, wanted, given, allow_unused=True)
        answers = [torch.zeros_like(x) if d is None else d for x, d in zip(wanted, answers, strict=True)]
        return [d.clone(memory_format=torch.contiguous_format) for d in answers]

    def backward_fake(self, grads, *args):
        return [x.new_empty(x.shape) for x in args[: self.tensors] if x is not None]


@contextmanager
def autograd_again() -> Iterator[None]:
    """Record gradients, inside an operator too: torch calls those with autograd's dispatch keys switched off."""
    keys, on = torch._C.DispatchKey, torch._C._dispatch_tls_local_include_set()
    off = torch._C._dispatch_tls_local_exclude_set().remove(keys.AutogradFunctionality).remove(keys.ADInplaceOrView)
    with torch._C._ForceDispatchKeyGuard(on, off), torch.enable_grad():
        yield


def one_at_a_time(operator):
    """The rule by which vmap maps an operator: call it for each element, and stack. Right, if not fast."""

    def rule(info, in_dims, *args):
        def pick(x, dim, i):
            if isinstance(x, list | tuple):
                return [pick(y, d, i) for y, d in zip(x, dim or [None] * len(x), strict=True)]
            return x if dim is None else x.select(dim, i)

        each = [operator(*(pick(x, d, i) for x, d in zip(args, in_dims, strict=True))) for i in range(info.batch_size)]
        answers = [torch.stack(parts) for parts in zip(*each, strict=True)]
        return (answers, [0] * len(answers)) if isinstance(each[0], list) else (tuple(answers), (0,) * len(answers))

    return rule


OPERATORS = {cell: Operator(cell) for cell in SIGNATURES}
