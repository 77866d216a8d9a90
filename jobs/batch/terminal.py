"""A rank on the terminal, breakpoints and all, with the lines of the other ranks in between."""

import errno
import fcntl
import os
import pty
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.run.log_tail import Tail

_POLL_SECONDS = 0.1
_CHUNK = 65536
_ERASE_LINE = b"\r\x1b[K"
_MAX_REDRAWN = 4096


class Screen:
    """A terminal that shows one interactive process and, between its lines, those of others.

    Args:
        label: Put before each line of the interactive process.
        write: Takes the bytes to show.
        log: Where the interactive process's output is kept, too.
    """

    def __init__(self, label: str, write: Callable[[bytes], None], log: Callable[[bytes], Any]) -> None:
        self._label = label.encode()
        self._write = write
        self._log = log
        self._line = b""
        """What the interactive process has on its current line, its prompt for example."""

    def show(self, output: bytes) -> None:
        """Show output of the interactive process."""
        self._log(output.replace(b"\r\n", b"\n"))
        shown = bytearray()
        for number, part in enumerate(output.split(b"\n")):
            if number:
                shown += b"\n"
                self._line = b""
            if part:
                shown += part if self._line else self._label + part
                self._line = (self._line + part)[-_MAX_REDRAWN:]
        self._write(bytes(shown))

    def show_between(self, lines: Sequence[str]) -> None:
        """Show whole lines of others; an unfinished line of the interactive process is drawn again below."""
        if not lines:
            return
        text = "".join(f"{line}\r\n" for line in lines).encode()
        if self._line.strip():
            self._write(_ERASE_LINE + text + self._label + self._line)
        else:
            self._write(text)


class OtherRanks:
    """The new lines that ranks wrote into their logs, labelled."""

    def __init__(self, logs: Mapping[int, Path]) -> None:
        self._tails = {rank: Tail(path) for rank, path in logs.items()}

    def read(self) -> list[str]:
        """Return what is new since the last call."""
        return [f"[rank {rank}] {line}" for rank, tail in self._tails.items() for line in tail.read()]


def run_on_terminal(
    argv: Sequence[str],
    environ: Mapping[str, str],
    folder: Path,
    others: Callable[[], list[str]],
    log: Path,
    rank: int = 0,
) -> int:
    """Run a rank, or the srun that leads to it, on this terminal until it ends.

    Every key goes to it, Ctrl-C among them: it interrupts that rank alone, as pdb wants it.

    Args:
        argv: The command.
        environ: Its environment.
        folder: Its working directory.
        others: Returns new lines of other ranks.
        log: The rank's log.
        rank: Which one it is.

    Returns:
        Its exit code, 128 + N if signal N ended it.
    """
    process, master = pty.fork()
    if process == 0:
        _become(argv, environ, folder)
    with log.open("ab", buffering=0) as copy, _raw_terminal(), _same_size(master):
        screen = Screen(f"[rank {rank}] ", _write_all, copy.write)
        _pass_on(master, screen, others)
        screen.show_between(others())
    os.close(master)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return code if code >= 0 else 128 - code


def _become(argv: Sequence[str], environ: Mapping[str, str], folder: Path) -> None:
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # it may be ignored here, and that would be inherited
        os.chdir(folder)
        os.execvpe(argv[0], list(argv), dict(environ))  # noqa: S606 - an argument list, no shell
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
    finally:
        os._exit(127)


def _pass_on(master: int, screen: Screen, others: Callable[[], list[str]]) -> None:
    keyboard = sys.stdin.fileno()
    sources = [master, keyboard]
    while True:
        ready, _, _ = select.select(sources, [], [], _POLL_SECONDS)
        if keyboard in ready:
            keys = os.read(keyboard, _CHUNK)
            if keys:
                os.write(master, keys)
            else:
                sources.remove(keyboard)
        if master in ready:
            output = _read(master)
            if not output:
                return
            screen.show(output)
        screen.show_between(others())


def _read(master: int) -> bytes:
    try:
        return os.read(master, _CHUNK)
    except OSError as error:
        if error.errno == errno.EIO:  # Linux: the last process has closed the other end
            return b""
        raise


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Leave all keys and all drawing to the inner terminal."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setraw(keyboard, termios.TCSADRAIN)  # keeps what was typed ahead
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@contextmanager
def _same_size(master: int) -> Iterator[None]:
    """Keep the inner terminal as large as the outer one."""

    def copy(*_: object) -> None:
        size = fcntl.ioctl(sys.stdin.fileno(), termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(master, termios.TIOCSWINSZ, size)

    copy()
    before = signal.signal(signal.SIGWINCH, copy)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
