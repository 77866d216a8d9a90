"""Adapters: small trainable parts beside frozen weights, one section for each method.

The methods here are those of peft (https://huggingface.co/docs/peft), which builds them; ours are in `molora`.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Dropout, Names, Positive, Scale, Section
from launcher.recipe.quantities import PercentOrSteps
from launcher.recipe.sections.molora import MoLora, Orthogonal

Rate = Annotated[float, Field(gt=0, lt=1)]
Targets: TypeAlias = Literal["all-linear"] | Names


class Lora(Section):
    """Low-rank updates: W + (alpha / r) B A (Hu et al., https://arxiv.org/abs/2106.09685)."""

    method: Literal["lora"]
    """Low-rank adaptation."""
    r: Positive = 16
    """Rank."""
    alpha: Scale = 32
    """The update is scaled by alpha / r."""
    dropout: Dropout = 0.0
    """Dropout on the input of the update."""
    targets: Targets = "all-linear"
    """Names of the layers to adapt, e.g. `[q_proj, v_proj]`; `all-linear`: all but the output embedding."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) (Kalajdzievski, https://arxiv.org/abs/2312.03732)."""
    dora: bool = False
    """Learn lengths and directions of the weights separately (Liu et al., https://arxiv.org/abs/2402.09353)."""
    init: Literal["default", "gaussian", "orthogonal", "pissa", "olora"] = "default"
    """How A and B are initialised. `pissa` (https://arxiv.org/abs/2404.02948) and `olora`
    (https://arxiv.org/abs/2406.01775) move the principal part of the weights into A and B; the others change neither
    the weights nor, at first, the model's output."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases to train as well: none, all, or those of the adapted layers."""
    embeddings: Literal["frozen", "new", "all"] = "frozen"
    """Rows of the input and output embeddings to train as well: none, those of the tokens that `model.tokenizer`
    adds, or all."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.init == "orthogonal" and self.r % 2:
            yield f"r: `init: orthogonal` needs an even rank; write `{self.r + 1}`"
        if self.dora and self.init in ("pissa", "olora"):
            yield f"dora: does not work with `init: {self.init}`, which changes the weights; write one of the two"


class AdaLora(Section):
    """LoRA with ranks that are reduced where they matter least (https://arxiv.org/abs/2303.10512)."""

    method: Literal["adalora"]
    """Adaptive low-rank adaptation."""
    init_r: Positive = 12
    """Rank of each layer at the start."""
    target_r: Positive = 8
    """Mean rank at the end."""
    alpha: Scale = 32
    """The update is scaled by alpha / rank."""
    dropout: Dropout = 0.0
    """Dropout on the input of the update."""
    targets: Targets = "all-linear"
    """Names of the layers to adapt, e.g. `[q_proj, v_proj]`; `all-linear`: all but the output embedding."""
    tinit: PercentOrSteps = PercentOrSteps("0 steps")
    """Steps before ranks are reduced."""
    tfinal: PercentOrSteps = PercentOrSteps("0 steps")
    """Steps at the end during which ranks do not change."""
    delta_t: Positive = 1
    """Steps between two reductions."""
    beta1: Rate = 0.85
    """Smoothing of a weight's importance."""
    beta2: Rate = 0.85
    """Smoothing of its uncertainty."""
    orth_reg_weight: Scale = 0.5
    """Weight of the penalty that keeps the outer factors orthogonal."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.target_r >= self.init_r:
            yield f"target_r: {self.target_r} is not less than `init_r` ({self.init_r}); write less"


class PrefixTuning(Section):
    """Trainable keys and values before those of each layer (Li & Liang, https://arxiv.org/abs/2101.00190)."""

    method: Literal["prefix"]
    """Prefix tuning."""
    virtual_tokens: Positive = 20
    """Length of the prefix."""
    projection: bool = False
    """Compute the prefix by a network of two layers during training."""
    hidden: Positive | None = None
    """Width of that network; the width of a layer's keys if left out."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.hidden and not self.projection:
            yield "hidden: needs a projection; write `projection: true`, or leave it out"


class PromptTuning(Section):
    """Trainable embeddings before the text (Lester et al., https://arxiv.org/abs/2104.08691)."""

    method: Literal["prompt"]
    """Prompt tuning."""
    virtual_tokens: Positive = 20
    """Length of the prompt."""
    init_text: str | None = None
    """Start from the embeddings of this text, repeated or cut; random if left out."""


class PTuning(Section):
    """A prompt that a small network computes (Liu et al., https://arxiv.org/abs/2103.10385)."""

    method: Literal["p_tuning"]
    """P-tuning."""
    virtual_tokens: Positive = 20
    """Length of the prompt."""
    encoder: Literal["mlp", "lstm"] = "mlp"
    """The network."""
    hidden: Positive = 128
    """Its width."""
    layers: Positive = 2
    """Layers of the LSTM; the MLP always has three."""
    dropout: Dropout = 0.0
    """Dropout in the LSTM."""


class IA3(Section):
    """Trainable factors on keys, values and inner activations (Liu et al., https://arxiv.org/abs/2205.05638)."""

    method: Literal["ia3"]
    """(IA)3."""
    targets: Names = ("k_proj", "v_proj", "down_proj")
    """Names of the layers to rescale."""
    feedforward: tuple[str, ...] = ("down_proj",)
    """Those of `targets` whose input is rescaled instead of their output."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if unknown := sorted({*self.feedforward} - {*self.targets}):
            yield f"feedforward: `{unknown[0]}` is not one of `targets`; add it there"


class OFT(Section):
    """Rotations of blocks of the weights' inputs (Qiu et al., https://arxiv.org/abs/2306.07280)."""

    method: Literal["oft"]
    """Orthogonal fine-tuning."""
    block_size: Positive = 32
    """Inputs that are rotated together; must divide the widths of the layers."""
    dropout: Dropout = 0.0
    """Share of blocks that are not rotated in a step."""
    targets: Targets = "all-linear"
    """Names of the layers to adapt, e.g. `[q_proj, v_proj]`; `all-linear`: all but the output embedding."""


class AdaptionPrompt(Section):
    """LLaMA-Adapter: gated attention to a trainable prompt in the last layers (https://arxiv.org/abs/2303.16199)."""

    method: Literal["adaption_prompt"]
    """LLaMA-Adapter."""
    length: Positive = 10
    """Tokens of the prompt."""
    layers: Positive = 30
    """Layers that attend to it, from the last one down."""


Adapter: TypeAlias = Annotated[
    Lora | AdaLora | PrefixTuning | PromptTuning | PTuning | IA3 | OFT | AdaptionPrompt | MoLora | Orthogonal,
    Field(discriminator="method"),
]

PROMPTS = (PrefixTuning, PromptTuning, PTuning)
"""Methods that put trainable tokens before the text."""

FSDP = frozenset({"full_shard", "hybrid_shard"})
"""Strategies that FSDP2 carries out."""
_WHOLE_PROMPT = (FSDP, "peft computes the prompt that it saves from whole weights, and each rank holds a part of them")
_LIMITS: dict[str, tuple[frozenset[str], str]] = {
    "adalora": (
        FSDP | {"zero2", "zero3"},
        "reducing ranks needs whole gradients, and sharded checkpoints do not hold its state",
    ),
    "prefix": _WHOLE_PROMPT,
    "prompt": _WHOLE_PROMPT,
    "p_tuning": _WHOLE_PROMPT,
}
"""Strategies that a method does not work with, and why."""
_QUANTISED = {
    "pissa": "decomposes weights, and peft would read the packed bits of quantised ones as numbers",
    "olora": "changes weights, and peft then quantises them again, which makes the error five times as large",
}
"""Initialisations of LoRA that do not work with quantised weights, and why."""

_WITHOUT_IDS = (
    "peft passes embeddings instead of token ids, which the head needs to find a note's end; write `lora` or `prefix`"
)
_HEADLESS = {
    "prompt": _WITHOUT_IDS,
    "p_tuning": _WITHOUT_IDS,
    "adaption_prompt": "peft supports it for generation only; write `lora` or `prefix`",
}
"""Adapters that cannot be trained with a head, and why."""


def strategy_limit(adapter: Adapter, strategy: str) -> str | None:
    """Say why a method cannot be trained with a strategy; None if it can."""
    strategies, reason = _LIMITS.get(adapter.method, (frozenset(), ""))
    return reason if strategy in strategies else None


def quantization_limit(adapter: Adapter) -> str | None:
    """Say why an adapter does not work with quantised weights; None if it does."""
    start = adapter.init if isinstance(adapter, Lora) else ""
    return f"`{start}` {_QUANTISED[start]}" if start in _QUANTISED else None


def head_limit(adapter: Adapter) -> str | None:
    """Say why an adapter cannot be trained with a head; None if it can."""
    return _HEADLESS.get(adapter.method)
