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
from launcher.run.metrics import Row, is_training, read_joined_rows
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
        self._owed: Row = {}

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
        if row["step"] == self._owed.get("step"):
            self._owed = {key: value for key, value in self._owed.items() if key in _NO_POINTS or key not in row}
        self._settle(row["step"])
        self.log("validation", row, "validation_")

    def log_training(self, row: Mapping[str, Any]) -> None:
        """Write a step's row."""
        self._settle(row["step"])
        self.log("train", row)

    def owe_evaluation(self, row: Row) -> None:
        """Take the row of an evaluation that may be done again at once; without that, it is written later on."""
        self._owed = row

    def close(self) -> None:
        """End the file."""
        self._settle(None)
        self._writer.close()

    def _settle(self, step: int | None) -> None:
        """Write the rest of the row that is owed, if training has gone beyond its step or ends."""
        if self._owed and (step is None or step > self._owed["step"]):
            owed, self._owed = self._owed, {}
            self.log("validation", owed, "validation_")


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
        events.log_training(row)
    for row in read_joined_rows(run.evaluations):
        if first - WRITTEN_AGAIN < row["step"] < first or row["step"] == first == total:
            events.log_evaluation(row)
        elif row["step"] == first:
            # Most kinds evaluate there again; not the one that has saved the checkpoint since it is the best.
            events.owe_evaluation(row)
    return events


def _rows_until(run: RunDir, first: int, interval: int) -> Iterator[Row]:
    """Give what was logged of the last steps before an attempt: every so many, and the one where it begins."""
    for row in read_joined_rows(run.metrics):
        step = row["step"]
        is_point = step % interval == 0 or step == first
        if first - WRITTEN_AGAIN < step <= first and is_point and is_training(row):
            yield row
