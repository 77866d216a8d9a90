"""The best checkpoint: when to evaluate, which evaluation was the best, and that its checkpoint is there in the end.

Which it is lies in Trainer's state, so each checkpoint knows the best one up to its own step, and a run that resumes
from it goes on from there.
"""

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override


class BestCheckpoint(TrainerCallback):
    """Has the model evaluated at every so many steps and at the last, and has the best so far saved.

    An evaluation leaves no trace in the random state and the weights, so when it takes place makes no difference to the
    training: one that a stop has put off is made up for at the start of the next attempt.
    """

    def __init__(self, metric: str, lower_is_better: bool, interval: int) -> None:
        """Serve one attempt.

        Args:
            metric: Name of one of the evaluation's scores.
            lower_is_better: Its direction.
            interval: Steps between two evaluations.
        """
        self._metric = metric
        self._sign = -1 if lower_is_better else 1
        self._interval = interval

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Make up for an evaluation that may have been put off; an equal score later on does not replace the best."""
        has_begun = 0 < state.global_step < state.max_steps
        args.eval_on_start = has_begun and self._is_due(state) and state.best_global_step != state.global_step

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Ask for an evaluation, unless somebody wants to stop: the time left is for saving then."""
        is_last = state.global_step >= state.max_steps
        control.should_evaluate = self._is_due(state) and (is_last or not control.should_training_stop)

    @override
    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Note a score that is better than all numbers before it, and have its checkpoint saved."""
        score: float = others["metrics"].get(f"eval_{self._metric}", math.nan)  # scores of pairs leave NaN out
        best = state.best_metric
        if math.isnan(score):
            if state.is_world_process_zero:
                said = f"`{self._metric}` is not a number; this checkpoint cannot be the best"
                print(f"step {state.global_step}: {said}", flush=True)
        elif best is None or math.isnan(best) or self._sign * score > self._sign * best:
            state.best_metric, state.best_global_step = score, state.global_step
            control.should_save = True

    def _is_due(self, state: TrainerState) -> bool:
        return state.global_step % self._interval == 0 or state.global_step >= state.max_steps


def describe_best(state: TrainerState, metric: str) -> str:
    """Say which checkpoint is the best after a training.

    Args:
        state: Of the trainer.
        metric: What it was chosen by.
    """
    if state.best_global_step is None:
        return (
            f"evaluation.metric: no evaluation gave a number as `{metric}`, so no checkpoint is the best; the model is "
            f"that of the last step, {state.global_step}; choose another metric, or look at the evaluations"
        )
    return f"best checkpoint: step {state.best_global_step}"
