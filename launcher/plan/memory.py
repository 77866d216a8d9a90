"""How much memory a GPU needs to train a model, and a node to load it: estimates in closed form.

The GPU's is good to 8 % of what `launcher plan --trace` counts for FSDP2 and DDP (tests/trace), and to about 15 %
for DeepSpeed.

Source: bytes of parameters, gradients and AdamW's moments under sharding from ZeRO (https://arxiv.org/abs/1910.02054,
section 3 and figure 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from launcher.plan.activations import (
    casts_weights,
    kept_activations,
    layer_activations,
    loss_bytes,
    micro_batch_tokens,
    packed_mask,
    wide_bytes,
)
from launcher.plan.kv_cache import prompt_activations, rollout_cache
from launcher.plan.model_shape import ModelShape
from launcher.plan.zero_memory import left_on_gpu, sums_in_ram

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe

OVERHEAD = 2_000_000_000
"""CUDA context, NCCL's buffers and fragmentation, in bytes; an assumption, not derived."""

Moment = Literal["loss", "last layer", "first layer", "rollout"]
_MOMENTS: tuple[Moment, ...] = ("loss", "last layer", "first layer")
"""When the peak may be: all activations and the logits are there; the backward pass is in the last layer and all of its
weights are there; it is in the first layer, and all gradients are there. Of a policy, it may also be when the
completions of a rollout have their full length."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU at the peak of a step."""

    parameters: int
    """This rank's part: in fp32, but with DeepSpeed, and where an adapter leaves them frozen, in the compute format."""
    gathered: int
    """Parameters in the compute format while they are needed: of other ranks, or (`ddp`) autocast's copies."""
    gradients: int
    optimizer: int
    """AdamW's two moments in fp32; with DeepSpeed also its fp32 copy of the parameters."""
    activations: int
    logits: int
    """Memory of the loss, needed in addition to the activations of all layers."""
    cache: int = 0
    """Keys and values of the completions that are being sampled; then nothing is kept for a backward pass."""
    overhead: int = OVERHEAD

    @property
    def total(self) -> int:
        """All of it."""
        states = self.parameters + self.gathered + self.gradients + self.optimizer
        return states + self.activations + self.logits + self.cache + self.overhead


def estimate_memory(
    recipe: "TrainingRecipe", shape: ModelShape, scoring: Sequence[ModelShape] = ()
) -> MemoryEstimate | None:
    """Estimate the memory of one rank of a run; None for an adapter of layers that the shape does not know.

    The activations are those of training all weights, and with `ddp` the copies that LoRA and IA3 make.
    Adapters of earlier runs are left out: they take some MB.

    Args:
        recipe: The recipe.
        shape: Of the model that is trained.
        scoring: Of the models that score what it writes.
    """
    if trained_parameters(recipe, shape) is None:
        return None
    further = _frozen_copy(recipe, shape) + _scoring(recipe, scoring)
    moments = [_at(moment, recipe, shape, further) for moment in _MOMENTS]
    if recipe.rollout_size:
        moments.append(_at_rollout(recipe, shape, further))
    return max(moments, key=lambda one: one.total)


def _at(moment: Moment, recipe: "TrainingRecipe", shape: ModelShape, further: int) -> MemoryEstimate:
    own, gathered, gradients, optimizer = _model_states(moment, recipe, shape)
    logits = loss_bytes(recipe, shape) if moment == "loss" else 0
    return MemoryEstimate(own + further, gathered, gradients, optimizer, _activations(moment, recipe, shape), logits)


def _at_rollout(recipe: "TrainingRecipe", shape: ModelShape, further: int) -> MemoryEstimate:
    own, gathered, gradients, optimizer = _model_states("rollout", recipe, shape)
    reading, cache = prompt_activations(recipe, shape), rollout_cache(recipe, shape)
    return MemoryEstimate(own + further, gathered, gradients, optimizer, reading, 0, cache)


def estimate_loading(recipe: "TrainingRecipe", shape: ModelShape, scoring: Sequence[ModelShape] = ()) -> int | None:
    """Estimate the RAM that a node's ranks need together before the work, in bytes.

    Each reads a whole copy and then keeps its part (`jobs/models/build.py`). Further models are read meanwhile, one
    after the other. None for ZeRO-3, which keeps its part while it loads, and for quantised weights, which are read one
    by one.
    """
    if recipe.parallel.strategy == "zero3" or recipe.model.quantization:
        return None
    wide = wide_bytes(recipe)
    own = (4 if recipe.adapter is None else wide) * shape.parameters
    beside = [wide * one.scoring_parameters for one in scoring]
    if recipe.loads_frozen_copy_first and recipe.loads_frozen_copy:
        beside.append(wide * shape.parameters)
    elif recipe.loads_frozen_copy and recipe.parallel.strategy != "ddp":  # there the GPU has the trained model by then
        beside.append(own)
    return recipe.resources.ranks_per_node * (own + max(beside, default=0))


