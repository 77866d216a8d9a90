"""What the ranks of an attempt failed with, in their logs: each error once, with the ranks that met it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.monitor.logs import read_tail
from launcher.run.stacks import SharedStack, group_stacks, parse_dump

_BEGIN = "Traceback (most recent call last):"
_FRAME = re.compile(r'\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)')
_FATAL = "Fatal Python error: "
_FATAL_FRAME = re.compile(r'\s*File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)')
"""As faulthandler writes it, of which the first is the innermost (https://docs.python.org/3/library/faulthandler.html)."""
_ERROR = re.compile(r"[A-Za-z_][\w.]*(:|$)")
_LINES = 4000
"""How much of the end of a log is read; what ranks print after an error is short."""
_OWN = ("/jobs/", "/launcher/")
_NO_PROGRESS = "made no progress"


@dataclass(frozen=True)
class RankError:
    """An error, and the ranks whose logs end with it."""

    error: str
    """Its type and what it says, in one line."""
    place: str
    """File, line and function of the last frame, and of the last one in this project if that is another."""
    ranks: tuple[int, ...]

    @property
    def is_a_hang(self) -> bool:
        """Whether it is the watchdog's word instead of an error."""
        return self.error == _NO_PROGRESS


def find_stacks(logs: Mapping[int, Path]) -> tuple[SharedStack, ...]:
    """Find where the watchdog found the ranks; those at the same place together, the odd ones first."""
    dumps = {rank: parse_dump("\n".join(read_tail(path, _LINES))) for rank, path in logs.items()}
    return group_stacks({rank: dump for rank, dump in dumps.items() if dump})


def find_errors(logs: Mapping[int, Path]) -> list[RankError]:
    """Find the last traceback of each rank; ranks with the same error, but for numbers in it, are put together.

    Args:
        logs: The ranks' logs.

    Returns:
        The errors, the one that most ranks share last: what fails first is most often on one rank alone.
    """
    found: dict[tuple[str, str], tuple[str, str, list[int]]] = {}
    for rank, path in sorted(logs.items()):
        lines = read_tail(path, _LINES)
        last = _crash(lines) or _last(lines) or _hang(lines)
        if last is not None:
            key = (re.sub(r"0x[0-9a-f]+|\d+", "N", last[0]), last[1])
            found.setdefault(key, (*last, []))[2].append(rank)
    errors = [RankError(error, place, tuple(ranks)) for error, place, ranks in found.values()]
    return sorted(errors, key=lambda one: (len(one.ranks), one.ranks))


def _last(lines: Sequence[str]) -> tuple[str, str] | None:
    """Find the last traceback's error and place; None without one that is whole."""
    begins = [place for place, line in enumerate(lines) if line.strip().endswith(_BEGIN)]
    for begin in reversed(begins):
        body = lines[begin + 1 :]
        frames = [match for line in body if (match := _FRAME.match(line))]
        error = next((line.strip() for line in body if line[:1].strip()), "")
        if frames and _ERROR.match(error):
            return error, ", called by ".join(_places(frames))
    return None


def _crash(lines: Sequence[str]) -> tuple[str, str] | None:
    """Find what faulthandler wrote of a crash: nothing of Python comes after it."""
    begins = [place for place, line in enumerate(lines) if line.startswith(_FATAL)]
    if not begins:
        return None
    threads = _threads(lines[begins[-1] + 1 :])
    current = next((frames for head, frames in threads if head.startswith("Current thread")), [])
    return lines[begins[-1]].strip(), _where(current)


def _hang(lines: Sequence[str]) -> tuple[str, str] | None:
    """Find where the watchdog found the rank: in the last of its threads that runs code of this project."""
    begins = [place for place, line in enumerate(lines) if line.startswith("Timeout (")]
    if not begins:
        return None
    threads = [frames for _, frames in _threads(lines[begins[-1] + 1 :])]
    own = [frames for frames in threads if any(part in frame["file"] for frame in frames for part in _OWN)]
    return _NO_PROGRESS, _where((own or threads or [[]])[-1])


def _threads(lines: Sequence[str]) -> list[tuple[str, list[re.Match[str]]]]:
    """Read the threads that faulthandler or the watchdog wrote, each with its frames, the innermost first."""
    threads: list[tuple[str, list[re.Match[str]]]] = []
    for line in lines:
        if "(most recent call first)" in line:
            threads.append((line, []))
        elif threads and (match := _FATAL_FRAME.match(line)):
            threads[-1][1].append(match)
    return threads


def _where(frames: Sequence[re.Match[str]]) -> str:
    return ", called by ".join(_places(frames[::-1])) if frames else "an unknown place"


def _places(frames: Sequence[re.Match[str]]) -> Iterator[str]:
    yield _write(frames[-1])
    own = [frame for frame in frames if any(part in frame["file"] for part in _OWN)]
    if own and own[-1] is not frames[-1]:
        yield _write(own[-1])


def _write(frame: re.Match[str]) -> str:
    return f"{frame['file']}:{frame['line']} in {frame['function'].strip()}"
