"""How much memory a GPU needs to train a model, and a node to load it: estimates in closed form.

The GPU's is good to about 15 %.

Sources: bytes of parameters, gradients and AdamW's moments under sharding from ZeRO (https://arxiv.org/abs/1910.02054,
section 3 and figure 1); the way of counting activations from Korthikanti et al. (https://arxiv.org/abs/2205.05198,
section 4.1), here for what transformers' LLaMA layer keeps: no dropout, a gated MLP, norms in fp32. A test compares
that with what torch really keeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.plan.model_shape import ModelShape

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe

LOGITS_AT_A_TIME = 1 << 25
"""Of a model whose loss needs no more at once: 128 MiB in fp32."""
OVERHEAD = 2_000_000_000
"""CUDA context, NCCL's buffers and fragmentation, in bytes; an assumption, not derived."""

_BUCKETS = (2 + 2 + 4) * 500_000_000
"""Gradients on their way to the CPU: two of DeepSpeed's `reduce_bucket_size` in 16 bits, one filling and one leaving,
and the latter in fp32."""


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
    overhead: int = OVERHEAD

    @property
    def total(self) -> int:
        """All of it."""
        states = self.parameters + self.gathered + self.gradients + self.optimizer
        return states + self.activations + self.logits + self.overhead


def estimate_memory(
    recipe: "TrainingRecipe", shape: ModelShape, scoring: Sequence[ModelShape] = ()
) -> MemoryEstimate | None:
    """Estimate the memory of one rank of a run; None for an adapter of layers that the shape does not know.

    The activations are those of training all weights: with an adapter they are somewhat fewer. Adapters of earlier runs
    are left out: they take some MB.

    Args:
        recipe: The recipe.
        shape: Of the model that is trained.
        scoring: Of the models that score what it writes.
    """
    if trained_parameters(recipe, shape) is None:
        return None
    own, gathered, gradients, optimizer = _model_states(recipe, shape)
    own += _frozen_copy(recipe, shape) + _scoring(recipe, scoring)
    return MemoryEstimate(own, gathered, gradients, optimizer, _activations(recipe, shape), _logits(recipe, shape))


def estimate_loading(recipe: "TrainingRecipe", shape: ModelShape, scoring: Sequence[ModelShape] = ()) -> int | None:
    """Estimate the RAM that a node's ranks need together before the work, in bytes.

    Each reads a whole copy and then keeps its part (`jobs/models/build.py`). None for ZeRO-3,
    which does that while it loads, and for quantised weights, which are read one by one.
    """
    if recipe.parallel.strategy == "zero3" or recipe.model.quantization:
        return None
    own = (4 if recipe.adapter is None else wide_bytes(recipe)) * shape.parameters
    return recipe.resources.ranks_per_node * (own + _scoring(recipe, scoring))


def estimate_checkpoint(recipe: "TrainingRecipe", shape: ModelShape) -> int | None:
    """Estimate the bytes of a checkpoint: what is trained and AdamW's two moments, in fp32 each.

    ZeRO-2 saves what it computes with besides. None for an adapter of layers that the shape does not know.
    """
    number = trained_parameters(recipe, shape)
    if number is None:
        return None
    return (12 + (wide_bytes(recipe) if recipe.parallel.strategy == "zero2" else 0)) * number


def trained_parameters(recipe: "TrainingRecipe", shape: ModelShape) -> int | None:
    """Count the parameters that are trained; None for an adapter of layers that the shape does not know."""
    if recipe.adapter is None:
        return shape.parameters
    from launcher.plan.adapters import trainable_parameters

    return trainable_parameters(recipe.adapter, shape)


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


def _model_states(recipe: "TrainingRecipe", shape: ModelShape) -> tuple[int, int, int, int]:
    """Bytes of parameters, gathered parameters, gradients and optimizer."""
    number, wide, frozen = trained_parameters(recipe, shape) or 0, wide_bytes(recipe), frozen_bytes(recipe, shape)
    part, frozen_part = number // recipe.shard_size, frozen // recipe.shard_size
    match recipe.parallel.strategy:
        case "ddp":
            # Gradients twice: the buckets that are reduced are copies.
            copies = wide * number if _casts(recipe) else 0
            return frozen + 4 * number, copies, (8 if recipe.resources.world_size > 1 else 4) * number, 8 * number
        case "zero2":
            return frozen + wide * number, 0, *_left_on_gpu(recipe, 4 * part, 12 * part)
        case "zero3":
            own = 0 if recipe.parallel.offload == "all" else frozen_part + wide * part
            return own, _gathered(recipe, shape), *_left_on_gpu(recipe, 4 * part, 12 * part)
    gathered = _gathered(recipe, shape) if recipe.parallel.reshard_after_forward else frozen + wide * number
    # FSDP2 keeps the whole gradient in fp32 while micro batches accumulate: it reduces with the last one.
    accumulated = 4 * number if recipe.accumulation_steps > 1 else 0
    return frozen_part + 4 * part, gathered, 4 * part + accumulated, 8 * part


