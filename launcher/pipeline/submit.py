"""Carrying out the plan of a pipeline: folders for all stages, then the queue. An early failure leaves nothing."""

import contextlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

from launcher.errors import RunError, SlurmError
from launcher.pipeline.advance import advance
from launcher.pipeline.find import list_pipelines
from launcher.pipeline.plan import PipelinePlan
from launcher.pipeline.record import Pipeline, PipelineRecord
from launcher.pipeline.renew_search import is_left, renew_search
from launcher.pipeline.states import is_over, read_stages
from launcher.run.files import write_text
from launcher.run.lock import one_at_a_time
from launcher.run.paths import RunDir, SubmissionDir, list_shares
from launcher.run.record import RunRecord, fingerprint
from launcher.run.sweep_points import SweptRun, write_points
from launcher.run.trials import SearchDir, find_search, read_trials
from launcher.slurm.queue import queue_of
from launcher.submit.queue_all import freeze_only
from launcher.submit.search_record import SearchRecord
from launcher.submit.searches import freeze_search, prepare_elements, require_no_leavers


def submit_pipeline(plan: PipelinePlan, on_wait: Callable[[], object] = lambda: None) -> Pipeline:
    """Make the folders of a pipeline and of its stages, and queue all stages that can be queued.

    Of a pipeline that has finished as it is, the folder that there is is returned. So is that of one whose submission
    was killed or failed on its way: what it left is queued.

    Args:
        plan: What was planned.
        on_wait: Called before waiting for another process that queues something.

    Raises:
        RunError: The same pipeline is under way already.
        SlurmError: Slurm refused all stages; nothing is left.
    """
    with one_at_a_time(plan.folder.root.parent, on_wait):
        if not plan.rerun and (other := _find_same(plan)):
            _go_on(other, plan)
            return other
        _require_shared(plan)
        pipeline = _freeze(plan)
        before = _jobs(pipeline)
        try:
            told = advance(pipeline, plan.cluster)
            if (
                plan.to_do and _jobs(pipeline) == before and not _is_under_way(pipeline)
            ):  # nothing would ever advance it
                raise SlurmError("\n".join(told) or f"{plan.loaded.path}: nothing could be queued")
        except BaseException as error:
            if _jobs(pipeline) == before:
                remove(pipeline)
            elif isinstance(error, SlurmError):
                name = pipeline.record.id
                raise SlurmError(
                    f"{error}\nthe stages before it are queued; `launcher resume {name}` goes on"
                ) from None
            raise
    return pipeline


def _go_on(other: Pipeline, plan: PipelinePlan) -> None:
    """Queue what an earlier submission of the same pipeline left because it was killed, or failed on its way.

    Raises:
        RunError: It left nothing.
    """
    if all(stage.finished for stage in plan.stages):
        return
    before = _jobs(other)
    if os.access(other.folder.root, os.W_OK):
        advance(other, plan.cluster)
    if _jobs(other) == before:
        name = other.record.id
        raise RunError(
            f"{plan.loaded.path}: is under way as `{other.folder.root.name}`; see `launcher status {name}` "
            "(--rerun submits it once more)"
        )


def _require_shared(plan: PipelinePlan) -> None:
    """Insist that the runs of other pipelines that carry stages out are still there.

    Raises:
        RunError: The submission that made one has failed since.
    """
    for stage in plan.stages:
        run = stage.finished or stage.shared
        if run and not run.record.is_file():
            raise RunError(
                f"{plan.loaded.path}: `{run.root.name}`, which was to carry out stage `{stage.record.name}`, has just "
                "been removed; submit once more"
            )


def _jobs(pipeline: Pipeline) -> list[list[str]]:
    """List the jobs of each run that was made for a pipeline, and the submissions of its searches."""
    records = [RunRecord.read(one.record) for run in _own_runs(pipeline) for one in (*list_shares(run), run)]
    elements = [sorted(os.listdir(search.elements)) for search in _own_searches(pipeline)]
    return [*([entry.job_id for entry in record.submissions] for record in records), *elements]


def _is_under_way(pipeline: Pipeline) -> bool:
    """Tell whether another pipeline carries a stage out."""
    own = _own_runs(pipeline)
    states, _ = read_stages(pipeline, pipeline.cluster)
    return any(one.is_alive for one in states.values() if one.run not in own)


def remove(pipeline: Pipeline) -> None:
    """Remove a pipeline of which no job is known.

    A job may have been queued all the same: sbatch does not always know, and a full disk keeps its number from being
    noted. So the queue is searched.
    """
    own, queue = _own_runs(pipeline), queue_of(pipeline.cluster)
    searches = [
        path
        for search in _own_searches(pipeline)
        if not _is_used(search, pipeline)
        for path in (search.prepared.resolve(), search.root)
    ]
    records = [RunRecord.read(one.record) for run in own for one in (*list_shares(run), run)]
    submissions = [Path(name) for name in dict.fromkeys(one.frozen_for for one in records if one.frozen_for)]
    for folder in submissions:
        with contextlib.suppress(SlurmError):
            queue.cancel(SubmissionDir(folder))
    pipeline.folder.record.unlink(missing_ok=True)  # what is left, if this is killed, is no pipeline
    for path in [*submissions, *(run.root for run in own), *searches, pipeline.folder.root]:
        shutil.rmtree(path, ignore_errors=True)


