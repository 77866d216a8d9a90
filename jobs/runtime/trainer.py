"""transformers' Trainer with our checkpoints, our learning rate, and proof of the parallel layout.

Overrides private methods (`_save_checkpoint`, `_prepare_for_training`): transformers is pinned to
one minor version, and tests/test_cpt.py drives each of them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PrinterCallback, Trainer
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer_utils import EvalLoopOutput
from typing_extensions import override

from jobs.models.adapter_state import checkpoint_trained_parameters, load_adapter_state, save_adapter_state
from jobs.models.auxiliary import auxiliary_losses
from jobs.models.isolation import require_isolation
from jobs.models.parallel import Layout, describe, fsdp_on_cpu, verify
from jobs.models.universal import expect_universal, hyperparameters_of, loadable, settle
from jobs.runtime.checkpoint import CheckpointStore
from jobs.runtime.micro_batch import one_micro_batch


class GuardedTrainer(Trainer):
    """Trainer whose checkpoints are complete or absent.

    Args:
        store: Where checkpoints go; `args.output_dir` must be its staging folder.
        layout: How the model must be laid out over the ranks once it is prepared.
        lr_factor: Learning rate as a fraction of the peak, by steps done.
        packs: What shares sequences and must not see each other; None if nothing does.
        **trainer: Trainer's own arguments.
    """

    def __init__(
        self,
        store: CheckpointStore,
        layout: Layout,
        lr_factor: Callable[[int], float],
        packs: str | None = None,
        **trainer: Any,
    ) -> None:
        self._store = store
        self._layout = layout
        self._lr_factor = lr_factor
        self._packs = packs
        self._auxiliary = auxiliary_losses(trainer["model"])
        if layout.uses_fsdp and isinstance(trainer["model"], PeftModel):
            checkpoint_trained_parameters()
        with fsdp_on_cpu():
            super().__init__(**trainer)
        self.remove_callback(PrinterCallback)

    @override
    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Build the schedule from the recipe's, once."""
        if self.lr_scheduler is None:
            self._hyperparameters = hyperparameters_of(self.optimizer)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self._lr_factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass numbers on to the callbacks; Trainer would also keep them all in every checkpoint."""
        if self._auxiliary and "loss" in logs and (added := self._auxiliary.take()) is not None:
            logs["auxiliary_loss"] = added / self.args.gradient_accumulation_steps
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    @override
    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count nothing: Trainer walks all modules for this in every micro batch, and we count by formula."""
        return 0

    @override
    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Sum sharded gradients over the ranks of a group in each micro batch, over the groups only in the last."""
        if isinstance(model, FSDPModule) and self._layout.replicas > 1:
            model.set_requires_all_reduce(self.accelerator.sync_gradients)
        with one_micro_batch(self.args.per_device_train_batch_size):
            return super().training_step(model, inputs, num_items_in_batch)

    @override
    def prediction_step(self, *arguments: Any, **options: Any) -> Any:
        """Evaluations take micro batches in proportion to those of the training."""
        with one_micro_batch(self.args.per_device_train_batch_size):
            return super().prediction_step(*arguments, **options)

    @override
    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """Have what layers add to the loss count once a step, whatever is divided by the micro batches of a step."""
        loss = super().compute_loss(model, inputs, *arguments, **options)
        if self._auxiliary is None or not model.training:
            return loss
        is_part_of_step = self.model_accepts_loss_kwargs and options.get("num_items_in_batch") is not None
        share = 1 / self.current_gradient_accumulation_steps if is_part_of_step or self.compute_loss_func else 1.0
        return self._auxiliary.mark(loss, share)

    @override
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Leave weights out of a checkpoint whose engine has them already: gathering ZeRO's takes minutes."""
        if not (_internal_call and self._layout.zero_stage is not None):
            super().save_model(output_dir, _internal_call)

    @override
    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save of an adapted model what is trained, whole."""
        if not isinstance(self.model, PeftModel):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            save_adapter_state(self.model, Path(output_dir or self.args.output_dir))

    @override
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if isinstance(self.model, PeftModel) and not self._layout.uses_fsdp:
            load_adapter_state(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    @override
    def evaluation_loop(self, *arguments: Any, **options: Any) -> EvalLoopOutput:
        """Leave the random state and the layout of the weights as they are.

        torch's DataLoader draws a number for each pass over its data. FSDP2 keeps the weights of its root gathered
        after a forward pass, for a backward pass that does not come: who reads them then holds memory that it frees.
        """
        with torch.random.fork_rng(devices=[]):
            output = super().evaluation_loop(*arguments, **options)
        self._reshard()
        return output

    def _reshard(self) -> None:
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def load_best(self) -> int:
        """Go back to the weights of the best checkpoint, if evaluations chose one. A collective.

        Returns:
            The step whose weights the model has now.
        """
        step = self.state.best_global_step
        if step is None or step == self.state.global_step:
            return self.state.global_step
        folder = self._store.intact(step)
        if self._layout.zero_stage is not None:
            folder = loadable(self._store, self._layout, step)
            expect_universal(self.model_wrapped, folder == self._store.converted)
            is_whole = not isinstance(self.model, PeftModel)
            deepspeed_load_checkpoint(self.model_wrapped, str(folder), load_module_strict=is_whole)
            self._store.discard_converted()
        else:
            self._load_from_checkpoint(str(folder), self.model_wrapped if self._layout.uses_fsdp else None)
        return step

    @override
    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self._layout.resumes_converted:
            settle(self.model_wrapped, self._hyperparameters)
            expect_universal(self.model_wrapped, False)
            self._store.discard_converted()
        verify(self.model_wrapped, self._layout)
        if self._packs:
            self._require_isolation(self._packs)
        if self.is_world_process_zero():
            print(describe(self.model_wrapped), flush=True)
        return prepared

    def _require_isolation(self, packs: str) -> None:
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        vocabulary = self.model.config.get_text_config().vocab_size
        require_isolation(self.model_wrapped, vocabulary, self.args.device, dtype, packs)
        self._reshard()

    @override
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step = self.state.global_step
        try:
            folder = self._store.open_staging(f"checkpoint-{step}")
            super()._save_checkpoint(model, trial)
            self._store.publish(folder, step, self.state.best_global_step)
        except Exception as error:  # safetensors, torch and DeepSpeed each raise their own for a full disk
            # The end of this process ends the other ranks; none of them has published anything.
            self._store.discard_staging()
            error.add_note(f"the checkpoint of step {step} was not saved; older checkpoints are as they were")
            raise
