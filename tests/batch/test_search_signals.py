"""What an element of a search does that is told to go between two trials, and one whose pruning cannot be asked for."""

import json
import math
import os
import signal
import sys
from pathlib import Path

import pytest

from jobs.batch import main
from jobs.batch.allocation import StartRefusedError
from jobs.batch.pruning import PruningMonitor
from jobs.batch.search import come_back, find_search_folder, next_trial
from launcher.monitor.trials import read_reports
from launcher.run.paths import CONTINUE, RunDir, SubmissionDir
from launcher.run.trials import SearchDir
from tests.batch.test_batch_slurm import Commands
from tests.support.waiting import wait_for

ENVIRON = {"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0", "SLURM_RESTART_COUNT": "2"}
SHOWN = (
    "JobId=13 ArrayJobId=12 ArrayTaskId=0 JobName=s JobState={state} Reason=None Requeue=1 Restarts=0 "
    "StartTime=2026-11-30T08:00:00 EndTime=2026-11-30T12:00:00 PreemptEligibleTime=2026-11-30T08:00:00 "
    "PreemptTime={preempted} NodeList=gpu1 ExcNodeList={excluded}"
)
"""As Slurm 22.05 prints a job."""
EARLIER, NOW = "2026-11-30T07:59:00", "2026-11-30T09:00:00"


class Site:
    """A search, and Slurm's commands, which note what they are asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.submission, self.search, self._asked = SubmissionDir(folder), SearchDir(folder / "s"), folder / "asked"
        self._commands = Commands(folder)
        self.search.root.mkdir()
        monkeypatch.setenv("PATH", str(folder))
        self.prepare()

    def prepare(
        self, policy: str = "requeue", requeue: str = "true", state: str = "COMPLETING", preempted: str = "None"
    ) -> None:
        """Set the profile's `requeue`, what `scontrol requeue` does, and what Slurm says of the job."""
        self.search.record.write_text(json.dumps({"cluster": {"slurm": {"requeue": policy}}}))
        shown = SHOWN.format(state=state, preempted=preempted, excluded="gpu[7-8]")
        asked = f'echo "$@" >>{self._asked}'
        self._commands.say("scontrol", f'case "$1" in requeue) {asked}; {requeue} ;; *) echo "{shown}" ;; esac')
        self._commands.say("sbatch", f"{asked}; echo 20")
        self._commands.say("squeue", "echo '30|afterok:12_0(unfulfilled)|next'")

    def end(self, *signals: str) -> list[str]:
        """Send signals to an element between two trials; return what Slurm is asked to queue."""
        handler = signal.getsignal(signal.SIGTERM)
        come_back(self.search.root, self.submission, ENVIRON, signals)
        signal.signal(signal.SIGTERM, handler)
        return self._asked.read_text().splitlines() if self._asked.exists() else []


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("signals", "state", "preempted", "comes_back"),
    [
        (["SIGUSR1"], "RUNNING", "None", True),
        (["SIGTERM"], "COMPLETING", NOW, True),
        (["SIGTERM"], "COMPLETING", "None", False),
        (["SIGTERM"], "CANCELLED", "None", False),
        (["SIGTERM"], "COMPLETING", EARLIER, False),
        (["SIGTERM"], "RUNNING", "None", True),
        (["SIGUSR1", "SIGTERM"], "COMPLETING", "N/A", False),
    ],
)
def test_an_element_comes_back_unless_a_person_cancelled_it(
    site: Site, signals: list[str], state: str, preempted: str, comes_back: bool
) -> None:
    site.prepare(state=state, preempted=preempted)

    assert site.end(*signals) == (["requeue 12_0"] if comes_back else [])


RESUBMITTED = "--parsable --array=0 --dependency=afterany:12_0 --exclude=gpu[7-8] {}/submission.sh"


@pytest.mark.parametrize("refusal", ["", "echo 'Requested operation is presently disabled' >&2; exit 1"])
def test_an_element_comes_back_as_a_new_job_where_that_is_how_jobs_come_back(site: Site, refusal: str) -> None:
    site.prepare("requeue" if refusal else "resubmit", requeue=refusal or "true")

    tried = ["requeue 12_0"] if refusal else []
    assert site.end("SIGUSR1") == [*tried, RESUBMITTED.format(site.submission.root)]


def test_an_element_does_not_come_back_by_itself_where_nothing_does(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    site.prepare("never")

    assert site.end("SIGUSR1") == []
    assert "`launcher resume` continues the search" in capfd.readouterr().out


def test_an_element_whose_question_a_signal_ended_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    submission, came_back = SubmissionDir(tmp_path), list[list[str]]()
    submission.manifest.write_text(json.dumps({"search": str(tmp_path / "s")}) + "\n")
    program = tmp_path / "python"
    program.write_text(f"#!/bin/bash\nkill -TERM {os.getpid()}\nkill -TERM $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr(main, "come_back", lambda *its: came_back.append(list(its[-1])))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    try:
        code = main.main([str(submission.root)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    assert (code, came_back) == (CONTINUE, [["SIGTERM"]])
    assert "search ask: was ended by SIGTERM" in capfd.readouterr().out


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


@pytest.mark.parametrize("printed", ["no JSON", "[]", '{"judged": 1}', '{"hopeless_at": 1, "judged": null}', ""])
def test_a_trial_goes_on_if_the_judge_gives_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str
) -> None:
    said = judged_by(tmp_path, monkeypatch, f"echo '{printed}'")

    assert said == [f"search judge: no answer but `{printed}`; the trial goes on"]


def test_what_programs_of_the_site_print_around_the_answer_of_the_judge_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = '{"hopeless_at": 4, "judged": 4}'

    said = judged_by(tmp_path, monkeypatch, f"echo welcome; echo '{answer}'; echo goodbye; echo 'a warning' >&2")

    assert said == ["other trials were better at step 4: this one is pruned"]


def judged_by(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> list[str]:
    """Let a script judge a trial that has something to judge; return what is said of it."""
    run, said, program = RunDir(folder), list[str](), folder / "python"
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("jobs.batch.pruning.LOOK_SECONDS", 0)
    run.evaluations.write_text('{"step": 1}\n')
    monitor = PruningMonitor(run, "validation_loss", said.append)
    wait_for(lambda: monitor.decides() or said, "the answer")
    return said


@pytest.mark.parametrize("printed", ["no JSON", '{"run": "/runs/a"}', ""])
def test_an_element_that_gets_no_answer_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/bash\necho '{printed}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    with pytest.raises(StartRefusedError, match="search ask: no answer but `") as caught:
        next_trial(tmp_path, SubmissionDir(tmp_path), ENVIRON, local=False)

    assert (caught.value.exit_code, printed in str(caught.value)) == (1, True)


def test_the_loss_is_read_from_each_step_and_other_metrics_from_evaluations(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 2.5}]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')
    run.evaluations.write_text('{"step": 2, "validation_loss": null}\n{"step": 4, "validation_loss": 1.0}\n')

    assert read_reports(run, "loss") == {1: 3.0, 2: 2.5}
    assert read_reports(run, "validation_loss") == {2: pytest.approx(math.nan, nan_ok=True), 4: 1.0}
    assert read_reports(run, "else") == {}