def _own_searches(pipeline: Pipeline) -> list[SearchDir]:
    names = [stage.search for stage in pipeline.record.stages if stage.search]
    found = [find_search(pipeline.folder.root.parent, name) for name in names]
    own = str(pipeline.folder.root)
    return [search for search in found if search and SearchRecord.read(search.record).pipeline == own]


def _is_used(search: SearchDir, pipeline: Pipeline) -> bool:
    """Tell whether a search has trials, or is that of another pipeline, too: then it stays."""
    name = SearchRecord.read(search.record).name
    others = [one for one in list_pipelines(search.runs_root) if one != pipeline]
    return bool(read_trials(search)) or any(stage.search == name for one in others for stage in one.record.stages)


def _own_runs(pipeline: Pipeline) -> list[RunDir]:
    own = str(pipeline.folder.root)
    return [run for run in pipeline.runs().values() if RunRecord.read(run.record).pipeline == own]


def _find_same(plan: PipelinePlan) -> Pipeline | None:
    """Find the same pipeline, under way or finished."""
    for other in list_pipelines(plan.folder.root.parent):
        if other.record.fingerprint != plan.fingerprint:
            continue
        states, _ = read_stages(other, plan.cluster)
        if all(one.is_finished for one in states.values()) or not (other.is_stopped or is_over(states)):
            return other
    return None


def _freeze(plan: PipelinePlan) -> Pipeline:
    """Write all folders; pipeline.json comes last, since a folder without it is no pipeline."""
    folder = plan.folder
    folder.root.parent.mkdir(parents=True, exist_ok=True)
    is_credentialed = any(stage.loaded and stage.loaded.recipe.data_use == "credentialed" for stage in plan.stages)
    folder.root.mkdir(0o700 if is_credentialed else 0o777)
    made: list[Path] = [folder.root]
    pipeline = Pipeline(folder)
    try:
        for part in (folder.stages, *(folder.artifacts / name for name in ("models", "corpora", "data"))):
            part.mkdir(parents=True)
        write_text(folder.recipe_as_written, plan.loaded.text)
        runs = _freeze_runs(plan, made)
        _freeze_searches(plan, made)
        for stage in plan.stages:
            if run := runs.get(stage.record.name):
                pipeline.link_stage(stage.record.name, run)
            elif run := stage.finished or stage.shared:
                pipeline.link_artifact(stage.record, run)
                pipeline.link_stage(stage.record.name, run)
        _note_points(pipeline, plan)
        _record(plan).write(folder.record)
    except BaseException:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        raise
    return pipeline


def _freeze_runs(plan: PipelinePlan, made: list[Path]) -> dict[str, RunDir]:
    """Make the runs that stages need, and note in `made` what was made; return them by their stages."""
    runs: dict[str, RunDir] = {}
    for one in {id(stage.plan): stage.plan for stage in plan.to_do if stage.plan}.values():
        frozen = freeze_only(one)
        made += [*(run.folder.root for run in frozen), *(part.folder.root for part in one.submissions)]
        runs |= {str(run.record.stage): run.folder for run in frozen}
    return runs


def _freeze_searches(plan: PipelinePlan, made: list[Path]) -> None:
    """Write the searches that are new or were left, and note in `made` what was made.

    Another pipeline may have the same search.

    Raises:
        RunError: A search was stopped, and its jobs are not gone yet.
    """
    root = plan.folder.root.parent
    for stage in plan.stages:
        if stage.search is None:
            continue
        if stage.search.is_new:
            made.append(stage.search.folder.root)
            freeze_search(stage.search)
            made.append(prepare_elements(stage.search).root)
            continue
        require_no_leavers(stage.search.folder, plan.cluster)
        if is_left(stage.record, root, plan.cluster):
            made.append(renew_search(stage.search).root)


def _note_points(pipeline: Pipeline, plan: PipelinePlan) -> None:
    """Let the points of each sweep be shown by their values: `launcher status PIPELINE:STAGE`."""
    rows: dict[str, list[SweptRun]] = {}
    for stage in plan.stages:
        run, item = pipeline.run_of(stage.record.name), stage.loaded
        if run and item and item.point:
            text = fingerprint(json.loads(item.recipe.model_dump_json()))
            rows.setdefault(item.point.sweep, []).append(
                SweptRun(item.point.sweep, item.point.values, run.root.name, text)
            )
    mode = stat.S_IMODE(pipeline.folder.root.stat().st_mode)
    for name, its in rows.items():
        write_points(plan.folder.root.parent, name, its, mode)


def _record(plan: PipelinePlan) -> PipelineRecord:
    return PipelineRecord(
        id=plan.folder.root.name.rpartition("-")[2],
        name=plan.loaded.recipe.name,
        created=time.time(),
        fingerprint=plan.fingerprint,
        rehearsal=plan.rehearsal,
        rerun=plan.rerun,
        cluster=plan.cluster.model_dump(mode="json"),
        stages=tuple(stage.record for stage in plan.stages),
        publish=plan.loaded.recipe.publish,
    )


def ask_start(plan: PipelinePlan) -> str:
    """Ask Slurm when the first stage would start."""
    first = next((stage.plan for stage in plan.stages if stage.plan is not None), None)
    if first is None:
        return "the first stage is a search, which is queued at once"
    return queue_of(plan.cluster).estimate_start(first.submissions[0].script)
