"""Reading logs: the right rank and attempt, who failed first, and following until the run is over."""

import os
import threading
from pathlib import Path

import pytest

from jobs.batch.launch import Outcome, RankEnd, deciding_outcome
from launcher.errors import RunError
from launcher.monitor.logs import (
    Follower,
    attempts_with_logs,
    choose_attempt,
    choose_rank,
    find_failure,
    rank_logs,
    read_tail,
    scheduler_log,
)
from launcher.run.log_tail import Tail
from launcher.run.paths import RunDir, SubmissionDir
from tests.support.command_line import launcher
from tests.support.run_histories import History
from tests.support.waiting import wait_for


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History.begin(tmp_path / "runs").submit("7", at=0).start(0, "7", at=1)
    history.log(0, 0, "step 1", "step 2")
    history.log(0, 1, "rank 1 says hello")
    return history


def test_the_newest_attempt_and_rank_0_are_the_default(history: History) -> None:
    history.end(0, "preempted", "requeue", at=10).start(1, "7", at=20)
    log = history.log(1, 0, "resumed")

    attempt = choose_attempt(history.run, None)

    assert attempts_with_logs(history.run) == [0, 1]
    assert attempt == 1
    assert choose_rank(history.run, attempt, 0) == log


def test_logs_that_a_person_put_aside_are_no_attempt(history: History) -> None:
    (history.run.logs / "attempt-000-before-the-fix").mkdir()

    assert attempts_with_logs(history.run) == [0]


def test_an_unknown_attempt_or_rank_is_refused_with_the_known_ones(history: History) -> None:
    with pytest.raises(RunError, match="has no attempt 3; write one of 0"):
        choose_attempt(history.run, 3)
    with pytest.raises(RunError, match="has no rank 9; write one of 0 or 1"):
        choose_rank(history.run, 0, 9)


