"""A batch process that was killed after it had noted the end of its run: who starts the job again lets others go on."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.batch.main import main
from jobs.batch.supervise import Signals
from launcher.cluster import Cluster
from launcher.run.ledger import append_event, read_attempts
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord
from launcher.run.sweep_points import sweep_dir
from tests.batch.test_batch_slurm import Commands
from tests.support.counting_runs import Play, stage

OVER = {"ended": 2.0, "reason": "error", "action": "stop", "message": "exit code 1", "source": "exit code 1"}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the launcher was asked to do, by a batch process of job 5 on a node without Slurm's commands."""
    monkeypatch.setattr(Signals, "install", lambda _: None)
    for name, value in {"PATH": str(tmp_path), "SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "gpu1"}.items():
        monkeypatch.setenv(name, value)
    Commands(tmp_path).say("python", f'echo "$@" >>{tmp_path}/asked')
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "asked").touch()
    return tmp_path / "asked"


@pytest.fixture
def staged(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> tuple[SubmissionDir, RunDir]:
    """A stage of a pipeline that is a point of a sweep as well; its only failure is one too many."""
    submission, [run] = stage(tmp_path / "runs", make_cluster(), [Play(max_failures=0)])
    record = RunRecord.read(run.record)
    record.pipeline, record.sweep = str(tmp_path / "runs" / "pipeline"), "s"
    record.write(run.record)
    waiting = sweep_dir(run.root.parent, "s").waiting
    waiting.parent.mkdir(parents=True)
    waiting.touch()
    run.attempt_logs(0).mkdir(parents=True)
    append_event(run.ledger, 0, job_id="5", nodes=["gpu1"], started=1.0)
    return submission, run


@pytest.mark.parametrize(
    ("end", "code", "action"),
    [
        ({"ended": 2.0, "reason": "finished", "action": "done"}, 0, "done"),
        ({"reason": "finished"}, 0, "done"),
        (OVER, 1, "stop"),
        ({}, 1, "stop"),
    ],
    ids=["finished", "finished without an end", "stopped", "killed once too often"],
)
def test_when_slurm_starts_the_job_of_a_run_again_that_is_over_the_others_go_on(
    staged: tuple[SubmissionDir, RunDir], asked: Path, end: dict[str, Any], code: int, action: str
) -> None:
    submission, run = staged
    append_event(run.ledger, 0, **end)

    assert main([str(submission.root)]) == code

    [attempt] = read_attempts(run.ledger)
    assert attempt.action == action
    assert asked.read_text().splitlines() == [
        f"-m launcher pipeline advance {run.root}",
        f"-m launcher sweep advance {run.root}",
    ]
