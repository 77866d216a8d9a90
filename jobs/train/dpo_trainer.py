"""TRL's DPO trainer on our spine: all losses of a pair that compare the model with its reference."""

import contextlib
from collections import defaultdict
from typing import Any

from torch import nn
from trl.trainer.dpo_trainer import DPOTrainer
from typing_extensions import override

from jobs.train.pair_trainer import PairTrainer, give_fused_head

_OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
"""What TRL's loss and metrics need of the fused head."""


class _PairLosses(DPOTrainer):
    """TRL's losses and metrics, with what its constructor sets for them (trl 1.16, `DPOTrainer.__init__`)."""

    def __init__(self, **trainer: Any) -> None:
        super(DPOTrainer, self).__init__(**trainer)  # type: ignore[no-untyped-call]
        args: Any = self.args
        self.beta, self.label_smoothing = args.beta, args.label_smoothing
        self.loss_types, self.loss_weights = args.loss_type, [1.0]
        self.ld_alpha, self.use_weighting = None, False
        self.f_divergence_type, self.f_alpha_divergence_coef = "reverse_kl", args.f_alpha_divergence_coef
        self.precompute_ref_logps, self.ref_model = True, None
        self.maybe_activation_offload_context: Any = contextlib.nullcontext()
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        self._total_train_tokens, self._tp_size = 0, 1
        self._is_vision_dataset, self.aux_loss_enabled = False, False
        give_fused_head(self.model, _OUTPUTS)


class GuardedDpoTrainer(PairTrainer, _PairLosses):
    """DPO and its relatives."""

    @override
    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """Give TRL's loss the log-probabilities under the reference."""
        chosen, rejected = self._reference.log_probs(inputs).chunk(2)
        own = {name: tensor for name, tensor in inputs.items() if name != "place"}
        own |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        return super()._compute_loss(model, own, return_outputs)  # type: ignore[no-untyped-call]
