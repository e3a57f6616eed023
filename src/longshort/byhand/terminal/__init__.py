"""An exercise in a terminal: printed from top to bottom, or walked through with hints and answers.

Lays out in columns what `Exercise` and `Speller` give; works nothing out itself. Where the terminal cannot carry the
signs of the formulas, they are spelt in ASCII.
"""

from longshort.byhand.terminal.printing import first_step, print_all, text
from longshort.byhand.terminal.walking import walk

__all__ = ["first_step", "print_all", "text", "walk"]
