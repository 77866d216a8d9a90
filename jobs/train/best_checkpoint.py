"""The best checkpoint: when to evaluate, which evaluation was the best, and that its checkpoint is there in the end.

Which it is lies in Trainer's state, so each checkpoint knows the best one up to its own step, and a run that resumes
from it goes on from there.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from jobs.train.checkpoint import CheckpointStore
from launcher.run.metrics import read_joined_rows
from launcher.run.paths import RunDir


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
        is_known = state.global_step in (0, state.best_global_step)
        args.eval_on_start = self._is_due(state) and not is_known

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Ask for an evaluation, unless somebody wants to stop: the time left is for saving then.

        After the last step it begins in any case: that a stop leaves it says that something is still to be done.
        """
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


def best_first(run: RunDir, metric: str, lower_is_better: bool) -> list[int]:
    """Return the evaluated steps that have a score, the best first; of equal ones the earliest.

    Args:
        run: Whose evaluations.
        metric: Name of the score.
        lower_is_better: Its direction.
    """
    rows, sign = read_joined_rows(run.evaluations), 1 if lower_is_better else -1
    scores = {int(row["step"]): sign * row[metric] for row in rows if isinstance(row.get(metric), int | float)}
    return sorted(scores, key=lambda step: (scores[step], step))


def choose_intact(store: CheckpointStore, state: TrainerState, others: Callable[[], Sequence[int]]) -> int:
    """Return the step whose weights are to be taken after a training. A collective.

    A damaged checkpoint is quarantined, and the best of the others takes its place: `state` then says so. The last step
    needs none, since the model has its weights.

    Args:
        store: The run's checkpoints.
        state: Of the trainer; changed if the best checkpoint is damaged.
        others: Gives the evaluated steps, the best first; called on rank 0.
    """
    group, wanted = store.group, state.best_global_step
    if wanted is None or _is_usable(store, state, wanted):
        return state.global_step if wanted is None else wanted
    ranked = group.from_main([*others()] if group.is_main else [])
    usable = (step for step in ranked if step != wanted and _is_usable(store, state, step))
    chosen = next(usable, state.global_step)
    state.best_global_step = chosen
    if group.is_main:
        what = "the last one" if chosen == state.global_step else "the best that is intact"
        print(f"step {wanted} was the best, but its checkpoint is damaged; taken is {what}, step {chosen}", flush=True)
    return chosen


def _is_usable(store: CheckpointStore, state: TrainerState, step: int) -> bool:
    if step == state.global_step:
        return True
    folder, group = store.folder(step), store.group
    if not group.from_main(folder.is_dir()):  # most are not kept
        return False
    try:
        store.intact(step)
    except RuntimeError as error:
        if group.is_main:
            store.quarantine(folder, str(error).removeprefix(f"checkpoint {folder.name}: "))
        group.barrier()
        return False
    return True


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
