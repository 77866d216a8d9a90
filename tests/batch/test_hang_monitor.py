"""How the batch process tells a hang from a slow attempt; and a hang of real training."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.batch.allocation import find_job
from jobs.batch.attempt import open_attempt
from jobs.batch.end_reason import find_end_reason
from jobs.batch.hang_monitor import Silence, has_stacks
from jobs.batch.supervise import Signals, supervise
from launcher.cluster import Cluster
from launcher.recipe import read_recipe
from launcher.run.heartbeat import Bound
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir, SubmissionDir, published_steps
from launcher.run.record import RunRecord
from tests.support.corpora import make_corpus
from tests.support.counting_runs import PROJECT, Play, stage, start_batch, summary, write_run
from tests.support.training_runs import ASSETS, cpt_recipe, losses, words
from tests.support.waiting import PATIENCE, wait_for

LIMIT = 1000.0


@dataclass
class Watch:
    """A silence, its heartbeat, and a clock that tests move."""

    heartbeat: Path
    now: float = 0.0

    def __post_init__(self) -> None:
        self.silence = Silence(self.heartbeat, LIMIT, lambda: self.now)

    def pass_by(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass while somebody looks every `step` seconds."""
        for _ in range(round(seconds / step)):
            self.now += step
            self.silence.look()

    def renew(self) -> None:
        self.heartbeat.touch()
        os.utime(self.heartbeat, (self.now, self.now))


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path / "heartbeat")


def test_a_heartbeat_that_is_renewed_in_time_is_no_hang(watch: Watch) -> None:
    for _ in range(5):
        watch.pass_by(LIMIT - 20)
        watch.renew()

    assert not watch.silence.is_hang
    assert not watch.silence.explains_failure


def test_a_silence_is_a_hang_some_time_after_the_limit(watch: Watch) -> None:
    watch.renew()
    watch.pass_by(LIMIT)
    assert not watch.silence.is_hang

    watch.pass_by(LIMIT / 8)

    assert watch.silence.is_hang


def test_an_attempt_that_never_gave_a_sign_of_life_hangs(watch: Watch) -> None:
    watch.pass_by(1.2 * LIMIT)

    assert watch.silence.is_hang


def test_collectives_that_give_up_at_the_limit_are_explained(watch: Watch) -> None:
    watch.renew()
    watch.pass_by(LIMIT - 30)
    assert not watch.silence.explains_failure

    watch.pass_by(30)

    assert watch.silence.explains_failure


def test_a_clock_that_is_wrong_is_no_hang_and_hides_none(watch: Watch) -> None:
    watch.heartbeat.touch()
    os.utime(watch.heartbeat, (4e9, 4e9))
    watch.pass_by(10)
    os.utime(watch.heartbeat, (1, 1))
    watch.pass_by(LIMIT)
    assert not watch.silence.is_hang

    watch.pass_by(LIMIT / 8)

    assert watch.silence.is_hang


def test_time_in_which_the_whole_job_was_suspended_does_not_count(watch: Watch) -> None:
    watch.renew()
    watch.pass_by(LIMIT / 2)
    watch.now += 10 * LIMIT

    watch.pass_by(LIMIT / 2)

    assert not watch.silence.is_hang


def test_what_the_ranks_say_they_do_decides_how_long_a_silence_may_last(watch: Watch) -> None:
    Bound(50, "training", 2).write(watch.heartbeat)
    watch.pass_by(140)
    assert not watch.silence.is_hang

    watch.pass_by(20)

    assert watch.silence.is_hang
    assert watch.silence.bound == Bound(50, "training", 2)


def test_a_save_that_begins_between_short_steps_has_its_own_time(watch: Watch) -> None:
    Bound(50, "training", 2).write(watch.heartbeat)
    watch.pass_by(100)
    Bound(LIMIT, "saving").write(watch.heartbeat)

    watch.pass_by(LIMIT)

    assert not watch.silence.is_hang


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("step 1\nTimeout (0:30:00)!\nThread 0x00007f", True),
        ("Timeout (0:30:00)!\n", True),
        ("step 1\nwaited for a Timeout (long)\n", False),
        ("read: a\u2029Timeout (of the study)\x85Timeout (1)\n", False),
        ("", False),
    ],
)
def test_stacks_are_found_in_a_log(tmp_path: Path, log: str, expected: bool) -> None:
    path = tmp_path / "rank-00000.log"
    path.write_text(log, encoding="utf-8")

    assert has_stacks(path) is expected


