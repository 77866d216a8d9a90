"""What an element of a search does that is told to go between two trials, and one whose pruning cannot be asked for."""

import json
import math
import sys
from pathlib import Path

import pytest

from jobs.batch import search, slurm
from jobs.batch.pruning import PruningMonitor
from jobs.batch.search import come_back, find_search_folder
from launcher.monitor.trials import read_reports
from launcher.run.paths import RunDir, SubmissionDir
from tests.support.waiting import wait_for

ENVIRON = {"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0", "SLURM_RESTART_COUNT": "2"}


@pytest.mark.parametrize(
    ("signals", "shown", "comes_back"),
    [
        (["SIGUSR1"], {}, True),
        (["SIGTERM"], {"PreemptTime": "2026-11-30T09:00:00"}, True),
        (["SIGTERM"], {"JobState": "CANCELLED"}, False),
        (["SIGUSR1", "SIGTERM"], {}, False),
    ],
)
def test_an_element_comes_back_unless_a_person_cancelled_it(
    monkeypatch: pytest.MonkeyPatch, signals: list[str], shown: dict[str, str], comes_back: bool
) -> None:
    asked: list[tuple[str, int]] = []

    def requeue(job: str, restarts: int) -> slurm.CommandResult:
        asked.append((job, restarts))
        return slurm.CommandResult(True, "requeued")

    monkeypatch.setattr(search.slurm, "show_job", lambda _: shown)
    monkeypatch.setattr(search.slurm, "requeue", requeue)

    come_back(ENVIRON, signals)

    assert asked == ([("12_0", 2)] if comes_back else [])


def test_a_submission_of_runs_is_no_search(tmp_path: Path) -> None:
    submission = SubmissionDir(tmp_path)
    submission.manifest.write_text('{"run": "/runs/a", "fingerprint": "1"}\n')
    assert find_search_folder(submission) is None

    submission.manifest.write_text('{"search": "/runs/.sweeps/a"}\n' * 2)
    assert find_search_folder(submission) == Path("/runs/.sweeps/a")


def test_a_trial_goes_on_if_nobody_can_judge_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, said = RunDir(tmp_path), list[str]()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr("jobs.batch.pruning.LOOK_SECONDS", 0)
    monitor = PruningMonitor(run, "validation_loss", said.append)
    assert not monitor.decides(), "there is nothing to judge yet"
    run.evaluations.write_text('{"step": 1}\n')

    wait_for(lambda: monitor.decides() or said, "the answer")

    assert said == ["search judge: exit code 1; the trial goes on"]


def test_the_loss_is_read_from_each_step_and_other_metrics_from_evaluations(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 2.5}]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')
    run.evaluations.write_text('{"step": 2, "validation_loss": null}\n{"step": 4, "validation_loss": 1.0}\n')

    assert read_reports(run, "loss") == {1: 3.0, 2: 2.5}
    assert read_reports(run, "validation_loss") == {2: pytest.approx(math.nan, nan_ok=True), 4: 1.0}
    assert read_reports(run, "else") == {}
