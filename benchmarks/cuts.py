"""What `lengths` and `reset` cost: each layer with them against the same call without, in one process, interleaved.

    .venv/bin/python benchmarks/cuts.py [--threads 2] [--rounds 15] [--json FILE]

Every call is at the same padded shape, forward and backward, float32. Lengths: every row full, or drawn evenly from
T/2 to T, one row full. Resets: with probability 1/64 or 1/8 at each step of each row. The figure is the median over
the rounds of the time with, over the time without; in brackets, the ratio of the fastest times.
"""

import argparse
import json
import statistics
import time

import torch

import longshort

LAYERS = {
    "RNN": lambda D: longshort.RNN(D, D, batch_first=True),
    "LSTM": lambda D: longshort.LSTM(D, D, batch_first=True),
    "GRU": lambda D: longshort.GRU(D, D, batch_first=True),
    "sLSTM": lambda D: longshort.sLSTM(D, D, num_heads=4, batch_first=True),
    "mLSTM": lambda D: longshort.mLSTM(D, D, num_heads=4, batch_first=True),
}
SHAPES = [(1, 256, 64), (16, 256, 64), (64, 256, 128), (16, 2048, 64)]  # B, T, D
AIM = {"all full": 1.3, "lengths": 1.3, "reset 1/64": 1.1, "reset 1/8": 1.1}


def seconds(layer, x, **cuts) -> float:
    """Forward and backward, once."""
    began = time.perf_counter()
    y, state = layer(x, **cuts)
    (y.sum() + state.h.sum()).backward()
    return time.perf_counter() - began


def measure(name: str, B: int, T: int, D: int, rounds: int) -> dict[str, tuple[float, float]]:
    """For each kind of cut: the median ratio to the plain call, and the ratio of the fastest."""
    torch.manual_seed(0)
    layer, x = LAYERS[name](D), torch.randn(B, T, D, requires_grad=True)
    lengths = torch.randint(T // 2, T + 1, (B,))
    lengths[0] = T
    calls = {
        "plain": {},
        "all full": {"lengths": torch.full((B,), T)},
        "lengths": {"lengths": lengths},
        "reset 1/64": {"reset": torch.rand(B, T) < 1 / 64},
        "reset 1/8": {"reset": torch.rand(B, T) < 1 / 8},
    }
    times: dict[str, list[float]] = {call: [] for call in calls}
    for once in range(rounds + 1):
        for call, cuts in calls.items():
            took = seconds(layer, x, **cuts)
            if once:  # the first round warms up
                times[call].append(took)
    return {
        call: (
            statistics.median(a / b for a, b in zip(times[call], times["plain"], strict=True)),
            min(times[call]) / min(times["plain"]),
        )
        for call in AIM
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--json", help="write the figures to this file too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| layer | B, T, D | " + " | ".join(f"{cut}, aim {aim}" for cut, aim in AIM.items()) + " |")
    print("|---|---|" + "---|" * len(AIM))
    figures = []
    for name in args.layers:
        for B, T, D in SHAPES:
            ratios = measure(name, B, T, D, args.rounds if T < 1000 else max(3, args.rounds // 5))
            cells = [f"{m:.2f} [{least:.2f}]{' over' if m > AIM[cut] else ''}" for cut, (m, least) in ratios.items()]
            print(f"| {name} | {B}, {T}, {D} | {' | '.join(cells)} |", flush=True)
            figures.append({"layer": name, "B": B, "T": T, "D": D} | ratios)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
