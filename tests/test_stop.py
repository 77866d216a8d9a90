"""A task's view of a request to stop, with real signals in a real process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.runtime.stop import SIGNALS, StopFlag
from launcher.ledger import StopRequest
from launcher.paths import RunDir
from tests.waiting import PATIENCE

LISTENER = """
import sys
from pathlib import Path
from jobs.runtime.stop import StopFlag
from launcher.paths import RunDir
stop = StopFlag()
stop.install()
print("listening", flush=True)
sys.stdin.readline()
print(stop.signal, stop.wanted(RunDir(Path(sys.argv[1])), is_main=False))
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_every_way_a_scheduler_asks_sets_the_flag_and_a_second_signal_changes_nothing(
    number: signal.Signals, tmp_path: Path
) -> None:
    task = subprocess.Popen(
        [sys.executable, "-c", LISTENER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert task.stdout is not None
    assert task.stdout.readline() == "listening\n"

    task.send_signal(number)
    task.send_signal(number)
    said, _ = task.communicate("go on\n", timeout=PATIENCE)

    assert said.split() == [number.name, "True"]
    assert task.returncode == 0


def test_only_rank_zero_looks_at_the_stop_file(tmp_path: Path) -> None:
    run, stop = RunDir(tmp_path), StopFlag()

    assert not stop.wanted(run, is_main=True)
    run.stop_request.touch()

    assert stop.wanted(run, is_main=True)
    assert not stop.wanted(run, is_main=False)


def test_a_file_system_that_does_not_answer_ends_no_training(tmp_path: Path) -> None:
    run = RunDir(tmp_path / ("x" * 300))

    assert not StopFlag().wanted(run, is_main=True)
    assert not StopFlag().save_wanted(run, is_main=True)


def test_the_stop_file_of_a_time_limit_counts_as_well(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    StopRequest("time_limit", 3).write(run.stop_request)

    assert StopFlag().wanted(run, is_main=True)


def test_a_save_request_is_no_stop(tmp_path: Path) -> None:
    run, stop = RunDir(tmp_path), StopFlag()
    run.save_request.touch()

    assert stop.save_wanted(run, is_main=True)
    assert not stop.save_wanted(run, is_main=False)
    assert not stop.wanted(run, is_main=True)
