"""The adapters of MedCare (https://arxiv.org/abs/2406.17484), which peft does not have."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Dropout, Name, Names, Positive, Scale, Section

Weight = Annotated[float, Field(ge=0)]


class MoLora(Section):
    """LoRA on attention, and routed and shared LoRA experts on the feed-forward layers: MedCare's first stage."""

    method: Literal["molora"]
    """Mixture of LoRAs."""
    r: Positive = 16
    """Rank of each adapter and of each expert."""
    alpha: Scale = 32
    """Updates are scaled by alpha / r."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) (Kalajdzievski, https://arxiv.org/abs/2312.03732)."""
    dropout: Dropout = 0.0
    """Dropout on the input of the adapters on attention; experts have none, as published."""
    attention_targets: Names = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Names of the layers that get ordinary LoRA."""
    ffn_targets: Names = ("gate_proj", "up_proj", "down_proj")
    """Names of the layers that get experts, and a router each."""
    experts: Annotated[int, Field(ge=2)] = 8
    """Routed experts of a layer."""
    top_k: Positive = 2
    """Routed experts that each token uses."""
    shared_experts: Annotated[int, Field(ge=0)] = 2
    """Experts that every token uses: one LoRA of rank r x this."""
    balance: Weight = 0.0
    """Weight of Switch Transformers' load-balancing loss E * sum f_e P_e (https://arxiv.org/abs/2101.03961), summed
    over routers; MedCare has none. The logged `loss` does not include it."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of all adapted layers."""
        return (*self.attention_targets, *self.ffn_targets)

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.top_k > self.experts:
            yield f"top_k: {self.top_k} is more than `experts` ({self.experts}); write less"
        if self.top_k == 1 and not self.balance:
            yield "top_k: the weight of 1 expert is always 1, so the router learns nothing; write `2`"
        if both := sorted({*self.attention_targets} & {*self.ffn_targets}):
            yield f"ffn_targets: `{both[0]}` is also one of `attention_targets`; write it once"


class Orthogonal(Section):
    """An adapter beside an earlier one, kept orthogonal to it: MedCare's second stage, after O-LoRA."""

    method: Literal["orthogonal"]
    """Two adapters in each layer, of which the second is kept orthogonal to the first."""
    start_from: Name
    """The adapter that the first one starts from: the shared experts of a `molora` adapter, or a LoRA adapter. A name
    below the profile's `roots.models`, or `./...` relative to the recipe."""
    base_r: Positive | None = None
    """Rank of the first one: of `start_from`, or r x `shared_experts` there. `r` if left out."""
    base_trains: bool = True
    """Train the first one further."""
    r: Positive = 32
    """Rank of the new one."""
    alpha: Scale = 64
    """Updates of the new one are scaled by alpha / r; the first one keeps its own scale."""
    dropout: Dropout = 0.0
    """Dropout on the input of both."""
    targets: Names = ("gate_proj", "up_proj", "down_proj")
    """Names of the layers to adapt; `start_from` must have all of them."""
    lambda1: Weight = 0.5
    """Weight of the sum of |A_base A_new^T| over all entries, layers and targets (O-LoRA,
    https://arxiv.org/abs/2310.14152)."""
    lambda2: Weight = 0.0
    """Weight of the L2 norms of the new adapter's matrices, summed over layers and targets, as in O-LoRA's code."""

    @property
    def base_rank(self) -> int:
        """Rank of the first adapter."""
        return self.base_r or self.r
