"""Whatever the kind, sizes, layers, directions, heads, lengths, resets, dtype and strides: one answer.

Hypothesis draws the cases, the same ones every time.
"""

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers.kinds import KINDS, build, by_hand, each, everything, meaning, reached
from problems import TOLERANCE, assert_same
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

modest = settings(derandomize=True, deadline=None, max_examples=150)
few = settings(modest, max_examples=60)
small = st.integers(1, 5)


class Case(NamedTuple):
    kind: str
    layer: Any
    x: Tensor  # (B, T, input), whatever the layer's layout
    carried: bool  # it starts from a state that the layer reached, not from nothing
    more: dict[str, Tensor]  # lengths and reset

    @property
    def state(self):
        return reached(self.layer, len(self.x)) if self.carried else None

    def run(self, x=None, state=None, **more):
        """The layer's answer in (B, T, ...)."""
        x, more = self.x if x is None else x, self.more | more
        if self.layer.batch_first:
            return self.layer(x, state, **more)
        if "reset" in more:
            more["reset"] = more["reset"].T
        y, last = self.layer(x.transpose(0, 1), state, **more)
        return y.transpose(0, 1), last

    def named(self, answer) -> dict[str, Tensor]:
        return {"y": answer[0], **meaning(answer[1])}

    def same(self, got, want) -> None:
        assert_same(self.named(got), self.named(want), TOLERANCE[self.x.dtype])


@st.composite
def cases(draw, *, directions=(1, 2), least=0):
    kind = draw(st.sampled_from(list(KINDS)))
    heads, width, B, T = draw(st.integers(1, 3)), draw(small), draw(st.integers(1, 4)), draw(st.integers(least, 8))
    own = {"num_heads": heads, "num_layers": draw(st.integers(1, 3)), "bias": draw(st.booleans())}
    own |= {"batch_first": draw(st.booleans()), "bidirectional": draw(st.sampled_from(directions)) == 2}
    if kind == "lstm-proj":  # smaller than the hidden size
        own["proj_size"], width = heads * draw(st.integers(1, 3)), width + 3
    if kind.startswith("mlstm"):
        own |= {"qk_dim": heads * draw(small), "chunk_size": draw(st.integers(1, 9))}
    dtype = torch.float64
    if kind != "mlstm-7b":  # a norm of two equal numbers has no digits to lose
        dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    torch.manual_seed(draw(st.integers(0, 99)))
    layer = build(kind, draw(small), heads * width, dtype=dtype, **own)
    x = torch.randn(B, T, layer.input_size, dtype=dtype)
    strides = draw(st.sampled_from(["", "features first", "every other step", "one row for all"]))
    if strides == "features first":
        x = x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    elif strides == "every other step":
        x = torch.stack([x, torch.full_like(x, torch.nan)], 2).flatten(1, 2)[:, ::2]
    elif strides == "one row for all":
        x = x[:1].expand_as(x)
    more = {}
    if least or draw(st.booleans()):
        more["lengths"] = torch.tensor(draw(st.lists(st.integers(least, T), min_size=B, max_size=B)))
    if draw(st.booleans()):
        more["reset"] = torch.rand(B, T) < 0.3
    return Case(kind, layer, x, draw(st.booleans()), more)


def rows_of(state, rows):
    return None if state is None else each(state, lambda field: field[:, rows])


@modest
@given(cases())
def test_every_row_equals_itself_alone(case):
    y, last = case.run(state=case.state)
    for b in range(len(y)):
        end = int(case.more.get("lengths", [y.shape[1]] * len(y))[b])
        more = {"reset": case.more["reset"][[b], :end]} if "reset" in case.more else {}
        alone = case._replace(more=more).run(case.x[[b], :end], rows_of(case.state, [b]))
        case.same((y[[b], :end], rows_of(last, [b])), alone)
        assert (y[b, end:] == 0).all()


@modest
@given(cases(), st.randoms(use_true_random=False))
def test_rows_in_another_order_give_the_results_in_that_order(case, random):
    order = list(range(len(case.x)))
    random.shuffle(order)
    y, last = case.run(state=case.state)
    more = {name: value[order] for name, value in case.more.items()}
    case.same(case.run(case.x[order], rows_of(case.state, order), **more), (y[order], rows_of(last, order)))


@modest
@given(cases(directions=[1]), st.lists(st.integers(0, 8), max_size=3))
def test_cut_anywhere_equals_the_whole(case, cuts):
    T = case.x.shape[1]
    outputs, state = [], case.state
    for begin, end in pairwise([0, *sorted(min(cut, T) for cut in cuts), T]):
        more = {}
        if "lengths" in case.more:
            more["lengths"] = (case.more["lengths"] - begin).clamp(0, end - begin)
        if "reset" in case.more:
            more["reset"] = case.more["reset"][:, begin:end]
        y, state = case._replace(more=more).run(case.x[:, begin:end], state)
        outputs.append(y)
    case.same((torch.cat(outputs, 1), state), case.run(state=case.state))


@modest
@given(cases(least=1))
def test_packed_equals_lengths(case):
    lengths, T = case.more["lengths"], case.x.shape[1]
    pack = partial(pack_padded_sequence, lengths=lengths, batch_first=True, enforce_sorted=False)
    reset = {"reset": pack(case.more["reset"])} if "reset" in case.more else {}
    y, last = case.layer(pack(case.x), case.state, **reset)
    y, ends = pad_packed_sequence(y, batch_first=True, total_length=T)
    assert torch.equal(ends, lengths)
    case.same((y, last), case.run(state=case.state))


@few
@given(cases(least=1))
def test_outputs_and_gradients_equal_those_by_hand(case):
    case = case._replace(layer=case.layer.double(), x=case.x.double())
    hand = partial(by_hand, case.kind, case.layer, **case.more)
    got = everything(case.layer, case.run, case.x, case.state)
    assert_same(got, everything(case.layer, hand, case.x, case.state), 1e-11)
