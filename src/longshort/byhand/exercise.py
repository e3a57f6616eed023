"""One exercise: integer weights, a few inputs, and the LSTM's steps computed one operation at a time.

The exercise is Tom Yeh's (AI by Hand, June 2024), as told in "Deep Dive into LSTMs & xLSTMs by Hand" (S. Dey, 2024).
W_f, W_i, W_c and X are those of his MIT-licensed workbook. W_o was reconstructed: the workbook's does not give the
article's printed values, so one recurrent entry of each row was changed to fit all of them. Replace it if the
article's figure is ever read.
"""

import math
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

Vector = list[float]
Rounding = Callable[[float], float]


def exact(value: float) -> float:
    """No rounding."""
    return value


def by_hand(value: float) -> float:
    """One decimal, half away from zero: what the article does after every operation, and carries on with."""
    return float(Decimal(repr(value)).quantize(Decimal("0.1"), ROUND_HALF_UP)) + 0.0


class Exercise(NamedTuple):
    """Weights over [x; h'], a row a memory cell; inputs X; the start h0 and C0. All biases are 0."""

    W: dict[str, list[Vector]]
    X: list[Vector]
    h0: Vector
    C0: Vector

    def evaluate(self, rounding: Rounding = exact) -> list[dict[str, Vector]]:
        """Every named quantity of every time step, in the order they are computed."""
        h, C, steps = self.h0, self.C0, []
        for x in self.X:
            values = lstm_by_hand(self.W, [*x, *h], C, rounding)
            h, C = values["h"], values["C"]
            steps.append(values)
        return steps

    def tensors(self):
        """`x_pre`, `R` and the start state for `longshort.functional.lstm`, in float64."""
        import torch

        from longshort.functional import LSTMState

        W = torch.tensor([self.W[gate] for gate in "ifco"], dtype=torch.float64)  # our order: i f g o, and g is c here
        X = torch.tensor(self.X, dtype=torch.float64)
        inputs = X.shape[1]
        x_pre = torch.einsum("goi,ti->tgo", W[..., :inputs], X)[None, :, :, None]
        h0, C0 = (torch.tensor(each, dtype=torch.float64)[None, None] for each in (self.h0, self.C0))
        return x_pre, W[:, None, :, inputs:], LSTMState(h0, C0)


def lstm_by_hand(W: dict[str, list[Vector]], xh: Vector, C: Vector, rounding: Rounding) -> dict[str, Vector]:
    """One time step from [x; h'] and C', each operation's result rounded."""

    def linear(gate: str) -> Vector:
        return [rounding(sum(w * a for w, a in zip(row, xh, strict=True))) for row in W[gate]]

    def each(f: Callable[..., float], *vectors: Vector) -> Vector:
        return [rounding(f(*numbers)) for numbers in zip(*vectors, strict=True)]

    z = {f"z_{gate}": linear(gate) for gate in "fioc"}
    f, i, o = (each(sigmoid, z[f"z_{gate}"]) for gate in "fio")
    candidate = each(math.tanh, z["z_c"])
    kept, added = each(float.__mul__, f, list(map(float, C))), each(float.__mul__, i, candidate)
    memory = each(float.__add__, kept, added)
    shown = each(math.tanh, memory)
    return z | {"f": f, "i": i, "o": o, "C~": candidate, "f*C'": kept, "i*C~": added, "C": memory,
                "tanh C": shown, "h": each(float.__mul__, o, shown)}  # fmt: skip


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def article_lstm() -> Exercise:
    """Three inputs, two memory cells, three time steps.

    >>> article_lstm().evaluate(by_hand)[0]["h"]
    [0.7, 0.0]
    """
    W: dict[str, list[Vector]] = {
        "f": [[0, -1, 0, 0, -2], [-2, 0, -2, -2, 0]],
        "i": [[2, 0, 3, 1, 0], [0, 1, 0, 0, 2]],
        "o": [[1, 1, 0, 4, -3], [0, 0, -1, -2, -2]],
        "c": [[0, 1, 0, 0, -1], [-1, 0, -1, -4, 0]],
    }
    X: list[Vector] = [[1, 2, 1], [2, 1, 0], [0, -1, 3]]
    return Exercise(W, X, h0=[1, 1], C0=[0.3, -0.5])
