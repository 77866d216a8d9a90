"""How far a prepare is, in files and bytes, then in steps of what follows: for `launcher status`, and on a terminal."""

import json
import mmap
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

from jobs.runtime.context import Context
from jobs.runtime.durable import naming
from launcher.corpus import Tally

ROW_SECONDS = 5.0
"""Between two rows: some 3 MB a day."""

Gauge = NDArray[np.uint64]
"""Bytes read of each source file so far, by its number; memory that forked workers share with their parent."""


TellPhase: TypeAlias = Callable[[str, int, int], None]
"""Takes the name of what follows the reading (`merging`), how many of its steps are done, and how many there are."""


def tell_nobody(phase: str, done: int, total: int) -> None:
    """Follow nothing."""


class Progress:
    """Follows the files that one run has to read.

    Args:
        context: Its metrics.jsonl gets the rows.
        sizes: Bytes of these files, by their numbers.
        done: What became of those that were done before.
    """

    def __init__(self, context: Context, sizes: Mapping[int, int], done: Mapping[int, Tally]) -> None:
        self._context = context
        self._sizes = sizes
        self.gauge: Gauge = np.frombuffer(mmap.mmap(-1, 8 * (max(sizes, default=0) + 1)), np.uint64)
        self._files = 0
        self._tokens = 0
        self._next_row = 0.0
        self._bar = _make_bar() if sys.stdout.isatty() else None
        self._task = self._bar.add_task("reading", total=sum(sizes.values())) if self._bar else None
        for number, tally in done.items():
            self.count(number, tally)

    def count(self, number: int, tally: Tally) -> None:
        """Count a file that is done."""
        self.gauge[number] = self._sizes[number]
        self._files += 1
        self._tokens += sum(tally.tokens.values())

    def tell(self) -> None:
        """Tell how far it is, if it is time to."""
        if self._bar is not None and self._task is not None:
            files = f"{self._files}/{len(self._sizes)} files"
            self._bar.update(self._task, completed=self._bytes(), description=files, refresh=True)
        if time.monotonic() >= self._next_row:
            self._next_row = time.monotonic() + ROW_SECONDS
            self._write_row()

    def _bytes(self) -> int:
        return int(self.gauge.sum())

    def _write_row(self) -> None:
        total = sum(self._sizes.values())
        _write_row(self._context, step=self._files, bytes=self._bytes(), bytes_total=total, tokens=self._tokens)

    def __enter__(self) -> Self:
        self.tell()
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._next_row = 0.0
        self.tell()
        if self._bar is not None:
            self._bar.stop()


class Phases:
    """Follows what comes when all files have been read.

    Args:
        context: Its metrics.jsonl gets the rows.
        files: How many there were.
        size: Their bytes.
    """

    def __init__(self, context: Context, files: int, size: int) -> None:
        self._context = context
        self._read = {"step": files, "bytes": size, "bytes_total": size}
        self._told: tuple[str, int, int] | None = None
        self._next_row = 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Bar(*columns, auto_refresh=False) if sys.stdout.isatty() else None
        self._task = self._bar.add_task("", visible=False) if self._bar else None

    def tell(self, phase: str, done: int, total: int) -> None:
        """Tell how far it is, if there is news or it is time to."""
        now = (phase, done, total)
        if now != self._told or time.monotonic() >= self._next_row:
            self._told, self._next_row = now, time.monotonic() + ROW_SECONDS
            _write_row(self._context, **self._read, phase=phase, phase_done=done, phase_total=total)
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, description=phase, completed=done, total=total, visible=True, refresh=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()


def _write_row(context: Context, **values: Any) -> None:
    row = {"time": time.time(), "attempt": context.attempt, **values}
    # A row that a torn one spoils is no loss: the next one comes soon.
    with naming(context.run.metrics), context.run.metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _make_bar() -> Bar:
    # No thread refreshes it: a fork while that holds the terminal's lock would leave workers waiting for ever.
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Bar(*columns, TimeRemainingColumn(), auto_refresh=False)