def test_a_run_that_never_started_has_no_logs(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no logs yet"):
        choose_attempt(History.begin(tmp_path).run, None)


def test_what_slurm_wrote_is_found_when_the_batch_script_failed(tmp_path: Path) -> None:
    history = History.begin(tmp_path).submit("7_2", at=0)
    assert scheduler_log(history.run) is None
    log = SubmissionDir(Path(history.record.submissions[-1].folder)).slurm_log("7_2")
    log.write_text("module: command not found\n")

    assert scheduler_log(history.run) == log


def test_the_rank_that_the_ledger_names_failed_first(history: History) -> None:
    history.log(0, 0, "Traceback (most recent call last):", "ConnectionError: peer is gone")
    killed = deciding_outcome(
        [RankEnd("1", "a2", 137, "Killed"), RankEnd("0", "a1", 1, "Exited with exit code 1")], Outcome(1)
    )
    history.end(0, "killed", "requeue", at=9, message=f"was killed ({killed.detail}), step 2 is safe")

    failure = find_failure(history.run, 0)

    assert failure is not None
    assert (failure.rank, failure.log) == (1, history.run.rank_log(0, 1))


def test_else_the_earliest_traceback_tells_who_failed_first(history: History) -> None:
    late = history.log(0, 0, "Traceback (most recent call last):", "ConnectionError: peer is gone")
    early = history.log(0, 1, "Traceback (most recent call last):", "ValueError: the cause")
    os.utime(early, (1000, 1000))
    os.utime(late, (1001, 1001))
    history.end(0, "error", "requeue", at=9, message="failed")

    failure = find_failure(history.run, 0)

    assert failure is not None
    assert failure.rank == 1


def test_a_graceful_end_is_no_failure(history: History) -> None:
    history.log(0, 0, "Traceback (most recent call last):", "caught and shown by a library")
    history.end(0, "preempted", "requeue", at=9, message="preempted")

    assert find_failure(history.run, 0) is None


def test_the_tail_of_a_huge_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rank.log"
    path.write_text("".join(f"line {number}\n" for number in range(300_000)))

    assert read_tail(path, 2) == ["line 299998", "line 299999"]
    assert len(read_tail(path, None)) == 300_000
    assert read_tail(tmp_path / "missing", 2) == []


def test_a_line_of_a_log_ends_where_a_terminal_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "rank.log"
    path.write_bytes("1 of 2\r2 of 2\r\none\u2029two\x85three\x0c\nlast\n".encode())
    lines = ["1 of 2", "2 of 2", "one\u2029two\x85three\x0c", "last"]

    assert Tail(path).read() == lines
    assert read_tail(path, None) == lines
    assert read_tail(path, 2) == lines[2:]


class Reader:
    """Follows a run in a thread, as `logs -f` does."""

    def __init__(self, run: RunDir, across: bool = True, count: int = 100) -> None:
        self.seen: list[tuple[int, str, str]] = []
        follower = Follower(run, lambda attempt: {"": run.rank_log(attempt, 0)}, 0, across, lambda: False)
        follower.skip_to_tail(count)
        self._thread = threading.Thread(target=lambda: self.seen.extend(follower.lines()), daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again at once."""
    monkeypatch.setattr("launcher.monitor.logs.POLL_SECONDS", 0.01)


@pytest.mark.usefixtures("eager")
def test_following_goes_on_over_attempts_until_the_run_is_over(history: History) -> None:
    reader = Reader(history.run)
    history.log(0, 0, "step 3")
    history.end(0, "preempted", "requeue", at=10)
    history.start(1, "7", at=20).log(1, 0, "step 4")
    history.log(1, 0, "done")
    history.end(1, "finished", "done", at=30)

    wait_for(lambda: reader.has_ended, "the end of following")

    assert [(attempt, line) for attempt, _, line in reader.seen] == [
        (0, "step 1"), (0, "step 2"), (0, "step 3"), (1, "step 4"), (1, "done"),
    ]  # fmt: skip


@pytest.mark.usefixtures("eager")
def test_following_a_run_that_was_resumed_waits_for_its_next_attempt(history: History) -> None:
    history.end(0, "stopped", "stop", at=10).submit("8", at=20)
    reader = Reader(history.run)
    wait_for(lambda: len(reader.seen) == 2, "the log of the attempt that was stopped")

    history.start(1, "8", at=30).log(1, 0, "step 3")
    history.end(1, "finished", "done", at=40)
    wait_for(lambda: reader.has_ended, "the end of following")

    assert [line for _, _, line in reader.seen] == ["step 1", "step 2", "step 3"]


@pytest.mark.usefixtures("eager")
def test_following_one_attempt_ends_with_it(history: History) -> None:
    history.end(0, "preempted", "requeue", at=10)

    reader = Reader(history.run, across=False, count=1)
    wait_for(lambda: reader.has_ended, "the end of following")

    assert [line for _, _, line in reader.seen] == ["step 2"]


@pytest.mark.usefixtures("eager")
def test_a_line_that_is_still_being_written_is_not_torn(history: History) -> None:
    path = history.run.rank_log(0, 0)
    with path.open("a", encoding="utf-8") as log:
        log.write("half a ")
        log.flush()
        reader = Reader(history.run)
        log.write("line\n")
    history.end(0, "finished", "done", at=30)

    wait_for(lambda: reader.has_ended, "the end of following")

    assert [line for _, _, line in reader.seen] == ["step 1", "step 2", "half a line"]


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"name: here\nexecutor: local\nroots: {{runs: {tmp_path}/runs, corpora: c, models: m}}\n")
    return f"--cluster={path}"


def test_stdout_is_the_log_alone_and_stderr_says_where_the_others_are(history: History, profile: str) -> None:
    stdout, stderr = launcher("logs", "abc123", profile)

    assert stdout == "step 1\nstep 2\n"
    assert "rank-00000.log" in stderr
    assert "--all-ranks" in stderr


def test_all_ranks_are_labelled(history: History, profile: str) -> None:
    stdout, _ = launcher("logs", "abc123", "--all-ranks", profile)

    assert stdout.splitlines() == ["[rank 0] step 1", "[rank 0] step 2", "[rank 1] rank 1 says hello"]
    assert [*rank_logs(history.run, 0)] == [0, 1]


def test_a_failed_attempt_shows_the_last_lines_of_the_guilty_rank(history: History, profile: str) -> None:
    history.log(0, 1, "Traceback (most recent call last):", "ValueError: the cause")
    history.end(0, "error", "stop", at=9, message="failed (rank 1 on a2: Exited with exit code 1)")

    stdout, stderr = launcher("logs", "abc123", profile)

    assert "rank 1 failed first" in stderr
    assert "[rank 1] ValueError: the cause" in stdout


def test_commands_that_do_not_fit_the_state_are_refused(history: History, profile: str) -> None:
    history.end(0, "finished", "done", at=9)

    for command, complaint in (("stop", "nothing to stop"), ("cancel", "nothing to cancel"), ("resume", "is finished")):
        assert complaint in launcher(command, "abc123", profile, code=2)[1]
    assert not history.run.stop_request.exists()


def test_cancelling_a_lost_run_closes_its_ledger(history: History, profile: str) -> None:
    history.record.submissions[-1].job_id = "local-999999999"
    history.record.write(history.run.record)
    text = history.run.ledger.read_text().replace('"7"', '"local-999999999"')
    history.run.ledger.write_text(text.replace('"a1", "a2"', f'"{os.uname().nodename}"'))
    assert "  lost (" in launcher("status", "abc123", profile)[0]

    launcher("cancel", "abc123", profile)

    assert "stopped" in launcher("status", "abc123", profile)[0]


def test_save_leaves_a_request_for_rank_0(history: History, profile: str) -> None:
    launcher("save", "abc123", profile)

    assert history.run.save_request.exists()
