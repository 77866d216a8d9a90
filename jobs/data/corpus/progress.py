"""How far a prepare is, in files and bytes, then in steps of what follows: for `launcher status`, and on a terminal."""

import mmap
import time
from collections.abc import Callable, Mapping
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.progress import DownloadColumn, MofNCompleteColumn, TimeRemainingColumn, TransferSpeedColumn

from jobs.rank.context import Context
from jobs.rank.progress_rows import ProgressRows
from launcher.artifacts.corpus_manifest import Tally

Gauge = NDArray[np.uint64]
"""Bytes read of each source file so far, by its number; memory that forked workers share with their parent."""

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Takes the name of a phase after the reading (`merging`), how many of its steps are done, and how many there are."""


class Progress(ProgressRows):
    """Follows the files that one run has to read.

    Args:
        context: Its metrics.jsonl gets the rows.
        sizes: Bytes of these files, by their numbers.
        done: Tallies of those that were done before.
    """

    def __init__(self, context: Context, sizes: Mapping[int, int], done: Mapping[int, Tally]) -> None:
        self._sizes = sizes
        self._total = sum(sizes.values())
        self.gauge: Gauge = np.frombuffer(mmap.mmap(-1, 8 * (max(sizes, default=0) + 1)), np.uint64)
        self._files = self._tokens = 0
        super().__init__(context, self._total, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        for number, tally in done.items():
            self.count(number, tally)

    def count(self, number: int, tally: Tally) -> None:
        """Count a file that is done."""
        self.gauge[number] = self._sizes[number]
        self._files += 1
        self._tokens += sum(tally.tokens.values())

    def report(self) -> None:
        """Update the bar, and write a row if one is due."""
        size = int(self.gauge.sum())
        files = f"{self._files}/{len(self._sizes)} files"
        self.bar.update(self.task, completed=size, description=files, refresh=True)
        if time.monotonic() >= self.next_row:
            self.write_row(step=self._files, bytes=size, bytes_total=self._total, tokens=self._tokens)

    def __enter__(self) -> Self:
        self.report()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        self.next_row = 0.0
        self.report()
        super().__exit__(*error)


class Phases(ProgressRows):
    """Follows what comes after all files have been read.

    Args:
        context: Its metrics.jsonl gets the rows.
        files: How many there were.
        size: Their bytes.
    """

    def __init__(self, context: Context, files: int, size: int) -> None:
        super().__init__(context, None, MofNCompleteColumn())
        self._read = {"step": files, "bytes": size, "bytes_total": size}
        self._reported: tuple[str, int, int] | None = None

    def report(self, phase: str, done: int, total: int) -> None:
        """Show how far a phase is, if that is new or a row is due."""
        if (phase, done, total) != self._reported or time.monotonic() >= self.next_row:
            self._reported = (phase, done, total)
            self.write_row(**self._read, phase=phase, phase_done=done, phase_total=total)
            self.bar.update(self.task, description=phase, completed=done, total=total, visible=True, refresh=True)
