"""Text in columns: lines broken to a width, matrices in tall brackets, blocks side by side, and all of it in ASCII.

Knows signs and widths; nothing of exercises.
"""

import re
import unicodedata
from collections.abc import Sequence

from rich.cells import cell_len

# ---- signs -----------------------------------------------------------------------------------------------------------

ASCII = {
    "−": "-", "·": "*", "⊙": "(*)", "√": "sqrt ", "σ": "sigma", "δ": "d", "μ": "mu", "ε": "eps", "Σ": "sum", "ᵀ": "^T",
    "′": "'", "°": "^o", "←": "<-", "→": "->", "↑": "up", "↓": "down", "≤": "<=", "≈": "~", "∞": "inf", "…": "...",
    "²": "^2", "×": "x", "–": "-", "—": "-", "─": "-", "⎡": "[", "⎢": "[", "⎣": "[", "⎤": "]", "⎥": "]", "⎦": "]",
    "\u0302": "^", "\u0303": "~", "“": '"', "”": '"', "’": "'",
}  # fmt: skip
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")


def ascii_only(text: str) -> str:
    """The same in ASCII.

    >>> ascii_only("C̃₁ = tanh(z_c₁) ≈ −0.7")
    'C~_1 = tanh(z_c_1) ~ -0.7'
    """
    text = unicodedata.normalize("NFD", text).replace(" · ", " - ")
    text = re.sub("[₀-₉]+", lambda found: "_" + found.group().translate(SUBSCRIPTS), text)
    return "".join(ASCII.get(sign, sign if sign.isascii() else "?") for sign in text)


def carries(encoding: str | None) -> bool:
    """Whether text in this encoding can hold every sign of the formulas."""
    try:
        "".join((*ASCII, "õ₀₁₂₃₄₅₆₇₈₉")).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


# ---- lines and blocks ------------------------------------------------------------------------------------------------


def wrapped(text: str, width: int) -> list[str]:
    """Lines no wider than `width`; broken at spaces, an operator going to the next line with what it acts on.

    >>> wrapped("0·1 + (−1)·2 + 4", 12)
    ['0·1 + (−1)·2', '+ 4']
    """
    width, lines = max(1, width), [""]
    for piece in re.sub(r" ([-+−=≈/⊙]) ", " \\1\u00a0", text).split(" "):
        piece = piece.replace("\u00a0", " ")
        while cell_len(piece) > width:  # no space to break at
            lines.append(piece[:width])
            piece = piece[width:]
        if not lines[-1]:
            lines[-1] = piece
        elif cell_len(lines[-1]) + 1 + cell_len(piece) <= width:
            lines[-1] += " " + piece
        else:
            lines.append(piece)
    return [line for line in lines if line] or [""]


def bracketed(rows: Sequence[Sequence[str]]) -> list[str]:
    """A matrix in tall brackets, its columns set right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    inside = [" ".join(entry.rjust(width) for entry, width in zip(row, widths, strict=True)) for row in rows]
    return [bracket_line(text, at, len(rows)) for at, text in enumerate(inside)]


def bracket_line(inside: str, at: int, height: int) -> str:
    """One line of a tall bracket, the `at`-th of so many."""
    left, right = "[]" if height == 1 else "⎡⎤" if at == 0 else "⎣⎦" if at == height - 1 else "⎢⎥"
    return left + inside + right


def labelled(label: str, lines: Sequence[str]) -> list[str]:
    """A block of lines with its name at the left, at half its height."""
    middle = (len(lines) - 1) // 2
    return [(f"{label} = " if at == middle else " " * (cell_len(label) + 3)) + line for at, line in enumerate(lines)]


def beside(blocks: Sequence[Sequence[str]], width: int) -> list[str]:
    """Blocks of lines side by side, as many as fit, the rest below."""
    bands: list[list[Sequence[str]]] = []
    left = 0
    for block in blocks:
        wide = max(map(cell_len, block)) + 3
        if not bands or wide > left + 3:
            bands.append([])
            left = width
        bands[-1].append(block)
        left -= wide
    lines = []
    for band in bands:
        for at in range(max(map(len, band))):
            padded = [pad(block[at] if at < len(block) else "", max(map(cell_len, block))) for block in band]
            lines.append("   ".join(padded).rstrip())
    return lines


def pad(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def flat(rows: Sequence[Sequence[str]]) -> str:
    """A vector on one line, in the notation of [x; h]; a single number as it is."""
    return rows[0][0] if len(rows) == 1 else "[" + "; ".join(row[0] for row in rows) + "]"


def again(lines: Sequence[str], width: int) -> list[str]:
    """Lines wrapped anew to a smaller width."""
    return wrapped(" ".join(lines), width) if lines else []