def _frozen_copy(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """A reference, in the format of the trained model's own weights; DeepSpeed computes in the compute format alone."""
    if not recipe.has_frozen_copy:
        return 0
    wide = wide_bytes(recipe) if recipe.adapter or recipe.parallel.strategy.startswith("zero") else 4
    return wide * shape.parameters // (recipe.shard_size if recipe.shards_frozen_copy else 1)


def _scoring(recipe: "TrainingRecipe", scoring: Sequence[ModelShape]) -> int:
    """Whole on each rank, in the compute format (`jobs/train/rollouts/reward_model.py`)."""
    return wide_bytes(recipe) * sum(shape.scoring_parameters for shape in scoring)


def _tokens(recipe: "TrainingRecipe") -> int:
    """Tokens of a micro batch."""
    return recipe.batch.least_micro_batch * recipe.sequences_per_sample * recipe.batch.sequence_length


def _casts(recipe: "TrainingRecipe") -> bool:
    """Tell whether autocast copies weights in fp32 for each pass: FSDP2 and DeepSpeed gather them in 16 bits."""
    return recipe.parallel.strategy == "ddp" and recipe.adapter is None and wide_bytes(recipe) < 4


def _left_on_gpu(recipe: "TrainingRecipe", gradients: int, optimizer: int) -> tuple[int, int]:
    """What ZeRO keeps on the GPU of its gradients and its optimizer's state.

    With offload gradients leave as soon as a bucket of them is reduced (https://arxiv.org/abs/2101.06840, section 4),
    but for ZeRO-2's where their sum over the micro batches is not in the compute format: it is made on the GPU.
    """
    if recipe.parallel.offload == "none":
        return gradients, optimizer
    return _BUCKETS + (0 if _sums_in_ram(recipe) else gradients), 0


def _sums_in_ram(recipe: "TrainingRecipe") -> bool:
    """Tell where gradients that are offloaded are summed over the micro batches of a step (DeepSpeed 0.19)."""
    return recipe.parallel.strategy == "zero3" or recipe.precision.dtype == "fp32"


def estimate_offloaded(recipe: "TrainingRecipe", shape: ModelShape) -> int | None:
    """Estimate the RAM that a node needs for what its ranks offload, in bytes; None if they offload nothing.

    The optimizer's copy of the parameters, their gradients and two moments, in fp32 each; the gradients' sum over the
    micro batches so far, where it is made there; and the parameters.
    """
    number = trained_parameters(recipe, shape)
    if recipe.parallel.offload == "none" or number is None:
        return None
    parameters = wide_bytes(recipe) * number + frozen_bytes(recipe, shape) if recipe.parallel.offload == "all" else 0
    states = (20 if _sums_in_ram(recipe) else 16) * number
    return (states + parameters) * recipe.resources.ranks_per_node // recipe.resources.world_size


def _gathered(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Two layers, one computing and one arriving, and what is not in a layer."""
    outside = shape.parameters - shape.layers * shape.layer_parameters
    return round(_stored_bytes(recipe) * 2 * shape.layer_parameters) + wide_bytes(recipe) * outside


def _activations(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """All that is kept; where layers are computed again, what they keep and, of one layer at a time, the rest."""
    how, layer = recipe.model.activation_checkpointing, layer_activations(recipe, shape)
    if how == "none":
        return _tokens(recipe) * shape.layers * layer
    kept = selective_activations(recipe, shape) if how == "selective" else _stream_bytes(recipe) * shape.hidden
    return _tokens(recipe) * (shape.layers * kept + layer)


def _stream_bytes(recipe: "TrainingRecipe") -> int:
    """Bytes of a number that goes round the layers: autocast leaves those in fp32."""
    return 4 if _casts(recipe) else wide_bytes(recipe)


def selective_activations(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Bytes that one layer keeps of one token where only products of matrices and attention are not computed again.

    That is its input, the results of its seven matrices, and the result of attention with the sums of its rows. An
    adapter's own products are left out. `eager` attention is computed again.
    """
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    products = queries + 2 * keys + shape.hidden + 2 * shape.intermediate + shape.hidden
    attention = 0 if recipe.model.attention == "eager" else wide_bytes(recipe) * queries + 4 * shape.heads
    return _stream_bytes(recipe) * shape.hidden + wide_bytes(recipe) * products + attention


def layer_activations(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Bytes that one layer keeps of one token for the backward pass."""
    wide, hidden = wide_bytes(recipe), shape.hidden
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    norms = 2 * ((4 + 2 * wide) * hidden + 4)  # the input and its scale in fp32, the normalised input, the output
    if _casts(
        recipe
    ):  # what goes round the layers is in fp32, too, and cast for each of the five matrices behind a norm
        norms = 2 * (8 * hidden + 4) + 5 * wide * hidden
    mlp = wide * 4 * shape.intermediate  # gate, its activation, up, their product
    matrix = 4 * shape.heads  # only the sums of its rows: FlashAttention, https://arxiv.org/abs/2205.14135
    if recipe.model.attention == "eager":
        # The softmax is computed in fp32 and kept in the compute format besides; keys are repeated forevery head.
        matrix = (4 if wide == 4 else 4 + wide) * shape.heads * recipe.batch.sequence_length
        keys = queries
    attention = wide * (2 * queries + 2 * keys)  # queries, keys, values, result
    return norms + attention + matrix + mlp


def _logits(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Part of the logits (`jobs/models/fused_loss.py`) and, if it is trained, the output embedding's gradient in fp32.

    Where that is not possible, all logits in the compute format and, in fp32, their log-softmax and its gradient.
    """
    if recipe.predicts == "labels":
        return 0
    tokens = _tokens(recipe)
    if shape.caps_logits:
        return tokens * shape.vocabulary * (wide_bytes(recipe) + 8)
    part = min(tokens * shape.vocabulary, LOGITS_AT_A_TIME)
    is_trained = recipe.adapter is None or getattr(recipe.adapter, "embeddings", "frozen") != "frozen"
    return part * (4 + wide_bytes(recipe) % 4) + (4 * shape.table_parameters if is_trained else 0)


def wide_bytes(recipe: "TrainingRecipe") -> int:
    """Bytes of a number in the compute format."""
    return 4 if recipe.precision.dtype == "fp32" else 2
