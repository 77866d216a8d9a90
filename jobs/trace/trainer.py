"""Our Trainer where tensors have no contents: it follows each micro batch, and works around what needs addresses."""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from jobs.models.parallel import ParallelLayout
from jobs.trace.collectives import CollectiveCounter, mesh_dimensions
from jobs.trace.memory_tracker import StepTracker
from jobs.trace.without_contents import FirstBuckets
from jobs.train.checkpoint_saver import CheckpointSaver
from jobs.train.trainer import GuardedTrainer


class TracedTrainer(GuardedTrainer):
    """Takes steps and keeps track of what they need; it saves nothing.

    Args:
        layout: How the model must be laid out over the ranks once it is prepared.
        **trainer: Trainer's own arguments.
    """

    tracker: StepTracker

    def __init__(self, layout: ParallelLayout, **trainer: Any) -> None:
        no_store: Any = None
        super().__init__(CheckpointSaver(no_store, in_background=False), layout, lambda _: 1.0, **trainer)

    @override
    def _move_model_to_device(self, model: nn.Module, device: Any) -> None:
        """Leave it: torch cannot exchange the contents of tensors that have none."""

    @override
    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        assert self.model is not None
        self.accelerator.device_placement = False
        for number, parameter in enumerate(self.model.parameters()):
            # accelerate 1.15 finds the optimizer's parameters again by their addresses, which are all 0 here.
            parameter.data_ptr = _always(number)  # type: ignore[method-assign]
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        optimizer: Any = self.optimizer
        counter = CollectiveCounter(mesh_dimensions(self.model_wrapped))
        self.tracker = StepTracker(self.model_wrapped, getattr(optimizer, "optimizer", optimizer), counter)
        if isinstance(self.model_wrapped, DistributedDataParallel):
            self.model_wrapped.register_comm_hook(None, self._reduce)
            reducer: Any = FirstBuckets(self.model_wrapped.reducer)
            self.model_wrapped.reducer = reducer
        self.tracker.__enter__()
        return prepared

    def _reduce(self, _: None, bucket: GradBucket) -> Future[Tensor]:
        """Reduce a bucket as DDP does it by itself, whose result is nothing in a group of fake ranks.

        DDP looks at the annotations.
        """
        buffer = bucket.buffer()
        self.tracker.note_gradient(buffer)
        dist.all_reduce(buffer)
        reduced: Future[Tensor] = Future()
        reduced.set_result(buffer)
        return reduced

    @override
    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        self.tracker.begin_micro_batch(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    def trace(self) -> StepTracker:
        """Train; return what was seen."""
        self.train()
        self.tracker.end_micro_batch()
        self.tracker.__exit__(None, None, None)
        return self.tracker


def _always(number: int) -> Callable[[], int]:
    return lambda: number
