"""Ends a training whose loss is not finite: further steps waste GPUs, and checkpoints would replace good ones."""

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from launcher.errors import RunError

PATIENCE_OF_FP16 = 20
"""Steps in a row that fp16 may skip: each halves the loss scale, which starts at 2^16."""


class FiniteLoss(TrainerCallback):
    """Looks at each step's loss and gradient norm, which are the same on all ranks, before anything is saved."""

    def __init__(self, dtype: str) -> None:
        """Serve one attempt.

        Args:
            dtype: The recipe's `precision.dtype`.
        """
        self._patience = PATIENCE_OF_FP16 if dtype == "fp16" else 1
        self._lost = 0

    @override
    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Count steps that are lost.

        Raises:
            RunError: so many in a row that the training cannot recover.
        """
        logs: dict[str, float] = others["logs"]
        if "loss" not in logs:
            return
        lost = [name for name in ("loss", "grad_norm") if not math.isfinite(logs.get(name) or 0.0)]
        self._lost = self._lost + 1 if lost else 0
        if self._lost >= self._patience:
            what = {"loss": "loss", "grad_norm": "norm of the gradients"}[lost[0]]
            raise RunError(
                f"optim.lr: the {what} of step {state.global_step} is not finite, and training cannot recover; "
                "earlier checkpoints are kept; write a smaller `lr`, or a `clip_norm`"
            )
