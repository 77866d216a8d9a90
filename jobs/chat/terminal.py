"""The terminal of `launcher chat`: questions are typed, answers appear while they are written.

Nothing is kept: readline holds what was typed in memory, for the arrow keys, and writes no file.
"""

import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from jobs.chat.commands import ChatState, run_command
from jobs.chat.dialogue import Dialogue
from jobs.chat.settings import ChatSettings
from launcher.errors import LauncherError

try:
    import readline
except ImportError:  # a Python without it
    readline = None  # type: ignore[assignment]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What could steer a terminal; models can write it."""
_LEAVE = ("/leave", "/exit", "/quit")
_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Terminal:
    """Reads lines, shows answers.

    Args:
        dialogues: Who answers, one after the other.
        settings: How, at the start.
        colours: Whether the terminal shows them.
    """

    def __init__(self, dialogues: Sequence[Dialogue], settings: ChatSettings, colours: bool) -> None:
        self._state = ChatState(dialogues, settings)
        self._colours = colours
        self._answering: Dialogue | None = None
        self._is_stopped = False

    def run(self) -> None:
        """Talk until the user leaves."""
        if readline:
            readline.parse_and_bind("set enable-bracketed-paste on")  # a text of several lines is one message
        signal.signal(signal.SIGINT, self._on_interrupt)
        while (line := self._read()) is not None:
            self._heed(line)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C changes nothing
        self._show("")

    def _read(self) -> str | None:
        """Return a line; None if there are no more, or the user presses Ctrl-C before typing one."""
        try:
            line = input(self._styled("you> ", _BOLD, prompt=True) if sys.stdin.isatty() else "")
        except EOFError:
            return None
        except KeyboardInterrupt as interrupt:
            self._show("")
            return "" if interrupt.args else None
        line = line.encode("utf-8", "replace").decode().replace("\r", "\n").strip()
        return None if line in _LEAVE else line

    def _heed(self, line: str) -> None:
        try:
            if line == "/again":
                self._ask_again()
            elif line.startswith("/") and not line.startswith("//"):
                for text in run_command(self._state, line):
                    self._show(_shown(text))
            elif line:
                self._state.asked, self._state.times = line.removeprefix("/"), 0
                self._ask()
        except LauncherError as error:
            self._show(self._styled(_shown(str(error)), _DIM))
        except KeyboardInterrupt:  # of a command, or between two answers
            self._show(self._styled("stopped", _DIM))

    def _ask_again(self) -> None:
        if self._state.asked is None:
            raise LauncherError("nothing was asked yet")
        for dialogue in self._state.dialogues:
            dialogue.take_back(self._state.asked)
        self._state.times += 1
        self._ask()

    def _ask(self) -> None:
        self._is_stopped = False
        for dialogue in self._state.dialogues:
            if not self._is_stopped:
                self._show_answer(dialogue)

    def _show_answer(self, dialogue: Dialogue) -> None:
        assert self._state.asked is not None
        sys.stdout.write(self._styled(f"{dialogue.model.title}> ", _BOLD))
        sys.stdout.flush()
        self._answering = dialogue
        try:
            for part in dialogue.ask(self._state.asked, self._state.settings, self._state.times):
                sys.stdout.write(_shown(part))
                sys.stdout.flush()
        finally:
            self._answering = None
            self._show("")
        self._show(self._styled(f"({dialogue.summary()})", _DIM))

    def _on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._is_stopped = True
        if self._answering:
            self._answering.stop()
        else:
            typed = readline.get_line_buffer() if readline and sys.stdin.isatty() else ""
            raise KeyboardInterrupt(*([True] if typed else []))

    def _styled(self, text: str, style: str, prompt: bool = False) -> str:
        if not self._colours:
            return text
        start, end = (f"\x01{style}\x02", f"\x01{_PLAIN}\x02") if prompt and readline else (style, _PLAIN)
        return f"{start}{text}{end}"

    def _show(self, text: str) -> None:
        print(text, flush=True)


def _shown(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
