"""transformers' Trainer with our checkpoints, our learning rate, and proof of the parallel layout.

Overrides private methods (`_save_checkpoint`, `_prepare_for_training`): transformers is pinned to
one minor version, and tests/kinds/test_cpt.py drives each of them.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
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
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import EvalLoopOutput
from typing_extensions import override

from jobs.models.adapters.auxiliary_loss import auxiliary_losses
from jobs.models.parallel import ParallelLayout, describe, prepared_as, reshard, verify
from jobs.rank.stop_flag import StopRequested
from jobs.rank.watchdog import WATCHDOG
from jobs.train.adapter_checkpoint import (
    adapter_state,
    checkpoint_trained_parameters,
    load_adapter_state,
    save_adapter_state,
)
from jobs.train.best_checkpoint import choose_intact
from jobs.train.causal_check import next_token_loss
from jobs.train.checkpoint_saver import CheckpointSaver
from jobs.train.left_evaluation import LeftEvaluation
from jobs.train.micro_batch import one_micro_batch
from jobs.train.proofs import Proofs
from jobs.train.sharded_state import sharded_state
from jobs.train.step_times import StepTimes
from jobs.train.zero_checkpoint import expect_universal, hyperparameters_of, loadable, settle

_NOTHING = Proofs()


class GuardedTrainer(Trainer):
    """Trainer whose checkpoints are complete or absent.

    `class GuardedDpoTrainer(GuardedTrainer, DPOTrainer)` gives a trainer of TRL the same: TRL's methods come between
    ours and Trainer's.

    Args:
        saver: Saves checkpoints; `args.output_dir` must be the staging folder of its store.
        layout: How the model must be laid out over the ranks once it is prepared.
        lr_factor: Learning rate as a fraction of the peak, by steps done.
        proofs: What the training takes for granted of the prepared model.
        **trainer: Trainer's own arguments.
    """

    def __init__(
        self,
        saver: CheckpointSaver,
        layout: ParallelLayout,
        lr_factor: Callable[[int], float],
        proofs: Proofs = _NOTHING,
        **trainer: Any,
    ) -> None:
        self._saver, self._store = saver, saver.store
        self._layout = layout
        self._lr_factor = lr_factor
        self._proofs = proofs
        self._auxiliary = auxiliary_losses(trainer["model"])
        self.step_times: StepTimes | None = None
        """Told how long fetching batches takes, if anybody wants to know."""
        if layout.uses_fsdp and isinstance(trainer["model"], PeftModel):
            checkpoint_trained_parameters()
        with prepared_as(layout):
            super().__init__(**trainer)
        if proofs.by_own_loss and not self.model_accepts_loss_kwargs:
            self.compute_loss_func = next_token_loss
        self.remove_callback(PrinterCallback)
        self.add_callback(saver)
        self._left = LeftEvaluation()
        self.add_callback(self._left)

    @override
    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Build the recipe's schedule, once."""
        if self.lr_scheduler is None:
            assert self.optimizer is not None
            self._hyperparameters = hyperparameters_of(self.optimizer)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self._lr_factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass numbers on to the callbacks; Trainer would also keep them all in every checkpoint."""
        if self._auxiliary and "loss" in logs and (added := self._auxiliary.take()) is not None:
            logs["auxiliary_loss"] = added / self.args.gradient_accumulation_steps
        super().log(logs, start_time)
        self.state.log_history.clear()

    @override
    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count nothing: Trainer walks all modules for this in every micro batch, and we count by formula."""
        return 0

    @override
    def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
        """Measure how long this rank takes for the batches of a step."""
        with self.step_times.loading() if self.step_times else nullcontext():
            return super().get_batch_samples(*arguments, **options)

    @override
    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Sum sharded gradients over a group's ranks in each micro batch, over the groups only in the last."""
        if isinstance(model, FSDPModule) and self._layout.replicas > 1:
            model.set_requires_all_reduce(self.accelerator.sync_gradients)
        with one_micro_batch(self.args.per_device_train_batch_size):
            return super().training_step(model, inputs, num_items_in_batch)

    @override
    def prediction_step(self, *arguments: Any, **options: Any) -> Any:
        """Attribute lack of memory to the micro batch here, too: evaluations take batches in proportion to it."""
        with one_micro_batch(self.args.per_device_train_batch_size):
            return super().prediction_step(*arguments, **options)

    @override
    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """Count what layers add to the loss once a step, whatever is divided by the micro batches of a step."""
        loss: Any = super().compute_loss(model, inputs, *arguments, **options)
        if self._auxiliary is None or not model.training:
            return loss
        is_part_of_step = self.loss_is_scaled_for_ga
        if is_part_of_step is None:  # as Trainer decides it
            by_items = self.model_accepts_loss_kwargs and options.get("num_items_in_batch") is not None
            is_part_of_step = by_items or self.compute_loss_func is not None
        return self._auxiliary.mark(loss, 1 / self.current_gradient_accumulation_steps if is_part_of_step else 1.0)

    @property
    def policy(self) -> Any:
        """The model as it can generate."""
        return self.model if self._layout.uses_fsdp else self.accelerator.unwrap_model(self.model_wrapped)

    @property
    def is_sharded(self) -> bool:
        """Whether other ranks hold a part of the weights, so that all ranks must generate equally often."""
        return self._layout.shard_size > 1

    def save_state(self, folder: Path) -> None:
        """Add to a checkpoint what a kind of training has besides Trainer's state. All ranks call it; here: nothing.

        Args:
            folder: The checkpoint, not yet published. Files directly in it are there after a conversion, too.
        """

    def load_state(self, folder: Path) -> None:
        """Load what `save_state` has added, before the first step. All ranks call it; here: nothing."""

    @override
    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """Write nothing: TRL's trainers put a page into every checkpoint; an export has a manifest of its own."""

    def _send_telemetry(self) -> None:
        """Send nothing: TRL's trainers report model, data source and devices to Hugging Face."""

    @override
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Leave weights out of a checkpoint whose engine has them already: gathering ZeRO's takes minutes."""
        if not (_internal_call and self._layout.zero_stage is not None):
            super().save_model(output_dir, _internal_call)

    @override
    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = output_dir or self.args.output_dir
        assert folder is not None
        if isinstance(self.model, PeftModel):
            self._saver.put(adapter_state(self.model), partial(save_adapter_state, folder=Path(folder)))
        else:
            assert self.model is not None
            self._saver.put(state_dict or self.model.state_dict(), partial(super()._save, folder))

    @override
    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write the same files as Trainer and accelerate, but let the saver do it, maybe later."""
        if self._layout.zero_stage is not None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        assert self.model is not None and self.optimizer is not None and self.lr_scheduler is not None
        folder = Path(output_dir)
        if self._layout.uses_fsdp:
            for name, state in sharded_state(self.model, self.optimizer, self.accelerator):
                self._saver.put_shards(state, folder / name)
        elif self.args.should_save:
            self._saver.put(self.optimizer.state_dict(), partial(torch.save, f=folder / OPTIMIZER_NAME))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)

    @override
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if isinstance(self.model, PeftModel) and not self._layout.uses_fsdp:
            load_adapter_state(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    @override
    def evaluation_loop(self, *arguments: Any, **options: Any) -> EvalLoopOutput:
        """Leave the random state and the layout of the weights unchanged.

        torch's DataLoader draws a number for each pass over its data. After a forward pass FSDP2 keeps the weights of
        its root gathered, for a backward pass that does not come here; other readers would hold memory that it frees.
        """
        try:
            with WATCHDOG.doing("evaluating"), torch.random.fork_rng(devices=[]):
                return super().evaluation_loop(*arguments, **options)
        finally:
            reshard(self.model)

    @override
    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """Evaluate; return nothing if all ranks have left it, to save and stop.

        Raises:
            StopRequested: they have before the first step of an attempt, where there is nothing to save.
        """
        try:
            with self._left.running(self.control):
                scores: dict[str, float] = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        except StopRequested:
            if skip_scheduler:
                raise
            self.control.should_evaluate, scores = False, {}
        return scores

    def load_best(self, best_first: Callable[[], Sequence[int]]) -> None:
        """Go back to the weights of the best checkpoint that is intact, if evaluations chose one. A collective.

        Args:
            best_first: Gives the evaluated steps, the best first, on rank 0; asked only if the best is damaged.
        """
        step = choose_intact(self._store, self.state, best_first)
        if step == self.state.global_step:
            return
        folder = self._store.folder(step)
        if self._layout.zero_stage is not None:
            folder = loadable(self._store, self._layout, step)
            expect_universal(self.model_wrapped, folder == self._store.converted)
            is_whole = not isinstance(self.model, PeftModel)
            deepspeed_load_checkpoint(  # type: ignore[no-untyped-call]
                self.model_wrapped, str(folder), load_module_strict=is_whole
            )
            self._store.discard_converted()
        else:
            self._load_from_checkpoint(str(folder), self.model_wrapped if self._layout.uses_fsdp else None)

    @override
    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(  # type: ignore[no-untyped-call]
            max_steps, train_dataloader, resume_from_checkpoint
        )
        if resume_from_checkpoint is not None:
            self.load_state(Path(resume_from_checkpoint))
        if self._layout.resumes_converted:
            settle(self.model_wrapped, self._hyperparameters)
            expect_universal(self.model_wrapped, False)
            self._store.discard_converted()
        verify(self.model_wrapped, self._layout)
        self._proofs.require(self)
        if self.is_world_process_zero():
            print(describe(self.model_wrapped), flush=True)
        return prepared

    @override
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        state = self.state
        goes_on = state.global_step < state.max_steps and not self.control.should_training_stop
        saving = self._saver.saving(state.global_step, state.best_global_step, goes_on)
        with WATCHDOG.doing("saving"), saving as folder:
            super()._save_checkpoint(model, trial)
            self.save_state(folder)
