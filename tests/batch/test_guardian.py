"""The guardian where Slurm is away for a while, or stays away: it tries again, and says why it gave up."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.batch import guardian, slurm
from jobs.batch.allocation import BatchJob
from jobs.batch.attempt import Journal
from jobs.batch.guardian import queue_guardian
from launcher.cluster import Cluster
from launcher.run.ledger import Action, append_event, read_attempts
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord, Submitted
from launcher.run.trials import Owner, SearchDir, Trial, claim
from tests.batch.test_batch_slurm import AWAY_TWICE, Commands
from tests.support.counting_runs import Play, write_run
from tests.support.waiting import wait_for

AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
STAYS_AWAY = f'echo "{AWAY}" >&2; exit 1'


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Slurm's commands; nobody waits long for them."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(guardian, "PATIENCE_SECONDS", 0.2)
    return Commands(tmp_path)


@pytest.fixture
def job(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> BatchJob:
    """Job 5, whose batch process opened an attempt and was killed."""
    run, submission = RunDir(tmp_path / "run"), SubmissionDir(tmp_path / "submission")
    recipe = Play().recipe.model_dump(mode="json")
    write_run(run, recipe, make_cluster(slurm={"guardian": True}))
    record = RunRecord.read(run.record)
    record.submissions.append(Submitted("5", str(submission.root), 0.0))
    record.write(run.record)
    run.attempt_logs(0).mkdir(parents=True)
    append_event(run.ledger, 0, job_id="5", nodes=["gpu1"], started=1.0)
    return BatchJob(submission, run, recipe, record, {"SLURM_JOB_ID": "5"}, local=False)


def guard(job: BatchJob) -> int:
    return guardian.main([str(job.run.root), str(job.submission.root)])


def jobs_of(job: BatchJob) -> list[str]:
    return [one.job_id for one in RunRecord.read(job.run.record).submissions]


def given_up(job: BatchJob) -> str:
    return read_attempts(job.run.ledger)[-1].guardian


def away_twice(folder: Path, answer: str) -> str:
    return AWAY_TWICE.format(folder=folder, answer=answer)


def test_a_slurm_that_is_away_for_a_while_is_asked_until_it_answers(
    commands: Commands, job: BatchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardian, "PATIENCE_SECONDS", 60)
    commands.say("squeue", away_twice(tmp_path, "echo FAILED"))
    commands.say("sbatch", "echo 6")

    assert guard(job) == 0

    assert (jobs_of(job), given_up(job)) == (["5", "6"], "")


@pytest.mark.parametrize("answer", ["CANCELLED", "RUNNING", "PENDING", "CONFIGURING", "REQUEUE_HOLD"])
def test_what_slurm_says_once_it_is_back_counts(
    commands: Commands, job: BatchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(guardian, "PATIENCE_SECONDS", 60)
    commands.say("squeue", away_twice(tmp_path, f"echo {answer}"))
    commands.say("sbatch", "echo 6")

    assert guard(job) == 0

    assert (jobs_of(job), given_up(job)) == (["5"], "")


def test_a_run_that_somebody_resumed_while_slurm_was_away_is_left_alone(
    commands: Commands, job: BatchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resume_meanwhile(*_: object) -> slurm.CommandResult:
        job.record.submissions.append(Submitted("7", str(job.submission.root), 2.0))
        job.record.write(job.run.record)
        return slurm.CommandResult(True, "FAILED")

    monkeypatch.setattr(slurm, "ask_states", resume_meanwhile)
    commands.say("sbatch", "echo 6")

    assert guard(job) == 0

    assert jobs_of(job) == ["5", "7"]


@pytest.mark.parametrize("action", ["requeue", "resubmit", "restart"])
def test_a_run_whose_batch_process_was_killed_before_it_had_queued_it_again_comes_back(
    commands: Commands, job: BatchJob, tmp_path: Path, action: Action
) -> None:
    append_event(job.run.ledger, 0, ended=2.0, reason="preempted", action=action)
    commands.say("squeue", "echo FAILED")
    commands.say("scontrol", "echo 'JobId=5 JobState=FAILED ExcNodeList=gpu[3-4]'")
    commands.say("sbatch", f'echo "$@" >{tmp_path}/argv; echo 6')

    assert guard(job) == 0

    assert jobs_of(job) == ["5", "6"]
    options = "--parsable --dependency=afterany:5 --nodes=1 --exclude=gpu[3-4]"
    assert (tmp_path / "argv").read_text() == f"{options} {job.submission.script}\n"


FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


@pytest.mark.parametrize("ended", [{}, {"ended": 2.0, "reason": "preempted", "action": "requeue"}])
@pytest.mark.parametrize(
    ("states", "jobs"), [(["PREEMPTED", "CANCELLED by 1000"], ["5"]), (["CANCELLED by 0", "FAILED"], ["5", "6"])]
)
def test_of_a_job_that_squeue_has_forgotten_accounting_tells_whether_a_person_cancelled_it(
    commands: Commands, job: BatchJob, tmp_path: Path, ended: dict[str, object], states: list[str], jobs: list[str]
) -> None:
    if ended:
        append_event(job.run.ledger, 0, **ended)
    commands.say("squeue", FORGOTTEN)
    commands.say("sacct", f'echo "$@" >{tmp_path}/argv; ' + "; ".join(f"echo '{state}'" for state in states))
    commands.say("sbatch", "echo 6")

    assert guard(job) == 0

    assert (jobs_of(job), given_up(job)) == (jobs, "")
    assert {"--duplicates", "--allocations", "--jobs=5"} <= {*(tmp_path / "argv").read_text().split()}


@pytest.mark.parametrize("accounting", ["exit 1", "", "echo RUNNING"])
def test_a_requeued_job_that_all_have_forgotten_may_have_been_cancelled_and_is_left_to_a_person(
    commands: Commands, job: BatchJob, accounting: str
) -> None:
    append_event(job.run.ledger, 0, ended=2.0, reason="preempted", action="requeue")
    commands.say("squeue", FORGOTTEN)
    commands.say("sacct", accounting)
    commands.say("sbatch", "echo 6")

    assert guard(job) == 1

    assert jobs_of(job) == ["5"]
    assert "`launcher resume` continues the run" in given_up(job)


def test_a_run_whose_end_nobody_could_write_down_comes_back_though_all_have_forgotten_its_job(
    commands: Commands, job: BatchJob
) -> None:
    commands.say("squeue", FORGOTTEN)
    commands.say("sbatch", "echo 6")

    assert guard(job) == 0

    assert (jobs_of(job), given_up(job)) == (["5", "6"], "")


def test_a_run_that_is_over_is_left_alone(commands: Commands, job: BatchJob) -> None:
    append_event(job.run.ledger, 0, ended=2.0, reason="error", action="stop")
    commands.say("squeue", "echo FAILED")
    commands.say("sbatch", "echo 6")

    assert guard(job) == 0

    assert jobs_of(job) == ["5"]


def test_a_run_that_is_over_is_not_brought_back_but_others_go_on(
    commands: Commands, job: BatchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batch process may have been killed before it had advanced the pipeline."""
    append_event(job.run.ledger, 0, ended=2.0, reason="error", action="stop")
    job.record.pipeline = str(tmp_path / "pipeline")
    job.record.write(job.run.record)
    commands.say("sbatch", "echo 6")
    commands.say("python", f'echo "$@" >>{tmp_path}/asked; echo s1: queued as job 7')
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("SLURM_JOB_ID", "9")

    assert guard(job) == 0

    assert jobs_of(job) == ["5"]
    assert (tmp_path / "asked").read_text() == f"-m launcher pipeline advance {job.run.root}\n"
    assert "pipeline advance: s1: queued as job 7" in job.run.batch_log(0).read_text()


