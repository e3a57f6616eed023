"""How long the layers take beside `torch.nn.LSTM` of the same sizes, on this CPU: in one process, interleaved.

    .venv/bin/python benchmarks/layers.py [--threads 2] [--rounds 9]

Forward and backward, float32, 128 features, 128 units, one layer. The figure is the median over the rounds of a layer's
time over `nn.LSTM`'s; above 1 the layer is slower.
"""

import argparse
import statistics

import torch
from cuts import LAYERS, seconds
from torch import nn

import longshort

SHAPES = [(1, 256), (8, 64), (32, 100), (8, 1000)]  # B, T


class Theirs(nn.LSTM):
    """`nn.LSTM` with a state that answers `.h`, as the timed call asks."""

    def forward(self, x):
        y, state = super().forward(x)
        return y, longshort.functional.LSTMState(*state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| B, T | nn.LSTM, ms | " + " | ".join(LAYERS) + " |\n|---|---|" + "---|" * len(LAYERS))
    for B, T in SHAPES:
        torch.manual_seed(0)
        x = torch.randn(B, T, 128, requires_grad=True)
        layers = {"nn.LSTM": Theirs(128, 128, batch_first=True)} | {name: make(128) for name, make in LAYERS.items()}
        times: dict[str, list[float]] = {name: [] for name in layers}
        for once in range(args.rounds + 1):
            for name, layer in layers.items():
                took = seconds(layer, x)
                if once:  # the first round warms up
                    times[name].append(took)
        ratios = [
            statistics.median(a / b for a, b in zip(times[name], times["nn.LSTM"], strict=True)) for name in LAYERS
        ]
        theirs = 1e3 * statistics.median(times["nn.LSTM"])
        print(f"| {B}, {T} | {theirs:.1f} | " + " | ".join(f"{r:.1f}" for r in ratios) + " |", flush=True)


if __name__ == "__main__":
    main()
