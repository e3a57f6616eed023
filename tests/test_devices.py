"""Every cell and form on every device there is gives the CPU reference's answers. Needs torch and pytest only."""

import pytest
import torch
from problems import TOLERANCE, WIDE, assert_same, everything, problem

from longshort.checking import devices_here, full_float32
from longshort.config import xLSTMConfig
from longshort.model import xLSTMLM

DEVICES = devices_here()


@pytest.fixture(autouse=True)
def float32_in_full():
    with full_float32():
        yield


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("T", [1, 65])
@pytest.mark.parametrize("case", WIDE)
def test_device_gives_the_reference_s_answer(case, T, dtype, device):
    p = problem(case, T=T, dtype=dtype)
    tolerance = TOLERANCE[dtype] if dtype != torch.float64 else 1e-11
    if case == "slstm-exp" and T > 1:
        p = p._replace(inputs={"x_pre": p.inputs["x_pre"] * 0.1})  # else the content e^m leaves float32's range
    want = everything(p.to(torch.float64), kernel="reference")
    got = {name: x.cpu() for name, x in everything(p.to(device)).items()}
    assert_same(got, want, tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "more", [dict(blocks=("mlstm", "slstm", "lstm", "rnn")), dict(num_blocks=2, block="7b")], ids=str
)
def test_model_on_a_device_equals_the_cpu(more, device):
    torch.manual_seed(0)
    model = xLSTMLM(xLSTMConfig(embedding_dim=16, num_heads=2, vocab_size=11, round_up_to=16, **more))
    tokens, lengths = torch.randint(11, (3, 70)), torch.tensor([70, 9, 1])
    reset = torch.rand(3, 70) < 0.1
    want = model(tokens, lengths=lengths, reset=reset)[0]
    moved = model.to(device)
    got = moved(tokens.to(device), lengths=lengths.to(device), reset=reset.to(device))[0]
    torch.testing.assert_close(got.cpu(), want, rtol=0, atol=1e-4)
    moved.loss(tokens.to(device)).loss.backward()
    assert all(p.grad.isfinite().all() for p in moved.parameters())
