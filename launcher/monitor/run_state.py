"""What a run directory says of its run."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.recipe.quantities import BatchSize, Length
from launcher.run.ledger import Attempt, StopRequest, has_finished, read_attempts
from launcher.run.metrics import Row, read_newest_rows
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.typed import DamagedFileError, read_resolved
from launcher.slurm.query import QueryResult, find_jobs


@dataclass(frozen=True)
class RunState:
    """What a run directory says."""

    folder: RunDir
    record: RunRecord
    attempts: tuple[Attempt, ...]
    newest: tuple[Row, ...]
    """The newest rows of metrics.jsonl, oldest first."""
    total_steps: int | None
    stop_request: StopRequest | None

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
    def stop_requested(self) -> bool:
        """Whether a person asked it to stop; what the batch process wrote for Slurm ends only one attempt."""
        return self.stop_request is not None and self.stop_request.reason == "user"

    @property
    def job_id(self) -> str:
        """The job that carries the run now, or did so last."""
        if self.last and not self.waits_for_first_start:
            return self.last.job_id
        return self.record.submissions[-1].job_id if self.record.submissions else ""

    @property
    def submission(self) -> str:
        """Folder of the submission that this job carries out; empty if that is not known."""
        return self.record.submission_of(self.job_id)

    @property
    def is_terminal(self) -> bool:
        """Whether the ledger says that the run is over for good."""
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


def read_state(run: RunDir) -> RunState:
    """Read what a run directory says."""
    attempts = tuple(read_attempts(run.ledger))
    return RunState(
        run,
        RunRecord.read(run.record),
        attempts,
        tuple(read_newest_rows(run.metrics)),
        _total_steps(run, attempts),
        StopRequest.read(run.stop_request),
    )


def read_states(runs: Sequence[RunDir], is_enough: bool = False) -> tuple[list[RunState], list[str]]:
    """Read run directories; one that is damaged or was just removed does not hide the others.

    Args:
        runs: The runs.
        is_enough: Whether others are known, so that it is no error if none of these can be read.

    Returns:
        What they say, and which of them cannot be read.

    Raises:
        RunError: None of them can be read.
    """
    states, damage = [], []
    for run in runs:
        try:
            states.append(read_state(run))
        except (OSError, ValueError, KeyError, TypeError) as error:
            damage.append(
                f"`{run.root}` cannot be read ({type(error).__name__}: {error}); remove it if you no longer need it"
            )
    if damage and not states and not is_enough:
        raise RunError("\n".join(damage))
    return states, damage


def ask_about(cluster: Cluster, runs: Sequence[RunState]) -> tuple[QueryResult, dict[Path, RunState]]:
    """Ask about the jobs of runs; read a run again if its job is over, since it may have ended after it was read.

    Args:
        cluster: The site.
        runs: What their directories say.

    Returns:
        What Slurm says, and what the run directories say now, by their paths.
    """
    live = [one for one in runs if one.job_id and not one.is_terminal]
    answer = find_jobs(cluster, (one.job_id for one in live))
    over = [one for one in live if answer.is_gone(one.job_id, one.submission)]
    again: list[RunState] = []
    with suppress(RunError):  # removed since
        again, _ = read_states([one.folder for one in over])
    moved = {one.job_id for one in again if not one.is_terminal} - {one.job_id for one in over}
    if moved:  # submitted anew
        answer = replace(answer, jobs={**answer.jobs, **find_jobs(cluster, moved).jobs})
    return answer, {one.folder.root: one for one in (*runs, *again)}


def _total_steps(run: RunDir, attempts: Sequence[Attempt]) -> int | None:
    """What rank 0 worked out; before the first start, what the recipe says of steps or tokens."""
    noted = [attempt.total_steps for attempt in attempts if attempt.total_steps is not None]
    if noted:
        return noted[-1]
    recipe = read_resolved(run.recipe)
    try:
        return _steps_of(recipe) if "schedule" in recipe else None
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise DamagedFileError(f"{run.recipe}: is no recipe ({type(error).__name__}: {error})") from None


def _steps_of(recipe: Mapping[str, Any]) -> int | None:
    length, batch = Length(recipe["schedule"]["length"]), recipe["batch"]
    if length.unit == "step":
        return length.value
    if length.unit == "epoch":
        return None
    size = BatchSize(batch["global_batch"])
    tokens = size.value if size.unit == "token" else size.value * batch["sequence_length"]
    return max(1, length.value // tokens)
