"""The watchdog of a task: real processes that hang, fork, rest or move on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.rank.watchdog import WATCHDOG, Watchdog, pulse_seconds
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]

_START = """
import ctypes, os, time
from pathlib import Path
from jobs.rank.watchdog import WATCHDOG

def stuck(seconds):
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # keeps the interpreter's lock, as a bad extension does

WATCHDOG.start(os.environ)
"""


def run(program: str, limit: str = "0.3", **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", _START + program],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "LAUNCHER_HANG_SECONDS": limit, **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_process_that_is_stuck_in_c_code_leaves_its_stacks() -> None:
    assert "in stuck\n" in run("stuck(2)").stderr


def test_a_process_that_is_slow_survives_its_stacks() -> None:
    """Looked at without the interpreter's lock, one that imports is killed about every seventh time."""
    done = run(
        """
import importlib, sys
from threading import Event
written = Event()
WATCHDOG.on_hang(written.set)
for _ in range(8):
    written.clear()
    WATCHDOG.heartbeat()
    while not written.is_set():
        for name in ("argparse", "email.message", "http.client", "json.decoder", "json.encoder", "xml.sax"):
            sys.modules.pop(name, None)
            importlib.import_module(name)
"""
    )

    assert done.returncode == 0
    assert done.stderr.count("Timeout (0:00:00.") == done.stderr.count('File "<string>", line') == 8


def test_signs_of_life_put_the_stacks_off() -> None:
    """But where the machine itself stops for as long; the process counts how often."""
    done = run(
        """
stops, last = 0, time.monotonic()
for _ in range(40):
    time.sleep(0.1)
    WATCHDOG.heartbeat()
    stops, last = stops + (time.monotonic() - last > 1), time.monotonic()
print(stops)
""",
        limit="2",
    )

    assert done.returncode == 0
    assert done.stderr.count("Timeout") <= int(done.stdout)


