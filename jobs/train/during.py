"""Evaluations of tasks while a model is trained. They leave training as it would be without them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from jobs.models.parallel import reshard
from jobs.rank.stop_flag import StopRequested
from jobs.rank.watchdog import WATCHDOG
from jobs.train.left_evaluation import only_stops
from jobs.train.trainer import GuardedTrainer

Evaluate: TypeAlias = Callable[[GuardedTrainer, Callable[[], bool]], dict[str, float] | None]
"""Computes the scores of all tasks, by `TASK/METRIC`. A collective; gives up and returns None where the function that
it is given, which it calls often on all ranks, says so."""


class EvaluationDuringTraining(TrainerCallback):
    """Has tasks evaluated before the first step, at every so many steps, and after the last.

    It comes when the step has been logged, and before it is saved. A stop puts it off: the attempt that resumes there
    begins with it.

    Args:
        interval: Steps between two evaluations.
        evaluate: Computes the scores.
    """

    def __init__(self, interval: int, evaluate: Evaluate) -> None:
        self._interval = interval
        self._evaluate = evaluate
        self._trainer: GuardedTrainer | None = None

    def belong_to(self, trainer: GuardedTrainer) -> None:
        """Say whose model is evaluated."""
        self._trainer = trainer

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Evaluate where the attempt begins if that is due there.

        Raises:
            StopRequested: a stop was asked for meanwhile; there is nothing to save yet.
        """
        is_due = state.global_step % self._interval == 0 or state.global_step >= state.max_steps
        if is_due and not self._run(state, control):
            raise StopRequested

    @override
    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Evaluate after a step if that is due, unless somebody wants to stop: the time left is for saving then.

        After the last step it begins in any case: that a stop leaves it says that something is still to be done.
        """
        is_last = state.global_step >= state.max_steps
        is_due = state.global_step % self._interval == 0 and not control.should_training_stop
        if "loss" in others["logs"] and (is_last or is_due) and not self._run(state, control):
            control.should_evaluate = False

    def _run(self, state: TrainerState, control: TrainerControl) -> bool:
        """Evaluate; return whether that came to an end."""
        trainer = self._trainer
        assert trainer is not None

        def stops() -> bool:
            trainer.callback_handler.on_prediction_step(trainer.args, state, control)
            return control.should_training_stop

        with WATCHDOG.doing("evaluating"), _left_unchanged(trainer), only_stops(control):
            scores = self._evaluate(trainer, stops)
        if scores is not None:
            named, held_out_is_due = {f"eval_{name}": value for name, value in scores.items()}, control.should_evaluate
            trainer.callback_handler.on_evaluate(trainer.args, state, control, named)
            control.should_evaluate = held_out_is_due  # the handler takes it for done
        return scores is not None


@contextmanager
def _left_unchanged(trainer: GuardedTrainer) -> Iterator[None]:
    """Evaluate in the number format of training; keep the random state, and whether layers are in training mode."""
    model: Any = trainer.model
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[]), trainer.accelerator.autocast(), torch.no_grad():
        yield
    reshard(model)
    model.train(was_training)
