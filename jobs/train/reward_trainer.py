"""TRL's trainer of reward models on our spine.

TRL's constructor is left out: it takes data sets of one class only, turns trained weights of quantised models into 16
bits, and changes the model's padding token. What it sets for the loss is set here (trl 1.16, `RewardTrainer.__init__`).
"""

import contextlib
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from trl.trainer.reward_trainer import RewardTrainer
from typing_extensions import override

from jobs.train.trainer import GuardedTrainer

_OF_MODEL = ("input_ids", "attention_mask")


class _PairwiseRewards(RewardTrainer):
    """TRL's loss and metrics."""

    def __init__(self, **trainer: Any) -> None:
        super(RewardTrainer, self).__init__(**trainer)  # type: ignore[no-untyped-call]
        self.can_return_loss = True
        self.label_names: list[str] = []
        self.maybe_activation_offload_context: Any = contextlib.nullcontext()
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        self._total_train_tokens = 0
        self._tp_size = 1

    @override
    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """Keep the margin, which the loss needs, from the model."""
        own = {name: inputs[name] for name in _OF_MODEL}

        def rewards(**_: Any) -> Any:
            return model(**own, use_cache=False)

        return super().compute_loss(rewards, inputs, *arguments, **options)  # type: ignore[no-untyped-call]


class GuardedRewardTrainer(GuardedTrainer, _PairwiseRewards):
    """Trains a reward model: the loss of a pair is -log sigmoid(reward of chosen - reward of rejected - margin)."""

    @override
    def prediction_step(self, *arguments: Any, **options: Any) -> Any:
        """Return the rewards of each pair as a row, and labels that say nothing: without any, none are scored."""
        loss, logits, _ = super().prediction_step(*arguments, **options)
        return loss, pair_rows(logits.squeeze(-1)), torch.zeros(len(logits) // 2, device=logits.device)

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Leave out TRL's own means over the batches of an evaluation: ours are over pairs, whatever the batches."""
        self._metrics["eval"].clear()
        super().log(logs, start_time)


def pair_rows(numbers: Tensor) -> Tensor:
    """Turn numbers of all chosen answers, then of all rejected ones, into a row for each pair, in fp32."""
    return torch.stack(numbers.float().chunk(2), dim=1)
