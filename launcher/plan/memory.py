"""How much memory a GPU needs to train a model: an estimate in closed form, good to about 15 %.

Sources: bytes of parameters, gradients and AdamW's moments under sharding from ZeRO (https://arxiv.org/abs/1910.02054,
section 3 and figure 1); the way of counting activations from Korthikanti et al. (https://arxiv.org/abs/2205.05198,
section 4.1), here for LLaMA's layer: no dropout, a gated MLP, norms computed in fp32, attention without its matrix.
"""

from dataclasses import dataclass

from launcher.plan.shape import ModelShape
from launcher.recipe import CptRecipe

OVERHEAD = 2_000_000_000
"""CUDA context, NCCL's buffers and fragmentation, in bytes; an assumption, not derived."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU at the fullest moment of a step."""

    parameters: int
    """The fp32 parameters, or this rank's shard of them, and copies gathered for computing."""
    gradients: int
    optimizer: int
    """AdamW's two moments in fp32; with DeepSpeed also its fp32 copy of the parameters."""
    activations: int
    logits: int
    """Logits and their gradient, which exist besides the activations of all layers."""
    overhead: int = OVERHEAD

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.logits + self.overhead


def estimate_memory(recipe: CptRecipe, shape: ModelShape) -> MemoryEstimate:
    """Estimate the memory of one rank of a run."""
    parameters, gradients, optimizer = _model_states(recipe, shape)
    return MemoryEstimate(parameters, gradients, optimizer, _activations(recipe, shape), _logits(recipe, shape))


def _model_states(recipe: CptRecipe, shape: ModelShape) -> tuple[int, int, int]:
    number, shard, wide = shape.parameters, recipe.shard_size, _bytes(recipe)
    sharded = number // shard
    match recipe.parallel.strategy:
        case "ddp":
            # Gradients twice: the buckets that are reduced are copies.
            return 4 * number, 8 * number if recipe.resources.world_size > 1 else 4 * number, 8 * number
        case "zero2":
            return wide * number, wide * sharded, 12 * sharded
        case "zero3":
            return wide * sharded + _gathered(shape, wide), wide * sharded, 12 * sharded
    is_kept = not recipe.parallel.reshard_after_forward
    gathered = wide * number if is_kept else _gathered(shape, wide)
    # FSDP2 keeps the whole gradient in fp32 while micro batches accumulate: nothing is reduced before the last one.
    accumulated = 4 * number if recipe.accumulation_steps > 1 else 0
    return 4 * sharded + gathered, 4 * sharded + accumulated, 8 * sharded


def _gathered(shape: ModelShape, wide: int) -> int:
    """Two layers, one computing and one arriving, and what is not in a layer."""
    outside = shape.parameters - shape.layers * shape.layer_parameters
    return wide * (2 * shape.layer_parameters + outside)


def _activations(recipe: CptRecipe, shape: ModelShape) -> int:
    tokens = recipe.batch.micro_batch * recipe.batch.sequence_length
    layer = _layer_activations(recipe, shape)
    if recipe.model.activation_checkpointing:
        return tokens * (shape.layers * _bytes(recipe) * shape.hidden + layer)
    return tokens * shape.layers * layer


def _layer_activations(recipe: CptRecipe, shape: ModelShape) -> int:
    """Bytes that one layer keeps of one token for the backward pass."""
    wide, hidden = _bytes(recipe), shape.hidden
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    norms = 2 * (4 + wide) * hidden  # the input in fp32, the output
    attention = wide * (2 * queries + 2 * keys)  # queries, keys, values, result
    mlp = wide * 4 * shape.intermediate  # gate, its activation, up, their product
    matrix = 0
    if recipe.model.attention == "eager":
        matrix = (4 + wide) * shape.heads * recipe.batch.sequence_length  # softmax in fp32, and in the compute format
    return norms + attention + mlp + matrix


def _logits(recipe: CptRecipe, shape: ModelShape) -> int:
    """Logits in the compute format and, in fp32, their log-softmax and its gradient."""
    tokens = recipe.batch.micro_batch * recipe.batch.sequence_length
    return tokens * shape.vocabulary * (_bytes(recipe) + 8)


def _bytes(recipe: CptRecipe) -> int:
    """Bytes of a number in the compute format."""
    return 4 if recipe.precision.dtype == "fp32" else 2
