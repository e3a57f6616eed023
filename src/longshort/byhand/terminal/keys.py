"""Keys, one by one, from a terminal under Unix or Windows, or from the lines of a pipe. Not what they do."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ReadKey = Callable[[], "str | None"]
"""Gives the next key: a character, or a name such as "left"; None at the end of the input."""

BEGINS = set("0123456789+-−.,∞g")
"""The keys with which a typed line begins: a number, or where to go. Enter ends it."""
NAMED = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "\x1b": "escape"}
SEQUENCES = {"A": "up", "B": "down", "C": "right", "D": "left", "5~": "pageup", "6~": "pagedown"}
WINDOWS = {"H": "up", "P": "down", "M": "right", "K": "left", "I": "pageup", "Q": "pagedown"}
WORDS = {"next": "n", "back": "b", "reveal": "r", "all": "a", "help": "?", "quit": "q", "": "enter"}


@contextmanager
def keyboard() -> Iterator[ReadKey]:
    """Reads keys from standard input; a terminal gives them one by one for as long as this is entered."""
    if not sys.stdin.isatty():
        yield line_keys()
    elif os.name == "nt":
        yield windows_key
    else:
        with unix_keys() as read_key:
            yield read_key


def line_keys() -> ReadKey:
    """Each line of standard input as a command: a key, a word such as next, a number, or g and a step."""

    def keys() -> Iterator[str]:
        for line in sys.stdin:
            command = line.strip()
            command = WORDS.get(command.lower(), command)
            if command in NAMED.values():
                yield command
            elif command[0] in BEGINS:
                yield from (*command, "enter")
            else:
                yield command

    found = keys()
    return lambda: next(found, None)


@contextmanager
def unix_keys() -> Iterator[ReadKey]:
    """Keys of a Unix terminal, without waiting for Enter. Ctrl-C stays what it is."""
    import select
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def more(wait: float | None) -> str:
        """The next character; empty where none comes in time, or none ever will."""
        if not select.select([number], [], [], wait)[0]:
            return ""
        sign = os.read(number, 1)
        while sign and sign[0] >= 0xC0 and len(sign) < 2 + (sign[0] >= 0xE0) + (sign[0] >= 0xF0):
            sign += os.read(number, 1)
        return sign.decode(errors="replace")

    def read_key() -> str | None:
        tty.setcbreak(number, termios.TCSANOW)  # anew each time: a shell that stopped us may have changed it
        sign = more(None)
        if sign in ("", "\x04"):
            return None
        if sign != "\x1b" or more(0.05) not in ("[", "O"):
            return NAMED.get(sign, sign)
        sequence = more(0.05)
        while sequence and not (sequence[-1].isalpha() or sequence[-1] == "~"):
            last = more(0.05)
            if not last:
                break
            sequence += last
        return SEQUENCES.get(sequence, "escape")

    try:
        yield read_key
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def windows_key() -> str | None:
    import msvcrt

    getwch: Any = msvcrt.getwch  # type: ignore[attr-defined]
    sign = getwch()
    if sign == "\x03":
        raise KeyboardInterrupt
    if sign in ("\x00", "\xe0"):
        return WINDOWS.get(getwch(), "escape")
    return None if sign in ("\x04", "\x1a") else NAMED.get(sign, sign)
