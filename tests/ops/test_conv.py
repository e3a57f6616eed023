"""The causal convolution equals `nn.Conv1d` on a padded sequence; its state, lengths and resets cut it cleanly."""

import pytest
import torch
import torch.nn.functional as F

from longshort.ops.conv import CausalConv
from longshort.ops.linear import BlockLinear


@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("T", [1, 2, 9])
def test_conv_equals_a_padded_conv1d(width, T):
    conv, x = CausalConv(3, width).double(), torch.randn(2, T, 3).double()
    want = F.conv1d(F.pad(x.mT, (width - 1, 0)), conv.weight, conv.bias, groups=3).mT
    y, window = conv(x)
    torch.testing.assert_close(y, want, rtol=0, atol=1e-14)
    assert window.shape == (2, width - 1, 3)
    torch.testing.assert_close(window, F.pad(x, (0, 0, width - 1, 0))[:, T:], rtol=0, atol=0)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conv_steps_equal_the_sequence(dtype, autocast):
    conv, x = CausalConv(5, 4).to(dtype), torch.randn(2, 6, 5).to(dtype)
    with torch.autocast("cpu", enabled=autocast):
        want, end = conv(x)
        window, steps = None, []
        for t in range(6):
            y, window = conv(x[:, t : t + 1], window)
            steps.append(y)
    assert steps[0].dtype == want.dtype
    atol = 1e-2 if torch.bfloat16 in (dtype, want.dtype) else 1e-6
    torch.testing.assert_close(torch.cat(steps, 1), want, rtol=0, atol=atol)
    assert torch.equal(window, end)


def test_conv_has_a_shape_on_any_device_and_takes_one_dtype():
    conv = CausalConv(4, 3)
    for T in (1, 2):
        assert CausalConv(4, 3).to("meta")(torch.empty(2, T, 4, device="meta"))[0].shape == (2, T, 4)
        with pytest.raises(RuntimeError, match="type"):
            conv(torch.zeros(2, T, 4, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("width", [1, 3])
def test_conv_traced_with_one_step_runs_with_more(width):
    conv = CausalConv(4, width)
    traced = torch.jit.trace(conv, torch.randn(2, 1, 4))
    x = torch.randn(2, 5, 4)
    for got, want in zip(traced(x), conv(x), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_conv_with_every_step_reset_sees_the_present_alone(width):
    conv, x = CausalConv(3, width).double(), torch.randn(2, 5, 3).double()
    y, window = conv(x, torch.randn(2, width - 1, 3).double(), reset=torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(y, x * conv.weight[:, 0, -1] + conv.bias, rtol=0, atol=1e-14)
    assert (window[:, :-1] == 0).all()


def test_conv_takes_no_steps():
    conv, window = CausalConv(3, 4), torch.randn(2, 3, 3)
    y, after = conv(torch.empty(2, 0, 3), window, reset=torch.zeros(2, 0, dtype=torch.bool))
    assert y.shape == (2, 0, 3)
    assert torch.equal(after, window)


def test_block_linear_is_a_block_diagonal_matrix():
    layer = BlockLinear(12, 3)
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(layer(x), x @ torch.block_diag(*layer.weight).T)
