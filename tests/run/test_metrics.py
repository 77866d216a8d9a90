"""metrics.jsonl: a row a step, in full precision, whatever the attempt before left behind."""

import json
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from jobs.train.metrics import Row, StepMetrics
from jobs.train.throughput import ModelCost, Speed
from launcher.run.ledger import read_attempts, read_json_lines
from launcher.run.paths import RunDir
from launcher.run.pauses import read_pauses

ARGUMENTS = TrainingArguments(use_cpu=True, report_to="none")
COST = ModelCost(parameters=1000, layers=1, hidden=8, sequence_length=4)
THIRD = 1 / 3


def log_step(metrics: StepMetrics, step: int, **logs: float) -> None:
    metrics.on_log(ARGUMENTS, TrainerState(global_step=step), TrainerControl(), logs=logs)


def metrics_of(folder: Path, peak: float | None = None, *receivers: list[Row]) -> StepMetrics:
    speed = Speed(tokens_per_step=64, cost=COST, peak=peak, gpus=2)
    return StepMetrics(RunDir(folder), 3, speed, tuple(receiver.append for receiver in receivers))


def test_a_row_holds_what_trainer_logged_to_the_last_bit(tmp_path: Path) -> None:
    path, handed_on = tmp_path / "metrics.jsonl", []

    log_step(metrics_of(tmp_path, None, handed_on), 7, loss=THIRD, learning_rate=1e-5, grad_norm=0.1)

    (row,) = read_json_lines(path)
    assert (row["step"], row["attempt"], row["loss"], row["lr"], row["grad_norm"]) == (7, 3, THIRD, 1e-5, 0.1)
    assert row["mfu"] is None
    assert handed_on == [row]


def test_mfu_is_told_where_the_peak_is_known(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"

    log_step(metrics_of(tmp_path, 1e9), 1, loss=1.0, learning_rate=0.0)

    (row,) = read_json_lines(path)
    assert row["mfu"] == pytest.approx(row["tokens_per_second"] * COST.flops_per_token / 2e9)


def test_what_is_not_a_step_makes_no_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"

    log_step(metrics_of(tmp_path), 20, train_loss=1.0, train_runtime=2.0)

    assert not path.exists()


def test_a_line_torn_by_a_power_cut_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')

    log_step(metrics_of(tmp_path), 2, loss=THIRD, learning_rate=0.0)

    assert [(row["step"], row["loss"]) for row in read_json_lines(path)] == [(1, 2.0), (2, THIRD)]


def test_pauses_are_noted_with_what_they_were_for_and_the_begin_in_the_ledger(tmp_path: Path) -> None:
    run, state = RunDir(tmp_path), TrainerState(global_step=4)
    run.pauses.write_text('{"attempt": 2, "ti')
    metrics = metrics_of(tmp_path)

    metrics.on_train_begin(ARGUMENTS, state, TrainerControl())
    log_step(metrics, 4, loss=1.0, learning_rate=0.0)
    metrics.on_evaluate(ARGUMENTS, state, TrainerControl())
    metrics.on_save(ARGUMENTS, state, TrainerControl())

    evaluation, save = read_pauses(run.pauses)
    [step], [attempt] = read_json_lines(run.metrics), read_attempts(run.ledger)
    assert [(one.attempt, one.step, one.what) for one in (evaluation, save)] == [(3, 4, "evaluating"), (3, 4, "saving")]
    assert attempt.began is not None
    assert attempt.began <= step["time"] <= evaluation.time <= save.time
    assert evaluation.start == pytest.approx(step["time"], abs=1e-3)
    assert save.start == pytest.approx(evaluation.time, abs=1e-3)
