"""Files that travel: bytes that count as progress, stops that do not wait, and processes that end."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from jobs.rank.progress_signs import Transferring, carried_bytes
from jobs.rank.stop_flag import STOP, StopRequested
from jobs.rank.transfer import ending_together, is_under_way, transfer
from jobs.rank.watchdog import WATCHDOG
from launcher.recipe import Recipe
from launcher.run.paths import CONTINUE
from tests.support.training_runs import make_run_of
from tests.support.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]
LONG, SHORT = 1e9, 1e-9
"""Seconds in which no computing, or any, is enough to show progress."""


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other:
            yield one, other


def carry(ends: tuple[socket.socket, socket.socket], count: int) -> None:
    ends[0].sendall(bytes(count))
    while count:
        count -= len(ends[1].recv(count))


def test_bytes_are_counted_by_connection(ends: tuple[socket.socket, socket.socket]) -> None:
    before = carried_bytes()
    carry(ends, 100_000)
    after = carried_bytes()

    receiving = os.readlink(f"/proc/self/fd/{ends[1].fileno()}")
    assert after[receiving] - before[receiving] == 100_000
    assert [end.fileno() > 0 and end.getpeername() is not None for end in ends] == [True, True]


def test_what_travels_and_what_is_computed_are_signs_of_progress(ends: tuple[socket.socket, socket.socket]) -> None:
    sign = Transferring()

    assert not sign.went_on(LONG)
    carry(ends, 1)
    assert sign.went_on(LONG)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(sum, range(10_000)).result()
    assert sign.went_on(SHORT)
    assert not sign.went_on(LONG)


def test_a_new_connection_is_a_sign_once_it_carries_something() -> None:
    sign = Transferring()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other:
            other.sendall(b"x")
            one.recv(1)
            assert sign.went_on(LONG)


WATCHED = """
import os, socket, sys, time
from pathlib import Path
from threading import Event, Thread
from jobs.rank.transfer import transfer
from jobs.rank.watchdog import WATCHDOG

heartbeat = Path(sys.argv[1])
WATCHDOG.start(os.environ)
WATCHDOG.set_heartbeat_file(heartbeat)
server = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(server.getsockname())
other, _ = server.accept()
"""


def watched(program: str, heartbeat: Path, limit: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", WATCHED + program, str(heartbeat)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LAUNCHER_HANG_SECONDS": limit},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_an_upload_that_moves_is_no_hang(tmp_path: Path) -> None:
    """With nothing but a byte now and then, which takes no measurable work."""
    done = watched(
        """
def upload():
    os.utime(heartbeat, (1, 1))
    while heartbeat.stat().st_mtime == 1:
        one.send(b"x")
        time.sleep(0.2)
    return "alive"
print(transfer(upload))
""",
        tmp_path / "heartbeat",
        "40",
    )

    assert (done.stdout, done.stderr) == ("alive\n", "")


def test_an_upload_that_stands_still_is_a_hang(tmp_path: Path) -> None:
    done = watched(
        """
def upload():
    WATCHDOG.heartbeat()
    os.utime(heartbeat, (1, 1))
    time.sleep(3)
    return heartbeat.stat().st_mtime
print(transfer(upload))
""",
        tmp_path / "heartbeat",
        "2",
    )

    assert done.stdout == "1.0\n"
    assert done.stderr.count("Timeout") == 1


def test_what_a_transfer_returns_or_raises_comes_back() -> None:
    assert transfer(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        transfer(lambda: 1 // 0)


def test_a_stop_leaves_a_transfer_behind() -> None:
    may_end = Event()

    with pytest.raises(StopRequested), STOP.heeding(lambda: True):
        transfer(may_end.wait)

    assert is_under_way()
    may_end.set()
    wait_for(lambda: not is_under_way(), "the thread to end")


def test_a_rank_leaves_with_the_one_that_was_asked() -> None:
    may_end = Event()

    with pytest.raises(StopRequested), ending_together(lambda *_: (True, False, True)):
        transfer(may_end.wait)

    may_end.set()
    wait_for(lambda: not is_under_way(), "the thread to end")


def test_a_rank_that_has_its_files_waits_for_those_that_have_not_and_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([(True, True, False), (True, False, False), (False, False, True)])
    claims: list[tuple[bool, ...]] = []
    signs: list[None] = []
    monkeypatch.setattr(WATCHDOG, "heartbeat", lambda: signs.append(None))

    def agree(*own: bool) -> tuple[bool, ...]:
        claims.append(own)
        return next(answers)

    with ending_together(agree):
        assert transfer(lambda: 7) == 7

    assert claims == [(False, False, False)] * 3
    assert len(signs) == 3, "at its beginning and end, and where another rank's bytes travelled"


def test_what_ranks_tell_each_other_is_no_sign_that_files_travel(ends: tuple[socket.socket, socket.socket]) -> None:
    sign = Transferring(carried_bytes())

    sign.went_on(LONG)
    carry(ends, 1000)
    assert not sign.went_on(LONG)


KIND = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import ModuleType

def fetch():
    with ThreadPoolExecutor(1) as pool:  # as the Hub's client has one for each few files
        pool.submit(Event().wait).result()

def main(context):
    from jobs.rank.transfer import transfer
    transfer(fetch)

kind = ModuleType("jobs.kinds.prepare")
kind.main = main
sys.modules[kind.__name__] = kind
"""


def test_a_stop_ends_a_process_that_fetches_a_model(tmp_path: Path, make_recipe: Callable[..., Recipe]) -> None:
    run = make_run_of(json.loads(make_recipe().model_dump_json()), tmp_path)
    run.stop_request.write_text("")
    (tmp_path / "sitecustomize.py").write_text(KIND)
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "0"}

    done = subprocess.run(
        [sys.executable, "-m", "jobs", str(run.root)],
        env={**os.environ, **alone, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.returncode == CONTINUE, done.stderr
