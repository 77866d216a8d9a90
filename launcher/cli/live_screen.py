"""A terminal as one picture: only lines that changed are sent, and keys are read one by one."""

import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[?25h\x1b[?1049l"
"""The terminal's second page without a cursor, so that what was on the first is there again at the end."""
_KEY = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
_NAMES = {"\x1b[A": "up", "\x1bOA": "up", "k": "up", "\x1b[B": "down", "\x1bOB": "down", "j": "down", "\t": "down"}
_CHUNK = 1024


class ChangedLines:
    """Draws pictures of lines, each over the last one.

    Args:
        write: Takes what the terminal is sent.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._shown: list[str] = []

    def draw(self, lines: Sequence[str]) -> None:
        """Send the lines that are not on the screen yet."""
        sent = []
        for row in range(max(len(lines), len(self._shown))):
            line = lines[row] if row < len(lines) else ""
            if row >= len(self._shown) or line != self._shown[row]:
                sent.append(f"\x1b[{row + 1};1H{line}\x1b[0m\x1b[K")
        self._shown = [*lines]
        if sent:
            self._write("".join(sent))

    def forget(self) -> None:
        """Clear the screen, whose size has changed."""
        self._shown = []
        self._write("\x1b[2J")


def split_keys(text: str) -> Iterator[str]:
    """Split what a terminal sent into keys; arrows are `up` and `down`."""
    for key in _KEY.findall(text):
        yield _NAMES.get(key, key)


class LiveScreen:
    """The terminal of this process, as long as `taken_over` lasts."""

    def __init__(self) -> None:
        self._lines = ChangedLines(self._send)
        self._size = os.get_terminal_size(sys.stdout.fileno())

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines."""
        return self._size

    def draw(self, lines: Sequence[str]) -> None:
        """Show lines instead of those that are there."""
        self._lines.draw(lines)

    def was_resized(self) -> bool:
        """Tell whether everything has to be drawn anew."""
        size = os.get_terminal_size(sys.stdout.fileno())
        if size == self._size:
            return False
        self._size = size
        self._lines.forget()
        return True

    def keys(self, seconds: float) -> list[str] | None:
        """Wait for keys at most so long; None if there is nobody at the keyboard any more."""
        keyboard = sys.stdin.fileno()
        if not select.select([keyboard], [], [], seconds)[0]:
            return []
        typed = os.read(keyboard, _CHUNK)
        return [*split_keys(typed.decode(errors="replace"))] if typed else None

    def _send(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


@contextmanager
def taken_over() -> Iterator[LiveScreen]:
    """Take over the terminal; whatever ends the block gives it back as it was."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    handlers = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    sys.stdout.write(_ENTER)
    try:
        tty.setcbreak(keyboard)
        yield LiveScreen()
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)