def test_a_log_that_is_missing_holds_no_stacks(tmp_path: Path) -> None:
    assert not has_stacks(tmp_path / "rank-00000.log")


class Unkillable:
    """Ranks that wait for a file system that is gone: the kernel keeps them whatever they are sent."""

    def __init__(self) -> None:
        self.killed: list[bool] = []

    def poll(self) -> None:
        return None

    def ask_to_stop(self) -> str:
        return ""

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def kill(self, at_once: bool = False) -> None:
        self.killed.append(at_once)


@pytest.mark.slow
def test_ranks_that_cannot_even_be_killed_are_left_behind(
    tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, ranks, said = make_cluster(executor="local", gpus={"device": "cpu"}), Unkillable(), list[str]()
    submission, _ = stage(tmp_path / "staged", cluster, [Play(gpus_per_node=1, hang="1s")])
    job = find_job(submission, {}, local=True)
    monkeypatch.setattr("jobs.batch.supervise.LocalRanks", lambda *_: ranks)
    monkeypatch.setattr("jobs.batch.hang_monitor.END_SECONDS", 0)

    end = find_end_reason(supervise(job, open_attempt(job, []), Signals(), said.append))

    assert ranks.killed == [True]
    assert (end.exit_code, end.reason) == (137, "hang")
    assert "cannot be killed" in said[-1]


@pytest.fixture
def training(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> tuple[SubmissionDir, RunDir]:
    """Real training on two ranks of this machine, by a batch process."""
    roots = {"runs": str(tmp_path), "data": str(tmp_path), "models": str(ASSETS), "corpora": str(tmp_path / "corpora")}
    cluster = make_cluster(executor="local", gpus={"device": "cpu"}, roots=roots)
    make_corpus(tmp_path / "corpora" / "words", [words(400)])
    fields = cpt_recipe(
        schedule={"length": "400 steps"},
        checkpoint={"interval": "20 steps"},
        resources={"nodes": 2},
        limits={"hang": "60s"},
    )
    run = RunDir(tmp_path / "run")
    write_run(run, read_recipe(json.dumps(fields)).model_dump(mode="json"), cluster)
    run.code.symlink_to(PROJECT)
    submission = SubmissionDir(tmp_path / ".submissions" / "1")
    submission.root.mkdir(parents=True)
    entry = {"run": str(run.root), "fingerprint": RunRecord.read(run.record).fingerprint}
    submission.manifest.write_text(json.dumps(entry) + "\n")
    return submission, run


@pytest.mark.slow
@pytest.mark.long
def test_ranks_that_wait_for_one_that_is_stopped_leave_their_stacks_and_the_run_finishes(
    training: tuple[SubmissionDir, RunDir],
) -> None:
    submission, run = training
    batch = start_batch(submission)
    try:
        wait_for(lambda: published_steps(run) or batch.poll() is not None, "a checkpoint")
        os.kill(pid_of_rank(run, 1), signal.SIGSTOP)
        said, _ = batch.communicate(timeout=PATIENCE)
    finally:
        batch.kill()

    assert summary(run) == [("hang", "requeue"), ("finished", "done")], said
    hung, resumed = read_attempts(run.ledger)
    assert hung.source == "watchdog"
    assert f"but none of rank 1 on {os.uname().nodename}" in hung.message
    stacks = run.rank_log(0, 0).read_text().partition("Timeout (")[2]
    assert "process_group.py" in stacks or "distributed" in stacks or "backward" in stacks
    assert resumed.first_step == hung.last_step
    assert sorted(losses(run)) == list(range(1, 401))


def pid_of_rank(run: RunDir, rank: int) -> int:
    """Find a rank's process by its command line and environment."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words_of = (folder / "cmdline").read_bytes().split(b"\0")
                environ = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(run.root).encode() in words_of and f"RANK={rank}".encode() in environ:
                return int(folder.name)
    raise AssertionError(f"no process of rank {rank} of {run.root}")
