"""How far a prepare is, in files and bytes: rows of metrics.jsonl for `launcher status`, a bar on a terminal."""

import json
import mmap
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from jobs.runtime.context import Context

if TYPE_CHECKING:
    from jobs.data.parts import Part

ROW_SECONDS = 5.0
"""Between two rows: some 3 MB a day."""

Gauge = NDArray[np.uint64]
"""Bytes read of each source file so far, by its number; memory that forked workers share with their parent."""


class Progress:
    """Follows the files that one run has to read.

    Args:
        context: Its metrics.jsonl gets the rows.
        sizes: Bytes of these files, by their numbers.
        done: Parts of those that were done before.
    """

    def __init__(self, context: Context, sizes: Mapping[int, int], done: Mapping[int, "Part"]) -> None:
        self._context = context
        self._sizes = sizes
        self.gauge: Gauge = np.frombuffer(mmap.mmap(-1, 8 * (max(sizes, default=0) + 1)), np.uint64)
        self._files = 0
        self._tokens = 0
        self._next_row = 0.0
        self._bar = _make_bar() if sys.stdout.isatty() else None
        self._task = self._bar.add_task("reading", total=sum(sizes.values())) if self._bar else None
        for number, part in done.items():
            self.count(number, part)

    def count(self, number: int, part: "Part") -> None:
        """Count a file that is done."""
        self.gauge[number] = self._sizes[number]
        self._files += 1
        self._tokens += sum(part.tally.tokens.values())

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
        row: dict[str, Any] = {
            "time": time.time(),
            "step": self._files,
            "attempt": self._context.attempt,
            "bytes": self._bytes(),
            "bytes_total": sum(self._sizes.values()),
            "tokens": self._tokens,
        }
        # A row that a torn one spoils is no loss: the next one comes soon.
        with self._context.run.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

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


def _make_bar() -> Bar:
    # No thread refreshes it: a fork while that holds the terminal's lock would leave workers waiting for ever.
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Bar(*columns, TimeRemainingColumn(), auto_refresh=False)
