"""queued.json of a pipeline: the jobs that its stages wait for, as long as nothing is left to queue, select or publish.

Whoever advances a pipeline removes the file first, and writes it last if all stages are queued. While the file is there
and says what the run directories say, the end of a stage needs no look at Slurm: `afterok` does the rest. Standard
library only, since the batch process of a stage reads it.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.run.files import replace_text
from launcher.run.ledger import has_finished, read_attempts
from launcher.run.paths import PipelineDir, RunDir
from launcher.run.record import RunRecord


@dataclass(frozen=True)
class QueuedStage:
    """One stage."""

    run: str
    """Name of the run directory that carries it out."""
    job: str | None
    """The job that later stages wait for; None if the run had finished."""
    is_awaited: bool = False
    """Whether there is something to do once it has finished: its result gets a name at the site."""


def queued_path(pipeline: PipelineDir) -> Path:
    """There while all stages are queued: the job of each."""
    return pipeline.root / "queued.json"


def write_queued(pipeline: PipelineDir, stages: Mapping[str, QueuedStage]) -> None:
    """Write queued.json."""
    replace_text(queued_path(pipeline), json.dumps({name: vars(one) for name, one in stages.items()}) + "\n")


def read_queued(pipeline: PipelineDir) -> dict[str, QueuedStage] | None:
    """Read queued.json; None if it is not there, or holds something else."""
    try:
        found = json.loads(queued_path(pipeline).read_bytes())
        return {name: QueuedStage(**one) for name, one in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def needs_advance(run: RunDir) -> bool:
    """Tell whether a pipeline has something to do now that a run has finished.

    Args:
        run: The run; its ledger says that it has finished. So of two stages that end at once, one sees both.
    """
    return any(not _goes_on_by_itself(pipeline) for pipeline in _pipelines_with(run))


def _pipelines_with(run: RunDir) -> Iterator[PipelineDir]:
    """Find the pipelines that have a stage which this run carries out."""
    root = run.root.parent
    for name in os.listdir(root):
        pipeline = PipelineDir(root / name)
        try:
            stages = os.listdir(pipeline.stages)
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # most are folders of runs
            continue
        links = [os.path.join(pipeline.stages, stage) for stage in stages if stage[0] != "."]
        try:
            has_run = any(os.path.basename(os.readlink(link)) == run.root.name for link in links)
        except OSError:  # somebody replaces a link, or the file system fails: it may be one
            has_run = True
        if has_run:
            yield pipeline


def _goes_on_by_itself(pipeline: PipelineDir) -> bool:
    stages = read_queued(pipeline)
    return stages is not None and not pipeline.stop_request.exists() and are_as_queued(pipeline, stages)


def are_as_queued(pipeline: PipelineDir, stages: Mapping[str, QueuedStage]) -> bool:
    """Tell whether stages have the runs and the jobs that they had when all were queued, and nothing has failed since.

    A job that was started a second time counts as failed, since what waits for it may have been told so.
    """
    try:
        return all(_is_as_queued(pipeline, name, one) for name, one in stages.items())
    except (OSError, ValueError):
        return False


def _is_as_queued(pipeline: PipelineDir, name: str, stage: QueuedStage) -> bool:
    run = RunDir(pipeline.root.parent / os.path.basename(os.readlink(pipeline.stage(name))))
    if run.root.name != stage.run:
        return False
    if stage.job is None:
        return run.record.is_file()
    attempts = read_attempts(run.ledger)
    has_ended = has_finished(attempts)
    if len(attempts) > 1 or (stage.is_awaited and has_ended):
        return False
    if has_ended and any(one.ended is None for one in attempts):  # its batch process may have died before it said so
        return False
    is_sound = has_ended or all(one.ended is None for one in attempts)
    return is_sound and RunRecord.read(run.record).submissions[-1].job_id == stage.job
