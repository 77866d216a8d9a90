"""Stacks on request: what ranks write, how it is read, and who is at the same place."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.operate.attach import attach, attaching_argv
from launcher.operate.running import RunningAttempt
from launcher.operate.stacks import ask_for_stacks
from launcher.run.paths import RunDir
from launcher.run.stacks import SIGNAL, group_stacks, parse_dump, parse_stacks, short_frame, write_stacks
from tests.support.counting_runs import PROJECT, Play, stage, start_batch
from tests.support.run_histories import History
from tests.support.waiting import PATIENCE, wait_for

HERE, THERE = 'File "/code/jobs/train/loop.py", line 7 in step', 'File "/code/jobs/data/read.py", line 9 in read'


def test_what_a_rank_writes_is_read_again() -> None:
    threads = {"MainThread": [HERE, THERE], "loader 1": [THERE], "idle 2": []}

    assert parse_stacks(f"step 4  loss 2{write_stacks(threads)}step 5") == {
        name: tuple(frames) for name, frames in threads.items()
    }


def test_only_the_last_whole_stacks_count() -> None:
    first, second = (write_stacks({"MainThread": [frame]}) for frame in (HERE, THERE))

    assert parse_stacks(first + "a line\n" + second) == {"MainThread": (THERE,)}
    assert parse_stacks(first + second[:40]) == {"MainThread": (HERE,)}
    assert parse_stacks("a line\n" + first[:40]) is None
    assert parse_stacks("") is None


def test_ranks_at_the_same_place_are_put_together_the_odd_one_first() -> None:
    waiting, working = {"MainThread": (HERE,), "a 1": ()}, {"MainThread": (THERE,), "a 1": ()}
    found = {0: waiting, 1: waiting, 2: working, 3: {**waiting, "a 1": (THERE,)}}

    assert [one.ranks for one in group_stacks(found)] == [(2,), (0, 1, 3)]
    assert group_stacks(found)[0].threads == {"MainThread": (THERE,)}
    assert [one.ranks for one in group_stacks(found, all_threads=True)] == [(2,), (3,), (0, 1)]


DUMP = """\
step 7
Timeout (0:00:20)!
Thread 0x00007f30 [Thread-1] (most recent call first):
  File "/venv/threading.py", line 324 in wait

Thread 0x00007f32{name} (most recent call first):
  File "/code/jobs/train/loop.py", line 7 in step

preflight: something else
  File "elsewhere"
"""


@pytest.mark.parametrize("name", [" [MainThread]", ""])
def test_the_watchdogs_stacks_are_read_with_and_without_names(name: str) -> None:
    threads = parse_dump("Timeout (0:00:01)!\n" + DUMP.format(name=name))

    assert threads is not None
    assert threads["MainThread"] == (HERE,)
    assert len(threads) == 2
    assert parse_dump("step 7\n") is None


def test_paths_are_printed_from_their_package_on() -> None:
    frames = ('File "/venv/lib/python3.11/site-packages/torch/nn/functional.py", line 9 in pad', HERE, "<a frame>")

    assert [*map(short_frame, frames)] == [
        "torch/nn/functional.py:9 in pad",
        "jobs/train/loop.py:7 in step",
        "<a frame>",
    ]


PROGRAM = """
import os, threading, time
from jobs.rank.stacks import answer_requests
answer_requests()

def waits_for_data():
    print("ready", flush=True)
    while os.getppid() == parent:
        time.sleep(0.01)

parent = os.getppid()
if os.fork() == 0:  # a child, as data loaders have, does not die of the request either
    time.sleep(1000)
threading.Thread(target=time.sleep, args=(1000,), name="reader", daemon=True).start()
waits_for_data()
"""


@pytest.mark.slow
def test_a_process_answers_as_often_as_it_is_asked_and_goes_on() -> None:
    rank = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert rank.stdout is not None and rank.stderr is not None
        assert rank.stdout.readline() == "ready\n"
        for _ in range(3):
            os.killpg(rank.pid, SIGNAL)
            lines: list[str] = []
            while "End of stacks" not in (lines or [""])[-1]:
                lines.append(rank.stderr.readline())
            threads = parse_stacks("".join(lines)) or {}
            assert [*threads] == ["MainThread", "reader 1"]
            assert any(frame.endswith("in waits_for_data") for frame in threads["MainThread"])
        assert rank.poll() is None
    finally:
        os.killpg(rank.pid, signal.SIGKILL)
        rank.communicate(timeout=PATIENCE)


@pytest.mark.slow
def test_ranks_of_a_run_on_this_machine_tell_where_they_are(
    tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(executor="local", gpus={"device": "cpu"})
    submission, [run] = stage(tmp_path / "staged", cluster, [Play(steps=100_000, acts={"0": {"stays": True}})])
    batch = start_batch(submission)
    try:
        logs = [run.rank_log(0, rank) for rank in range(2)]
        wait_for(lambda: all(log.exists() and "step" in log.read_text() for log in logs), "counting ranks")
        report = ask_for_stacks(run, cluster, PATIENCE)
        with pytest.raises(RunError, match="has ranks 0 to 1"):
            attach(run, cluster, 2, [])
    finally:
        batch.kill()
        batch.communicate()

    assert report.silent == ()
    assert sorted(rank for one in report.stacks for rank in one.ranks) == [0, 1]
    assert any("in count" in frame for one in report.stacks for frame in one.threads["MainThread"])


@pytest.mark.parametrize("ask", [lambda *one: ask_for_stacks(*one, 0), lambda *one: attach(*one, 0, [])])
def test_a_run_that_does_not_run_is_refused_with_words(
    ask: Callable[[RunDir, Cluster], object], tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    history = History.begin(tmp_path / "runs").submit("7", at=0).start(0, "7", at=60).end(0, "error", "stop", at=70)

    with pytest.raises(RunError, match="is failed, so nothing of it runs"):
        ask(history.run, make_cluster())


def test_ranks_are_on_their_nodes_in_order() -> None:
    running = RunningAttempt(RunDir(Path("/runs/x")), 0, "7", ("a", "b", "c"), 12)

    assert [running.node_of(rank) for rank in (0, 3, 4, 11)] == ["a", "a", "b", "c"]


def test_the_script_prepares_everything_and_then_joins_the_rank() -> None:
    last = "exec /venv/bin/python -u -m jobs.batch.main /runs/.submissions/1\n"
    script = f"#!/bin/bash -l\n#SBATCH --nodes=2\nmodule load cuda\n{last}"
    argv = attaching_argv(script, ["--rank", "3", "--", "ls", "a b"])

    assert argv[:3] == ["bash", "-l", "-c"] and argv[4:] == ["attach", "--rank", "3", "--", "ls", "a b"]
    assert argv[3].endswith('exec /venv/bin/python -u -m jobs.batch.attached /runs/.submissions/1 "$@"\n')
    assert "module load cuda" in argv[3]
