"""Taking up a search that another pipeline began and left: with the code of now, and the inputs of this pipeline."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from launcher.cluster import Cluster
from launcher.monitor.trials import read_past
from launcher.pipeline.record import Pipeline, StageRecord, replace_link
from launcher.pipeline.search_stage import read_search
from launcher.pipeline.states import is_over, read_stages
from launcher.run.paths import PipelineDir, RunDir, SubmissionDir
from launcher.run.record import RunRecord
from launcher.run.trials import SearchDir
from launcher.submit.search_record import SearchRecord
from launcher.submit.searches import SearchPlan, forget_failures, freeze_search, prepare_elements

_DONE = ("finished", "pruned")


def is_left(stage: StageRecord, runs_root: Path, cluster: Cluster) -> bool:
    """Tell whether a search came to nothing so far, or waits for a pipeline that does not go on.

    Args:
        stage: A stage of another pipeline that has the same search.
        runs_root: The folder of all runs.
        cluster: The site.
    """
    found = read_search(stage, runs_root, cluster)
    if found is None or found.verdict.run:
        return False
    record = SearchRecord.read(found.folder.record)
    past = read_past(found.folder, record.search.metric)
    if len(past) >= record.search.budget and all(one.state in _DONE for one in past):
        return False  # no trial is left that could be tried again
    if found.status.state != "not submitted":
        return found.status.is_over
    owner = _owner_of(record)
    return owner is None or owner.is_stopped or is_over(read_stages(owner, cluster)[0])


def renew_search(plan: SearchPlan) -> SubmissionDir:
    """Let a search that was left go on as if this pipeline had begun it; its trials that have finished stay.

    Args:
        plan: Of this pipeline.

    Returns:
        Its next submission of elements, which is not queued.
    """
    freeze_search(plan)
    for run in _unfinished(plan.folder, plan.record):
        replace_link(run.code, os.path.relpath(plan.record.code, run.root))
        record = RunRecord.read(run.record)
        record.code_hash, record.code_commit = Path(plan.record.code).name, plan.record.commit
        record.cluster, record.pipeline = dict(plan.record.cluster), plan.record.pipeline
        record.write(run.record)
    forget_failures(plan.folder)
    plan.folder.stop_request.unlink(missing_ok=True)
    return prepare_elements(plan)


def adopt_search(folder: SearchDir, pipeline: Pipeline) -> None:
    """Let the trials of a search read the inputs of this pipeline, if the pipeline that began it was removed."""
    record = SearchRecord.read(folder.record)
    if _owner_of(record):
        return
    own = str(pipeline.folder.root)
    replace(record, pipeline=own).write(folder.record)
    for run in _unfinished(folder, record):
        its = RunRecord.read(run.record)
        its.pipeline = own
        its.write(run.record)


def _owner_of(record: SearchRecord) -> Pipeline | None:
    """Find the pipeline that began a search; None if it was removed, or its submission was killed."""
    found = Pipeline(PipelineDir(Path(str(record.pipeline))))
    return found if found.folder.record.is_file() else None


def _unfinished(folder: SearchDir, record: SearchRecord) -> Iterator[RunDir]:
    """Give the runs of trials that have come to nothing so far."""
    for one in read_past(folder, record.search.metric):
        run = RunDir(folder.runs_root / one.trial.run)
        if one.state not in _DONE and run.record.is_file():
            yield run
