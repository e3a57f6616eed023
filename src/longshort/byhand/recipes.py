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
