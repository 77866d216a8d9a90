"""What a run directory says of its run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import RunError
from launcher.ledger import Attempt, has_finished, read_attempts
from launcher.metrics import Row, read_newest_rows
from launcher.paths import RunDir
from launcher.recipe.units import BatchSize, Length
from launcher.record import RunRecord


@dataclass(frozen=True)
class RunFacts:
    """What a run directory says."""

    run: RunDir
    record: RunRecord
    attempts: tuple[Attempt, ...]
    newest: tuple[Row, ...]
    """The newest rows of metrics.jsonl, oldest first."""
    total_steps: int | None
    stop_requested: bool

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def waits_for_first_start(self) -> bool:
        """Whether nothing has started since the run was last put into the queue."""
        newest, last = next(reversed(self.record.submissions), None), self.last
        if newest is None or last is None:
            return newest is not None
        # Clocks of nodes differ, so times count only where a number may be another process's by now.
        is_its_own = last.job_id == newest.job_id and not last.job_id.startswith("local-")
        return not is_its_own and last.started < newest.time

    @property
    def job_id(self) -> str:
        """The job that carries the run now, or did so last."""
        if self.last and not self.waits_for_first_start:
            return self.last.job_id
        return self.record.submissions[-1].job_id if self.record.submissions else ""

    @property
    def is_settled(self) -> bool:
        """Whether the ledger alone tells the state: the run is over for good."""
        if self.is_finished:
            return True
        return self.last is not None and self.last.action == "stop" and not self.waits_for_first_start

    @property
    def is_finished(self) -> bool:
        """Whether it reached its end."""
        return has_finished(self.attempts)

    @property
    def speed(self) -> float | None:
        """Bytes, or for lack of these steps, per second in the newest rows of one attempt, pauses included."""
        rows = [row for row in self.newest if row.get("attempt") == self.newest[-1].get("attempt")]
        if len(rows) < 2 or rows[-1]["time"] <= rows[0]["time"]:
            return None
        unit = "bytes" if "bytes" in rows[0] else "step"
        return float((rows[-1][unit] - rows[0][unit]) / (rows[-1]["time"] - rows[0]["time"]))

    @property
    def eta_seconds(self) -> float | None:
        """How long the rest takes at that speed."""
        speed, row = self.speed, self.newest[-1] if self.newest else {}
        if not speed or speed < 0 or "phase" in row:
            return None
        if "bytes" in row:
            return float((row["bytes_total"] - row["bytes"]) / speed)
        return None if self.total_steps is None else max(0, self.total_steps - row["step"]) / speed


def read_facts(run: RunDir) -> RunFacts:
    """Read what a run directory says."""
    attempts = tuple(read_attempts(run.ledger))
    return RunFacts(
        run,
        RunRecord.read(run.record),
        attempts,
        tuple(read_newest_rows(run.metrics)),
        _total_steps(run, attempts),
        run.stop_request.exists(),
    )


def read_all_facts(runs: Sequence[RunDir]) -> tuple[list[RunFacts], list[str]]:
    """Read run directories; one that is damaged, or removed at this moment, is not to hide all others.

    Returns:
        What they say, and which of them cannot be read.

    Raises:
        RunError: None of them can be read.
    """
    facts, damage = [], []
    for run in runs:
        try:
            facts.append(read_facts(run))
        except (OSError, ValueError, KeyError, TypeError) as error:
            damage.append(
                f"`{run.root}` cannot be read ({type(error).__name__}: {error}); remove it if it is of no use"
            )
    if damage and not facts:
        raise RunError("\n".join(damage))
    return facts, damage


def _total_steps(run: RunDir, attempts: Sequence[Attempt]) -> int | None:
    """What rank 0 worked out; before the first start, what the recipe says of steps or tokens."""
    noted = [attempt.total_steps for attempt in attempts if attempt.total_steps is not None]
    if noted:
        return noted[-1]
    recipe = json.loads(run.recipe.read_text(encoding="utf-8")) if run.recipe.is_file() else {}
    if "schedule" not in recipe:
        return None
    length, batch = Length(recipe["schedule"]["length"]), recipe["batch"]
    if length.unit == "step":
        return length.value
    if length.unit == "epoch":
        return None
    size = BatchSize(batch["global_batch"])
    tokens = size.value if size.unit == "token" else size.value * batch["sequence_length"]
    return max(1, length.value // tokens)
