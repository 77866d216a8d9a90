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
from jobs.rank.watchdog import WATCHDOG
from jobs.train.step_times import OwnTime, StepTimes
from launcher.recipe.quantities import Interval


class StepControl(TrainerCallback):
    """Asks all ranks after each step whether to save or stop, and makes them do it at the same step.

    A signal reaches ranks at different moments, and some not at all; only rank 0 looks at control files and at the
    clock. So no rank acts on what it alone knows.

    Args:
        context: The run and this rank.
        group: All ranks.
        interval: Between two checkpoints.
        compiles: Whether the first step takes minutes, for compiling.
    """

    def __init__(self, context: Context, group: RankGroup, interval: Interval, compiles: bool = False) -> None:
        self._run = context.run
        self._steps_to_skip = 1 if compiles else 0
        self._steps = 0
        self._group = group
        self._interval = interval
        self._saved_at = monotonic()
        self.stopped = False
        """Whether training ended because somebody wanted it to."""
        self.times = StepTimes(group.device)
        """What this rank spends on its own part of a step."""
        self.of_ranks: list[OwnTime] = []
        """What all ranks spent on theirs until the last logged step; empty for a rank that is alone."""

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
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Have the watchdog learn how long steps take; the first one does not count where it compiles."""
        if self._steps == self._steps_to_skip:
            WATCHDOG.turn_to("training")
        self._steps += 1

    @override
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Have it expect no more steps."""
        WATCHDOG.turn_to("")

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Agree, then tell Trainer; the last step is saved too, so that an export can be tried again."""
        stop, save = self._agree(control.should_log)
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

    def _agree(self, is_logged: bool = False) -> tuple[bool, bool]:
        """Agree on whether to stop and to save; at a step that is logged, also tell each other how long parts took."""
        save = self._group.is_main and (os.path.exists(self._run.save_request) or self._is_due())
        claims = (STOP.is_requested(), save)
        if is_logged and self._group.world_size > 1:
            (stop, save), ranks = self._group.any_and_all(claims, self.times.take())
            self.of_ranks = [OwnTime(*parts) for parts in ranks]
        else:
            stop, save = self._group.any(*claims)
        return stop, save

    def _is_due(self) -> bool:
        seconds = self._interval.seconds
        return seconds is not None and monotonic() - self._saved_at >= seconds

    def _falls_on(self, step: int) -> bool:
        return self._interval.steps is not None and step % self._interval.steps == 0