def test_a_run_that_is_over_and_whose_files_are_gone_is_told_of(
    commands: Commands, job: BatchJob, capfd: pytest.CaptureFixture[str]
) -> None:
    append_event(job.run.ledger, 0, ended=2.0, reason="error", action="stop")
    job.run.recipe.unlink()

    assert guard(job) == 1

    assert "what waits for it cannot be told: " in capfd.readouterr().out


def test_a_job_that_was_queued_just_before_the_kill_is_not_queued_twice(commands: Commands, job: BatchJob) -> None:
    append_event(job.run.ledger, 0, ended=2.0, reason="preempted", action="resubmit")
    script = job.submission.script
    rows = rf"7_0|{script}\n5|{script}\n8|{script}\n9|/usr/bin/other\n"
    commands.say(
        "squeue", f"case $* in *%o) printf '{rows}' ;; *%T) echo FAILED ;; *) echo '4|afterok:5(failed)|n' ;; esac"
    )
    commands.say("scontrol", f'echo "$@" >>{commands.folder}/asked')
    commands.say("sbatch", "echo 6")

    assert guard(job) == 0

    assert jobs_of(job) == ["5", "8"]
    assert "update JobId=4 Dependency=afterok:8" in (commands.folder / "asked").read_text()


def test_a_run_that_goes_on_in_another_job_is_left_to_the_guardian_of_that(commands: Commands, job: BatchJob) -> None:
    append_event(job.run.ledger, 0, ended=2.0, reason="preempted", action="resubmit")
    append_event(job.run.ledger, 1, job_id="6", nodes=["gpu1"], started=3.0)
    job.record.submissions.append(Submitted("6", str(job.submission.root), 2.0))
    job.record.write(job.run.record)
    commands.say("squeue", "echo FAILED")
    commands.say("sbatch", "echo 7")

    assert guardian.main([str(job.run.root), str(job.submission.root), "--job", "5"]) == 0

    assert jobs_of(job) == ["5", "6"]


