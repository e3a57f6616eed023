"""What every recurrent layer shares: layouts, packing, checks, layers, directions, dropout, states. No maths.

`Layer` is the frame around one `run` over (B, T, input).
"""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from longshort.cells.loop import clean, steps_within
from longshort.functional import check_lengths, check_reset, heads_on_one_axis, whole_numbers
from longshort.kernels import linear_of
from longshort.shapes import Bool, Float, Int


def whole_number(name: str, value, *, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name} must be a whole number of at least {at_least}, got {value!r}")


def does_not_split(name: str, width: int, num_heads: int) -> str:
    """What is wrong, and the numbers of heads that would be right."""
    heads = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
    return f"{name}={width} does not split over num_heads={num_heads}; heads that divide it: {heads}"


class Part(NamedTuple):
    """One direction of one layer."""

    suffix: str
    layer: int
    reverse: bool


class Layer(nn.Module):
    """A stack of recurrent layers in one or both directions, called as `torch.nn.LSTM` is.

    A subclass gives the shapes of one direction's weights (`shapes`), the shapes of its state for one row
    (`state_shapes`), and `run`: the outputs and the last state over x (B, T, input), from a state or None.
    """

    state_type: Any
    """The NamedTuple of its state."""
    projects: ClassVar[bool] = False
    """Whether proj_size is for it."""
    defaults: ClassVar[dict[str, Any]] = {}
    """The options of its own, as they usually are."""
    kernel: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device=None,
        dtype=None,
        *,
        num_heads: int = 1,
        **options: Any,
    ):
        super().__init__()
        for name, value in options.items():  # a subclass's own: its shapes may depend on them
            setattr(self, name, value)
        self.input_size, self.hidden_size, self.num_layers, self.bias = input_size, hidden_size, num_layers, bias
        self.batch_first, self.dropout, self.bidirectional = batch_first, dropout, bidirectional
        self.proj_size, self.num_heads = proj_size, num_heads
        self.check_options(dtype)
        if dropout and num_layers == 1:
            warnings.warn(
                f"dropout={dropout} acts between layers and there is one (num_layers=1): it will do nothing",
                UserWarning,
                stacklevel=3,
            )
        self.add_weights(device, dtype)
        self.reset_parameters()

    # ---- what a subclass gives ----

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        """The weights of one direction that reads `input_size` features, by name."""
        raise NotImplementedError

    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each field of the state, for one row of one direction."""
        return ((self.hidden_size,),)

    def run(
        self, w: dict[str, Tensor], x: Float[Tensor, "B T D"], state: Any, lengths, reset
    ) -> tuple[Float[Tensor, "B T H"], Any]:
        """One direction with the weights `w`: y, 0 past each row's end, and the last state."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        raise NotImplementedError

    # ---- weights ----

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def parts(self) -> list[Part]:
        """Every direction of every layer, in the order of the state's first axis."""
        return [
            Part(f"_l{layer}" + ("_reverse" if reverse else ""), layer, reverse)
            for layer in range(self.num_layers)
            for reverse in (False, True)[: self.directions]
        ]

    @property
    def output_size(self) -> int:
        """Features of one direction's output."""
        return self.proj_size or self.hidden_size

    def add_weights(self, device, dtype) -> None:
        for part in self.parts:
            size = self.input_size if part.layer == 0 else self.output_size * self.directions
            for name, shape in self.shapes(size).items():
                weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                self.register_parameter(name + part.suffix, weight)

    def weights_of(self, part: Part) -> dict[str, Any]:
        """One direction's weights, by their names without the suffix."""
        return {name: getattr(self, name + part.suffix) for name in self.shapes(1)}

    def flatten_parameters(self) -> None:
        """Nothing to do: weights need no particular place in memory. Here so that code for `nn.LSTM` runs."""

    def extra_repr(self) -> str:
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        defaults |= {"proj_size": 0, "num_heads": 1} | self.defaults
        changed = [
            f"{name}={getattr(self, name)!r}" for name, usual in defaults.items() if getattr(self, name) != usual
        ]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *changed])

    # ---- calls ----

    def linear(self, x: Float[Tensor, "B T D"], weight: Tensor, bias: Tensor | None) -> Float[Tensor, "B T G"]:
        """What the input gives, by whatever computes it fastest here."""
        return linear_of(x, weight, bias, self.kernel)(x, weight, bias)

    def at_once(
        self, cell: str, x_pre: Float[Tensor, "B T G"], R: Tensor, state, lengths, reset, more=None, **options: str
    ) -> tuple[Tensor, Any] | None:
        """What a recurrent cell's `run` returns, straight from the C++ core where it takes all this as it is; or None.

        `more`: a weight beside R; `options`: the cell's.
        """
        if lengths is not None or reset is not None:
            return None
        return heads_on_one_axis(
            cell, x_pre, R, state, more=more, kernel=self.kernel,
            heads=self.num_heads, units=self.hidden_size, width=self.output_size, **options,
        )  # fmt: skip

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Any = None,
        *,
        lengths: Int[Tensor, "B"] | Sequence[int] | None = None,
        reset: Any = None,
    ) -> tuple[Any, Any]:
        """Read sequences; return the outputs, and the state after the last step.

        Args:
            x: (T, B, input_size), or (B, T, input_size) with `batch_first=True`; unbatched (T, input_size); or packed.
                Any T and B, 0 included.
            state: where to start, as an earlier call gave it; None is empty.
            lengths: B whole numbers: row b stops after lengths[b] steps. Its outputs beyond are 0, its state is the one
                at its end (a reversed direction starts there), and what stands in the padding does not matter, NaN
                included. Not with a packed sequence, which has its own.
            reset: bool, x's shape without the features: where true, the state is emptied before that step. No value and
                no gradient crosses.

        Returns:
            y (..., directions * hidden_size) in x's layout, packed if x was, in x's dtype (under autocast in its); and
            the state, in float32 or wider. `state.h` is the last output, (num_layers * directions, B, hidden_size).

        Raises:
            ValueError: a shape, dtype, length or state that does not fit.
        """
        if isinstance(x, PackedSequence):
            return self.forward_packed(x, state, lengths, reset)
        self.check_x(x)
        check_reset(reset, x.shape[:-1], "of x's shape without features")
        batched = x.dim() == 3
        if not batched:
            x, reset = x[None], None if reset is None else reset[None]
            lengths = None if lengths is None else whole_numbers(lengths).reshape(-1)
        elif not self.batch_first:
            x, reset = x.transpose(0, 1), None if reset is None else reset.transpose(0, 1)
        lengths = check_lengths(lengths, x.shape[0], x.shape[1], x.device)
        y, last = self.forward_batch(x, self.check_state(state, x.shape[0], batched), lengths, reset)
        if not batched:
            y, last = y.squeeze(0), self.state_type(*(field.squeeze(1) for field in last))
        elif not self.batch_first:
            y = y.transpose(0, 1).contiguous()  # so that y.view(-1, ...) works, as it does after nn.LSTM
        return y, self.hand_out(last)

    def step(self, x: Tensor, state: Any = None, *, reset: Tensor | None = None) -> tuple[Tensor, Any]:
        """The same for one time step: x and y without T, (B, input_size) or (input_size,); reset (B,) or a single bool.

        Raises:
            ValueError: for a bidirectional layer too: its reversed direction starts at the end of the sequence.
        """
        if self.bidirectional:
            raise ValueError("a bidirectional layer has no step: its reversed direction reads from the sequence's end")
        if not isinstance(x, Tensor) or x.dim() not in (1, 2):
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"step takes one frame, (B, {self.input_size}) or ({self.input_size},), got {got}")
        time = x.dim() - 1 if self.batch_first else 0
        cut = torch.as_tensor(reset, device=x.device) if isinstance(reset, bool | list | tuple) else reset
        cut = check_reset(cut, x.shape[:-1], "of one value a row")
        y, state = self(x.unsqueeze(time), state, reset=None if cut is None else cut.unsqueeze(time))
        return y.squeeze(time), state

    def forward_packed(self, x: PackedSequence, state, lengths, reset) -> tuple[PackedSequence, Any]:
        """The same for a `PackedSequence`: its rows stand longest first, the state's as they were given."""
        if lengths is not None:
            raise ValueError("a PackedSequence holds its own lengths: leave `lengths` out")
        if x.data.dim() != 2:
            raise ValueError(f"a PackedSequence's data is (steps, input_size), got {tuple(x.data.shape)}")
        if reset is not None and not packed_alike(reset, x):
            raise ValueError(
                "with a PackedSequence, reset must be one too, packed with the same lengths in the same order"
            )
        padded, lengths = pad_packed_sequence(PackedSequence(x.data, x.batch_sizes), batch_first=True)
        self.check_x(padded)
        if reset is not None:
            reset = pad_packed_sequence(PackedSequence(reset.data, reset.batch_sizes), batch_first=True)[0]
            check_reset(reset, padded.shape[:-1], "of x's shape without features")
        state = self.check_state(state, padded.shape[0])
        if state is not None and x.sorted_indices is not None:
            state = self.state_type(*(field.index_select(1, x.sorted_indices) for field in state))
        y, last = self.forward_batch(padded, state, lengths.to(padded.device), reset)
        if x.unsorted_indices is not None:
            last = self.state_type(*(field.index_select(1, x.unsorted_indices) for field in last))
        data = pack_padded_sequence(y, lengths, batch_first=True).data
        return PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices), self.hand_out(last)

    def forward_batch(self, x: Float[Tensor, "B T D"], state, lengths, reset) -> tuple[Tensor, Any]:
        """All layers and directions of a batch; the state's fields have a leading axis num_layers * directions."""
        if lengths is not None:
            # NaN times a gradient of 0 is NaN: the padding is cleared before anything is multiplied.
            x = clean(x, steps_within(lengths, x.shape[1]))
        states, outputs = [], []
        for at, part in enumerate(self.parts):
            start = None if state is None else self.state_type(*(field[at] for field in state))
            w = self.weights_of(part)
            if part.reverse:
                cuts = None if reset is None else cuts_backwards(reset, lengths)
                y, last = self.run(w, backwards(x, lengths), start, lengths, cuts)
                y = backwards(y, lengths)
            else:
                y, last = self.run(w, x, start, lengths, reset)
            outputs.append(y)
            states.append(last)
            if len(outputs) == self.directions:
                x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
                outputs = []
                if self.dropout and part.layer < self.num_layers - 1:
                    x = F.dropout(x, self.dropout, self.training)
        return x, self.state_type(*(torch.stack(field) for field in zip(*states, strict=True)))

    # ---- checks ----

    def check_options(self, dtype) -> None:
        """What the constructor was given is what it should be."""
        for name in ("input_size", "hidden_size", "num_layers", "num_heads"):
            whole_number(name, getattr(self, name), at_least=1)
        whole_number("proj_size", self.proj_size, at_least=0)
        for name in ("bias", "batch_first", "bidirectional"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout must be a probability, a number between 0 and 1, got {self.dropout!r}")
        if self.proj_size and not self.projects:
            kind = type(self).__name__
            raise ValueError(f"proj_size={self.proj_size}: only LSTM projects its output; {kind} takes 0")
        if self.proj_size >= self.hidden_size:
            raise ValueError(f"proj_size={self.proj_size} must be smaller than hidden_size={self.hidden_size}")
        for name in ("hidden_size", "proj_size"):
            if getattr(self, name) % self.num_heads:
                raise ValueError(does_not_split(name, getattr(self, name), self.num_heads))
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"dtype must be a floating-point torch.dtype, got {dtype!r}")

    def check_x(self, x: Tensor) -> None:
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise ValueError(f"{name} reads a tensor or a PackedSequence, got {type(x).__name__}")
        if x.dim() not in (2, 3):
            layout = "(B, T, input_size)" if self.batch_first else "(T, B, input_size)"
            raise ValueError(
                f"{name} reads {layout}, or (T, input_size) unbatched, got {x.dim()} axes: {tuple(x.shape)}"
            )
        if x.shape[-1] != self.input_size:
            raise ValueError(f"x has {x.shape[-1]} features, input_size is {self.input_size}; x is {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"x must be floating point, got {x.dtype}")
        weight: Any = self.weight_ih_l0  # by name: replicas and shards have no parameters()
        if x.dtype == weight.dtype:
            return
        if torch.float64 in (x.dtype, weight.dtype) or not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"x is {x.dtype} and the weights are {weight.dtype}: convert one, x.to({weight.dtype})")

    def check_state(self, state, B: int, batched: bool = True):
        """The state that a caller gave, its shapes checked; without a batch axis it gets one."""
        if state is None:
            return None
        names, rows = self.state_type._fields, self.num_layers * self.directions
        fields = (state,) if isinstance(state, Tensor) and len(names) == 1 else state
        several = isinstance(fields, list | tuple) and len(fields) == len(names)
        if not (several and all(isinstance(field, Tensor) for field in fields)):
            want = "a tensor h" if len(names) == 1 else f"({', '.join(names)}) of tensors"
            got = f"a {type(state).__name__}" + (f" of {len(fields)}" if isinstance(fields, list | tuple) else "")
            raise ValueError(f"{type(self).__name__}'s state is {want}, or None, got {got}")
        for name, given, shape in zip(names, fields, self.state_shapes(), strict=True):
            want = (rows, B, *shape) if batched else (rows, *shape)
            if given.shape != want:
                axes = "num_layers * directions, " + ("B, ..." if batched else "...")
                raise ValueError(f"state.{name} has shape {tuple(given.shape)}; this input takes {want}: ({axes})")
            if not given.is_floating_point():
                raise ValueError(f"state.{name} must be floating point, got {given.dtype}")
        return self.state_type(*(field if batched else field.unsqueeze(1) for field in fields))

    def hand_out(self, state) -> Any:
        """The state as callers get it."""
        return state


