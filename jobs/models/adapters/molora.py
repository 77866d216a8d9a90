"""MoLoRA (MedCare's first stage, https://arxiv.org/abs/2406.17484): LoRA on attention, a mixture of LoRAs elsewhere.

Each projection of a feed-forward layer computes, in addition to its frozen weight W0,

    y = W0 x + s * sum over e in TopK(p, k) of p_e / (sum of the chosen p) * B_e A_e x + s * B_S A_S x
    p = softmax(W_g x + b_g),   s = alpha / r  (alpha / sqrt(r) with rsLoRA)

with a router (W_g, b_g) of its own, and all shared experts as one LoRA of rank r x their number. As published, it uses
no dropout. The published code computes the outputs of every expert for every token and discards most. Here A of all
experts is one product, the gates set what was not chosen to zero, and B of all experts is one product, which sums up:
as many products, but without E outputs of the projection's width for each token. The experts of a projection are one
tensor for A and one for B. So an expert without tokens has a gradient of zeros, there is no parameter that DDP, FSDP2
or ZeRO would wait for in vain, and no shape depends on the routes.
"""

from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftConfig
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from jobs.models.adapters.custom_lora import CustomLoraModel, Update, like, low_rank, register_method, scale_of, widths
from launcher.artifacts.adapter_folder import MOLORA
from launcher.recipe.sections.molora import MoLora


@dataclass
class MoLoraConfig(LoraConfig):
    """peft's configuration of LoRA, with a mixture of experts on some of the targets."""

    ffn_modules: list[str] | None = None
    """Last names of the targets that get a mixture; the others get ordinary LoRA."""
    experts: int = 8
    """Routed experts of each projection."""
    top_k: int = 2
    """Of which each token uses so many."""
    shared_experts: int = 2
    """Experts that every token uses; together one LoRA of rank r x this."""
    balance: float = 0.0
    """Weight of the load-balancing loss."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = MOLORA  # plain peft refuses it, and so does not leave out the experts


def configure(adapter: MoLora, task: str) -> PeftConfig:
    """Express a recipe's section in peft's terms."""
    register()
    return MoLoraConfig(
        task_type=task,
        r=adapter.r,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type] # any number will do
        lora_dropout=adapter.dropout,
        use_rslora=adapter.rslora,
        target_modules=[*adapter.targets],
        ffn_modules=[*adapter.ffn_targets],
        experts=adapter.experts,
        top_k=adapter.top_k,
        shared_experts=adapter.shared_experts,
        balance=adapter.balance,
    )


class MixtureOfExperts(Update):
    """A router, its experts and the shared ones, of one projection.

    Routed experts lie side by side in one low-rank product, in which a token's numbers for experts that it did not
    choose are zero; the shared ones lie behind them with a gate of 1. All parameters are the module's own, or the
    router's.
    """

    def __init__(self, inputs: int, outputs: int, config: MoLoraConfig) -> None:
        super().__init__()
        self._experts, self._rank, self._top_k = config.experts, config.r, config.top_k
        self._balance = config.balance
        self._scale = scale_of(config.lora_alpha, config.r, config.use_rslora)
        self.router = nn.Linear(inputs, config.experts, dtype=torch.float32)
        self.routed_A, self.routed_B = low_rank(inputs, outputs, config.experts * config.r)
        self.shared_A: nn.Parameter | None = None
        self.shared_B: nn.Parameter | None = None
        if config.shared_experts:
            self.shared_A, self.shared_B = low_rank(inputs, outputs, config.shared_experts * config.r)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = like(x, self.router.weight)
        probabilities = self.router(x).float().softmax(-1)
        gates, chosen = probabilities.topk(self._top_k)
        update = self.combine(x, chosen, gates / gates.sum(-1, keepdim=True))
        if self._balance and self.adds_to_loss:
            update = self.auxiliary.attach(update, self._balance * balance_loss(probabilities, chosen))
        return update

    def combine(self, x: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
        """Add the outputs of the chosen experts, weighted by the gates, and of the shared ones, all scaled.

        Args:
            x: (..., inputs).
            chosen: (..., k) numbers of experts.
            gates: (..., k) weights.
        """
        a: Tensor = self.routed_A
        b: Tensor = self.routed_B
        weights = gates.new_zeros(*gates.shape[:-1], self._experts).scatter(-1, chosen, gates)
        weights = weights.repeat_interleave(self._rank, -1)
        if self.shared_A is not None and self.shared_B is not None:
            a, b = torch.cat([a, self.shared_A]), torch.cat([b, self.shared_B], dim=1)
            weights = functional.pad(weights, (0, len(self.shared_A)), value=1.0)
        hidden = functional.linear(x, a)
        return functional.linear(hidden * (self._scale * weights).to(hidden.dtype), b)


def balance_loss(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """E * sum of f_e P_e: 1 when all experts get their share, E when one gets all.

    Eq. 4 of Switch Transformers (Fedus et al., https://arxiv.org/abs/2101.03961), f_e being the share of all choices
    that fell on expert e and P_e its mean probability.

    Args:
        probabilities: (..., experts).
        chosen: (..., k) numbers of experts.
    """
    experts = probabilities.shape[-1]
    shares = functional.one_hot(chosen.flatten(), experts).float().mean(0)
    return experts * (shares * probabilities.flatten(0, -2).mean(0)).sum()


class MoLoraModel(CustomLoraModel):
    """LoRA, and mixtures where the configuration wants them."""

    @override
    def make_update(self, config: MoLoraConfig, target_name: str, target: nn.Module) -> Update | None:
        return MixtureOfExperts(*widths(target), config) if target_name in (config.ffn_modules or ()) else None


def register() -> None:
    """Let peft know the method, in this process."""
    register_method(MOLORA, MoLoraConfig, MoLoraModel)