@pytest.mark.parametrize("is_closed", [False, True])
def test_what_a_finished_run_could_not_tell_others_the_guardian_tells_them(
    commands: Commands, job: BatchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_closed: bool
) -> None:
    """Killed before the end was noted, or after that, while the pipeline advanced."""
    append_event(job.run.ledger, 0, reason="finished", **({"ended": 2.0, "action": "done"} if is_closed else {}))
    job.record.pipeline = str(tmp_path / "pipeline")
    job.record.write(job.run.record)
    commands.say("squeue", "case $* in *%T) echo FAILED ;; *) echo '4|afterok:5(failed)|next' ;; esac")
    commands.say("scontrol", f'echo "$@" >>{tmp_path}/asked')
    commands.say("python", f'echo "$@" >>{tmp_path}/asked')
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("SLURM_JOB_ID", "9")

    assert guard(job) == 0

    [attempt] = read_attempts(job.run.ledger)
    assert (attempt.reason, attempt.action, attempt.ended is not None) == ("finished", "done", True)
    assert jobs_of(job) == ["5"]
    assert (tmp_path / "asked").read_text().splitlines() == [
        f"-m launcher pipeline advance {job.run.root}",
        "update JobId=4 Dependency=afterok:9",
    ]


def test_a_guardian_that_cannot_tell_others_says_so(commands: Commands, job: BatchJob) -> None:
    append_event(job.run.ledger, 0, reason="finished")
    job.run.recipe.write_text("{}")
    commands.say("squeue", "echo FAILED")

    assert guard(job) == 1

    assert given_up(job).startswith("it could not tell others that the run has finished: ")


