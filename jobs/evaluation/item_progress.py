"""How far an evaluation or a generation is, in items."""

import time

from rich.progress import MofNCompleteColumn, TimeRemainingColumn

from jobs.rank.context import Context
from jobs.rank.progress_rows import ProgressRows


class ItemProgress(ProgressRows):
    """Follows the items that one run has to work on. Only rank 0 writes.

    Args:
        context: Its metrics.jsonl gets the rows.
        total: Items.
    """

    def __init__(self, context: Context, total: int) -> None:
        self._is_main = context.ranks.is_main
        self._done = 0
        super().__init__(context, total, MofNCompleteColumn(), TimeRemainingColumn())

    def count(self, items: int, **more: float) -> None:
        """Count items that are done; with other numbers for the row, a row is written at once."""
        self._done += items
        if self._is_main and (more or time.monotonic() >= self.next_row):
            self.write_row(step=self._done, **more)
            self.bar.update(self.task, completed=self._done, description="items", refresh=True)

    def __exit__(self, *error: object) -> None:
        self.next_row = 0.0
        self.count(0)
        super().__exit__(*error)
