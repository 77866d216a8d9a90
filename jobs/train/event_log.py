"""TensorBoard's event files: one curve over all attempts, though each attempt has a file of its own.

An attempt's file begins with a mark from which step on earlier files no longer count (`purge_step`), so that steps that
are done again replace the lost ones. A kill may have cut the last points of the attempt before off, so the mark lies
some points back, and these are taken from metrics.jsonl and evaluations.jsonl. Numbers only, never text.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.rank.context import Context
from launcher.run.ledger import read_attempts
from launcher.run.metrics import Row, read_joined_rows
from launcher.run.paths import RunDir

WRITTEN_AGAIN = 100
"""Steps of earlier attempts that are written again."""
_NO_POINTS = ("time", "step", "attempt")


class EventLog:
    """One attempt's event file.

    Args:
        folder: Where the files of all attempts lie.
        purge: From which step on earlier files no longer count; None: there are none.
    """

    def __init__(self, folder: Path, purge: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def log(self, group: str, row: Mapping[str, Any], prefix: str = "") -> None:
        """Write the numbers of a row at once: a kill must not lose what a checkpoint covers.

        Args:
            group: What TensorBoard shows them under.
            row: With `step` and `time`.
            prefix: Of names, that is left out.
        """
        for name, value in row.items():
            if name not in _NO_POINTS and isinstance(value, int | float) and math.isfinite(value):
                tag = f"{group}/{name.removeprefix(prefix)}"
                self._writer.add_scalar(tag, value, row["step"], row.get("time"))
        self._writer.flush()

    def log_evaluation(self, row: Mapping[str, Any]) -> None:
        """Write an evaluation's row."""
        self.log("validation", row, "validation_")

    def close(self) -> None:
        """End the file."""
        self._writer.close()


def open_events(context: Context, interval: int) -> EventLog:
    """Begin an attempt's event file, where the one before is to be continued.

    Args:
        context: The run and this rank.
        interval: Steps between two points.
    """
    run = context.run
    attempts = read_attempts(run.ledger) if context.attempt else []
    current = next((one for one in attempts if one.number == context.attempt), None)
    if current is None or not run.tensorboard.is_dir():
        return EventLog(run.tensorboard, None)
    first, total = current.first_step or 0, current.total_steps
    events = EventLog(run.tensorboard, max(0, first + 1 - WRITTEN_AGAIN))
    for row in _rows_until(run, first, interval):
        events.log("train", row)
    for row in read_joined_rows(run.evaluations):
        # What is due at the step where this attempt begins, it does again; but after the last step nothing is.
        if first - WRITTEN_AGAIN < row["step"] < first or row["step"] == first == total:
            events.log_evaluation(row)
    return events


def _rows_until(run: RunDir, first: int, interval: int) -> Iterator[Row]:
    """Give what was logged of the last steps before an attempt: every so many, and the one where it begins."""
    for row in read_joined_rows(run.metrics):
        step = row["step"]
        if first - WRITTEN_AGAIN < step <= first and (step % interval == 0 or step == first):
            yield row
