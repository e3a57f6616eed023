"""How the exercises are written down: short names for what recurs in them. No exercise of its own."""

from typing import Any

from longshort.byhand.graph import Given, Quantity


def q(name: str, formula: str, symbol: str, *shape: str, **more: Any) -> Quantity:
    return Quantity(name=name, formula=formula, symbol=symbol, shape=shape, **more)


def weight(name: str, *shape: str, **more: Any) -> Given:
    return Given(name=name, symbol=name, shape=shape, role="weight", **more)


def bias(name: str, *shape: str, **more: Any) -> Given:
    return Given(name=name, symbol=name, shape=shape, role="bias", **more)


def start(name: str, *shape: str, **more: Any) -> Given:
    return Given(name=name, symbol=name[:-1], shape=shape, role="start", **more)


X = Given(name="x", symbol="x", shape=("D",), role="input", each_step=True)
"""Inputs are called x everywhere, D numbers a step."""
TARGET = Given(name="y", symbol="y", shape=("H",), role="target", each_step=True, about="What h should have been.")

SIGMA = "σ(z) = 1 / (1 + e^−z), so σ(0) = 0.5, σ(1) = 0.731, σ(2) = 0.881, σ(3) = 0.953, and σ(−z) = 1 − σ(z)."
TANH = "tanh(z) = 2 σ(2z) − 1, so tanh(0.5) = 0.462, tanh(1) = 0.762, tanh(2) = 0.964, and tanh(−z) = −tanh(z)."
EXP = "exp(z) = e^z, with e = 2.718; log σ is the natural logarithm of σ."
EACH = "⊙ multiplies number by number."
SIGNS: dict[str, tuple[str, ...]] = {
    "rnn": (TANH.replace("2 σ(2z) − 1", "(e^z − e^−z) / (e^z + e^−z)"),),
    "lstm": (SIGMA, TANH, EACH),
    "slstm": (SIGMA, TANH, EXP, EACH),
    "mlstm": (SIGMA, EXP, EACH),
    "xlstm": (SIGMA, TANH, EXP, EACH),
}
"""What the signs of each exercise mean, to reckon by; backward passes have those of their cell."""
