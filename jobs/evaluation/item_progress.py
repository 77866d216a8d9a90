"""How far an evaluation or a generation is, in items."""

import time
from collections.abc import Mapping
from typing import Self

from rich.progress import MofNCompleteColumn, TimeRemainingColumn

from jobs.rank.atomic_files import naming
from jobs.rank.context import Context
from jobs.rank.progress_rows import ProgressRows
from launcher.run.ledger import append_event

NOTE_SECONDS = 10.0
"""Between two notes in the ledger, which the restart policy goes by, or a hundredth of the attempt so far if that is
more: each is a line on the disk that every reader of the ledger parses."""


class ItemProgress(ProgressRows):
    """Follows the items that one run has to work on. Only rank 0 writes.

    Args:
        context: Its metrics.jsonl gets rows, its ledger where the attempt begins and what is safe.
        done: Items of each task that are finished before this attempt begins.
        total: Items of all tasks.
    """

    def __init__(self, context: Context, done: Mapping[str, int], total: int) -> None:
        self._is_main = context.ranks.is_main
        self._done, self._total = {**done}, total
        self._began, self._next_note = time.monotonic(), 0.0
        super().__init__(context, total, MofNCompleteColumn(), TimeRemainingColumn())

    def tell(self, task: str, items: int) -> None:
        """Tell how many items of a task are finished by now."""
        self._done[task] = items
        if self._is_main:
            self._write_what_is_due()

    def _write_what_is_due(self) -> None:
        step, now = sum(self._done.values()), time.monotonic()
        if now >= self.next_row:
            self.write_row(step=step)
            self.bar.update(self.task, completed=step, description="items", refresh=True)
        if now >= self._next_note:
            self._next_note = now + max(NOTE_SECONDS, (now - self._began) / 100)
            self._note(last_step=step)

    def _note(self, **steps: int) -> None:
        ledger = self._context.run.ledger
        with naming(ledger):
            append_event(ledger, self._context.attempt, **steps)

    def __enter__(self) -> Self:
        if self._is_main:
            step = sum(self._done.values())
            self._note(first_step=step, last_step=step, total_steps=self._total)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        self.next_row = self._next_note = 0.0
        if self._is_main:
            self._write_what_is_due()
        super().__exit__(*error)
