"""How far each cell, form and dtype is from float64: the README's table.

    .venv/bin/python benchmarks/accuracy.py [--long]

Every answer (outputs, last state, all gradients) is compared with the float64 reference on the same numbers, those
that the dtype holds; the figure is the largest error over the lengths below, each relative to the largest value of
its own tensor (at least 1). `--long` runs every cell and dtype over 100,000 steps instead, forward and backward.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from problems import CASES, LENGTHS, WIDE, exact, problem

from longshort.checking import distance, everything

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def error(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], names) -> float:
    """The largest relative error among the named answers."""
    apart = (distance(got[name], want[name]) for name in names)
    return max(difference / scale for difference, scale in apart)


def figures(case: str, dtype: torch.dtype) -> tuple[float, float]:
    """The worst errors of outputs and states, and of gradients."""
    forward = backward = 0.0
    for T in LENGTHS:
        p = problem(case, T=T, B=2, N=2, H=5, dtype=dtype)
        want, got = everything(exact(p)), everything(p)
        gradients = [name for name in want if name.startswith("d ")]
        forward = max(forward, error(got, want, set(want) - set(gradients)))
        backward = max(backward, error(got, want, gradients))
    return forward, backward


def digit(x: float) -> str:
    return f"{x:.0e}" if x else "0"


def table() -> None:
    print("| cell, form | " + " | ".join(str(dtype)[6:] for dtype in DTYPES) + " |")
    print("|---|" + "---|" * len(DTYPES))
    for case in CASES:
        takes = [dtype for dtype in DTYPES if case in WIDE or dtype != torch.float64]
        cells = [" · ".join(map(digit, figures(case, dtype))) if dtype in takes else "–" for dtype in DTYPES]
        print(f"| {case.replace('-', ', ')} | " + " | ".join(cells) + " |", flush=True)


def long(T: int = 100_000) -> None:
    print("| cell | dtype | outputs, states, gradients finite | last 100 h against float64 | seconds |")
    print("|---|---|---|---|---|")
    for case in (
        "rnn-tanh",
        "lstm-2000",
        "lstm-1997",
        "slstm-sigmoid",
        "slstm-exp",
        "mlstm-reference",
        "mlstm-chunkwise",
    ):
        for dtype in DTYPES[1:]:
            began = time.perf_counter()
            p = problem(case, T=T, B=1, N=1, H=1, dtype=dtype)._replace(state=None)
            leaves = {name: x.requires_grad_() for name, x in p.inputs.items()}
            h, last = p._replace(inputs=leaves).run(**({"chunk_size": 64} if p.door == "mlstm" else {}))
            h.float().square().mean().backward()
            finite = all(x.isfinite().all() for x in [h, *last, *(x.grad for x in leaves.values())])
            with torch.no_grad():
                want = p.to(torch.float64).run()[0][:, -100:]
            off = (h[:, -100:].double() - want).abs().max().item()
            seconds = time.perf_counter() - began
            print(
                f"| {case} | {str(dtype)[6:]} | {'yes' if finite else 'NO'} | {off:.0e} | {seconds:.0f} |", flush=True
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="100,000 steps")
    torch.manual_seed(0)
    long() if parser.parse_args().long else table()
