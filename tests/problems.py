"""What only tests need beside `longshort.checking`: a case for every kernel, what a state means, and equality.

Needs torch alone: the GPU's tests and the benchmarks use it too.
"""

import torch

from longshort import checking
from longshort.checking import FORMS, TOLERANCE, Problem, distance, raw
from longshort.functional import KERNELS

__all__ = ["CASES", "LENGTHS", "NATIVE", "TOLERANCE", "WIDE", "Problem", "assert_same", "content", "dtype_of",
           "everything", "exact", "kept_for_backward", "problem", "raw", "tolerance"]  # fmt: skip

LENGTHS = [1, 2, 3, 7, 63, 64, 65, 100]


def cases(dtype: torch.dtype) -> dict[str, tuple[str, str]]:
    """(form, kernel) by name: every kernel that takes `dtype` on the CPU; lstm-2000 is its reference."""
    x = torch.zeros(1, 64, 1, 1, dtype=dtype)
    found = {}
    for form, (cell, _) in FORMS.items():
        for kernel, implementation in reversed(KERNELS[cell].items()):
            if form == "mlstm-eps" or implementation.why_not(x):  # eps has tests of its own
                continue
            name = form if kernel == "reference" and form != "mlstm" else f"{form}-{kernel}"
            found[name] = form, kernel
    return found


WIDE = cases(torch.float64)  # in float64, to its precision
NATIVE = {name: case for name, case in cases(torch.float32).items() if case[1] == "native"}  # in float32
CASES = WIDE | NATIVE


def dtype_of(case: str) -> torch.dtype:
    """The widest dtype that a case computes in."""
    return torch.float64 if case in WIDE else torch.float32


def tolerance(case: str) -> float:
    """How far a case may be from another, relative to the largest value of a tensor."""
    return TOLERANCE[dtype_of(case)]


def problem(case: str, T: int = 7, **sizes) -> Problem:
    """A random problem of a case: its form's, for its kernel, in its dtype."""
    form, kernel = CASES[case]
    p = checking.problem(form, T, **{"dtype": dtype_of(case), **sizes})
    return p._replace(options=p.options | {"kernel": kernel})


def exact(p: Problem) -> Problem:
    """The same numbers for the reference, in float64."""
    return p.to(torch.float64)._replace(options=p.options | {"kernel": "reference"})


def content(state) -> dict[str, torch.Tensor]:
    """What a state means, whatever its stabiliser: c e^m and n e^m, C e^m."""
    if state is None:
        return {}
    if not hasattr(state, "m"):
        return state._asdict()
    meant = {}
    for name, x in state._asdict().items():
        if name == "m":
            continue
        scale = state.m.detach().exp()
        meant[name] = x if name == "h" else x * scale.reshape(*scale.shape, *[1] * (x.dim() - scale.dim()))
    return meant


def everything(p: Problem, *, means=content, **more) -> dict[str, torch.Tensor]:
    """`checking.everything`, of what the last state means."""
    return checking.everything(p, means=means, **more)


def kept_for_backward(run) -> int:
    """How many numbers autograd keeps of a call for its backward."""
    total = 0

    def count(x):
        nonlocal total
        total += x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        run()
    return total


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], tolerance: float) -> None:
    """Every named answer equals, to `tolerance` of its own largest value; the first that does not is named."""
    assert got.keys() == want.keys()
    for name, x in want.items():
        assert got[name].shape == x.shape, f"{name}: shape {tuple(got[name].shape)}, not {tuple(x.shape)}"
        error, scale = distance(got[name], x)
        assert error <= tolerance * scale, f"{name}: off by {error:.3g} on a scale of {scale:.3g}"
