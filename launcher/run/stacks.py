"""Stacks on request: the signal that asks a rank for them, and what it writes into its log. Standard library only."""

import signal

SIGNAL = signal.SIGWINCH
"""What programs that do not know the request ignore (signal(7)), a rank of an older launcher among them. SIGURG is
ignored as well, but apptainer does not pass it on."""
BEGIN = "Stacks on request"
END = "End of stacks on request"
MAIN_THREAD = "MainThread"
"""Name of the thread that a program begins with."""


def write_stacks(threads: dict[str, list[str]]) -> str:
    """Write the stacks of threads, the most recent call first."""
    blocks = (f"Thread {name} (most recent call first):\n" + "".join(f"  {frame}\n" for frame in frames)
              for name, frames in threads.items())  # fmt: skip
    return f"\n{BEGIN}\n{''.join(blocks)}{END}\n"


def parse_stacks(text: str) -> dict[str, tuple[str, ...]] | None:
    """Find the last stacks in a log; None if there are none that are whole."""
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
