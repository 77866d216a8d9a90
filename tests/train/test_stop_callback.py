"""When to save and when to stop: what one rank makes of signals, files, the clock and the step."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from jobs.rank.process_group import RankGroup
from jobs.rank.stop_flag import SIGNALS, STOP
from jobs.train import stop_callback as control_module
from jobs.train.stop_callback import StepControl
from launcher.recipe.quantities import Interval
from launcher.run.paths import RunDir
from tests.support.training_runs import context_of, make_run

ALONE = RankGroup(rank=0, world_size=1, leads_node=True, device=torch.device("cpu"), control=None)
ARGUMENTS = TrainingArguments(use_cpu=True, report_to="none")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path)


@pytest.fixture(autouse=True)
def stop_flag(run: RunDir) -> Iterator[None]:
    """Handle signals and heed the run's STOP file, as `jobs.__main__` does."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    STOP.install()
    with STOP.heeding(run.stop_request.exists):
        yield
    STOP.signal = None
    for number, handler in before.items():
        signal.signal(number, handler)


def after_step(control: StepControl, step: int) -> TrainerControl:
    told = TrainerControl(should_evaluate=True)
    control.on_step_end(ARGUMENTS, TrainerState(global_step=step, max_steps=20), told)
    return told


def control_of(run: RunDir, interval: str = "5 steps") -> StepControl:
    return StepControl(context_of(run), ALONE, Interval(interval))


def test_it_saves_at_every_interval_and_at_the_end(run: RunDir) -> None:
    control = control_of(run, "6 steps")

    assert [step for step in range(1, 21) if after_step(control, step).should_save] == [6, 12, 18, 20]
    assert not control.stopped


@pytest.mark.parametrize(("compiles", "expected"), [(False, 1), (True, 2)])
def test_the_watchdog_learns_from_steps_but_not_from_one_that_compiles(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, compiles: bool, expected: int
) -> None:
    told: list[tuple[int, str]] = []
    control = StepControl(context_of(run), ALONE, Interval("5 steps"), compiles)
    for step in (1, 2, 3):
        monkeypatch.setattr(control_module.WATCHDOG, "turn_to", lambda what, step=step: told.append((step, what)))
        control.on_step_begin(ARGUMENTS, TrainerState(), TrainerControl())
    control.on_train_end(ARGUMENTS, TrainerState(), TrainerControl())

    assert told == [(expected, "training"), (3, "")]


def test_a_signal_stops_and_saves_first(run: RunDir) -> None:
    control = control_of(run)

    os.kill(os.getpid(), signal.SIGUSR2)
    told = after_step(control, 3)

    assert (told.should_save, told.should_training_stop, told.should_evaluate) == (True, True, False)
    assert control.stopped


def test_a_stop_file_stops(run: RunDir) -> None:
    control = control_of(run)
    assert not after_step(control, 3).should_training_stop

    run.stop_request.touch()

    assert after_step(control, 4).should_training_stop


def test_a_stop_at_the_last_step_is_the_end_of_training(run: RunDir) -> None:
    control = control_of(run)
    run.stop_request.touch()

    after_step(control, 20)

    assert not control.stopped


def test_a_save_file_saves_once_and_goes_away(run: RunDir) -> None:
    control = control_of(run)
    run.save_request.touch()

    told = after_step(control, 3)
    assert (told.should_save, told.should_training_stop) == (True, False)
    control.on_save(ARGUMENTS, TrainerState(), told)

    assert not run.save_request.exists()
    assert not after_step(control, 4).should_save


def test_an_interval_in_minutes_counts_from_the_last_save(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 59, 60, 61, 120, 121])  # made, 1st step, 2nd step, saved, 3rd step, 4th step
    monkeypatch.setattr(control_module, "monotonic", lambda: next(clock))
    control = control_of(run, "1min")

    assert not after_step(control, 1).should_save
    assert after_step(control, 2).should_save
    control.on_save(ARGUMENTS, TrainerState(), TrainerControl())
    assert not after_step(control, 3).should_save
    assert after_step(control, 4).should_save


def test_a_stop_during_an_evaluation_is_done_when_it_ends(run: RunDir) -> None:
    control = control_of(run)
    told = TrainerControl()
    os.kill(os.getpid(), signal.SIGTERM)

    control.on_prediction_step(ARGUMENTS, TrainerState(), told)

    assert (told.should_save, told.should_training_stop) == (True, True)
    assert control.stopped