def estimate_checkpoint(recipe: "TrainingRecipe", shape: ModelShape) -> int | None:
    """Estimate the bytes of a checkpoint: what is trained and AdamW's two moments, in fp32 each.

    ZeRO-2 saves what it computes with besides. None for an adapter of layers that the shape does not know.
    """
    number = trained_parameters(recipe, shape)
    if number is None:
        return None
    return (12 + (wide_bytes(recipe) if recipe.parallel.strategy == "zero2" else 0)) * number


def estimate_copy(recipe: "TrainingRecipe", shape: ModelShape) -> int | None:
    """Estimate the RAM that a node needs for copies of a checkpoint, in bytes; None if training waits for its saves.

    With `ddp` rank 0 alone copies; else each rank does what it holds, also where groups of ranks hold the same.
    """
    whole = estimate_checkpoint(recipe, shape)
    if whole is None or not recipe.checkpoint.in_background:
        return None
    return whole if recipe.parallel.strategy == "ddp" else whole * recipe.resources.ranks_per_node // recipe.shard_size


def trained_parameters(recipe: "TrainingRecipe", shape: ModelShape) -> int | None:
    """Count the parameters that are trained; None for an adapter of layers that the shape does not know."""
    if recipe.adapter is None:
        return shape.parameters
    from launcher.plan.adapters import trainable_parameters

    found = trainable_parameters(recipe.adapter, shape)
    values = shape.hidden + 1 if recipe.has_value_head else 0
    return None if found is None else found + shape.outputs * shape.hidden + values


