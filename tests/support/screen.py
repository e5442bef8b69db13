"""A command on a terminal of its own, and what is seen there: all lines, those that have scrolled away too."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import Any

# What a program writes to move the cursor, to wipe, to colour: CSI, parameters, a letter.
TOKEN = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]|\x1b.")


class Screen:
    """The lines of a terminal of `columns`, as its program leaves them; `wrapped`: those that were longer than that."""

    def __init__(self, columns: int) -> None:
        self.columns, self.lines, self.row, self.column = columns, [[]], 0, 0
        self.wrapped = 0

    def feed(self, text: str) -> None:
        """Take what the program writes, as xterm does."""
        for token in TOKEN.finditer(text):
            if token.group(2):
                self._control(token.group(1), token.group(2))
            elif token.group() == "\r":
                self.column = 0
            elif token.group() == "\n":
                self._down()
            elif token.group().isprintable():
                self._write(token.group())

    def text(self) -> list[str]:
        """The lines, without blanks at their ends."""
        return ["".join(cell or " " for cell in line).rstrip() for line in self.lines]

    def _write(self, sign: str) -> None:
        if self.column == self.columns:
            self.wrapped += 1
            self.column = 0
            self._down()
        line = self.lines[self.row]
        line.extend([""] * (self.column + 1 - len(line)))
        line[self.column] = sign
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append([])

    def _control(self, parameters: str, letter: str) -> None:
        number = int(parameters) if parameters.isdigit() else 0
        if letter == "A":
            self.row = max(0, self.row - max(number, 1))
        elif letter == "K":
            assert number in (0, 2), f"erase {number}"
            del self.lines[self.row][self.column if number == 0 else 0 :]
        else:
            assert letter in "mhl", f"an unexpected control sequence: {parameters}{letter}"


def bbg(
    *words: Any, columns: int, script: Any = None, folder: Any = None, **variables: str
) -> tuple[Screen, list[str], int]:
    """Run `bbg words` on a terminal; its screen at the end, what it looked like in between, and its status.

    `script`: a file of Python to run in place of the package. A look is the line that the cursor stands in, which is
    that of the bar.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **variables}
    environment.pop("COLUMNS", None) if "COLUMNS" not in variables else None
    command = [sys.executable, *(["-m", "bbg"] if script is None else [str(script)]), *map(str, words)]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=folder)
    os.close(slave)
    screen, looks, end = Screen(columns), [], time.monotonic() + 120
    raw = b""
    while time.monotonic() < end:
        ready, _, _ = select.select([master], [], [], 0.2)
        if not ready:
            continue
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        raw += data
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            continue
        raw = b""
        screen.feed(text)
        looks.append(screen.text()[screen.row])
    os.close(master)
    return screen, looks, process.wait(10)
