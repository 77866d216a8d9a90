"""What a tracker sends of earlier attempts, and what becomes of a stop on W&B's page; without W&B's client."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.train.tracking import Tracker, last_points
from jobs.train.wandb_run import STALE_SECONDS, STOPPED, heed_stop
from launcher.run.ledger import StopRequest
from launcher.run.paths import RunDir


def row(step: int, at: float, **others: Any) -> dict[str, Any]:
    return {"time": at, "step": step, "attempt": 0, "loss": 1.0, **others}


def steps(rows: list[dict[str, Any]]) -> list[int]:
    return [one["step"] for one in rows]


def test_all_points_of_the_last_minute_are_sent_again() -> None:
    rows = [row(step, 0.5 * step) for step in range(1, 1001)]

    assert steps(last_points(rows, 1)) == [*range(880, 1001)]
    assert steps(last_points(rows, 50)) == [*range(550, 1001, 50)], "ten points at least, whenever they were made"
    assert steps(last_points(rows, 7)) == [*range(882, 1000, 7), 1000], "the last step is a point"


def test_a_clock_that_was_ahead_sends_no_whole_curve_again() -> None:
    rows = [row(step, 9e9 + step) for step in range(500)] + [row(step, step) for step in range(500, 520)]

    assert steps(last_points(rows, 1)) == [*range(500, 520)]
    assert last_points([], 1) == []


def sent_again(run: RunDir, interval: int = 1) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    Tracker(SimpleNamespace(log=sent.append), interval).log_again(run)
    return sent


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


def test_evaluations_since_the_first_of_these_points_are_sent_again_as_well(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write(run.metrics, *(row(step, 10.0 * step) for step in range(1, 31)))
    write(
        run.evaluations,
        {"time": 100.0, "step": 10, "attempt": 0, "validation_loss": 3.0},
        {"time": 250.0, "step": 25, "attempt": 0, "validation_loss": 2.0},
        {"time": 251.0, "step": 25, "attempt": 0, "medqa/acc": 0.5},
    )

    sent = sent_again(run)

    assert [one["train/global_step"] for one in sent if "train/loss" in one] == [*range(21, 31)]
    evaluated = [one for one in sent if "train/loss" not in one]
    assert evaluated == [{"validation/loss": 2.0, "validation/medqa/acc": 0.5, "train/global_step": 25}]


def test_rows_that_are_damaged_are_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write(run.metrics, row(1, 1.0), {"loss": 2.0}, row(2, 2.0) | {"time": "noon"}, row(3, 3.0))

    assert [one["train/global_step"] for one in sent_again(run)] == [1, 3]


@pytest.mark.parametrize("began", [0.0, -2 * STALE_SECONDS])
def test_a_stop_at_wandb_asks_to_stop_for_good(tmp_path: Path, began: float) -> None:
    run = RunDir(tmp_path)
    StopRequest("time_limit", 0).write(run.stop_request)

    heed_stop(run, time.monotonic() + began)

    assert StopRequest.read(run.stop_request) == StopRequest("user")


def test_the_stop_of_an_earlier_attempt_does_not_stop_the_next_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path)
    heed_stop(run, time.monotonic())
    assert (run.wandb / STOPPED).exists()
    run.stop_request.unlink()

    heed_stop(run, time.monotonic())
    obeyed_at_once = run.stop_request.exists()
    heed_stop(run, time.monotonic() - STALE_SECONDS)

    assert (obeyed_at_once, run.stop_request.exists()) == (False, True)
    assert "as it did in an earlier attempt; training continues. `launcher stop` stops it" in capsys.readouterr().out


def test_a_stop_that_cannot_be_written_harms_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heed_stop(RunDir(tmp_path / "gone"), time.monotonic())

    assert "STOP cannot be written (No such file or directory)" in capsys.readouterr().out
