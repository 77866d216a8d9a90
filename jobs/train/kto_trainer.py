"""TRL's KTO trainer on our spine: answers are desirable or not, each by itself.

The loss compares the log-ratio of an answer with z0, an estimate of the KL between model and reference: the mean
log-ratio of answers that belong to other questions (Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306, section
4.1). TRL estimates it for each micro batch; here it is the mean over the whole global batch, so that the loss depends
neither on the micro batch nor on the number of ranks.
"""

import contextlib
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from trl.trainer.kto_trainer import KTOTrainer
from typing_extensions import override

from jobs.data.preferences.samples import MISMATCHED
from jobs.models.parallel import reshard
from jobs.train.micro_batch import one_micro_batch
from jobs.train.pair_trainer import PairTrainer, give_fused_head
from jobs.train.reference import answer_log_probs

_OF_LOSS = ("input_ids", "attention_mask", "completion_mask", "label")


class _AnswerLosses(KTOTrainer):
    """TRL's loss and metrics, with what its constructor sets for them (trl 1.16, `KTOTrainer.__init__`)."""

    def __init__(self, **trainer: Any) -> None:
        super(KTOTrainer, self).__init__(**trainer)  # type: ignore[no-untyped-call]
        args: Any = self.args
        self.beta, self.loss_type, self.calculate_KL = args.beta, "kto", True
        self.desirable_weight, self.undesirable_weight = args.desirable_weight, args.undesirable_weight
        self.precompute_ref_logps, self.ref_model = True, None
        self.maybe_activation_offload_context: Any = contextlib.nullcontext()
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        self._total_train_tokens, self._tp_size = 0, 1
        self._is_vision_dataset, self.aux_loss_enabled = False, False
        give_fused_head(self.model, ("log_probs", "entropy", "mean_logits"))


class GuardedKtoTrainer(PairTrainer, _AnswerLosses):
    """KTO of pairs, or of answers without a partner."""

    @override
    def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
        """Estimate z0 for a step once its micro batches are known. A collective."""
        batches, items = super().get_batch_samples(*arguments, **options)
        self._kl = self._estimate_kl(batches)
        return batches, items

    @torch.no_grad()
    def _estimate_kl(self, batches: list[dict[str, Any]]) -> Tensor:
        found = torch.zeros(2, device=self.args.device)
        for batch in batches:
            inputs = self._prepare_inputs(
                {name.removeprefix(MISMATCHED): batch[name] for name in batch if name.startswith(MISMATCHED)}
            )
            with one_micro_batch(self.args.per_device_train_batch_size), self.compute_loss_context_manager():
                ratios = answer_log_probs(self.model_wrapped, inputs) - self._reference.log_probs(inputs)
            found += torch.stack((ratios.float().sum(), torch.tensor(float(len(ratios)), device=ratios.device)))
        reshard(self.model_wrapped)
        total: Tensor = self.accelerator.reduce(found, "sum")
        return total[:1] / total[1:]

    @override
    def _compute_kl_logps(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return the log-ratio of the whole batch; TRL subtracts 0 from it (`ref_KL_logps`), and clips it at 0."""
        return self._kl

    @override
    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """Give TRL's loss the log-probabilities under the reference."""
        own = {name: inputs[name] for name in _OF_LOSS}
        own |= {"ref_logps": self._reference.log_probs(inputs), "ref_KL_logps": torch.zeros_like(self._kl)}
        return super()._compute_loss(model, own, return_outputs)  # type: ignore[no-untyped-call]

    @override
    def _rows(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Return a row for each record; where it has no such answer, the number is 0."""
        rewards = self._rewards(model, inputs)
        rows = torch.zeros(int(inputs["record"].max()) + 1, 2, device=rewards.device)
        rows[inputs["record"], 1 - inputs["label"].long()] = rewards.float()
        return rows
