"""The reference of `dpo`: log-probabilities of answers under the model that the trained one is compared with."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from trl.trainer.callbacks import SyncRefModelCallback

from jobs.models.adapters.custom_lora import CustomLoraLinear
from jobs.models.adapters.orthogonal import Pair
from jobs.models.adapters.stack import NEW
from jobs.models.labels import IGNORED
from jobs.models.parallel import ParallelLayout, reshard
from jobs.rank.process_group import RankGroup
from jobs.train.adapter_checkpoint import whole

REFERENCE = "reference.safetensors"
"""A moving reference in a checkpoint."""


class ReferenceModel(Protocol):
    """Gives log-probabilities of answers."""

    def log_probs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the log-probability of each answer of a batch, the sum over its tokens."""


def answer_log_probs(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probability of each answer of a batch, the sum over its tokens.

    Args:
        model: With TRL's fused head (`add_fused_lm_head`), which computes no logits where nothing is asked for.
        inputs: `input_ids`, `attention_mask` and `completion_mask`, [answers, length].
    """
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED)
    own = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    per_token: Tensor = model(**own, use_cache=False, labels=labels, fused_lm_head=True).log_probs
    # Prompt adapters put tokens before the text.
    return per_token[:, 1 - labels.shape[1] :].sum(dim=1)


class AdapterOff:
    """The trained model without the adapter that is trained. Adapters of earlier runs beneath it stay on, and so does
    the base adapter of a pair."""

    def __init__(self, model: nn.Module) -> None:
        """Use a model as its own reference.

        Args:
            model: Adapted, and as sharded as it is trained.
        """
        self._model = model
        self._adapted = next(module for module in model.modules() if isinstance(module, PeftModel))
        self._layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]

    @torch.no_grad()
    def log_probs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the log-probability of each answer of a batch."""
        was_training = self._model.training
        self._model.eval()
        try:
            with self._switched_off():
                return answer_log_probs(self._model, inputs)
        finally:
            self._model.train(was_training)

    @contextmanager
    def _switched_off(self) -> Iterator[None]:
        if not self._layers:  # prompts, and what is not made of layers
            with self._adapted.disable_adapter():
                yield
            return
        with ExitStack() as switched:
            for layer in self._layers:
                switched.enter_context(_without_new(layer))
            yield


@contextmanager
def _without_new(layer: BaseTunerLayer) -> Iterator[None]:
    """Leave out what a layer learns anew; peft's own switch would also unfreeze the adapters of earlier runs."""
    update = layer.lora_update[NEW] if isinstance(layer, CustomLoraLinear) else None
    if isinstance(update, Pair):
        with update.without_new():
            yield
        return
    active = layer._active_adapter
    layer._active_adapter = [name for name in layer.active_adapters if name != NEW]
    try:
        yield
    finally:
        layer._active_adapter = active


class FrozenModel:
    """A model of its own, which is not trained, but may be moved towards the trained one."""

    def __init__(self, model: nn.Module, layout: ParallelLayout, accelerator: Any) -> None:
        """Lay a model out over the ranks as the trained one is.

        Args:
            model: Just built, with TRL's fused head.
            layout: How ranks share models.
            accelerator: Of the trainer.
        """
        model.requires_grad_(False)
        self.model = _prepared(model.eval(), layout, accelerator)
        """As it lies on the ranks."""

    @torch.no_grad()
    def log_probs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the log-probability of each answer of a batch."""
        return answer_log_probs(self.model, inputs)

    def move(self, model: nn.Module, share: float) -> None:
        """Move its weights towards those of a model. A collective.

        Args:
            model: The trained model, as it lies on the ranks.
            share: Of its weights in the result.
        """
        reshard(self.model)
        SyncRefModelCallback.sync_target_model(model, self.model, share)  # type: ignore[no-untyped-call]

    def gather(self, group: RankGroup) -> dict[str, Tensor]:
        """Return its weights for a checkpoint, whole, so that any number of ranks can load them. A collective.

        Ranks other than 0 get none.
        """
        reshard(self.model)
        tensors = {}
        for name, parameter in self.model.named_parameters():
            tensor = whole(parameter)
            if group.is_main:
                tensors[name] = tensor.contiguous()
        return tensors

    def load(self, folder: Path) -> None:
        """Load it from a checkpoint. A collective."""
        reshard(self.model)
        with safe_open(folder / REFERENCE, "pt") as file, torch.no_grad():
            for name, parameter in self.model.named_parameters():
                _fill(parameter, file.get_tensor(name))


def _prepared(model: nn.Module, layout: ParallelLayout, accelerator: Any) -> nn.Module:
    if layout.uses_fsdp:
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        sharded: nn.Module = fsdp2_prepare_model(accelerator, model)
        return sharded
    if layout.zero_stage is not None:
        from trl.models.utils import prepare_deepspeed

        engine: nn.Module = prepare_deepspeed(model, accelerator)
        return engine
    placed: nn.Module = accelerator.prepare_model(model, evaluation_mode=True)
    return placed


def _fill(parameter: nn.Parameter, tensor: Tensor) -> None:
    if isinstance(parameter, DTensor):
        shards = distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
        parameter.to_local().copy_(shards.to_local())
    elif hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(tensor)
    else:
        parameter.copy_(tensor)
