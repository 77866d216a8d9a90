"""Noting that all stages of a pipeline are queued, so that the end of a stage needs nothing more."""

from collections.abc import Collection, Mapping

from launcher.pipeline.record import Pipeline
from launcher.run.paths import RunDir
from launcher.run.queued_stages import QueuedStage, are_as_queued, queued_path, read_queued, write_queued
from launcher.run.record import RunRecord


def forget_queued(pipeline: Pipeline) -> dict[str, QueuedStage]:
    """Remove queued.json before anything is changed: whoever is killed on the way leaves none.

    Returns:
        What it said; nothing if that is not so any more.
    """
    noted = read_queued(pipeline.folder) or {}
    queued_path(pipeline.folder).unlink(missing_ok=True)
    return noted if are_as_queued(pipeline.folder, noted) else {}


def note_queued(
    pipeline: Pipeline,
    before: Mapping[str, QueuedStage],
    finished: Collection[str],
    jobs: Mapping[str, str],
    conditioned: Collection[str],
) -> None:
    """Write queued.json if each stage has finished, or has a job that waits for exactly the jobs of those before it.

    Args:
        pipeline: The pipeline.
        before: What the file said when this began.
        finished: Stages that have finished, and whose results have their names.
        jobs: The jobs of stages that are queued or running.
        conditioned: Stages whose jobs were just given what they wait for. Of others only `before` tells.
    """
    published = () if pipeline.record.rehearsal else {*pipeline.record.publish.values()}
    found: dict[str, QueuedStage] = {}
    for name, awaits in ((stage.name, stage.awaits) for stage in pipeline.record.stages):
        run = pipeline.run_of(name)
        if run is None or (name not in finished and name not in jobs):
            return
        job = None if name in finished else jobs[name]
        found[name] = QueuedStage(run.root.name, job, job is not None and name in published)
        is_known = job is None or not awaits or name in conditioned or before.get(name) == found[name]
        if not is_known and _is_own(pipeline, run):
            return
    write_queued(pipeline.folder, found)


def _is_own(pipeline: Pipeline, run: RunDir) -> bool:
    return RunRecord.read(run.record).pipeline == str(pipeline.folder.root)
