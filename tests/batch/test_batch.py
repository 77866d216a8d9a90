"""The batch process in local mode: real processes, real signals, ranks that only count."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.batch.slurm import RESUBMITTED_BY
from launcher.cluster import Cluster
from launcher.run.ledger import StopRequest, append_event, read_attempts
from launcher.run.paths import RunDir, SubmissionDir, published_steps
from tests.support.counting_runs import PROJECT, Play, last_attempt, run_batch, seen, stage, start_batch, summary
from tests.support.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.slow

LONG = 10_000
"""Steps that no test waits for."""


@pytest.fixture
def local_cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster(executor="local", gpus={"device": "cpu"})


@pytest.fixture
def staged(tmp_path: Path, local_cluster: Cluster) -> Callable[..., tuple[SubmissionDir, RunDir]]:
    def make(**play: object) -> tuple[SubmissionDir, RunDir]:
        submission, [run] = stage(tmp_path / "staged", local_cluster, [Play(**play)])  # type: ignore[arg-type]
        return submission, run

    return make


Staged = Callable[..., tuple[SubmissionDir, RunDir]]


@contextmanager
def running(submission: SubmissionDir, run: RunDir) -> Iterator["subprocess.Popen[str]"]:
    """A batch process whose ranks count."""
    batch = start_batch(submission)
    try:
        wait_for(lambda: counts(run), "counting ranks")
        yield batch
    finally:
        batch.kill()
        batch.communicate()


def counts(run: RunDir) -> bool:
    """Tell whether both ranks of the newest attempt have counted."""
    attempts = read_attempts(run.ledger)
    logs = [run.rank_log(attempts[-1].number, rank) for rank in range(2)] if attempts else []
    return bool(logs) and all(log.exists() and "step" in log.read_text() for log in logs)


def rank_pids(run: RunDir, attempt: int) -> list[int]:
    return [seen(run, attempt, rank)["pid"] for rank in range(2)]


def test_a_run_that_works_finishes_in_one_attempt(staged: Staged) -> None:
    submission, run = staged(nodes=2)

    code, said = run_batch(submission)

    assert (code, summary(run)) == (0, [("finished", "done")]), said
    attempt = last_attempt(run)
    assert (attempt.first_step, attempt.last_step, attempt.world_size, attempt.exit_code) == (0, 4, 4, 0)
    assert [seen(run, 0, rank)["ranks"] for rank in range(4)] == [[r, 4, r % 2, 2, r // 2] for r in range(4)]
    assert run.rank_log(0, 3).read_text().splitlines() == [f"step {n}" for n in range(1, 5)]
    assert run.batch_log(0).read_text() == said


def test_a_finished_run_is_left_alone(staged: Staged) -> None:
    submission, run = staged()
    run_batch(submission)
    before = run.ledger.read_bytes()

    code, said = run_batch(submission)

    assert code == 0
    assert "finished in attempt 0; nothing to do" in said
    assert run.ledger.read_bytes() == before


def test_a_run_that_a_person_stopped_stays_stopped(staged: Staged) -> None:
    submission, run = staged()
    run.stop_request.touch()

    code, said = run_batch(submission)

    assert code == 1
    assert "STOP is there" in said
    assert not run.ledger.exists()


def test_a_time_limit_that_an_earlier_attempt_met_does_not_stop_the_next_one(staged: Staged) -> None:
    submission, run = staged()
    StopRequest("time_limit", 0).write(run.stop_request)

    run_batch(submission)

    assert summary(run) == [("finished", "done")]


def test_a_recipe_that_was_changed_after_it_was_queued_is_never_started(staged: Staged) -> None:
    submission, run = staged()
    recipe = json.loads(run.recipe.read_text())
    run.recipe.write_text(json.dumps({**recipe, "seed": 1}))

    code, said = run_batch(submission)

    assert code == 78
    assert "was changed after it was queued" in said
    assert not run.ledger.exists()


def test_an_index_without_a_run_is_never_started(staged: Staged) -> None:
    submission, _ = staged()

    code, said = run_batch(submission, SLURM_ARRAY_TASK_ID="7")

    assert (code, "no line for array index 7" in said) == (78, True)


def test_outside_slurm_the_batch_process_says_what_is_missing(staged: Staged) -> None:
    submission, run = staged()

    code, said = run_batch(submission, "")

    assert (code, "not inside a Slurm job; submit the run, or add `--local`" in said) == (78, True)
    assert not run.ledger.exists()


def test_ranks_do_not_outlive_their_batch_process(staged: Staged) -> None:
    submission, run = staged(steps=LONG)

    with running(submission, run) as batch:
        batch.kill()
        wait_for(lambda: run.root.joinpath("left-0").exists(), "the ranks' last save")

    assert last_attempt(run).last_step == published_steps(run)[-1]


def test_the_index_chooses_the_run(tmp_path: Path, local_cluster: Cluster) -> None:
    submission, [first, second] = stage(tmp_path / "staged", local_cluster, [Play(), Play(steps=2)])

    run_batch(submission, SLURM_ARRAY_TASK_ID="1")

    assert not first.ledger.exists()
    assert last_attempt(second).last_step == 2


def test_a_crash_ends_the_other_ranks_and_the_run_goes_on_from_its_checkpoint(staged: Staged) -> None:
    submission, run = staged(acts={"0": {"rank": 1, "at_step": 2, "exit_code": 3}})

    code, said = run_batch(submission)

    assert (code, summary(run)) == (0, [("error", "requeue"), ("finished", "done")]), said
    crashed, resumed = read_attempts(run.ledger)
    assert crashed.exit_code == 3
    assert f"rank 1 on {os.uname().nodename}: Exited with exit code 3" in crashed.message
    assert resumed.first_step == crashed.last_step


def test_a_micro_batch_that_does_not_fit_starts_again_at_once_and_counts_as_no_failure(staged: Staged) -> None:
    acts = {str(n): {"rank": 1, "at_step": 2, "micro_batch": 8 >> n, "exit_code": 76} for n in range(3)}
    submission, run = staged(max_failures=0, acts=acts)

    code, said = run_batch(submission)

    assert (code, summary(run)) == (0, [("does_not_fit", "restart")] * 3 + [("finished", "done")]), said
    assert [attempt.max_micro_batch for attempt in read_attempts(run.ledger)] == [4, 2, 1, None]
    assert "did not fit into a GPU's memory (rank 1 on" in read_attempts(run.ledger)[0].message


@pytest.mark.parametrize(("announced", "ends"), [(76, [("does_not_fit", "restart")]), (78, [("bad_recipe", "stop")])])
def test_a_rank_that_said_what_cannot_work_is_believed_though_another_one_failed_first(
    staged: Staged, announced: int, ends: list[tuple[str, str]]
) -> None:
    """The others lose their connection to it, and may be gone before Slurm has heard of its own end."""
    act = {"rank": 1, "at_step": 2, "micro_batch": 8, "announces": announced, "exit_code": 1}
    submission, run = staged(acts={"0": act, "1": {"at_step": 1, "exit_code": 78}})

    run_batch(submission)

    first = read_attempts(run.ledger)[0]
    assert (summary(run)[:1], first.exit_code) == (ends, announced)
    assert f"rank 1 on {os.uname().nodename}: cannot work" in first.message


def test_a_rank_that_is_killed_is_told_from_one_that_failed(staged: Staged) -> None:
    submission, run = staged(acts={"0": {"at_step": 2, "signal": 9}})

    run_batch(submission)

    assert summary(run) == [("killed", "requeue"), ("finished", "done")]


def test_a_run_that_hangs_leaves_its_stacks_and_goes_on_from_its_checkpoint(staged: Staged) -> None:
    act = {"rank": 0, "at_step": 3, "block": True}
    submission, run = staged(steps=4, save_every=2, hang="8s", acts={"0": act})

    code, said = run_batch(submission)

    assert (code, summary(run)) == (0, [("hang", "requeue"), ("finished", "done")]), said
    hung, resumed = read_attempts(run.ledger)
    assert "hung (no heartbeat for 8s since the start; stacks in logs/attempt-000/rank-*.log" in hung.message
    assert "Timeout" in run.rank_log(0, 0).read_text()
    assert " in stuck\n" in run.rank_log(0, 0).read_text()
    assert (hung.source, resumed.first_step) == ("watchdog", 2)


def test_a_rank_that_is_stopped_is_named_as_the_one_without_stacks(staged: Staged) -> None:
    submission, run = staged(gpus_per_node=1, hang="8s", acts={"0": {"at_step": 2, "signal": signal.SIGSTOP}})

    run_batch(submission)

    assert summary(run) == [("hang", "requeue"), ("finished", "done")]
    assert f"but none of rank 0 on {os.uname().nodename}" in read_attempts(run.ledger)[0].message


def test_three_hangs_at_the_same_step_stop_the_run(staged: Staged) -> None:
    act = {"at_step": 1, "block": True}
    submission, run = staged(gpus_per_node=1, hang="1s", acts={str(n): act for n in range(9)}, max_failures=9)

    run_batch(submission)

    assert summary(run) == [("hang", "requeue")] * 2 + [("hang", "stop")]


def test_a_run_that_is_slow_but_alive_is_left_alone(staged: Staged) -> None:
    submission, run = staged(steps=5, seconds=2, hang="8s")

    run_batch(submission)

    assert summary(run) == [("finished", "done")]
    assert "Timeout" not in run.rank_log(0, 0).read_text()


def test_without_a_limit_nobody_watches(staged: Staged) -> None:
    submission, run = staged(steps=LONG, hang=None)

    with running(submission, run) as batch:
        batch.send_signal(signal.SIGTERM)
        batch.wait(PATIENCE)

    assert not run.heartbeat(0).exists()
    assert seen(run, 0, 0)["environ"]["LAUNCHER_HANG_SECONDS"] == "0"


def test_a_recipe_that_cannot_work_is_tried_once(staged: Staged) -> None:
    submission, run = staged(acts={"0": {"rank": 1, "at_step": 2, "exit_code": 78}})

    code, _ = run_batch(submission)

    assert (code, summary(run)) == (78, [("bad_recipe", "stop")])


def test_three_failures_at_the_same_step_stop_the_run(staged: Staged) -> None:
    crash = {"at_step": 1, "exit_code": 1}
    submission, run = staged(acts={str(n): crash for n in range(9)}, max_failures=9)

    code, _ = run_batch(submission)

    assert (code, summary(run)) == (1, [("error", "requeue")] * 2 + [("error", "stop")])


def test_failures_beyond_the_recipes_limit_stop_the_run(staged: Staged) -> None:
    submission, run = staged(acts={"0": {"at_step": 1, "exit_code": 1}}, max_failures=0)

    assert run_batch(submission)[0] == 1
    assert summary(run) == [("error", "stop")]


def test_signalled_ranks_save_and_the_run_goes_on_by_itself(staged: Staged) -> None:
    submission, run = staged(steps=LONG)

    with running(submission, run) as batch:
        for pid in rank_pids(run, 0):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: len(summary(run)) == 2 and counts(run), "the second attempt")
        run.stop_request.touch()
        batch.wait(PATIENCE)

    preempted, stopped = read_attempts(run.ledger)
    assert (preempted.reason, preempted.action, preempted.exit_code) == ("preempted", "requeue", 75)
    assert stopped.first_step == preempted.last_step
    assert stopped.first_step in published_steps(run)
    assert (stopped.reason, stopped.action, batch.returncode) == ("stopped", "stop", 75)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ending_the_batch_process_stops_the_run_gracefully(staged: Staged, number: signal.Signals) -> None:
    submission, run = staged(steps=LONG)

    with running(submission, run) as batch:
        batch.send_signal(number)
        batch.send_signal(number)
        code = batch.wait(PATIENCE)

    assert (code, summary(run)) == (75, [("stopped", "stop")])
    assert last_attempt(run).last_step == published_steps(run)[-1]


def test_the_time_limit_of_an_attempt_makes_room_for_the_next(
    tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(executor="local", gpus={"device": "cpu"}, slurm={"lead": "2s"})
    submission, [run] = stage(tmp_path / "staged", cluster, [Play(steps=LONG, time="4s")])

    with running(submission, run):
        wait_for(lambda: len(summary(run)) >= 2, "the second attempt")

    assert summary(run)[0] == ("time_limit", "requeue")
    assert [attempt.number for attempt in read_attempts(run.ledger)][:2] == [0, 1]


def test_a_profile_without_requeue_leaves_the_run_to_people(
    tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(executor="local", gpus={"device": "cpu"}, slurm={"requeue": "never"})
    submission, [run] = stage(tmp_path / "staged", cluster, [Play(acts={"0": {"at_step": 1, "exit_code": 1}})])

    code, _ = run_batch(submission)

    assert (code, summary(run)) == (1, [("error", "stop")])


def test_an_attempt_that_did_not_tell_its_end_is_closed_by_the_next_start(staged: Staged) -> None:
    submission, run = staged()
    append_event(run.ledger, 0, job_id="local-999999999", nodes=[os.uname().nodename], started=1.0, world_size=2)

    code, said = run_batch(submission)

    assert code == 0
    assert "attempt 0 did not tell how it ended: killed" in said
    first, second = read_attempts(run.ledger)
    assert (first.reason, first.source, first.action) == ("killed", "no word of its end", "stop")
    assert first.ended == 1.0, "it wrote nothing after its start"
    assert (second.number, second.reason) == (1, "finished")


def test_an_attempt_that_had_saved_on_request_when_its_process_was_killed_did_not_fail(staged: Staged) -> None:
    submission, run = staged()
    append_event(run.ledger, 0, job_id="local-999999999", nodes=["here"], started=1.0, world_size=2, last_step=2)
    StopRequest("time_limit", 0).write(run.stop_request)
    run_batch(submission)
    assert summary(run) == [("time_limit", "stop"), ("finished", "done")]


def test_a_person_may_resume_a_run_under_the_number_that_its_process_had_before(staged: Staged) -> None:
    """In a container that is started again processes get the same numbers again."""
    submission, run = staged()
    program = f"""