def test_computing_is_a_sign_of_life_where_it_counts(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"

    done = run(
        f"""
heartbeat = Path({str(heartbeat)!r})
WATCHDOG.set_heartbeat_file(heartbeat)
with WATCHDOG.counting_work():
    for _ in range(2):
        os.utime(heartbeat, (1, 1))
        while heartbeat.stat().st_mtime == 1:
            pass
print("alive")
""",
        limit="600",
    )

    assert (done.stdout, done.stderr) == ("alive\n", "")


def test_a_thread_that_waits_hangs_where_computing_counts(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"

    done = run(
        f"""
heartbeat = Path({str(heartbeat)!r})
WATCHDOG.set_heartbeat_file(heartbeat)
with WATCHDOG.counting_work():
    os.utime(heartbeat, (1, 1))
    WATCHDOG.heartbeat()
    time.sleep(3)
    print(heartbeat.stat().st_mtime)
WATCHDOG.heartbeat()
print(heartbeat.stat().st_mtime > 1)
""",
        limit="2",
    )

    assert done.stdout == "1.0\nTrue\n"
    assert done.stderr.count("Timeout") == 1


def test_an_error_ends_the_counting() -> None:
    done = run("""
try:
    with WATCHDOG.counting_work():
        raise KeyError
except KeyError:
    WATCHDOG.heartbeat()
    stuck(2)
""")

    assert "in stuck\n" in done.stderr


@pytest.mark.parametrize("limit", ["0", ""])
def test_without_a_limit_nothing_is_watched(tmp_path: Path, limit: str) -> None:
    heartbeat = tmp_path / "heartbeat"

    done = run(
        f"WATCHDOG.set_heartbeat_file(Path({str(heartbeat)!r})); WATCHDOG.heartbeat(); WATCHDOG.pause(); stuck(2)\n"
        "with WATCHDOG.counting_work(): stuck(0.1)",
        limit,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert not heartbeat.exists()


def test_who_waits_for_others_is_not_watched_until_its_next_sign_of_life() -> None:
    assert run("WATCHDOG.pause(); stuck(3)", limit="1").stderr == ""
    assert "in stuck\n" in run("WATCHDOG.pause(); WATCHDOG.heartbeat(); stuck(2)").stderr


def test_forked_processes_are_watched_from_their_first_sign_of_life_on() -> None:
    """Without care a child that is forked while the timer runs waits forever at its first heartbeat."""
    forked = """
WATCHDOG.pause()
if os.fork() == 0:
    stuck(3)
    print("silent")
    WATCHDOG.heartbeat()
    stuck(3)
    os._exit(0)
os.wait()
"""
    done = run(forked, limit="1")

    assert done.returncode == 0
    assert done.stderr.count("Timeout") == 1


def test_a_process_that_forks_while_it_is_watched_is_watched_on_and_its_child_is_not() -> None:
    done = run("""
if os.fork() == 0:
    stuck(2)
    os._exit(0)
os.wait()
""")

    assert done.stderr.count("Timeout") == 1
    assert "in stuck" not in done.stderr


def test_a_process_that_aborts_leaves_its_stacks() -> None:
    assert "most recent call first" in run("os.abort()").stderr


def test_stacks_go_where_stderr_went_at_the_start() -> None:
    assert "in stuck\n" in run("os.dup2(os.open(os.devnull, os.O_WRONLY), 2); stuck(2)").stderr


def test_the_heartbeat_is_renewed_no_more_often_than_needed(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"

    run(
        f"""
heartbeat = Path({str(heartbeat)!r})
WATCHDOG.set_heartbeat_file(heartbeat)
os.utime(heartbeat, (1, 1))
WATCHDOG.heartbeat()
""",
        limit="600",
    )

    assert heartbeat.stat().st_mtime == 1


def test_forked_processes_renew_the_heartbeat_as_well(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"

    run(f"""
heartbeat = Path({str(heartbeat)!r})
WATCHDOG.set_heartbeat_file(heartbeat)
os.utime(heartbeat, (1, 1))
if os.fork() == 0:
    WATCHDOG.heartbeat()
    os._exit(0)
os.wait()
""")

    assert heartbeat.stat().st_mtime > 1


def test_a_heartbeat_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    done = run(f"WATCHDOG.set_heartbeat_file(Path({str(tmp_path / 'missing' / 'heartbeat')!r}))")

    assert (done.returncode, done.stderr) == (0, "")


def test_text_that_is_read_is_a_sign_of_life(tmp_path: Path) -> None:
    heartbeat, source = tmp_path / "heartbeat", tmp_path / "text.jsonl"
    source.write_text("{}\n")

    done = run(
        f"""
from jobs.data.readers.source_stream import SourceStream
heartbeat = Path({str(heartbeat)!r})
WATCHDOG.set_heartbeat_file(heartbeat)
os.utime(heartbeat, (1, 1))
WATCHDOG.pause()
print(len(list(SourceStream(Path({str(source)!r})).lines())))
""",
        limit="60",
    )

    assert (done.stdout, done.stderr) == ("1\n", "")
    assert heartbeat.stat().st_mtime > 1


def test_of_workers_the_one_that_is_stuck_leaves_its_stacks(tmp_path: Path) -> None:
    done = run(
        """
WATCHDOG.pause()
from jobs.rank.worker_pool import run_tasks
print(sorted(run_tasks(lambda number: stuck(number), [0, 6], 2, lambda: False)))
""",
        limit="3",
    )

    assert done.stdout == "[(0, None), (6, None)]\n"
    assert done.stderr.count("Timeout") == done.stderr.count("in stuck\n") == 1


@pytest.mark.parametrize(("limit", "pulse"), [(1800, 5), (40, 2), (1, 0.05)])
def test_heartbeats_are_passed_on_several_times_within_the_limit(limit: float, pulse: float) -> None:
    assert pulse_seconds(limit) == pulse


def test_a_watchdog_that_was_never_started_can_be_told_everything(tmp_path: Path) -> None:
    watchdog = Watchdog()

    watchdog.set_heartbeat_file(tmp_path / "heartbeat")
    watchdog.heartbeat()
    watchdog.pause()

    assert not (tmp_path / "heartbeat").exists()
    assert WATCHDOG.limit == 0
