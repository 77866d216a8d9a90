"""When the end of a stage needs no look at Slurm: only while everything is known to be as it was queued."""

from pathlib import Path

import pytest

from launcher.run.ledger import append_event
from launcher.run.paths import PipelineDir
from launcher.run.queued_stages import QueuedStage, needs_advance, write_queued
from tests.support.run_histories import History


@pytest.fixture
def first(tmp_path: Path) -> History:
    """The first of two stages has started."""
    return History.begin(tmp_path, "aaa111", "first").submit("7", at=0).start(0, "7", at=10)


@pytest.fixture
def pipeline(tmp_path: Path, first: History) -> PipelineDir:
    """Two stages that are queued."""
    second = History.begin(tmp_path, "bbb222", "second").submit("8", at=0)
    made = PipelineDir(tmp_path / "both-20260921-120000-ccc333")
    made.stages.mkdir(parents=True)
    runs = {"first": first.run.root.name, "second": second.run.root.name}
    for name, run in runs.items():
        made.stage(name).symlink_to(f"../../{run}")
    write_queued(made, {name: QueuedStage(run, job) for (name, run), job in zip(runs.items(), "78", strict=True)})
    return made


def test_a_stage_that_finished_as_it_was_queued_needs_nothing(first: History, pipeline: PipelineDir) -> None:
    first.end(0, "finished", "done", at=60)

    assert not needs_advance(first.run)


def test_a_stage_whose_batch_process_did_not_say_how_it_ended_needs_a_look(
    first: History, pipeline: PipelineDir
) -> None:
    append_event(first.run.ledger, 0, reason="finished")  # its rank said so; the job may have failed

    assert needs_advance(first.run)


def test_a_link_that_cannot_be_read_may_be_that_of_the_run(first: History, pipeline: PipelineDir) -> None:
    first.end(0, "finished", "done", at=60)
    (pipeline.stages / ".second.0a1b").symlink_to("on its way")
    assert not needs_advance(first.run)

    pipeline.stage("second").unlink()
    pipeline.stage("second").write_text("no link")

    assert needs_advance(first.run)
