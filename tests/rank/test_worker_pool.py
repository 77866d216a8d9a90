"""Worker processes of prepare."""

import os
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

from jobs.rank.stop_flag import STOP, StopRequested
from jobs.rank.worker_pool import run_tasks


@pytest.mark.parametrize("cpus", [1, 2, 5])
def test_every_task_is_done_once(cpus):
    assert sorted(run_tasks(lambda number: number * 10, [3, 1, 2], cpus)) == [(1, 10), (2, 20), (3, 30)]


def test_no_task_needs_no_process():
    assert list(run_tasks(lambda number: number, [], 2)) == []


def test_cpus_left_over_become_tokenizer_threads():
    def threads(_):
        return os.environ.get("RAYON_NUM_THREADS"), os.environ.get("TOKENIZERS_PARALLELISM")

    assert dict(run_tasks(threads, [0, 1], 7)) == {0: ("3", None), 1: ("3", None)}
    assert dict(run_tasks(threads, [0, 1], 2)) == {0: ("1", "false"), 1: ("1", "false")}


def test_a_killed_worker_ends_the_run_instead_of_hanging_it():
    with pytest.raises(BrokenProcessPool):
        list(run_tasks(lambda _: os.kill(os.getpid(), signal.SIGKILL), [0, 1, 2], 2))


def test_a_failing_task_is_reported():
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(lambda number: 1 // number, [1, 0], 1))


def test_a_stop_lets_tasks_under_way_finish_and_starts_no_other():
    done = []

    with pytest.raises(StopRequested), STOP.heeding(lambda: len(done) >= 2):
        for number, _ in run_tasks(lambda number: number, list(range(10)), 1):
            done.append(number)

    assert done == [0, 1]


def test_a_stop_that_comes_when_all_tasks_are_under_way_loses_no_result():
    done = []

    with STOP.heeding(lambda: len(done) >= 1):
        for number, _ in run_tasks(lambda number: number, [0, 1], 2):
            done.append(number)

    assert sorted(done) == [0, 1]


def test_a_signal_to_all_processes_kills_no_worker_of_a_task_that_handles_it():
    seen = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: seen.append(number))

    def signal_everybody(number):
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getppid(), signal.SIGUSR2)
        return number

    try:
        assert sorted(run_tasks(signal_everybody, [0, 1, 2], 2)) == [(0, 0), (1, 1), (2, 2)]
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen
