"""Worked by hand: exercises from an RNN to xLSTM blocks as graphs of formulas, their numbers, and many renderings.

Not the cells themselves: those are in `longshort.cells`, and tests hold the two together.
"""

from longshort.byhand.exercises import EXERCISES, exercise
from longshort.byhand.graph import Cell, Exercise, Given, Numbers, Quantity, Rounding, Stage, Step, by_hand, exact

__all__ = ["EXERCISES", "Cell", "Exercise", "Given", "Numbers", "Quantity", "Rounding", "Stage", "Step", "by_hand",
           "exact", "exercise"]  # fmt: skip
