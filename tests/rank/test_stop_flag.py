"""A task's view of a request to stop, with real signals in a real process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.rank.stop_flag import SIGNALS, StopFlag, StopRequested
from launcher.run.ledger import StopReason, StopRequest, read_attempts
from launcher.run.paths import CONTINUE
from tests.support.prepare_runs import make_context, write_pile
from tests.support.waiting import PATIENCE

LISTENER = """
import sys
from jobs.rank.stop_flag import StopFlag
stop = StopFlag()
stop.install()
print("listening", flush=True)
sys.stdin.readline()
print(stop.signal, stop.is_requested())
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_every_way_a_scheduler_asks_sets_the_flag_and_a_second_signal_changes_nothing(
    number: signal.Signals,
) -> None:
    task = subprocess.Popen(
        [sys.executable, "-c", LISTENER],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
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


def test_a_source_is_heeded_for_the_length_of_its_block() -> None:
    flag, requested = StopFlag(), [False]

    with flag.heeding(lambda: requested[0]):
        flag.raise_if_requested()
        requested[0] = True
        with pytest.raises(StopRequested):
            flag.raise_if_requested()

    assert not flag.is_requested()


def test_no_handler_of_errors_swallows_a_stop() -> None:
    assert not issubclass(StopRequested, Exception)


@pytest.mark.slow
@pytest.mark.parametrize("request_of", ["user", "time_limit"])
def test_a_stop_file_ends_the_attempt_with_a_word_and_code_75(tmp_path: Path, request_of: StopReason) -> None:
    write_pile(tmp_path / "a.jsonl", ["text"])
    context = make_context(tmp_path)
    StopRequest(request_of).write(context.run.stop_request)

    ended = subprocess.run([sys.executable, "-m", "jobs", context.run.root], check=False)

    (attempt,) = read_attempts(context.run.ledger)
    assert (ended.returncode, attempt.reason, attempt.source) == (CONTINUE, "stopped", "prepare")
