"""The ledger: events become attempts, and a power cut costs one line at most."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from launcher.run.ledger import Attempt, StopRequest, append_event, read_attempts, read_json_lines


def test_events_of_an_attempt_are_put_together(tmp_path: Path) -> None:
    ledger = tmp_path / "attempts.jsonl"

    append_event(ledger, 0, job_id="7", first_step=0)
    append_event(ledger, 1, job_id="7", first_step=10)
    append_event(ledger, 0, reason="preempted", last_step=10)

    assert read_attempts(ledger) == [
        Attempt(0, job_id="7", first_step=0, last_step=10, reason="preempted"),
        Attempt(1, job_id="7", first_step=10),
    ]


def test_a_request_to_stop_that_only_its_author_may_read_is_heard(stranger: Path) -> None:
    stop = stranger / "STOP"
    stop.touch(0)

    assert StopRequest.read(stop) == StopRequest("user")


def test_a_torn_line_is_left_out_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    ledger = tmp_path / "attempts.jsonl"
    append_event(ledger, 0, job_id="7")
    with ledger.open("a", encoding="utf-8") as file:
        file.write('{"attempt": 0, "reason": "fin')

    append_event(ledger, 0, reason="killed")
    append_event(ledger, 1, job_id="8")

    assert read_attempts(ledger) == [Attempt(0, job_id="7", reason="killed"), Attempt(1, job_id="8")]


def test_only_a_line_feed_ends_a_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"fault": "one\u2029two\x85three\u2028"}\n{"fault": "four"}\n', encoding="utf-8")

    assert [row["fault"] for row in read_json_lines(path)] == ["one\u2029two\x85three\u2028", "four"]


def test_an_event_that_a_full_disk_tore_is_an_error_and_does_not_swallow_the_next(
    tmp_path: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    ledger = tmp_path / "attempts.jsonl"
    append_event(ledger, 0, job_id="7")

    with file_size_limit(ledger.stat().st_size + 20), pytest.raises(OSError, match="too large"):
        append_event(ledger, 0, reason="killed")
    append_event(ledger, 1, job_id="8")

    assert len(ledger.read_bytes().splitlines()) == 3
    assert read_attempts(ledger) == [Attempt(0, job_id="7"), Attempt(1, job_id="8")]


def test_a_run_that_never_started_has_no_attempts(tmp_path: Path) -> None:
    assert read_attempts(tmp_path / "attempts.jsonl") == []


def test_a_stop_file_touched_by_hand_is_a_persons_request(tmp_path: Path) -> None:
    stop = tmp_path / "STOP"
    assert StopRequest.read(stop) is None

    stop.touch()
    assert StopRequest.read(stop) == StopRequest("user")

    stop.write_bytes("bitte für heute aufhören".encode("latin-1"))
    assert StopRequest.read(stop) == StopRequest("user")

    StopRequest("time_limit", 3).write(stop)
    assert StopRequest.read(stop) == StopRequest("time_limit", 3)
    assert list(tmp_path.iterdir()) == [stop]
