"""The best checkpoint: chosen in the right direction, kept from rotation, asked for at the right steps."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from jobs.rank.process_group import RankGroup
from jobs.train.best_checkpoint import BestCheckpoint, best_first, choose_intact, describe_best
from jobs.train.checkpoint import QUARANTINE, CheckpointStore
from launcher.run.paths import COMPLETE, RunDir, published_steps

ALONE = RankGroup(rank=0, world_size=1, leads_node=True, device=torch.device("cpu"), control=None)


def save(run: RunDir, keep: int, step: int, best: int | None) -> CheckpointStore:
    store = CheckpointStore(run, ALONE, keep, ["weights.bin"])
    folder = store.open_staging(f"checkpoint-{step}")
    (folder / "weights.bin").write_bytes(b"w")
    store.publish(folder, step, best)
    return store


def test_the_best_checkpoint_of_each_that_is_kept_is_kept(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 5)):
        save(run, 2, step, best)

    assert published_steps(run) == [2, 4, 5], "4 is one to resume from, and its best is 2"

    save(run, 2, 6, 5)

    assert published_steps(run) == [5, 6]


def test_checkpoints_of_runs_without_evaluations_are_rotated_as_ever(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step in range(1, 6):
        save(run, 2, step, None)

    assert published_steps(run) == [4, 5]


def test_a_damaged_best_checkpoint_is_not_gone_back_to(tmp_path: Path) -> None:
    store = save(RunDir(tmp_path), 2, 1, 1)
    assert (store.intact(1) / COMPLETE).is_file()
    (RunDir(tmp_path).checkpoint(1) / "weights.bin").write_bytes(b"x")

    with pytest.raises(RuntimeError, match=r"checkpoint step-00000001: weights\.bin has changed since it was saved"):
        store.intact(1)


@pytest.mark.parametrize(("lower_is_better", "best"), [(False, 2), (True, 1)])
def test_the_best_is_the_first_of_the_best_scores(lower_is_better: bool, best: int) -> None:
    callback = BestCheckpoint("score", lower_is_better, 1)
    state = TrainerState(max_steps=9)
    saved = []
    for step, score in ((1, 0.3), (2, 0.8), (3, 0.8), (4, 0.3), (5, 0.5)):
        state.global_step, control = step, TrainerControl()
        callback.on_evaluate(args(), state, control, metrics={"eval_score": score, "eval_other": -score})
        saved += [step] if control.should_save else []

    assert state.best_global_step == best
    assert saved[-1] == best


def evaluated(state: TrainerState, scores: Sequence[float], lower_is_better: bool = False) -> list[int]:
    """Note scores of steps 1, 2 and so on; return the steps whose checkpoints are saved."""
    callback, saved = BestCheckpoint("score", lower_is_better, 1), []
    for step, score in enumerate(scores, 1):
        state.global_step, control = step, TrainerControl()
        callback.on_evaluate(args(), state, control, metrics={"eval_score": score})
        saved += [step] if control.should_save else []
    return saved


@pytest.mark.parametrize(("lower_is_better", "best"), [(False, 4), (True, 2)])
def test_a_score_that_is_no_number_is_never_the_best(
    lower_is_better: bool, best: int, capsys: pytest.CaptureFixture[str]
) -> None:
    state = TrainerState(max_steps=9, is_world_process_zero=True)

    saved = evaluated(state, [math.nan, 0.3, math.nan, 0.8, math.nan], lower_is_better)

    assert (state.best_global_step, saved[-1]) == (best, best)
    assert describe_best(state, "score") == f"best checkpoint: step {best}"
    told = capsys.readouterr().out.splitlines()
    assert told == [f"step {step}: `score` is not a number; this checkpoint cannot be the best" for step in (1, 3, 5)]


def test_a_best_score_that_is_no_number_is_replaced() -> None:
    state = TrainerState(max_steps=9, best_metric=math.nan, best_global_step=7)

    assert evaluated(state, [0.3]) == [1]
    assert (state.best_metric, state.best_global_step) == (0.3, 1)


def test_without_any_number_no_checkpoint_is_the_best() -> None:
    state = TrainerState(max_steps=2)
    BestCheckpoint("score", True, 1).on_evaluate(args(), state, TrainerControl(), metrics={"eval_other": 1.0})

    assert evaluated(state, [math.nan, math.nan]) == []

    assert state.best_global_step is None
    assert "no evaluation gave a number as `score`" in describe_best(state, "score")
    assert "the model is that of the last step, 2;" in describe_best(state, "score")


def args() -> Any:
    return SimpleNamespace(eval_on_start=False)


def asks(step: int, stopping: bool = False) -> bool:
    control = TrainerControl(should_training_stop=stopping)
    BestCheckpoint("score", False, 4).on_step_end(args(), TrainerState(global_step=step, max_steps=10), control)
    return control.should_evaluate


def test_evaluations_are_due_every_so_many_steps_and_at_the_end() -> None:
    assert [step for step in range(1, 11) if asks(step)] == [4, 8, 10]


def test_an_evaluation_waits_for_the_next_attempt_if_somebody_wants_to_stop() -> None:
    assert not asks(4, stopping=True)
    assert asks(10, stopping=True), "that it is left says that something is still to be done"


@pytest.mark.parametrize(
    ("step", "best", "makes_up"),
    [(0, None, False), (4, None, True), (4, 4, False), (5, 4, False), (10, 8, True), (10, 10, False)],
)
def test_an_attempt_makes_up_for_the_evaluation_of_the_step_it_begins_at(
    step: int, best: int | None, makes_up: bool
) -> None:
    arguments, state = args(), TrainerState(global_step=step, max_steps=10, best_global_step=best)

    BestCheckpoint("score", False, 4).on_train_begin(arguments, state, TrainerControl())

    assert arguments.eval_on_start is makes_up


@pytest.mark.parametrize(("lower_is_better", "expected"), [(False, [2, 4, 3, 1]), (True, [1, 3, 2, 4])])
def test_evaluated_steps_are_told_the_best_first(tmp_path: Path, lower_is_better: bool, expected: list[int]) -> None:
    run = evaluated_run(tmp_path, {1: 0.1, 2: 0.8, 3: 0.7, 4: 0.8, 5: None, 6: "0.9"})
    with run.evaluations.open("a") as file:
        file.write(
            '{"step": 3, "attempt": 1, "score": 0.3}\n'
        )  # evaluated again; a row of tasks, and a torn one follow
        file.write('{"step": 4, "attempt": 1, "task/acc": 0.9}\n{"step": 1, "sco')

    assert best_first(run, "score", lower_is_better) == expected


def evaluated_run(folder: Path, scores: dict[int, Any]) -> RunDir:
    run = RunDir(folder)
    rows = [{"time": 0.0, "step": step, "attempt": 0, "score": score} for step, score in scores.items()]
    run.evaluations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def damage(run: RunDir, *steps: int) -> None:
    for step in steps:
        (run.checkpoint(step) / "weights.bin").write_bytes(b"x")


@pytest.mark.parametrize(
    ("damaged", "chosen", "said"),
    [
        ((), 2, ""),
        ((2,), 4, "step 2 was the best, but its checkpoint is damaged; taken is the best that is intact, step 4"),
        ((2, 4), 5, "step 2 was the best, but its checkpoint is damaged; taken is the last one, step 5"),
        ((4,), 2, ""),
    ],
)
def test_a_damaged_best_checkpoint_gives_way_to_the_next_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: tuple[int, ...], chosen: int, said: str
) -> None:
    """Step 3 would be better than 4, but was not kept."""
    run = evaluated_run(tmp_path, {1: 0.1, 2: 0.9, 3: 0.8, 4: 0.7, 5: 0.6})
    store = [save(run, 5, step, 2) for step in (1, 2, 4, 5)][-1]
    damage(run, *damaged)
    state = TrainerState(global_step=5, max_steps=5, best_global_step=2, best_metric=0.9)

    assert choose_intact(store, state, lambda: best_first(run, "score", False)) == chosen

    assert state.best_global_step == chosen
    aside = {f"step-{step:08d}" for step in damaged if step != 4 or 2 in damaged}
    quarantine = run.checkpoints / QUARANTINE
    assert ({path.name for path in quarantine.iterdir()} if quarantine.exists() else set()) == aside
    assert (capsys.readouterr().out.splitlines() or [""])[-1] == said


def test_a_best_checkpoint_that_is_gone_gives_way_as_well(tmp_path: Path) -> None:
    run = evaluated_run(tmp_path, {2: 0.9, 4: 0.7, 5: 0.6})
    store = [save(run, 5, step, 2) for step in (2, 4, 5)][-1]
    shutil.rmtree(run.checkpoint(2))

    state = TrainerState(global_step=5, max_steps=5, best_global_step=2)

    assert choose_intact(store, state, lambda: best_first(run, "score", False)) == 4


def test_without_a_best_step_the_last_one_is_taken(tmp_path: Path) -> None:
    run = evaluated_run(tmp_path, {})
    store, state = save(run, 5, 5, None), TrainerState(global_step=5, max_steps=5)

    assert choose_intact(store, state, lambda: best_first(run, "score", False)) == 5
    assert state.best_global_step is None
