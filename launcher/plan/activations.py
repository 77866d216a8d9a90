"""What a training keeps for its backward pass, and what its loss needs: closed forms.

The way of counting activations is that of Korthikanti et al. (https://arxiv.org/abs/2205.05198, section 4.1), here for
what transformers' LLaMA layer keeps: no dropout, a gated MLP, norms in fp32. A test compares that with what torch
really keeps.
"""

from typing import TYPE_CHECKING

from launcher.plan.model_shape import ModelShape

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe

LOGITS_AT_A_TIME = 1 << 25
"""Of a model whose loss needs no more at once: 128 MiB in fp32."""


def micro_batch_tokens(recipe: "TrainingRecipe") -> int:
    """Tokens of a micro batch."""
    return recipe.batch.least_micro_batch * recipe.sequences_per_sample * recipe.batch.sequence_length


def casts_weights(recipe: "TrainingRecipe") -> bool:
    """Tell whether autocast copies weights in fp32 for each pass: FSDP2 and DeepSpeed gather them in 16 bits."""
    return recipe.parallel.strategy == "ddp" and recipe.adapter is None and wide_bytes(recipe) < 4


def layer_activations(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Bytes that one layer keeps of one token for the backward pass."""
    wide, hidden = wide_bytes(recipe), shape.hidden
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    norms = 2 * ((4 + 2 * wide) * hidden + 4)  # the input and its scale in fp32, the normalised input, the output
    if casts_weights(recipe):
        # What goes round the layers is in fp32, too, and cast for each of the matrices behind a norm.
        norms = 2 * (8 * hidden + 4) + (2 if shape.is_fused else 5) * wide * hidden
    mlp = wide * 4 * shape.intermediate  # gate, its activation, up, their product
    matrix = 4 * shape.heads  # only the sums of its rows: FlashAttention, https://arxiv.org/abs/2205.14135
    if recipe.model.attention == "eager":
        # The softmax is computed in fp32 and kept in the compute format besides; keys are repeated for every head.
        matrix = (4 if wide == 4 else 4 + wide) * shape.heads * recipe.batch.sequence_length
        keys = queries
    attention = wide * (2 * queries + 2 * keys)  # queries, keys, values, result
    if shape.is_fused and recipe.model.attention != "eager":
        # The values are a part of one product, all of which is kept; and the result is copied, since Phi-3 leaves the
        # heads of its queries before their tokens.
        attention += wide * (2 * queries + keys)
    return norms + attention + matrix + mlp + _casts_for_adapter(recipe, shape)


def kept_activations(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Bytes that one layer keeps of one token where its activations are computed again.

    That is its input. With `selective`, also the results of its seven matrices, and the result of attention with the
    sums of its rows; an adapter's own products are left out, and `eager` attention is computed again.
    """
    stream = (4 if casts_weights(recipe) else wide_bytes(recipe)) * shape.hidden  # autocast leaves it in fp32
    if recipe.model.activation_checkpointing != "selective":
        return stream
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    products = queries + 2 * keys + shape.hidden + 2 * shape.intermediate + shape.hidden
    attention = 0 if recipe.model.attention == "eager" else wide_bytes(recipe) * queries + 4 * shape.heads
    return stream + wide_bytes(recipe) * products + attention


def packed_mask(recipe: "TrainingRecipe") -> int:
    """Bytes of one token's row of a layer's mask, where packed documents must not attend to one another.

    It is kept as it is given, and in 16 bits as torch's attention takes it; flash attention needs none.
    """
    return 3 * recipe.batch.sequence_length if recipe.packs and recipe.model.attention == "sdpa" else 0


def _casts_for_adapter(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Adapters are in fp32 with `ddp`; FSDP2 gathers them in the compute format, so there nothing is copied."""
    if recipe.adapter is None or recipe.parallel.strategy != "ddp" or wide_bytes(recipe) == 4:
        return 0
    from launcher.plan.adapters import copied_inputs

    return copied_inputs(recipe.adapter, shape, wide_bytes(recipe))


def loss_bytes(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Part of the logits (`jobs/models/fused_loss.py`) and, if it is trained, the output embedding's gradient in fp32.

    Where that is not possible, all logits in the compute format and, in fp32, their log-softmax and its gradient.
    """
    if recipe.predicts == "labels":
        return 0
    tokens = micro_batch_tokens(recipe)
    if shape.caps_logits:
        return tokens * shape.vocabulary * (wide_bytes(recipe) + 8)
    part, wide = min(tokens * shape.vocabulary, LOGITS_AT_A_TIME), wide_bytes(recipe)
    computing = part * (4 + wide % 4)
    if recipe.adapter is not None and getattr(recipe.adapter, "embeddings", "frozen") == "frozen":
        return computing
    # What each part adds to the gradient is a product in the compute format first.
    return 4 * shape.table_parameters + max(computing, wide * part + wide % 4 * shape.table_parameters)


def wide_bytes(recipe: "TrainingRecipe") -> int:
    """Bytes of a number in the compute format."""
    return 4 if recipe.precision.dtype == "fp32" else 2
