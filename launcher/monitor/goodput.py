"""What a run cost: useful and redone steps, time in the queue and time in training, from the run directory alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.monitor.traces import kept_limits
from launcher.run.ledger import Attempt, read_attempts, read_json_lines
from launcher.run.metrics import Row
from launcher.run.paths import RunDir, list_shares
from launcher.run.record import RunRecord


@dataclass(frozen=True)
class Goodput:
    """Where the steps and the time of a run went."""

    useful_steps: int
    """Those that the run kept."""
    redone_steps: int
    """Trained, then lost with an attempt; trained again, or still to be."""
    queued_seconds: float
    """Between a submission, or the end of an attempt, and the next start."""
    attempt_seconds: float
    """Sum over all attempts, from start to end."""

    @property
    def useful_fraction(self) -> float | None:
        """Share of the trained steps that count."""
        trained = self.useful_steps + self.redone_steps
        return self.useful_steps / trained if trained else None


def measure_goodput(run: RunDir) -> Goodput:
    """Measure what a run cost so far, with its tasks if it has any; reads run.json, ledger and metrics of each."""
    own = compute_goodput(RunRecord.read(run.record), read_attempts(run.ledger), read_json_lines(run.metrics))
    tasks = [measure_goodput(share) for share in list_shares(run)]
    return _sum_up(own, tasks) if tasks else own


def _sum_up(finalise: Goodput, tasks: Sequence[Goodput]) -> Goodput:
    return Goodput(
        # The last run counts the files of all of them once it has started. Until the tasks are over it waits for them,
        # not in the queue.
        useful_steps=max(finalise.useful_steps, sum(task.useful_steps for task in tasks)),
        redone_steps=finalise.redone_steps + sum(task.redone_steps for task in tasks),
        queued_seconds=sum(task.queued_seconds for task in tasks),
        attempt_seconds=finalise.attempt_seconds + sum(task.attempt_seconds for task in tasks),
    )


def compute_goodput(record: RunRecord, attempts: Sequence[Attempt], rows: Sequence[Row]) -> Goodput:
    """Compute a run's goodput from what its files hold.

    An attempt without an end, because it runs or was killed, counts up to its newest logged step.
    """
    seen = {int(row["attempt"]): float(row["time"]) for row in rows}
    newest: dict[int, int] = {}
    for row in rows:
        newest[int(row["attempt"])] = max(int(row["step"]), newest.get(int(row["attempt"]), 0))
    trained = sum(newest[one.number] - (one.first_step or 0) for one in attempts if one.number in newest)
    limits = kept_limits(attempts)
    useful = max((int(min(step, limits.get(number, math.inf))) for number, step in newest.items()), default=0)
    return Goodput(
        useful_steps=useful,
        redone_steps=max(0, trained - useful),
        queued_seconds=sum(_queued(record, attempts, index) for index in range(len(attempts))),
        attempt_seconds=sum(
            max(0.0, (one.ended or seen.get(one.number, one.started)) - one.started) for one in attempts
        ),
    )


def _queued(record: RunRecord, attempts: Sequence[Attempt], index: int) -> float:
    started = attempts[index].started
    since = [submission.time for submission in record.submissions if submission.time <= started]
    since += [attempt.ended for attempt in attempts[:index] if attempt.ended is not None]
    return max(0.0, started - max(since, default=started))
