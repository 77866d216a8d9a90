"""Carrying out the plan of a pipeline: folders for all stages, then the queue. An early failure leaves nothing."""

import json
import shutil
import stat
import time
from pathlib import Path

from launcher.errors import RunError, SlurmError
from launcher.pipeline.advance import advance
from launcher.pipeline.find import list_pipelines
from launcher.pipeline.lock import one_at_a_time
from launcher.pipeline.plan import PipelinePlan
from launcher.pipeline.record import Pipeline, PipelineRecord
from launcher.pipeline.states import is_over, read_stages
from launcher.run.files import write_text
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord, fingerprint
from launcher.run.sweep_points import SweptRun, write_points
from launcher.slurm.queue import queue_of
from launcher.submit.queue_all import freeze_only


def submit_pipeline(plan: PipelinePlan) -> Pipeline:
    """Make the folders of a pipeline and of its stages, and queue all stages that can be queued.

    Of a pipeline that has finished as it is, the folder that there is is returned.

    Raises:
        RunError: The same pipeline is under way already.
        SlurmError: Slurm refused all stages; nothing is left.
    """
    root = plan.folder.root.parent
    with one_at_a_time(root):
        other = None if plan.rerun else _find_same(plan)
        if other and all(stage.finished for stage in plan.stages):
            return other
        if other:
            name = other.record.id
            raise RunError(
                f"{plan.loaded.path}: is under way as `{other.folder.root.name}`; see `launcher status {name}` "
                "(--rerun submits it once more)"
            )
        pipeline = _freeze(plan)
    try:
        told = advance(pipeline, plan.cluster)
        if plan.to_do and not _is_under_way(pipeline):  # nothing would ever advance it
            raise SlurmError("\n".join(told) or f"{plan.loaded.path}: nothing could be queued")
    except BaseException:
        if not _is_under_way(pipeline):
            remove(pipeline)
        raise
    return pipeline


def _is_under_way(pipeline: Pipeline) -> bool:
    """Tell whether any stage of its own was queued, or another pipeline carries one out."""
    own = _own_runs(pipeline)
    is_queued = any(RunRecord.read(run.record).submissions for run in own)
    states, _ = read_stages(pipeline, pipeline.cluster)
    return is_queued or any(one.is_alive for one in states.values() if one.run not in own)


def remove(pipeline: Pipeline) -> None:
    """Remove a pipeline of which nothing was queued."""
    for run in _own_runs(pipeline):
        record = RunRecord.read(run.record)
        if record.frozen_for:
            shutil.rmtree(record.frozen_for, ignore_errors=True)
        shutil.rmtree(run.root, ignore_errors=True)
    shutil.rmtree(pipeline.folder.root, ignore_errors=True)


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
    first = next(stage.plan for stage in plan.stages if stage.plan is not None)
    return queue_of(plan.cluster).estimate_start(first.submissions[0].script)
