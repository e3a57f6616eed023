"""Is all well on this GPU? Runs the device tests on CUDA, then prints a short table of speeds.

    make gpu-check PYTHON=python3

Needs an interpreter with torch and pytest, and installs nothing. Without a CUDA device it says so and exits with 0.
"""

import sys
import time
from datetime import date
from pathlib import Path

import pytest
import torch

from longshort.config import xLSTMConfig
from longshort.functional import KERNELS, mlstm, slstm
from longshort.model import xLSTMLM

TESTS = Path(__file__).parents[1] / "tests"


def milliseconds(f, repeats: int = 10) -> float:
    """Median time of a call, the device waited for."""
    f()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        f()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[repeats // 2] * 1e3


def cells(dtype: torch.dtype) -> list[tuple[str, float, int]]:
    """(what, milliseconds, tokens) for forward and backward of the cells."""
    B, T, N, K = 8, 2048, 4, 128
    new = lambda *shape: torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=True)  # noqa: E731
    rows = []
    q, k, v, i, f = new(B, T, N, K), new(B, T, N, K), new(B, T, N, K), new(B, T, N), new(B, T, N)
    for kernel in (name for name in KERNELS["mlstm"] if name != "reference"):
        run = lambda kernel=kernel: mlstm(q, k, v, i, f, kernel=kernel)[0].sum().backward()  # noqa: E731
        rows.append((f"mlstm {kernel}, B {B} T {T} N {N} K {K}", milliseconds(run, 5), B * T))
    x, R, steps = new(B, 256, 4, N, K), new(4, N, K, K), 256
    run = lambda: slstm(x, R * 0.01)[0].sum().backward()  # noqa: E731
    return [*rows, (f"slstm reference, B {B} T {steps} N {N} H {K}", milliseconds(run, 3), B * steps)]


def model(dtype: torch.dtype) -> list[tuple[str, float, int]]:
    """(what, milliseconds, tokens) for a training step of a small model, and for one step of decoding."""
    lm = xLSTMLM(xLSTMConfig(embedding_dim=768, num_blocks=12, vocab_size=50304)).cuda()
    tokens = torch.randint(50304, (8, 1025), device="cuda")

    def train() -> None:
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            lm.loss(tokens).loss.backward()
        lm.zero_grad(set_to_none=True)

    @torch.no_grad()
    def decode() -> None:
        lm(tokens[:1, :1], state)

    with torch.no_grad():
        _, state = lm(tokens[:1, :64])
    return [("12 mLSTM blocks, D 768: training step, B 8 T 1024", milliseconds(train, 5), 8 * 1024),
            ("the same: decoding, B 1", milliseconds(decode, 20), 1)]  # fmt: skip


def main() -> int:
    if not torch.cuda.is_available():
        print("gpu-check: no CUDA device here, so there is nothing to check.")
        return 0
    print(f"gpu-check: {torch.cuda.get_device_name()}, torch {torch.__version__}, {date.today()}", flush=True)
    # Without the suite's conftest, which wants packages that this interpreter may not have.
    status = pytest.main(["--noconftest", "-q", "-p", "no:cacheprovider", "-k", "cuda", str(TESTS / "test_devices.py")])
    if status:
        return int(status)
    print(f"\n{'forward and backward':58} {'dtype':>9} {'ms':>9} {'tokens/s':>12}")
    for dtype in (torch.float32, torch.bfloat16):
        for what, ms, tokens in [*cells(dtype), *model(dtype)]:
            print(f"{what:58} {str(dtype)[6:]:>9} {ms:9.2f} {tokens / ms * 1e3:12,.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
