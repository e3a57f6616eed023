"""Blocks, stack and language model: any length, cut anywhere, lengths and resets through every part, costs, starts."""

import math
from itertools import pairwise

import pytest
import torch

from longshort import xLSTM, xLSTMConfig, xLSTMLM
from longshort.blocks import MIXERS, powerlaw_bias
from longshort.model import detach, map_state

F64 = torch.float64
STACKS = {
    "mlstm": dict(num_blocks=2),
    "slstm": dict(blocks="[0:2]"),
    "mixed": dict(blocks=("mlstm", "slstm", "lstm", "rnn")),
    "no conv": dict(blocks="[1:1]", conv1d_kernel_size=0),
    "conv 1": dict(blocks="[1:1]", conv1d_kernel_size=1),
    "exp forget": dict(blocks=("slstm",), slstm_forget="exp"),
    "7b": dict(num_blocks=2, block="7b"),
    "7b mixed": dict(blocks=("slstm", "mlstm", "lstm"), block="7b"),
}


def stack(name: str, **more) -> xLSTM:
    """A small random stack in float64, every weight away from where it starts."""
    settings = dict(embedding_dim=8, num_heads=2, round_up_to=8, chunk_size=4) | STACKS[name] | more
    model = xLSTM(xLSTMConfig(**settings)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return model


def flat(state) -> list[torch.Tensor]:
    """What a stack's state means, tensor by tensor: cell memories times e^m."""
    tensors = []
    for conv, cell in state:
        tensors += [] if conv is None else [conv]
        scale = cell.m.exp() if hasattr(cell, "m") else None
        for name, x in cell._asdict().items():
            if name == "m":
                continue
            plain = scale is None or name == "h"
            tensors.append(x if plain else x * scale.reshape(*scale.shape, *[1] * (x.dim() - scale.dim())))
    return tensors


def assert_close(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", STACKS)
def test_stack_cut_anywhere_and_step_by_step_equals_the_whole(name):
    model, x = stack(name), torch.randn(2, 9, 8, dtype=F64)
    y, last = model(x)
    for cuts in ([0, 4, 9], list(range(10)), [0, 0, 9]):
        state, pieces = None, []
        for a, b in pairwise(cuts):
            piece, state = model(x[:, a:b], state)
            pieces.append(piece)
        assert_close(torch.cat(pieces, 1), y)
        assert_close(flat(state), flat(last))


@pytest.mark.parametrize("name", STACKS)
def test_stack_lengths_equal_each_row_alone_whatever_is_in_the_padding(name):
    model, x, lengths = stack(name), torch.randn(4, 9, 8, dtype=F64), torch.tensor([9, 5, 2, 0])
    start = model(torch.randn(4, 3, 8, dtype=F64))[1]
    poisoned = x.clone()
    for b, n in enumerate(lengths):
        poisoned[b, n:] = torch.nan
    poisoned.requires_grad_()
    y, last = model(poisoned, detach(start), lengths=lengths)
    y.square().sum().backward()
    assert not any(p.grad.isnan().any() for p in [poisoned, *model.parameters()])
    for b, n in enumerate(lengths.tolist()):
        row = map_state(lambda s, b=b: s[b : b + 1], start)
        alone, state = model(x[b : b + 1, :n], row)
        assert_close(y[b : b + 1, :n], alone)
        assert (y[b, n:] == 0).all()
        assert_close([s[b : b + 1] for s in flat(last)], flat(state))


@pytest.mark.parametrize("name", STACKS)
def test_stack_reset_equals_separate_calls(name):
    model, x = stack(name), torch.randn(2, 9, 8, dtype=F64)
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[0, [2, 3, 7]] = True
    reset[1, 0] = True
    start = model(torch.randn(2, 5, 8, dtype=F64))[1]
    y, last = model(x, start, reset=reset)
    for b, cuts in [(0, [0, 2, 3, 7, 9]), (1, [0, 9])]:
        pieces, state = [], None
        for a, z in pairwise(cuts):
            before = map_state(lambda s, b=b: s[b : b + 1], start) if (a, b) == (0, 0) else None
            piece, state = model(x[b : b + 1, a:z], before)
            pieces.append(piece)
        assert_close(y[b : b + 1], torch.cat(pieces, 1))
        assert_close([s[b : b + 1] for s in flat(last)], flat(state))


def test_stack_lengths_and_resets_together():
    model, x = stack("mixed"), torch.randn(1, 9, 8, dtype=F64)
    reset = torch.zeros(1, 9, dtype=torch.bool)
    reset[0, [2, 7]] = True  # the second lies past the end
    y, last = model(x, lengths=torch.tensor([6]), reset=reset)
    alone, state = model(x[:, 2:6])
    assert_close(y[:, 2:6], alone)
    assert_close(flat(last), flat(state))


def test_no_gradient_crosses_a_reset_through_any_part():
    model, x = stack("mixed"), torch.randn(1, 8, 8, dtype=F64, requires_grad=True)
    reset = torch.zeros(1, 8, dtype=torch.bool)
    reset[0, 5] = True
    model(x, reset=reset)[0][:, 5:].square().sum().backward()
    assert (x.grad[:, :5] == 0).all()
    assert (x.grad[:, 5:] != 0).any()


def test_kernels_and_chunk_sizes_change_no_result():
    x = torch.randn(2, 70, 8, dtype=F64)
    model = stack("mlstm")
    want = model(x)[0]
    for chunk_size in (1, 16, 64, 100):
        other = stack("mlstm", chunk_size=chunk_size)
        other.load_state_dict(model.state_dict())
        assert_close(other(x)[0], want)


def test_checkpointing_changes_no_gradient():
    model, x = stack("mixed"), torch.randn(2, 9, 8, dtype=F64)
    grads = []
    for checkpointing in (False, True):
        model.checkpointing = checkpointing
        model.zero_grad()
        model(x)[0].square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert_close(grads[0], grads[1])


def test_truncated_back_propagation_runs_with_a_detached_state():
    model, state = stack("mixed"), None
    for _ in range(100):
        y, state = model(torch.randn(1, 3, 8, dtype=F64), state)
        y.square().sum().backward()
        state = detach(state)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", MIXERS["paper"])
def test_every_mixer_starts_finite_and_learns(kind):
    model = xLSTMLM(xLSTMConfig(embedding_dim=16, blocks=(kind, kind), vocab_size=11, round_up_to=16))
    tokens = torch.randint(11, (4, 20))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = model.loss(tokens).loss
    assert abs(first.item() - math.log(11)) < 0.3
    for _ in range(30):
        optimizer.zero_grad()
        loss = model.loss(tokens).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < first.item() - 0.5


# ---- the language model ----------------------------------------------------------------------------------------------


def tiny(**more) -> xLSTMLM:
    return xLSTMLM(xLSTMConfig(**dict(embedding_dim=8, num_heads=2, num_blocks=1, vocab_size=5, round_up_to=8) | more))


def test_loss_is_the_mean_over_scored_tokens():
    model, tokens = tiny().double(), torch.randint(5, (2, 7))
    lengths, reset = torch.tensor([7, 4]), torch.zeros(2, 7, dtype=torch.bool)
    reset[0, 3] = True
    total, count = 0.0, 0
    for row, pieces in [(0, [(0, 3), (3, 7)]), (1, [(0, 4)])]:
        for a, b in pieces:
            logits, _ = model(tokens[row : row + 1, a : b - 1])
            losses = -logits.log_softmax(-1).gather(-1, tokens[row : row + 1, a + 1 : b, None])
            total, count = total + losses.sum().item(), count + losses.numel()
    got = model.loss(tokens, lengths=lengths, reset=reset).loss.item()
    assert got == pytest.approx(total / count, rel=1e-6)


def test_tied_head_is_the_embedding_and_counts_once():
    model = tiny(tie_weights=True)
    assert model.head.weight is model.embedding.weight
    assert model.num_parameters() == tiny().num_parameters() - 5 * 8


def test_logit_soft_cap_bounds_the_logits():
    model = tiny(block="7b", output_logit_soft_cap=0.01)
    assert model(torch.randint(5, (1, 4)))[0].abs().max() <= 0.01


def test_dropout_only_in_training():
    model, tokens = tiny(dropout=0.5), torch.randint(5, (1, 6))
    assert not torch.equal(model(tokens)[0], model(tokens)[0])
    model.eval()
    assert torch.equal(model(tokens)[0], model(tokens)[0])


def test_meta_device_then_to_empty_then_init():
    with torch.device("meta"):
        model = tiny()
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model.init_weights()
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", STACKS)
def test_bfloat16_model_keeps_its_states_in_float32(name):
    model = stack(name).to(torch.bfloat16)
    y, state = model(torch.randn(2, 9, 8, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()
    assert all(x.dtype == torch.float32 for _, cell in state for x in cell)


def test_flops_of_a_dense_model_are_about_two_a_weight_and_token():
    with torch.device("meta"):
        model = xLSTMLM(xLSTMConfig.preset("xlstm-7b"))
    # 0.98 x 6 N D for forward and backward of an 8192-token sequence (xLSTM scaling laws, notebook)
    assert 3 * model.flops(8192) == pytest.approx(3.309e14, rel=0.005)


def test_summary_adds_up():
    lines = tiny().summary(64).splitlines()
    numbers = [[int(n.replace(",", "")) for n in line.split()[-2:]] for line in lines[1:]]
    assert [sum(column) for column in zip(*numbers[:-1], strict=True)] == numbers[-1]


def test_start_of_the_paper():
    config = xLSTMConfig(embedding_dim=64, num_heads=4, blocks="[1:1]", num_blocks=4)
    model = xLSTMLM(config)
    mlstm, slstm = model.stack.blocks[0].mixer, model.stack.blocks[3].mixer
    assert (mlstm.i_gate.weight == 0).all()
    assert (mlstm.f_gate.weight == 0).all()
    torch.testing.assert_close(mlstm.f_gate.bias.detach(), torch.linspace(3, 6, 4))
    assert mlstm.i_gate.bias.abs().max() < 0.5
    assert (slstm.R == 0).all()
    assert slstm.bias[1, 0, 0] == 5
    assert slstm.bias[1, 0, -1] == -7
    assert mlstm.up.weight.std().item() == pytest.approx(math.sqrt(2 / (5 * 64)), rel=0.05)
    assert mlstm.down.weight.std().item() == pytest.approx(2 / (4 * 8), rel=0.05)
    assert model.embedding.weight.std().item() == pytest.approx(math.sqrt(2 / (5 * 64)), rel=0.05)


def test_start_of_the_7b_block():
    mixer = xLSTM(xLSTMConfig(embedding_dim=64, num_blocks=1, block="7b")).blocks[0].mixer
    assert (mixer.i_gate.bias == -10).all()
    assert (mixer.o_gate.weight == 0).all()
    torch.testing.assert_close(mixer.f_gate.bias.detach(), torch.linspace(3, 6, 4))


@pytest.mark.parametrize(("H", "blocks"), [(1, 3), (4, 1), (1, 1)])
def test_powerlaw_bias_is_finite_for_one_unit_and_one_block(H, blocks):
    bias = powerlaw_bias(H, blocks - 1, blocks)
    assert bias.isfinite().all()
    assert bias[0] == 5


def test_bad_calls_are_errors_in_words():
    model = tiny()
    with pytest.raises(ValueError, match="tokens must be whole numbers"):
        model(torch.randn(1, 4))
    with pytest.raises(ValueError, match=r"x must be \(B, T, D\) with D = 8"):
        model.stack(torch.randn(1, 4, 7))
    with pytest.raises(ValueError, match="the state is of 2 blocks, the stack has 1"):
        model.stack(torch.randn(1, 4, 8), (None, None))
    with pytest.raises(ValueError, match=r"no mixer 'mlsmt'. Did you mean 'mlstm'"):
        xLSTM(xLSTMConfig(embedding_dim=8, blocks=("mlsmt",)))
