"""When to save and when to stop: agreed by all ranks at every step boundary, in one message."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from jobs.rank.context import Context
from jobs.rank.process_group import RankGroup
from jobs.rank.stop_flag import STOP, StopRequested
from launcher.recipe.quantities import Interval


class StepControl(TrainerCallback):
    """Asks all ranks after each step whether to save or stop, and makes them do it at the same step.

    A signal reaches ranks at different moments, and some not at all; only rank 0 looks at control files and at the
    clock. So no rank acts on what it alone knows.
    """

    def __init__(self, context: Context, group: RankGroup, interval: Interval) -> None:
        self._run = context.run
        self._group = group
        self._interval = interval
        self._saved_at = monotonic()
        self.stopped = False
        """Whether training ended because somebody wanted it to."""

    def wants_stop(self) -> bool:
        """Tell whether some rank was asked to stop before training began; then nothing needs saving."""
        self.stopped, _ = self._agree()
        return self.stopped

    @contextmanager
    def noting_stop(self) -> Iterator[None]:
        """Note that training ended before its first step, which all ranks agreed on: there is nothing to save."""
        try:
            yield
        except StopRequested:
            self.stopped = True

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Agree, then tell Trainer; the last step is saved too, so that an export can be tried again."""
        stop, save = self._agree()
        last = state.global_step >= state.max_steps
        self.stopped = stop and not last
        control.should_save = save or stop or last or self._falls_on(state.global_step)
        if stop:
            control.should_training_stop = True
            control.should_evaluate = False  # the time left is for saving

    @override
    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Agree during an evaluation as well; a save or stop follows as soon as it ends."""
        stop, save = self._agree()
        self.stopped = self.stopped or stop
        control.should_save = control.should_save or save or stop
        control.should_training_stop = control.should_training_stop or stop

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Restart the interval, and remove a SAVE file that was obeyed."""
        self._saved_at = monotonic()
        if self._group.is_main:
            self._run.save_request.unlink(missing_ok=True)

    def _agree(self) -> tuple[bool, bool]:
        save = self._group.is_main and (os.path.exists(self._run.save_request) or self._is_due())
        stop, save = self._group.any(STOP.is_requested(), save)
        return stop, save

    def _is_due(self) -> bool:
        seconds = self._interval.seconds
        return seconds is not None and monotonic() - self._saved_at >= seconds

    def _falls_on(self, step: int) -> bool:
        return self._interval.steps is not None and step % self._interval.steps == 0
