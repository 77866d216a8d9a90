"""Pipelines without Slurm whose stages, and searches whose elements, work on another machine."""

import os
import time
from pathlib import Path

import pytest

from launcher.cli.pipeline import stop
from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.operate.search.ask import ask
from launcher.operate.search.stop import stop_search
from launcher.pipeline.record import Pipeline, PipelineRecord, Selection, StageRecord
from launcher.pipeline.search_stage import SearchState, read_search
from launcher.run.ledger import StopRequest, append_event
from launcher.run.paths import PipelineDir, RunDir, SubmissionDir
from launcher.run.trials import Owner, SearchDir
from launcher.slurm.local_queue import LocalQueue
from launcher.submit.searches import alive_elements, queue_missing
from tests.support.run_histories import History
from tests.support.searches import make_search
from tests.support.submissions import MakeCluster, MakeRecipe

FAR = Owner("local-999999999", host="far", started="1")


@pytest.fixture
def here(make_cluster: MakeCluster) -> Cluster:
    return make_cluster(executor="local")


@pytest.fixture
def search(tmp_path: Path, here: Cluster, make_cpt: MakeRecipe) -> SearchDir:
    found, submission = make_search(tmp_path, here, make_cpt(), trials=4)
    (found.elements / submission.root.name).touch()
    return found


@pytest.fixture
def trial(search: SearchDir) -> RunDir:
    """A trial that an element on `far` works on."""
    trial = ask(search, FAR, search.submissions()[0]).trial
    assert trial is not None
    run = RunDir(search.runs_root / trial.run)
    run.attempt_logs(0).mkdir(parents=True)
    append_event(run.ledger, 0, job_id=FAR.job, started=time.time(), nodes=[FAR.host])
    return run


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[SubmissionDir]:
    """The submissions that were started here."""
    started: list[SubmissionDir] = []
    monkeypatch.setattr(LocalQueue, "add", lambda _, which, _options: started.append(which) or "local-999999998")
    return started


def fall_silent(search: SearchDir, run: RunDir) -> None:
    yesterday = time.time() - 86400
    for path in (*run.attempt_logs(0).iterdir(), run.attempt_logs(0), search.trial(0)):
        os.utime(path, (yesterday, yesterday))


def stage_of(search: SearchDir) -> StageRecord:
    selection = Selection("validation_loss", "minimize")
    return StageRecord("search", (), None, "key", select=selection, search=search.root.name)


def state_of(search: SearchDir, cluster: Cluster) -> str:
    found = read_search(stage_of(search), search.runs_root, cluster)
    assert isinstance(found, SearchState)
    return found.status.state


def pipeline_of(runs: Path, *stages: StageRecord) -> Pipeline:
    made = Pipeline(PipelineDir(runs / "small-20260921-120000-ccc333"))
    made.folder.stages.mkdir(parents=True)
    PipelineRecord("ccc333", "small", 0.0, "f", False, False, {}, stages).write(made.folder.record)
    return made


def test_a_search_runs_as_long_as_a_trial_of_it_is_seen_on_another_machine(
    search: SearchDir, trial: RunDir, here: Cluster
) -> None:
    assert state_of(search, here) == "running"
    fall_silent(search, trial)
    assert state_of(search, here) == "lost"


def test_no_second_set_of_elements_is_started_beside_those_of_another_machine(
    search: SearchDir, trial: RunDir, here: Cluster, queued: list[SubmissionDir]
) -> None:
    assert alive_elements(search, here) == [FAR.job]

    found = queue_missing(search, here)

    assert (found.jobs, found.left, found.alive) == ((), 4, 1)
    assert not queued
    fall_silent(search, trial)
    assert queue_missing(search, here).jobs == ("local-999999998",)
    assert len(queued) == 1


def test_a_stopped_search_goes_on_when_its_trials_on_another_machine_have_saved(
    search: SearchDir, trial: RunDir, here: Cluster, queued: list[SubmissionDir]
) -> None:
    search.stop_request.touch()
    StopRequest().write(trial.stop_request)
    with pytest.raises(RunError, match="was stopped, and job local-999999999 is still saving or ending"):
        queue_missing(search, here)

    append_event(trial.ledger, 0, ended=time.time(), reason="stopped", action="stop")

    assert state_of(search, here) == "stopped"
    assert queue_missing(search, here).jobs == ("local-999999998",)


def test_cancelling_a_pipeline_whose_trials_are_on_another_machine_changes_nothing(
    search: SearchDir, trial: RunDir, here: Cluster
) -> None:
    pipeline = pipeline_of(search.runs_root, stage_of(search))
    for cancel in (lambda: stop(pipeline, here, at_once=True), lambda: stop_search(search, here, at_once=True)):
        with pytest.raises(RunError, match=rf"`{trial.root.name}`: runs on `far`.*; type this on `far`"):
            cancel()

        assert not any(one.stop_request.exists() for one in (pipeline.folder, search, trial))

    stop(pipeline, here, at_once=False)

    assert all(one.stop_request.exists() for one in (pipeline.folder, search, trial))


def test_nor_does_it_write_a_stop_for_runs_there(here: Cluster) -> None:
    runs = Path(here.roots.runs)
    far = History.begin(runs, "bbb222", "model").submit(FAR.job, at=0)
    far.start(0, FAR.job, at=1, nodes=(FAR.host,)).log(0, 0, "step 1")
    pipeline = pipeline_of(runs, StageRecord("model", (), None, "model"))
    pipeline.link_stage("model", far.run)

    with pytest.raises(RunError, match=r"`model-.*`: runs on `far`"):
        stop(pipeline, here, at_once=True)

    assert not any(one.stop_request.exists() for one in (pipeline.folder, far.run))
