"""A stage that is a search: its trials are runs, and the best of them is what the stage came to."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.monitor.observed_state import State
from launcher.monitor.status import RunStatus
from launcher.monitor.trials import PastTrial, read_past
from launcher.pipeline.record import StageRecord
from launcher.pipeline.selection import Verdict, read_value, select_best
from launcher.run.paths import RunDir
from launcher.run.trials import SearchDir, find_search
from launcher.submit.search_record import SearchRecord
from launcher.submit.searches import alive_elements


@dataclass(frozen=True)
class SearchState:
    """How the search of a stage is doing as long as no trial is selected."""

    folder: SearchDir
    status: RunStatus
    """Of the search as if it were a run; its steps are trials."""
    verdict: Verdict
    """The trial to select, or why there is none yet."""


def read_search(stage: StageRecord, runs_root: Path, cluster: Cluster, is_stopped: bool = False) -> SearchState | None:
    """Read how the search of a stage is doing; None if it was removed. Slurm is asked for its elements.

    Args:
        stage: The stage.
        runs_root: The folder of all runs.
        cluster: The site.
        is_stopped: Whether its pipeline selects nothing until somebody resumes it.
    """
    folder = find_search(runs_root, str(stage.search))
    if folder is None:
        return None
    record = SearchRecord.read(folder.record)
    past, budget = read_past(folder, record.search.metric), record.search.budget
    over = [one for one in past if one.state != "open"]
    verdict = Verdict(None, f"{len(over)} of {budget} trials are over", is_open=True)
    state, why = _state(folder, past, len(over) >= budget and len(over) == len(past), cluster)
    if state == "finished":
        verdict = _select(stage, folder, past)
        state, why = _until_selected(verdict, is_stopped)
    counted = ", ".join(f"{count} {word}" for word, count in Counter(_word(one) for one in past).items())
    said = "; ".join(part for part in (f"trials: {counted}" if counted else "", why) if part)
    return SearchState(folder, _status(record, folder, state, said, len(over)), verdict)


def recall_trial(stage: StageRecord, run: RunDir) -> Verdict:
    """Tell of a trial that was selected."""
    assert stage.select is not None
    value = read_value(run, stage.select.metric)
    return Verdict(run, f"`{run.root.name}`" + ("" if value is None else f", {stage.select.metric} {value:.6g}"))


def _until_selected(verdict: Verdict, is_stopped: bool) -> tuple[State, str]:
    if verdict.run is None:
        return "failed", verdict.why
    return ("stopped", "") if is_stopped else ("running", "is about to be selected")


def _select(stage: StageRecord, folder: SearchDir, past: Sequence[PastTrial]) -> Verdict:
    assert stage.select is not None
    finished = {one.trial.run: RunDir(folder.runs_root / one.trial.run) for one in past if one.state == "finished"}
    return select_best(stage.select, finished, "trials") if finished else Verdict(None, "no trial has finished")


def _state(folder: SearchDir, past: Sequence[PastTrial], is_over: bool, cluster: Cluster) -> tuple[State, str]:
    """Say how a search is doing, and why; `finished` if all trials are over."""
    is_stopped = folder.stop_request.exists()
    if is_over and not is_stopped:
        return "finished", ""
    try:
        alive = alive_elements(folder, cluster)
    except SlurmError as error:
        return "running", f"Slurm does not answer ({error})"
    if alive:
        return ("running" if any(one.state == "open" for one in past) else "queued"), ""
    return ("stopped", "") if is_stopped else _rest(folder, past)


def _rest(folder: SearchDir, past: Sequence[PastTrial]) -> tuple[State, str]:
    """Say why none of a search's jobs is queued or running."""
    if (
        not past or folder.is_prepared
    ):  # it never was; or whoever queued it was killed on the way, or its jobs were before they had a trial
        return "not submitted", ""
    if all(one.state == "failed" for one in past):
        return "failed", "every trial failed"
    return "lost", "none of its jobs is queued or running"


def _word(one: PastTrial) -> str:
    return "under way" if one.state == "open" else one.state


def _status(record: SearchRecord, folder: SearchDir, state: State, why: str, over: int) -> RunStatus:
    created = folder.record.stat().st_mtime
    return RunStatus(
        id="", name=record.name, kind=str(record.recipe["kind"]), folder=str(folder.root), state=state, why=why,
        source="run directory", start_estimate=None, job_id="", nodes=(), step=over, total_steps=record.search.budget,
        loss=None, tokens_per_second=None, eta_seconds=None, stop_requested=folder.stop_request.exists(),
        rehearsal=record.rehearsal, created=created, wandb_id="", attempts=(),
    )  # fmt: skip