def test_a_guardian_that_cannot_learn_how_the_job_ended_says_so(commands: Commands, job: BatchJob) -> None:
    commands.say("squeue", STAYS_AWAY)
    commands.say("sbatch", "echo 6")

    assert guard(job) == 1

    assert given_up(job) == f"it could not learn whether job 5 was cancelled: {AWAY}"
    assert given_up(job) in job.run.batch_log(0).read_text()
    assert jobs_of(job) == ["5"]


def test_a_guardian_that_cannot_queue_the_run_says_so(commands: Commands, job: BatchJob) -> None:
    commands.say("squeue", "echo FAILED")
    commands.say("sbatch", 'echo "sbatch: error: Batch job submission failed: Invalid account" >&2; exit 1')

    assert guard(job) == 1

    assert given_up(job).startswith("it could not queue the run again: sbatch: error: Batch job submission failed")


def test_the_guardian_of_an_attempt_that_starts_while_slurm_is_away_is_queued_later(
    commands: Commands, job: BatchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 60)
    commands.say("squeue", away_twice(tmp_path, ""))
    commands.say("sbatch", f'echo "$@" >{tmp_path}/argv; echo 6')
    say = Journal(job.run.batch_log(0))

    queue_guardian(job, 0, say)

    wait_for(lambda: say.path.exists() and "guardian: job 6" in say.path.read_text(), "the guardian")
    argv = (tmp_path / "argv").read_text()
    assert "--dependency=afternotok:5 " in argv
    assert argv.rstrip().endswith("--job 5")
    assert given_up(job) == ""


def test_a_percent_sign_in_the_folder_of_all_runs_is_none_of_slurms(
    commands: Commands, job: BatchJob, tmp_path: Path
) -> None:
    """Slurm replaces `%j` and the like in all of `--output`."""
    commands.say("squeue", "")
    commands.say("sbatch", f"printf '%s\\n' \"$@\" >{tmp_path}/argv; echo 6")
    say = Journal(job.run.batch_log(0))

    queue_guardian(replace(job, submission=SubmissionDir(tmp_path / "50%jobs" / "s")), 0, say)

    wait_for(lambda: say.path.exists() and "guardian: job 6" in say.path.read_text(), "the guardian")
    assert f"--output={tmp_path}/50%%jobs/s/guardian-%j.log" in (tmp_path / "argv").read_text().splitlines()


def test_an_attempt_without_a_guardian_says_why(commands: Commands, job: BatchJob) -> None:
    commands.say("squeue", STAYS_AWAY)

    queue_guardian(job, 0, Journal(job.run.batch_log(0)))

    wait_for(lambda: given_up(job), "what the ledger says")
    assert given_up(job) == f"it was not queued: {AWAY}"


def test_a_job_that_has_a_guardian_gets_no_second_one(commands: Commands, job: BatchJob, tmp_path: Path) -> None:
    commands.say("squeue", f"echo asked >>{tmp_path}/asked; echo '9|afternotok:5(unfulfilled)|guardian-run'")
    commands.say("sbatch", f"touch {tmp_path}/queued; echo 6")

    queue_guardian(job, 0, Journal(job.run.batch_log(0)))
    queue_guardian(job, 1, Journal(job.run.batch_log(0)))

    wait_for(lambda: (tmp_path / "asked").exists() and (tmp_path / "asked").read_text().count("\n") == 2, "both")
    wait_for(lambda: not guardian._QUEUEING.locked(), "the end of the second question")
    assert not (tmp_path / "queued").exists()


def test_what_somebody_else_has_waiting_for_a_failure_is_no_guardian(
    commands: Commands, job: BatchJob, tmp_path: Path
) -> None:
    commands.say("squeue", "echo '9|afternotok:5(unfulfilled)|mail-me'")
    commands.say("sbatch", "echo 6")
    say = Journal(job.run.batch_log(0))

    queue_guardian(job, 0, say)

    wait_for(lambda: say.path.exists() and "guardian: job 6" in say.path.read_text(), "the guardian")


