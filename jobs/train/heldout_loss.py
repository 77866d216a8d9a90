"""The loss of held-out answers or text: a mean over tokens, whatever batches and ranks they were spread over."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import EvalPrediction, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override


class HeldOutLoss(TrainerCallback):
    """Has the model evaluated before the first step, at every so many steps, and after the last."""

    def __init__(self, interval: int) -> None:
        self._interval = interval

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Evaluate where the attempt begins if that is due there: a stop may have put it off."""
        args.eval_on_start = state.global_step % self._interval == 0 or state.global_step >= state.max_steps

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Ask for an evaluation, unless somebody wants to stop: the time left is for saving then.

        After the last step it begins in any case: that a stop leaves it says that something is still to be done.
        """
        is_last = state.global_step >= state.max_steps
        is_due = state.global_step % self._interval == 0 and not control.should_training_stop
        control.should_evaluate = is_last or is_due


def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return for each row the sum of its tokens' losses and their number, in place of its logits.

    Of most models that stands there already: see `jobs.models.fused_loss`.
    """
    if logits.dim() == 2:
        return logits
    predicted = logits[:, -labels.shape[1] :][:, :-1]  # what a prompt adapter puts before the text is not asked for
    wanted = labels[:, 1:]
    losses = functional.cross_entropy(predicted.float().transpose(1, 2), wanted, reduction="none")
    return torch.stack((losses.sum(1), (wanted >= 0).sum(1).to(losses.dtype)), dim=1)


def mean_answer_loss(evaluation: EvalPrediction) -> dict[str, float]:
    """Return the mean over all tokens of all answers."""
    losses, tokens = np.asarray(evaluation.predictions, np.float64).sum(0)
    return {"answer_loss": float(losses / tokens)}
