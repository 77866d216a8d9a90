"""Leaves an evaluation of Trainer where all ranks have agreed to stop: the time left is for saving."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from jobs.rank.stop_flag import StopRequested


@contextmanager
def only_stops(control: TrainerControl) -> Iterator[None]:
    """Have `should_training_stop` mean that a stop was agreed on: after the last step Trainer sets it in any case."""
    before, control.should_training_stop = control.should_training_stop, False
    try:
        yield
    finally:
        control.should_training_stop = control.should_training_stop or before


class LeftEvaluation(TrainerCallback):
    """Ends an evaluation between two of its batches.

    Trainer's loop has no such end. What asks for evaluations makes up for one at the start of the next attempt, as for
    one that a stop has put off before it began; also for the one after the last step, which is saved then.

    It has to be told of batches after the callback that agrees with the other ranks, which all of them then leave.
    """

    def __init__(self) -> None:
        self._is_running = False

    @contextmanager
    def running(self, control: TrainerControl) -> Iterator[None]:
        """Say that a training evaluates in a `with` block; tasks that do so themselves look at `control`.

        Predictions for a report, after the training, are finished.
        """
        self._is_running = True
        try:
            with only_stops(control):
                yield
        finally:
            self._is_running = False

    @override
    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: object
    ) -> None:
        """Leave it if a stop was agreed on.

        Raises:
            StopRequested: it was.
        """
        if self._is_running and control.should_training_stop:
            raise StopRequested