def frozen_bytes(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Count the bytes of the weights beside an adapter."""
    if recipe.adapter is None:
        return 0
    in_layers = shape.layers * shape.layer_parameters
    return wide_bytes(recipe) * (shape.parameters - in_layers) + round(_stored_bytes(recipe) * in_layers)


def _stored_bytes(recipe: "TrainingRecipe") -> float:
    """Bytes of a weight in a layer; 4 bits have a scale for each 64, of 4 bytes or, quantised, of about 1 (QLoRA,
    https://arxiv.org/abs/2305.14314, section 3)."""
    chosen = recipe.model.quantization
    if chosen is None:
        return wide_bytes(recipe)
    if chosen.bits == 8:
        return 1
    return (4 + (0.127 if chosen.double else 0.5)) / 8


def _model_states(moment: Moment, recipe: "TrainingRecipe", shape: ModelShape) -> tuple[int, int, int, int]:
    """Bytes of parameters, gathered parameters, gradients and optimizer."""
    number, wide, frozen = trained_parameters(recipe, shape) or 0, wide_bytes(recipe), frozen_bytes(recipe, shape)
    part, frozen_part = number // recipe.shard_size, frozen // recipe.shard_size
    match recipe.parallel.strategy:
        case "ddp":
            copies = wide * number if casts_weights(recipe) and moment != "first layer" else 0
            return frozen + 4 * number, copies, _ddp_gradients(moment, recipe, number), 8 * number
        case "zero2":
            return frozen + wide * number, 0, *left_on_gpu(recipe, shape, number, _is_backward(moment))
        case "zero3":
            own = 0 if recipe.parallel.offload == "all" else frozen_part + wide * part
            is_whole = moment == "rollout" and recipe.rollout_size and recipe.rollout_size.gathers_weights
            gathered = frozen + wide * number if is_whole else _two_layers_gathered(recipe, shape)
            return own, gathered, *left_on_gpu(recipe, shape, number, _is_backward(moment))
    gradients = 0 if _has_no_gradients(moment, recipe) else 4 * part
    if _is_backward(moment):
        gradients += _gradients_on_their_way(moment, recipe, shape, number)
    return frozen_part + 4 * part, _fsdp_gathered(moment, recipe, shape, frozen + wide * number), gradients, 8 * part


def _ddp_gradients(moment: Moment, recipe: "TrainingRecipe", number: int) -> int:
    """Gradients, unless the backward pass of the only micro batch has yet to make them, and the buckets to reduce."""
    own = 0 if _has_no_gradients(moment, recipe) else 4 * number
    return own + (4 * number if recipe.resources.world_size > 1 else 0)


def _is_backward(moment: Moment) -> bool:
    return moment in ("last layer", "first layer")


def _has_no_gradients(moment: Moment, recipe: "TrainingRecipe") -> bool:
    """A rollout comes before the first micro batch of a step, and only the last one makes the first layer's."""
    return moment == "rollout" or (moment != "first layer" and recipe.accumulation_steps == 1)


def _gradients_on_their_way(moment: Moment, recipe: "TrainingRecipe", shape: ModelShape, number: int) -> int:
    """What FSDP2 reduces, in fp32: of the output embedding or the second layer; and the layer's own so far.

    Those of its MLP come when its activations are gone, unless they are recomputed.
    """
    if recipe.adapter is not None:
        return 4 * number // shape.layers
    mlp = wide_bytes(recipe) * shape.mlp_parameters
    if moment == "first layer":
        return 4 * shape.layer_parameters + mlp
    return 4 * shape.table_parameters + (0 if recipe.model.activation_checkpointing == "none" else mlp)


def _fsdp_gathered(moment: Moment, recipe: "TrainingRecipe", shape: ModelShape, everything: int) -> int:
    """What FSDP2 has gathered: of each layer it frees the weights once its backward pass is done.

    accelerate gathers the input embedding and, together, the last norm and the output embedding by themselves.
    """
    if moment == "first layer":
        return round(_stored_bytes(recipe) * shape.layer_parameters) + wide_bytes(recipe) * shape.table_parameters
    if not recipe.parallel.reshard_after_forward:
        return everything
    if moment in ("last layer", "rollout"):
        return round(_stored_bytes(recipe) * 2 * shape.layer_parameters)
    return wide_bytes(recipe) * shape.tables * shape.table_parameters


def _frozen_copy(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """A reference, in the format of the trained model's own weights; DeepSpeed computes in the compute format alone."""
    if not recipe.has_frozen_copy:
        return 0
    is_narrow = recipe.adapter or recipe.parallel.strategy.startswith("zero") or recipe.loads_frozen_copy_first
    wide = wide_bytes(recipe) if is_narrow else 4
    return wide * shape.parameters // (recipe.shard_size if recipe.shards_frozen_copy else 1)


def _scoring(recipe: "TrainingRecipe", scoring: Sequence[ModelShape]) -> int:
    """Whole on each rank, in the compute format (`jobs/train/rollouts/reward_model.py`)."""
    return wide_bytes(recipe) * sum(shape.scoring_parameters for shape in scoring)


def estimate_offloaded(recipe: "TrainingRecipe", shape: ModelShape) -> int | None:
    """Estimate the RAM that a node needs for what its ranks offload, in bytes; None if they offload nothing.

    The optimizer's copy of the parameters, their gradients and two moments, in fp32 each; the gradients' sum over the
    micro batches so far, where it is made there; and the parameters.
    """
    number = trained_parameters(recipe, shape)
    if recipe.parallel.offload == "none" or number is None:
        return None
    parameters = wide_bytes(recipe) * number + frozen_bytes(recipe, shape) if recipe.parallel.offload == "all" else 0
    states = (20 if sums_in_ram(recipe) else 16) * number
    return (states + parameters) * recipe.resources.ranks_per_node // recipe.resources.world_size


def _two_layers_gathered(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Two layers, one computing and one arriving, and what is not in a layer."""
    outside = shape.parameters - shape.layers * shape.layer_parameters
    return round(_stored_bytes(recipe) * 2 * shape.layer_parameters) + wide_bytes(recipe) * outside


def _activations(moment: Moment, recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """All that is kept; where layers are computed again, what they keep and, of one layer at a time, the rest."""
    tokens, layer = micro_batch_tokens(recipe), layer_activations(recipe, shape) + packed_mask(recipe)
    is_shared = recipe.parallel.strategy in ("ddp", "full_shard", "hybrid_shard")
    if moment == "first layer" and is_shared:
        return tokens * layer
    if recipe.model.activation_checkpointing == "none":
        return tokens * shape.layers * layer
    recomputed = 0 if moment == "loss" and is_shared else layer
    return tokens * (shape.layers * kept_activations(recipe, shape) + recomputed)
