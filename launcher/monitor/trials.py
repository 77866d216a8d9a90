"""What the trials of a search have come to so far, as their run directories say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from launcher.monitor.elsewhere import Sighting, sight
from launcher.monitor.sweep import read_measured
from launcher.run.ledger import Attempt, StopRequest, has_finished, read_attempts
from launcher.run.metrics import read_joined_rows
from launcher.run.paths import RunDir
from launcher.run.trials import Owner, SearchDir, Trial, newest_owner, read_trials

TrialState: TypeAlias = Literal["finished", "pruned", "failed", "stopped", "open"]
"""`stopped`: by a person; `open`: under way, or waiting for somebody who takes it up."""


@dataclass(frozen=True)
class PastTrial:
    """A trial, and what is known of it."""

    trial: Trial
    turn: int
    """How many have taken it up again."""
    owner: Owner
    """The last one."""
    state: TrialState
    value: float | None
    """The newest value of the metric; None if there is none, or it is undefined."""
    reports: Mapping[int, float]
    """Values by step."""
    stops: int
    """Attempts that were the last one, as it seemed."""
    unclosed: int | None = None
    """Number of the last attempt, if nobody has noted its end."""


def read_past(folder: SearchDir, metric: str) -> list[PastTrial]:
    """Read the trials of a search, in their order.

    Args:
        folder: The search.
        metric: What its trials are compared by.
    """
    return [_read(folder, trial, metric) for trial in read_trials(folder)]


def sight_trial(folder: SearchDir, one: PastTrial) -> Sighting | None:
    """Tell whether a process of another machine works on a trial, as files say; one just claimed has no directory yet.

    Args:
        folder: The search.
        one: The trial.
    """
    if not one.owner.job.startswith("local-") or (one.state != "open" and one.unclosed is None):
        return None
    number = one.trial.number
    claim = folder.owner(number, one.turn) if one.turn else folder.trial(number)
    return sight(RunDir(folder.runs_root / one.trial.run), one.unclosed, one.owner.host, claim)


def jobs_elsewhere(folder: SearchDir, metric: str) -> list[str]:
    """List the processes of other machines that work on trials; each is named once.

    Args:
        folder: The search.
        metric: What its trials are compared by.
    """
    seen = [one.owner for one in read_past(folder, metric) if sight_trial(folder, one)]
    return [job for job, _ in dict.fromkeys((owner.job, owner.host) for owner in seen)]


def _read(folder: SearchDir, trial: Trial, metric: str) -> PastTrial:
    run = RunDir(folder.runs_root / trial.run)
    turn, owner = newest_owner(folder, trial)
    attempts = read_attempts(run.ledger)
    stops = sum(attempt.action == "stop" for attempt in attempts)
    reports = read_reports(run, metric)
    value = reports[max(reports)] if reports else read_measured(run).values.get(metric)
    value = None if value is None or math.isnan(value) else value
    state = _state(attempts, StopRequest.read(run.stop_request), stops > owner.stops)
    unclosed = attempts[-1].number if attempts and attempts[-1].ended is None else None
    return PastTrial(trial, turn, owner, state, value, reports, stops, unclosed)


def _state(attempts: Sequence[Attempt], stop: StopRequest | None, has_stopped: bool) -> TrialState:
    if has_finished(attempts):
        return "finished"
    last = attempts[-1] if attempts else None
    if (last and last.reason == "pruned") or (stop and stop.reason == "pruned"):
        return "pruned"
    if stop and stop.reason == "user":
        return "stopped"
    if last is None or last.action != "stop" or not has_stopped:
        return "open"
    return "stopped" if last.reason == "stopped" else "failed"


def read_reports(run: RunDir, metric: str) -> dict[int, float]:
    """Read the values of a metric that a run has reported so far, by step; NaN where it was undefined."""
    for path in (run.evaluations, *((run.metrics,) if metric == "loss" else ())):
        found = {int(row["step"]): row[metric] for row in read_joined_rows(path) if metric in row}
        if found:
            return {step: float(value) if isinstance(value, int | float) else math.nan for step, value in found.items()}
    return {}
