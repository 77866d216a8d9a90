"""TensorBoard's own reader finds one curve over all attempts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.train.tracking import Tracker, open_tracker
from launcher.artifacts.scores import Score
from launcher.run.ledger import append_event
from launcher.run.paths import RunDir
from tests.support.training_runs import context_of, make_run

pytestmark = pytest.mark.slow


def start(run: RunDir, number: int, first: int) -> Tracker:
    """An attempt resumes from a step."""
    append_event(run.ledger, number, job_id="7", first_step=first, total_steps=300)
    context = replace(context_of(run), attempt=number)
    return open_tracker(context, context.recipe.tracking)


def train(
    run: RunDir, tracker: Tracker, number: int, first: int, last: int, seen_by_tracker: int | None = None
) -> None:
    """Log steps; a kill may keep the last ones from the tracker, or from the disk."""
    for step in range(first + 1, last + 1):
        row = {"time": 1000.0 + step, "step": step, "attempt": number, "loss": loss(step, number), "mfu": None}
        with run.metrics.open("a") as metrics:
            metrics.write(json.dumps(row) + "\n")
        if step <= (seen_by_tracker or last):
            tracker.log(row)


def evaluate(run: RunDir, tracker: Tracker, number: int, step: int) -> None:
    row = {"time": 2000.0, "step": step, "attempt": number, "validation_loss": loss(step, number), "undefined": None}
    with run.evaluations.open("a") as evaluations:
        evaluations.write(json.dumps(row) + "\n")
    tracker.log_evaluation(row)


def loss(step: int, number: int) -> float:
    return step + number / 4


def read(run: RunDir, tag: str) -> list[tuple[int, float]]:
    reader = EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0})
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars(tag)]


def test_redone_steps_are_not_doubled_and_lost_points_come_back(tmp_path: Path) -> None:
    run = make_run(tmp_path, tracking={"tensorboard": True})
    killed = start(run, 0, 0)
    train(run, killed, 0, 0, 150, seen_by_tracker=140)  # 120 is saved, and 140 to 150 never reached the file
    [file] = run.tensorboard.iterdir()
    file.write_bytes(file.read_bytes()[:-20])  # in the middle of a record

    resumed = start(run, 1, 120)
    train(run, resumed, 1, 120, 200)
    resumed.close(finished=False)
    again = start(run, 2, 200)
    train(run, again, 2, 200, 300)
    again.close(finished=True)

    expected = [(step, loss(step, 0 if step <= 120 else 1 if step <= 200 else 2)) for step in range(1, 301)]
    assert read(run, "train/loss") == expected
    assert len(list(run.tensorboard.iterdir())) == 3


def test_points_that_a_kill_kept_from_the_file_are_taken_from_metrics(tmp_path: Path) -> None:
    run = make_run(tmp_path, tracking={"tensorboard": True, "log_interval": 5})
    train(run, start(run, 0, 0), 0, 0, 60, seen_by_tracker=40)

    resumed = start(run, 1, 58)
    train(run, resumed, 1, 58, 70)
    resumed.close(finished=True)

    assert [step for step, _ in read(run, "train/loss")] == [*range(5, 60, 5), 58, 60, 65, 70]


def test_an_evaluation_that_is_done_again_is_there_once(tmp_path: Path) -> None:
    run = make_run(tmp_path, tracking={"tensorboard": True})
    first = start(run, 0, 0)
    evaluate(run, first, 0, 0)
    train(run, first, 0, 0, 20)
    evaluate(run, first, 0, 10)
    evaluate(run, first, 0, 20)

    resumed = start(run, 1, 20)
    evaluate(run, resumed, 1, 20)
    evaluate(run, resumed, 1, 300)
    last = start(run, 2, 300)  # only the export was missing
    last.close(finished=True)

    steps = [(0, 0), (10, 0), (20, 1), (300, 1)]
    assert read(run, "validation/loss") == [(step, loss(step, number)) for step, number in steps]


def test_an_attempt_from_scratch_replaces_all(tmp_path: Path) -> None:
    run = make_run(tmp_path, tracking={"tensorboard": True})
    train(run, start(run, 0, 0), 0, 0, 5)

    again = start(run, 1, 0)
    train(run, again, 1, 0, 3)
    again.close(finished=True)

    assert read(run, "train/loss") == [(step, loss(step, 1)) for step in (1, 2, 3)]


def test_scores_are_written_and_a_failing_disk_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, tracking={"tensorboard": True})
    tracker = start(run, 0, 0)
    tracker.log_scores({"medqa": {"acc": Score(value=0.5, standard_error=None, n=4)}})
    tracker.close(finished=True)
    blocked = make_run(tmp_path, tracking={"tensorboard": True})
    blocked.tensorboard.write_text("")

    start(blocked, 0, 0).close(finished=True)

    assert read(run, "evaluate/medqa/acc") == [(0, 0.5)]
    assert "TensorBoard: FileExistsError" in capsys.readouterr().out


def test_without_the_key_there_are_no_files(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train(run, start(run, 0, 0), 0, 0, 3)

    assert not run.tensorboard.exists()


def test_an_evaluation_that_is_not_done_again_stays(tmp_path: Path) -> None:
    run = make_run(tmp_path, tracking={"tensorboard": True})
    killed = start(run, 0, 0)
    train(run, killed, 0, 0, 10)
    evaluate(run, killed, 0, 10)  # the best, so its checkpoint is saved
    train(run, killed, 0, 10, 15)

    resumed = start(run, 1, 10)
    train(run, resumed, 1, 10, 20)
    evaluate(run, resumed, 1, 20)
    resumed.close(finished=False)
    start(run, 2, 20).close(finished=False)  # stopped before its first step

    assert read(run, "validation/loss") == [(10, loss(10, 0)), (20, loss(20, 1))]


def test_of_an_evaluation_that_is_done_again_in_part_the_rest_stays(tmp_path: Path) -> None:
    run = make_run(tmp_path, tracking={"tensorboard": True})
    killed = start(run, 0, 0)
    row = {"time": 2000.0, "step": 10, "attempt": 0, "validation_loss": 1.0, "validation_task": 0.5}
    run.evaluations.write_text(json.dumps(row) + "\n", encoding="utf-8")
    killed.log_evaluation(row)

    resumed = start(run, 1, 10)
    evaluate(run, resumed, 1, 10)
    train(run, resumed, 1, 10, 12)
    resumed.close(finished=True)

    assert read(run, "validation/loss") == [(10, loss(10, 1))]
    assert read(run, "validation/task") == [(10, 0.5)]


def test_rows_that_count_items_are_no_points_of_a_training(tmp_path: Path) -> None:
    run = make_run(tmp_path, tracking={"tensorboard": True})
    start(run, 0, 0).close(finished=False)
    run.metrics.write_text(json.dumps({"time": 1.0, "step": 0, "attempt": 0, "bytes": 7}) + "\n", encoding="utf-8")

    append_event(run.ledger, 1, job_id="7")
    context = replace(context_of(run), attempt=1)
    open_tracker(context, context.recipe.tracking).close(finished=True)

    reader = EventAccumulator(str(run.tensorboard))
    reader.Reload()
    assert reader.Tags()["scalars"] == []
