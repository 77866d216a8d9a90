"""All that a report says of runs: curves, where their time went, what that cost, and what they were made of."""

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.artifacts.scores import EvaluationScores, find_scores, read_scores
from launcher.cluster import Cluster
from launcher.errors import LauncherError
from launcher.monitor.checkpoint_interval import CheckpointAdvice, advise
from launcher.monitor.consumption import Consumption, consumption_of
from launcher.monitor.curves import MetricCurves, read_curves
from launcher.monitor.provenance import InputOfRun, read_inputs
from launcher.monitor.run_state import RunState, ask_about, read_states
from launcher.monitor.status import RunStatus, attempts_with_ends, compose
from launcher.monitor.time_account import TimeAccount, account_for
from launcher.monitor.traces import kept_limits
from launcher.run.metrics import read_joined_rows
from launcher.run.paths import RunDir, list_shares
from launcher.run.pauses import read_pauses
from launcher.run.record import RunRecord
from launcher.run.typed import read_resolved
from launcher.slurm.query import QueryResult

_NO_SCORES = ("time", "step", "attempt", "epoch")


@dataclass(frozen=True)
class NamedRun:
    """A run, and what a report calls it."""

    run: RunDir
    label: str


@dataclass(frozen=True)
class RunReport:
    """One run."""

    label: str
    status: RunStatus
    record: RunRecord
    recipe: Mapping[str, Any]
    """As it was resolved."""
    metrics: MetricCurves
    evaluations: Mapping[str, Sequence[tuple[int, float]]]
    """By metric: step and value."""
    account: TimeAccount
    used: Consumption
    advice: CheckpointAdvice
    scores: EvaluationScores | None
    """Of a finished evaluation."""
    inputs: tuple[InputOfRun, ...]

    @property
    def is_credentialed(self) -> bool:
        """Whether its data must not leave the site."""
        return bool(self.recipe.get("data_use", "open") != "open")


def with_shares(runs: Iterable[NamedRun]) -> list[NamedRun]:
    """Add the runs of tasks that work for a run."""
    found: dict[Any, NamedRun] = {}
    for one in runs:
        shares = [NamedRun(share, f"{one.label}, task {place}") for place, share in enumerate(list_shares(one.run))]
        for each in (*shares, one):
            found.setdefault(each.run.root, each)
    return list(found.values())


def read_reports(cluster: Cluster, runs: Sequence[NamedRun]) -> tuple[list[RunReport], tuple[str, ...]]:
    """Read all about runs; Slurm is asked once for those that are not over.

    Returns:
        The reports in the order of the runs, and notes about runs that cannot be read and sources that did not answer.

    Raises:
        RunError: None of the runs can be read.
    """
    labels = {one.run.root: one.label for one in runs}
    states, damage = read_states([one.run for one in runs])
    answer, now = ask_about(cluster, states)
    reports = [_read(labels[one.folder.root], now[one.folder.root], answer) for one in states]
    return reports, (*damage, *answer.notes)


def _read(label: str, state: RunState, answer: QueryResult) -> RunReport:
    run, status = state.folder, compose(state, answer)
    recipe = read_resolved(run.recipe)
    metrics = read_curves(run.metrics, kept_limits(state.attempts))
    pauses = read_pauses(run.pauses)
    attempts = attempts_with_ends(status)
    account = account_for(state.record, attempts, metrics.traces, pauses, time.time(), status.is_over)
    return RunReport(
        label=label,
        status=status,
        record=state.record,
        recipe=recipe,
        metrics=metrics,
        evaluations=_read_evaluations(run),
        account=account,
        used=consumption_of(recipe, state.record.cluster, account, state.attempts),
        advice=advise(state.attempts, pauses, account),
        scores=_read_scores(run),
        inputs=read_inputs(state.record, recipe, run),
    )


def _read_evaluations(run: RunDir) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for row in read_joined_rows(run.evaluations):
        for name, value in row.items():
            if name not in _NO_SCORES and isinstance(value, int | float):
                found.setdefault(name, []).append((int(row["step"]), float(value)))
    return found


def _read_scores(run: RunDir) -> EvaluationScores | None:
    if find_scores(run.outputs) is not None:
        with contextlib.suppress(LauncherError):  # of another format, or damaged
            return read_scores(run.outputs)
    return None