def test_the_guardian_of_an_element_brings_back_the_trial_that_was_under_way(
    commands: Commands,
    job: BatchJob,
    tmp_path: Path,
    make_cluster: Callable[..., Cluster],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    search = SearchDir(tmp_path / "runs" / ".sweeps" / "s")
    search.trials.mkdir(parents=True)
    for number, owner in enumerate(("5", "4", "5")):
        run = RunDir(search.runs_root / f"trial-{number}")
        write_run(run, dict(job.recipe), make_cluster(slurm={"guardian": True}))
        record = RunRecord.read(run.record)
        record.submissions.append(Submitted(owner, str(job.submission.root), 0.0))
        record.write(run.record)
        run.attempt_logs(0).mkdir(parents=True)
        append_event(run.ledger, 0, job_id=owner, nodes=["gpu1"], started=1.0)
        claim(search, Trial(number, run.root.name, {}, record.fingerprint, Owner(owner)))
    first, others, last = (RunDir(search.runs_root / f"trial-{number}") for number in range(3))
    append_event(first.ledger, 0, reason="finished", action="done", ended=2.0)
    job.submission.root.mkdir()
    job.submission.manifest.write_text(json.dumps({"search": str(search.root)}) + "\n")
    commands.say("squeue", "echo FAILED")
    commands.say("sbatch", "echo 6")

    assert guardian.main([str(first.root), str(job.submission.root), "--job", "5"]) == 0

    jobs = [[one.job_id for one in RunRecord.read(run.record).submissions] for run in (first, others, last)]
    assert jobs == [["5"], ["4"], ["5", "6"]]

    append_event(last.ledger, 0, ended=3.0, reason="error", action="requeue")
    record = RunRecord.read(last.record)
    record.submissions.pop()
    record.write(last.record)
    assert guardian.main([str(first.root), str(job.submission.root), "--job", "5"]) == 0
    assert [one.job_id for one in RunRecord.read(last.record).submissions] == ["5", "6"]

    append_event(last.ledger, 0, reason="killed", action="stop", ended=3.0)
    search.record.write_text(json.dumps({"pipeline": str(tmp_path / "pipeline")}))
    commands.say("python", f'echo "$@" >>{tmp_path}/asked')
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert guardian.main([str(first.root), str(job.submission.root), "--job", "5"]) == 0
    assert "job 5 had no trial under way" in capfd.readouterr().out
    assert (tmp_path / "asked").read_text() == f"-m launcher pipeline advance {last.root}\n"


def test_when_a_trial_has_finished_the_element_goes_on_with_others(
    commands: Commands, job: BatchJob, tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    search = SearchDir(tmp_path / "runs" / ".sweeps" / "s")
    search.trials.mkdir(parents=True)
    search.record.write_text(json.dumps({"section": {"pruner": None}}))
    run = RunDir(search.runs_root / "trial-0")
    write_run(run, dict(job.recipe), make_cluster(slurm={"guardian": True}))
    record = RunRecord.read(run.record)
    record.sweep = "s"
    record.submissions.append(Submitted("5", str(job.submission.root), 0.0))
    record.write(run.record)
    run.attempt_logs(0).mkdir(parents=True)
    append_event(run.ledger, 0, job_id="5", nodes=["gpu1"], started=1.0)
    append_event(run.ledger, 0, reason="finished")
    claim(search, Trial(0, run.root.name, {}, record.fingerprint, Owner("5")))
    job.submission.root.mkdir()
    job.submission.manifest.write_text(json.dumps({"search": str(search.root)}) + "\n")
    commands.say("squeue", "echo FAILED")
    commands.say("sbatch", f"touch {tmp_path}/queued; echo 6")

    assert guardian.main([str(run.root), str(job.submission.root), "--job", "5"]) == 0

    assert (read_attempts(run.ledger)[0].action, (tmp_path / "queued").exists()) == ("done", True)
    assert [one.job_id for one in RunRecord.read(run.record).submissions] == ["5"]
