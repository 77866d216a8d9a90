"""The stacks of ranks in their logs: on request, and those of the watchdog. Standard library only."""

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass

SIGNAL = signal.SIGWINCH
"""What programs that do not know the request ignore (signal(7)), a rank of an older launcher among them. SIGURG is
ignored as well, but apptainer does not pass it on."""
BEGIN = "Stacks on request"
END = "End of stacks on request"
MAIN_THREAD = "MainThread"
"""Name of the thread that a program begins with."""
TIMEOUT = "Timeout ("
"""What the watchdog's stacks begin with, and those of faulthandler."""

_THREAD = re.compile(r"(?:Thread|Current thread) (0x[0-9a-f]+) (?:\[(.*)\] )?\(most recent call first\):")
_FRAME = re.compile(r'File "(?:.*/(?:site-packages|code)/)?(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)')


@dataclass(frozen=True)
class SharedStack:
    """A stack, and the ranks that are in it."""

    ranks: tuple[int, ...]
    threads: Mapping[str, tuple[str, ...]]
    """Frames by thread, the most recent call first; the main thread comes first."""

    @property
    def frames(self) -> tuple[str, ...]:
        """Those of the main thread."""
        return self.threads.get(MAIN_THREAD, ())


def write_stacks(threads: dict[str, list[str]]) -> str:
    """Write the stacks of threads, the most recent call first."""
    blocks = (f"Thread {name} (most recent call first):\n" + "".join(f"  {frame}\n" for frame in frames)
              for name, frames in threads.items())  # fmt: skip
    return f"\n{BEGIN}\n{''.join(blocks)}{END}\n"


def parse_stacks(text: str) -> dict[str, tuple[str, ...]] | None:
    """Find the last stacks on request in a log; None if there are none that are whole."""
    before, begin, rest = text.rpartition(f"\n{BEGIN}\n")
    body, end, _ = rest.partition(f"{END}\n")
    if not begin or not end:
        return parse_stacks(before) if begin else None
    threads: dict[str, list[str]] = {}
    for line in body.splitlines():
        if line.startswith("Thread "):
            name = line.removeprefix("Thread ").partition(" (most recent")[0]
            threads[name] = []
        elif threads:
            threads[name].append(line.strip())
    return {name: tuple(frames) for name, frames in threads.items()}


def parse_dump(text: str) -> dict[str, tuple[str, ...]] | None:
    """Find the last stacks that the watchdog or faulthandler wrote into a log; None if there are none."""
    lines = text.split("\n")
    begin = max((place for place, line in enumerate(lines) if line.startswith(TIMEOUT)), default=None)
    if begin is None:
        return None
    threads: dict[str, list[str]] = {}
    for line in lines[begin + 1 :]:
        if match := _THREAD.match(line):
            name = match[2] if match[2] and match[2] not in threads else match[1]
            threads[name] = []
        elif threads and line.startswith("  File "):
            threads[name].append(line.strip())
        elif line.strip():
            break
    if threads and MAIN_THREAD not in threads:
        threads[MAIN_THREAD] = threads.pop(_likely_main(threads))
    return {name: tuple(frames) for name, frames in threads.items()}


def _likely_main(threads: Mapping[str, list[str]]) -> str:
    """Guess the main thread where Python gives no names (before 3.14): the last one with code of this project."""
    own = [name for name, frames in threads.items() if any("/jobs/" in frame for frame in frames)]
    return (own or [*threads])[-1]


def group_stacks(
    found: Mapping[int, Mapping[str, tuple[str, ...]]], all_threads: bool = False
) -> tuple[SharedStack, ...]:
    """Put ranks together that are at the same place; the place of fewest ranks comes first.

    Args:
        found: Frames by rank and thread.
        all_threads: Whether all threads count, or the main one alone.
    """
    groups: dict[object, list[int]] = {}
    for rank in sorted(found):
        threads = found[rank]
        key = tuple(threads.items()) if all_threads else threads.get(MAIN_THREAD)
        groups.setdefault(key, []).append(rank)
    shared = [
        SharedStack(
            tuple(ranks),
            {name: frames for name, frames in found[ranks[0]].items() if all_threads or name == MAIN_THREAD},
        )
        for ranks in groups.values()
    ]
    return tuple(sorted(shared, key=lambda one: (len(one.ranks), one.ranks)))


def short_frame(frame: str) -> str:
    """Write `torch/nn/functional.py:9 in pad`: where packages and the run's code lie is the same for all ranks."""
    return _FRAME.sub(r"\g<file>:\g<line> in \g<function>", frame)
