"""ORPO: fine-tuning on the chosen answers and a preference for them in one loss, without a reference.

Hong et al. 2024 (https://arxiv.org/abs/2403.07691), equations 2 to 7, on answers alone. TRL has it among its
experimental trainers, which can disappear in any release and compute all logits; TRL's fine-tuning term also learns the
prompt, and weighs pairs by their tokens, so that it depends on the micro batch.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from jobs.train.dpo_trainer import GuardedDpoTrainer
from jobs.train.reference import answer_log_probs


class GuardedOrpoTrainer(GuardedDpoTrainer):
    """ORPO: -log p - beta log sigmoid(log odds ratio), with p the mean probability of an answer's tokens."""

    @override
    def _own_reference(self) -> None:
        """It has none."""

    @override
    def _rewards(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Return beta x the mean log-probability of each answer's tokens."""
        return self.beta * mean_log_probs(model, inputs)

    @override
    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool) -> Any:
        chosen, rejected = mean_log_probs(model, inputs).float().chunk(2)
        log_odds = log_odds_ratio(chosen, rejected)
        loss = -(chosen + self.beta * functional.logsigmoid(log_odds)).mean()
        margins = self.beta * (chosen - rejected).detach()
        told = {
            "nll": -chosen,
            "log_odds_ratio": log_odds,
            "rewards/chosen": self.beta * chosen,
            "rewards/rejected": self.beta * rejected,
            "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).float(),
        }
        for name, values in told.items():
            self._metrics["train"][name].append(self.accelerator.gather(values.detach()).mean().item())
        return loss


def mean_log_probs(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the mean log-probability of the tokens of each answer of a batch."""
    return answer_log_probs(model, inputs) / inputs["completion_mask"].sum(dim=1)


def log_odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return log(odds of chosen / odds of rejected), where odds are p / (1 - p).

    Args:
        chosen: log p of the chosen answers.
        rejected: log p of the rejected answers.
    """
    return (chosen - rejected) - (_log_of_rest(chosen) - _log_of_rest(rejected))


def _log_of_rest(log_p: Tensor) -> Tensor:
    """Return log(1 - p), exact for p near 0 and near 1 (Mächler 2012, log1mexp)."""
    is_likely = log_p > -0.6931471805599453
    # Each branch gets numbers that it is finite for: the gradient of the other one would be NaN.
    likely = torch.log(-torch.expm1(torch.where(is_likely, log_p, -0.5)))
    unlikely = torch.log1p(-torch.exp(torch.where(is_likely, -1.0, log_p)))
    return torch.where(is_likely, likely, unlikely)
