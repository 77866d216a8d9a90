"""What the trainers of `dpo` have in common: a reference whose log-probabilities the loss and the evaluation need.

TRL's constructors are left out: they take data sets of one class only, copy an adapter to have a reference, or load a
second model themselves, and turn trained weights of quantised models into 16 bits. What they set for a loss is set
beside that loss. TRL's losses get the reference's log-probabilities with the batch, as where TRL has computed them
beforehand.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.utils import add_fused_lm_head
from typing_extensions import override

from jobs.models.parallel import reshard
from jobs.rank.process_group import RankGroup
from jobs.train.precomputed import PrecomputedLogProbs
from jobs.train.reference import REFERENCE, AdapterOff, FrozenModel, ReferenceModel, answer_log_probs
from jobs.train.reward_trainer import pair_rows
from jobs.train.trainer import GuardedTrainer
from launcher.errors import LauncherError
from launcher.recipe.sections.reference import ReferenceSync


class PairTrainer(GuardedTrainer):
    """Trains a language model to prefer the chosen answers more than its reference does.

    Args:
        group: All ranks.
        build_reference: Builds a reference model; None: the model before training, with its adapter switched off.
        sync: How the reference moves.
        precomputed: Where log-probabilities are kept that are computed once; None: they are computed in each step.
        **guarded: Of `GuardedTrainer`.
    """

    beta: float

    def __init__(
        self,
        *guarded: Any,
        group: RankGroup,
        build_reference: Callable[[], PreTrainedModel] | None,
        sync: ReferenceSync | None,
        precomputed: PrecomputedLogProbs | None,
        **options: Any,
    ) -> None:
        super().__init__(*guarded, **options)
        self._group, self._precomputed, self._frozen = group, precomputed, None
        if build_reference and not (precomputed and precomputed.is_complete):
            reference = build_reference()
            give_fused_head(reference, ("log_probs",))
            self._frozen = FrozenModel(reference, self._layout, self.accelerator)
        if sync:
            assert self._frozen is not None, "what moves is a model of its own"
            self.add_callback(_Moving(self._frozen, sync))
        self._is_moving = sync is not None

    @override
    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self._precomputed is None:
            self._reference: Any = self._own_reference()
        else:
            self._precompute(self._precomputed, has_begun=resume_from_checkpoint is not None)
        return prepared

    def _own_reference(self) -> ReferenceModel | None:
        return self._frozen or AdapterOff(self.callback_handler.model)

    def _precompute(self, kept: PrecomputedLogProbs, has_begun: bool) -> None:
        if not kept.is_complete:
            if has_begun and self._frozen is None:
                raise RuntimeError("the log-probabilities under the model before training are gone; submit again")
            self.model_wrapped.eval()
            kept.compute(self._frozen or self._untrained(), self._prepare_inputs)
            reshard(self.model_wrapped)
        self._frozen, self._reference = None, kept

    def _untrained(self) -> ReferenceModel:
        """Return the model before training. A prompt that is random at first is no part of it."""
        has_prompt = isinstance(self.model, PeftModel) and self.model.active_peft_config.is_prompt_learning
        return AdapterOff(self.callback_handler.model) if has_prompt else _Untrained(self.model_wrapped)

    @override
    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """Return a row for each pair: the reward of the chosen answer and that of the rejected one."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            rows = self._rows(model, inputs)
        loss = -functional.logsigmoid(rows[:, 0] - rows[:, 1]).mean()
        return loss, rows, torch.zeros(len(rows), device=rows.device)

    def _rewards(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Return the reward of each answer: beta x its log-ratio."""
        ratios: Tensor = answer_log_probs(model, inputs) - self._reference.log_probs(inputs)
        return self.beta * ratios

    def _rows(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        return pair_rows(self._rewards(model, inputs))

    @override
    def save_state(self, folder: Path) -> None:
        if self._is_moving and self._frozen is not None:
            weights = self._frozen.gather(self._group)
            if self._group.is_main:
                self._saver.put(weights, partial(save_file, filename=folder / REFERENCE))

    @override
    def load_state(self, folder: Path) -> None:
        if self._is_moving and self._frozen is not None:
            self._frozen.load(folder)


class _Untrained:
    """The model itself, before the first step."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    @torch.no_grad()
    def log_probs(self, inputs: Any) -> Tensor:
        return answer_log_probs(self._model, inputs)


class _Moving(TrainerCallback):
    """Moves the reference towards the model after every so many steps, before a checkpoint of the step is saved."""

    def __init__(self, reference: FrozenModel, sync: ReferenceSync) -> None:
        self._reference = reference
        self._sync = sync

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Move it, if it is time to."""
        if state.global_step % self._sync.steps == 0:
            self._reference.move(others["model"], self._sync.share)


def give_fused_head(model: object, outputs: tuple[str, ...]) -> None:
    """Let a model compute log-probabilities without logits.

    Raises:
        LauncherError: the output embedding is adapted, and TRL multiplies by its frozen weights.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(base.get_output_embeddings(), BaseTunerLayer):
        raise LauncherError(
            "adapter.targets: log-probabilities are computed from the frozen weights of the output embedding, so an "
            "adapter there would not be trained; leave it out"
        )
    add_fused_lm_head(base, outputs=outputs)
