"""The layer made of an exercise computes what the exercise does."""

import pytest
import torch
from byhand.test_exercises import shuffled

from longshort.byhand import exact, exercise
from longshort.byhand.to_layer import layer_of

LAYERS = [
    exercise("rnn"), exercise("lstm"), exercise("slstm"), exercise("lstm-backward"), exercise("slstm-backward"),
    shuffled(exercise("slstm"), 1, D=2, H=6, N=3, T=4), shuffled(exercise("lstm"), 2, D=4, H=3, T=5),
]  # fmt: skip


@pytest.mark.parametrize("each", LAYERS, ids=lambda each: f"{each.name}-{each.sizes['H']}")
def test_layer_of_computes_the_exercises_outputs(each):
    layer, x, state = layer_of(each)
    y, _ = layer(x, state)
    numbers = each.work(exact)
    wanted = torch.tensor([numbers.value("h", t) for t in range(1, each.sizes["T"] + 1)], dtype=torch.float64)
    torch.testing.assert_close(y[0], wanted, rtol=0, atol=1e-13)


def test_layer_of_refuses_what_is_no_single_layer():
    with pytest.raises(ValueError, match="'xlstm' is no single layer"):
        layer_of(exercise("xlstm"))
