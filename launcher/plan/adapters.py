"""How many parameters an adapter trains on a decoder with gated MLPs, in closed form.

A test compares it with what peft builds.
"""

from launcher.plan.model_shape import ModelShape
from launcher.recipe.sections.adapter import (
    IA3,
    OFT,
    AdaLora,
    Adapter,
    AdaptionPrompt,
    Lora,
    PrefixTuning,
    PromptTuning,
    PTuning,
)
from launcher.recipe.sections.molora import MoLora, Orthogonal


def trainable_parameters(adapter: Adapter, shape: ModelShape) -> int | None:
    """Count what an adapter trains; None if it names layers that such models do not have."""
    match adapter:
        case PrefixTuning():
            return _prefix(adapter, shape)
        case PromptTuning():
            return adapter.virtual_tokens * shape.hidden
        case PTuning():
            return adapter.virtual_tokens * shape.hidden + _prompt_encoder(adapter, shape.hidden)
        case AdaptionPrompt():
            return min(adapter.layers, shape.layers) * (adapter.length * shape.hidden + 1)
    linear = _linear_layers(shape)
    names = list(linear) if adapter.targets == "all-linear" else list(adapter.targets)
    if not set(names) <= set(linear):
        return None
    return shape.layers * sum(_added(adapter, name, *linear[name]) for name in names) + _embeddings(adapter, shape)


def copied_inputs(adapter: Adapter, shape: ModelShape, wide: int) -> int:
    """Count the bytes of a layer's copies, for one token, where an adapter is in fp32 and the model in 16 bits.

    peft turns the input of each LoRA into fp32, of which autocast makes a copy in 16 bits; IA3 keeps what it scales in
    fp32. Others are not counted.
    """
    if not isinstance(adapter, (Lora, AdaLora, MoLora, IA3)):
        return 0
    linear = _linear_layers(shape)
    names = list(linear) if adapter.targets == "all-linear" else list(adapter.targets)
    if isinstance(adapter, IA3):
        return 4 * sum(_added(adapter, name, *linear[name]) for name in names)
    return wide * sum(linear[name][0] for name in names)


def _embeddings(adapter: Adapter, shape: ModelShape) -> int:
    rows = {"frozen": 0, "new": shape.new_tokens, "all": shape.vocabulary}
    return shape.tables * rows[getattr(adapter, "embeddings", "frozen")] * shape.hidden


def _linear_layers(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of a layer's matrices, by their names."""
    hidden, queries, keys = shape.hidden, shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    if shape.is_fused:
        return {
            "qkv_proj": (hidden, queries + 2 * keys),
            "o_proj": (queries, hidden),
            "gate_up_proj": (hidden, 2 * shape.intermediate),
            "down_proj": (shape.intermediate, hidden),
        }
    return {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, shape.intermediate),
        "up_proj": (hidden, shape.intermediate),
        "down_proj": (shape.intermediate, hidden),
    }


def _added(adapter: Lora | AdaLora | IA3 | OFT | MoLora | Orthogonal, name: str, inputs: int, outputs: int) -> int:
    match adapter:
        case Lora():
            return adapter.r * (inputs + outputs) + (outputs if adapter.dora else 0)
        case AdaLora():
            return adapter.init_r * (inputs + outputs + 1)
        case IA3():
            return inputs if name in adapter.feedforward else outputs
        case OFT():
            return inputs * (adapter.block_size - 1) // 2  # of a skew-symmetric block, what is above the diagonal
        case MoLora():
            return _mixture(adapter, name, inputs, outputs)
        case Orthogonal():
            return (adapter.r + (adapter.base_rank if adapter.base_trains else 0)) * (inputs + outputs)


def _mixture(adapter: MoLora, name: str, inputs: int, outputs: int) -> int:
    low_rank = adapter.r * (inputs + outputs)
    if name in adapter.attention_targets:
        return low_rank
    return (adapter.experts + adapter.shared_experts) * low_rank + _affine(inputs, adapter.experts)


def _prefix(adapter: PrefixTuning, shape: ModelShape) -> int:
    width = shape.layers * 2 * shape.kv_heads * shape.head_size
    if not adapter.projection:
        return adapter.virtual_tokens * width
    keys = shape.kv_heads * shape.head_size
    hidden = adapter.hidden or keys
    return adapter.virtual_tokens * keys + _affine(keys, hidden) + _affine(hidden, width)


def _prompt_encoder(adapter: PTuning, width: int) -> int:
    hidden = adapter.hidden
    if adapter.encoder == "mlp":
        return _affine(width, hidden) + _affine(hidden, hidden) + _affine(hidden, width)
    inner = (adapter.layers - 1) * 2 * (4 * hidden * (2 * hidden + hidden) + 8 * hidden)
    lstm = 2 * (4 * hidden * (width + hidden) + 8 * hidden) + inner  # in both directions, with two biases a gate
    return lstm + _affine(2 * hidden, 2 * hidden) + _affine(2 * hidden, width)


def _affine(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs
