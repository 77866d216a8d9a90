"""metrics.jsonl: a row a step, in full precision, whatever the attempt before left behind."""

import json
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from jobs.train.metrics import Row, StepMetrics
from jobs.train.throughput import ModelCost, Speed
from launcher.run.ledger import read_json_lines

ARGUMENTS = TrainingArguments(use_cpu=True, report_to="none")
COST = ModelCost(parameters=1000, layers=1, hidden=8, sequence_length=4)
THIRD = 1 / 3


def log_step(metrics: StepMetrics, step: int, **logs: float) -> None:
    metrics.on_log(ARGUMENTS, TrainerState(global_step=step), TrainerControl(), logs=logs)


def metrics_of(path: Path, peak: float | None = None, *receivers: list[Row]) -> StepMetrics:
    speed = Speed(tokens_per_step=64, cost=COST, peak=peak, gpus=2)
    return StepMetrics(path, 3, speed, tuple(receiver.append for receiver in receivers))


def test_a_row_holds_what_trainer_logged_to_the_last_bit(tmp_path: Path) -> None:
    path, handed_on = tmp_path / "metrics.jsonl", []

    log_step(metrics_of(path, None, handed_on), 7, loss=THIRD, learning_rate=1e-5, grad_norm=0.1)

    (row,) = read_json_lines(path)
    assert (row["step"], row["attempt"], row["loss"], row["lr"], row["grad_norm"]) == (7, 3, THIRD, 1e-5, 0.1)
    assert row["mfu"] is None
    assert handed_on == [row]


def test_mfu_is_told_where_the_peak_is_known(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"

    log_step(metrics_of(path, 1e9), 1, loss=1.0, learning_rate=0.0)

    (row,) = read_json_lines(path)
    assert row["mfu"] == pytest.approx(row["tokens_per_second"] * COST.flops_per_token / 2e9)


def test_what_is_not_a_step_makes_no_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"

    log_step(metrics_of(path), 20, train_loss=1.0, train_runtime=2.0)

    assert not path.exists()


def test_a_line_torn_by_a_power_cut_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')

    log_step(metrics_of(path), 2, loss=THIRD, learning_rate=0.0)

    assert [(row["step"], row["loss"]) for row in read_json_lines(path)] == [(1, 2.0), (2, THIRD)]