# ---- reading backwards -----------------------------------------------------------------------------------------------


def backwards(x: Float[Tensor, "B T ..."], lengths: Int[Tensor, "B"] | None) -> Float[Tensor, "B T ..."]:
    """Each row turned around within its length; what stands beyond stays where it is. Twice is once."""
    if lengths is None:
        return x.flip(1)
    t = torch.arange(x.shape[1], device=x.device)
    index = torch.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)
    return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand_as(x))


def cuts_backwards(reset: Bool[Tensor, "B T"], lengths: Int[Tensor, "B"] | None) -> Bool[Tensor, "B T"]:
    """The resets of the rows turned around: a cut before step t is, read backwards, a cut before step t - 1."""
    return F.pad(backwards(reset, lengths), (1, 0))[:, :-1]  # the first step of each row has nothing before it


def last_of(y: Float[Tensor, "B T D"], before: Float[Tensor, "B D"], lengths: Int[Tensor, "B"] | None) -> Tensor:
    """Each row's last output in the dtype of `before`, which stands where there was no step."""
    if lengths is None:
        return torch.cat([before[:, None], y[:, -1:].to(before.dtype)], 1)[:, -1]
    y = torch.cat([before[:, None], y.to(before.dtype)], 1)  # step t at t + 1
    return y.gather(1, lengths.view(-1, 1, 1).expand(-1, 1, y.shape[-1])).squeeze(1)


def packed_alike(a: Any, b: PackedSequence) -> bool:
    """Whether `a` is packed too, with the same lengths and the rows in the same order."""
    if not isinstance(a, PackedSequence) or not torch.equal(a.batch_sizes, b.batch_sizes):
        return False
    unsorted = torch.arange(int(b.batch_sizes[0]))
    one, other = (unsorted if x.sorted_indices is None else x.sorted_indices.cpu() for x in (a, b))
    return torch.equal(one, other)
