"""How far work is, for `launcher status` and on a terminal."""

import json
import sys
import time
from typing import Any, Self

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

from jobs.rank.atomic_files import naming
from jobs.rank.context import Context

ROW_SECONDS = 5.0
"""Between two rows: some 3 MB a day."""


class ProgressRows:
    """Rows in metrics.jsonl every few seconds and, on a terminal, a bar.

    Args:
        context: Its metrics.jsonl gets the rows.
        total: What the bar counts to; None: it appears when that is known.
        columns: Of the bar, after its description.
    """

    def __init__(self, context: Context, total: int | None, *columns: ProgressColumn) -> None:
        self._context = context
        self.next_row = 0.0
        # No thread refreshes it: a fork while that holds the terminal's lock would leave workers waiting forever.
        columns = (TextColumn("{task.description}"), BarColumn(), *columns)
        self.bar = Progress(*columns, auto_refresh=False, disable=not sys.stdout.isatty())
        self.task = self.bar.add_task("", total=total, visible=total is not None)

    def write_row(self, **values: Any) -> None:
        """Write a row now."""
        self.next_row = time.monotonic() + ROW_SECONDS
        row = {"time": time.time(), "attempt": self._context.attempt, **values}
        # A kill may tear a row; that is no loss, since the next one comes soon.
        metrics = self._context.run.metrics
        with naming(metrics), metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.bar.disable:
            self.bar.stop()