import os, sys
from pathlib import Path
from jobs.batch.main import main
from launcher.run.ledger import append_event
append_event(Path({str(run.ledger)!r}), 0, job_id=f"local-{{os.getpid()}}", ended=1.0, reason="error", action="stop")
sys.exit(main([{str(submission.root)!r}, "--local"]))
"""
    environ = {**os.environ, "PYTHONPATH": str(PROJECT)}

    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, timeout=PATIENCE, check=False
    )

    assert (done.returncode, summary(run)) == (0, [("error", "stop"), ("finished", "done")])


def test_logs_that_a_person_put_aside_do_not_keep_a_run_from_starting(staged: Staged) -> None:
    submission, run = staged()
    (run.logs / "attempt-000-before-the-fix").mkdir(parents=True)

    run_batch(submission)

    assert summary(run) == [("finished", "done")]


def test_a_run_is_never_started_twice_at_once(staged: Staged) -> None:
    submission, run = staged(steps=LONG)

    with running(submission, run) as batch:
        code, said = run_batch(submission)

        assert code == 1
        assert f"attempt 0 is running as job local-{batch.pid}" in said
        assert batch.poll() is None
    assert len(read_attempts(run.ledger)) == 1


def test_an_attempts_number_is_never_used_again(staged: Staged) -> None:
    submission, run = staged()
    run.attempt_logs(0).mkdir(parents=True)  # of a batch process that died before its first line in the ledger

    run_batch(submission)

    assert [attempt.number for attempt in read_attempts(run.ledger)] == [1]


def test_ranks_get_their_meeting_point_and_their_share_of_the_machine(staged: Staged) -> None:
    submission, run = staged()

    run_batch(submission, OMP_NUM_THREADS="7")

    environ = seen(run, 0, 1)["environ"]
    assert (environ["MASTER_ADDR"], environ["LAUNCHER_ATTEMPT"], environ["OMP_NUM_THREADS"]) == ("127.0.0.1", "0", "1")
    assert 10000 <= int(environ["MASTER_PORT"]) < 32000
    assert environ["PYTHONPATH"].split(":")[0] == str(run.code)
    assert seen(run, 0, 1)["cwd"] == str(run.root)


def test_the_unfit_node_that_a_preflight_found_is_in_the_ledger(staged: Staged) -> None:
    submission, run = staged(acts={"0": {"at_step": 1, "exit_code": 1, "unfit": "3 of 4 GPUs are visible"}})

    run_batch(submission)

    failed = read_attempts(run.ledger)[0]
    assert (failed.reason, failed.source) == ("node_failure", "preflight")
    assert f"{os.uname().nodename}: 3 of 4 GPUs are visible" in failed.message


@pytest.fixture
def on_small_disk(small_disk: Path, local_cluster: Cluster) -> Callable[..., tuple[SubmissionDir, RunDir]]:
    def make(**play: object) -> tuple[SubmissionDir, RunDir]:
        submission, [run] = stage(small_disk, local_cluster, [Play(**play)])  # type: ignore[arg-type]
        return submission, run

    return make


def test_a_full_disk_is_told_in_a_line_and_starts_nothing_until_there_is_room(on_small_disk: Staged) -> None:
    submission, run = on_small_disk(acts={"0": {"at_step": 2, "fill": True, "exit_code": 1}})

    code, said = run_batch(submission)

    assert (code, summary(run)) == (os.EX_IOERR, [(None, None)])
    assert "the ledger cannot take the end of attempt 0: [Errno 28] No space left on device" in said
    assert f"{run.root.name}: not started: [Errno 28] No space left on device" in said.splitlines()[-1]
    assert "Traceback" not in said

    (run.root / "filler").unlink()
    code, said = run_batch(submission)

    assert (code, summary(run)) == (0, [("killed", "stop"), ("finished", "done")]), said


def test_ends_that_the_ledger_could_not_take_use_up_the_budget_all_the_same(on_small_disk: Staged) -> None:
    fill = {"at_step": 1, "fill": True, "exit_code": 1}
    submission, run = on_small_disk(acts={str(n): fill for n in range(9)}, max_failures=9)
    queued_by: dict[str, str] = {}

    for code in (os.EX_IOERR, os.EX_IOERR, 1):
        batch = start_batch(submission, **queued_by)
        said, _ = batch.communicate(timeout=PATIENCE)
        assert batch.returncode == code, said
        (run.root / "filler").unlink()
        queued_by = {RESUBMITTED_BY: f"local-{batch.pid}"}
    code, said = run_batch(submission, **queued_by)

    assert (code, summary(run)) == (1, [("killed", "requeue")] * 2 + [("killed", "stop")]), said


def test_a_run_directory_that_vanishes_is_told_in_a_line_and_not_made_again(staged: Staged) -> None:
    submission, run = staged(acts={"0": {"at_step": 2, "remove": True, "exit_code": 1}})

    code, said = run_batch(submission)

    assert code == os.EX_IOERR
    assert f"not started: [Errno 2] No such file or directory: '{run.logs}'" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not run.root.exists()


def test_a_batch_process_whose_own_log_is_full_works_on(staged: Staged) -> None:
    submission, run = staged()

    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-u", "-m", "jobs.batch.main", str(submission.root), "--local"]
        environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
        done = subprocess.run(command, env=environ, stdout=full, stderr=full, timeout=PATIENCE, check=False)

    assert (done.returncode, summary(run)) == (0, [("finished", "done")])


def test_a_hostile_folder_name_does_no_harm(hostile_path: Path, local_cluster: Cluster) -> None:
    submission, [run] = stage(hostile_path / "staged", local_cluster, [Play()])

    code, said = run_batch(submission)

    assert (code, summary(run)) == (0, [("finished", "done")]), said
