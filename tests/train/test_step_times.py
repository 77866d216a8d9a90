"""Which rank the others wait for: what a rank measures of itself, and how rank 0 judges it."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from jobs.train.step_times import PASSES, POINTS, OwnTime, StepTimes, StragglerWatch
from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED
from launcher.run.stragglers import Straggler, read_stragglers
from tests.support.training_runs import make_run, start


class Layer(GradientCheckpointingLayer):
    """A layer of a model; it moves the clock."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        self.clock[0] += self.seconds
        return given


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("jobs.train.step_times.time.perf_counter", lambda: now[0])
    return now


def test_a_rank_measures_its_loading_and_one_of_its_layers(clock: list[float]) -> None:
    model, times = nn.Sequential(Layer(clock, 5), Layer(clock, 2), Layer(clock, 5)), StepTimes(torch.device("cpu"))
    times.watch(model)
    for _ in range(2):
        with times.loading():
            clock[0] += 0.5
        model(torch.ones(1))
        model(torch.ones(1))  # a second micro batch

    assert times.take() == (0.5, 2 * 2 * 3 * PASSES)
    assert times.take() == (0.0, 0.0)


def test_evaluations_do_not_count(clock: list[float]) -> None:
    model, times = nn.Sequential(Layer(clock, 5)), StepTimes(torch.device("cpu"))
    times.watch(model)

    model.eval()(torch.ones(1))

    assert times.take() == (0.0, 0.0)


def test_a_model_whose_layers_are_not_known_is_judged_by_its_loading(clock: list[float]) -> None:
    times = StepTimes(torch.device("cpu"))
    times.watch(nn.Linear(1, 1))
    with times.loading():
        clock[0] += 0.25

    assert times.take() == (0.25, 0.0)


def judged(points: Sequence[Sequence[OwnTime]]) -> tuple[list[Straggler], dict[str, float | int | None]]:
    found: list[Straggler] = []
    watch = StragglerWatch(found.append, lambda rank: f"gpu0{rank}")
    row: dict[str, float | int | None] = {}
    for step, ranks in enumerate(points, 1):
        row = watch.note(step, ranks)
    return found, row


def test_the_slowest_rank_is_in_every_row_and_reported_once_it_is_slow_for_long() -> None:
    usual, slow = OwnTime(0.1, 0.9), OwnTime(0.1, 1.9)

    found, row = judged([[usual, slow, usual, usual]] * (POINTS + 5))

    assert row == {"slowest_rank": 1, "slowest_speed": pytest.approx(0.5)}
    [one] = found
    assert (one.rank, one.node, one.step, one.cause) == (1, "gpu01", POINTS, "computing")
    assert "rank 1 on gpu01 is slow" in str(one)


def test_a_rank_that_waits_for_its_data_is_told_from_one_that_computes_slowly() -> None:
    found, _ = judged([[OwnTime(0.1, 0.9), OwnTime(1.5, 0.9)]] * POINTS)

    assert [one.cause for one in found] == ["loading data"]


@pytest.mark.parametrize(
    "slow",
    [
        OwnTime(0.1, 1.2),  # a little slower
        OwnTime(0.1, 0.9),
    ],
)
def test_ranks_that_are_nearly_alike_are_no_stragglers(slow: OwnTime) -> None:
    assert judged([[OwnTime(0.1, 0.9), slow]] * POINTS)[0] == []


def test_two_pauses_make_no_straggler_nor_do_milliseconds() -> None:
    usual, paused = OwnTime(0.1, 0.9), OwnTime(60, 0.9)
    assert judged([[usual, usual]] * (POINTS - 2) + [[usual, paused]] * 2)[0] == []
    assert judged([[OwnTime(0, 0.001), OwnTime(0, 0.004)]] * POINTS)[0] == []


def test_a_rank_that_waits_in_every_fourth_step_is_a_straggler() -> None:
    usual, waiting = OwnTime(0.1, 0.9), OwnTime(5, 0.9)

    found, _ = judged([*[[usual, usual]] * 3, [usual, waiting]] * (POINTS // 4))

    assert [one.cause for one in found] == ["loading data"]


def test_a_rank_that_is_alone_is_not_judged() -> None:
    assert judged([[]] * POINTS) == ([], {})


def test_without_a_measurement_nobody_is_slow() -> None:
    assert judged([[OwnTime(0, 0)] * 2])[1] == {"slowest_rank": 0, "slowest_speed": 1.0}


def test_stragglers_are_read_as_they_were_written(tmp_path: Path) -> None:
    one = Straggler(3, "gpu03", 40, 0.5, 2.0, 1.0, "computing")
    one.append(tmp_path / "stragglers.jsonl")
    with (tmp_path / "stragglers.jsonl").open("a") as file:
        file.write('{"rank": 1}\n{"ra')

    assert read_stragglers(tmp_path / "stragglers.jsonl") == [one]
    assert read_stragglers(tmp_path / "missing") == []


SLOW_RANK = """
import os, runpy, time
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
plain = LlamaDecoderLayer.forward
def forward(self, *given, **named):
    time.sleep(0.1 if os.environ["RANK"] == "1" else 0)
    return plain(self, *given, **named)
LlamaDecoderLayer.forward = forward
runpy.run_module("jobs", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("full_shard", marks=pytest.mark.long)])
def test_a_rank_whose_layers_are_slow_is_found_though_all_steps_take_equally_long(
    tmp_path: Path, strategy: str
) -> None:
    run = make_run(tmp_path, schedule={"length": f"{POINTS + 4} steps"}, parallel={"strategy": strategy})

    attempt = start(run, ranks=2, program=("-c", SLOW_RANK))

    assert attempt.wait() == [FINISHED] * 2, attempt.log()
    rows = read_json_lines(run.metrics)
    assert {row["slowest_rank"] for row in rows[2:]} == {1}
    [found] = read_stragglers(run.stragglers(0))
    assert (found.rank, found.cause) == (1, "computing")
    assert str(found) in attempt.log()
