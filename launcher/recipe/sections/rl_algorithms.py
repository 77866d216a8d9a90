"""Algorithms of reinforcement learning: how completions and their rewards become updates of the policy.

One rollout is `batch.global_batch` x `minibatches` completions, sampled at once. They are trained on in `minibatches`
steps, `iterations` times over.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Fraction, Positive, Scale, Section
from launcher.recipe.sections.reference import ReferenceSync

PPO_AT_ONCE = 4
"""Micro batches that `ppo` samples side by side, since nothing is kept for a backward pass."""

NotNegative = Annotated[float, Field(ge=0)]
Group = Annotated[int, Field(ge=2)]


class GroupAlgorithm(Section):
    """What the algorithms have in common whose baseline is the reward of other completions of the same prompt."""

    iterations: Positive = 1
    """How often a rollout is trained on."""
    minibatches: Positive = 1
    """Steps into which a rollout is divided."""
    kl_weight: NotNegative = 0.0
    """Weight of the KL to the reference; 0: no reference."""
    clip_high: Scale | None = None
    """The ratio is clipped at 1 + `clip_high`; `clip` if left out."""
    mask_truncated: bool = False
    """Learn nothing from completions that `max_new_tokens` cut off."""
    sync: ReferenceSync | None = None
    """Let the reference follow the policy. If left out, it does not change. Not with an `adapter`."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.sync and not self.kl_weight:
            yield "sync: has no effect with `kl_weight: 0`; leave it out"


class Rloo(GroupAlgorithm):
    """REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740), by TRL."""

    name: Literal["rloo"]
    """REINFORCE, leave one out."""
    generations: Group = 2
    """Completions of each prompt. The baseline of a completion is the mean reward of the others."""
    kl_weight: NotNegative = 0.05
    """Weight of the KL to the reference, which is subtracted from the reward of a whole completion; 0: no reference."""
    clip: Scale = 0.2
    """The ratio of new to old probability of a completion is clipped at 1 - `clip`."""
    normalize_advantages: bool = False
    """Scale the advantages of a rollout to mean 0 and variance 1."""
    reward_clip: tuple[float, float] | None = None
    """Least and largest reward of a completion."""

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        least, largest = self.reward_clip or (0.0, 1.0)
        if not least < largest:
            yield (
                f"reward_clip: with {least:g} as the least and {largest:g} as the largest reward all completions have "
                "the same; write the smaller number first, or leave it out"
            )


class Grpo(GroupAlgorithm):
    """Group relative policy optimisation (DeepSeekMath, Shao et al. 2024, https://arxiv.org/abs/2402.03300), by TRL."""

    name: Literal["grpo"]
    """Group relative policy optimisation."""
    generations: Group = 8
    """Completions of each prompt. The baseline is their mean reward."""
    kl_weight: NotNegative = 0.0
    """Weight of the KL to the reference in the loss of each token; 0: no reference."""
    clip: Scale = 0.2
    """The ratio of new to old probability of a token is clipped at 1 - `clip`."""
    loss: Literal["grpo", "dapo", "dr_grpo"] = "dapo"
    """What the sum over tokens is divided by: the tokens of the completion, of the rollout (DAPO, Yu et al. 2025,
    https://arxiv.org/abs/2503.14476), or `max_new_tokens` (Liu et al. 2025, https://arxiv.org/abs/2503.20783)."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the standard deviation of the rewards of the group, of the rollout, or by nothing."""


class Ppo(Section):
    """Proximal policy optimisation (Schulman et al. 2017, https://arxiv.org/abs/1707.06347) with a value head.

    The defaults are those of TRL 0.4, with which MedicalGPT's fourth stage was published.
    """

    name: Literal["ppo"]
    """Proximal policy optimisation."""
    iterations: Positive = 4
    """How often a rollout is trained on."""
    minibatches: Positive = 1
    """Steps into which a rollout is divided."""
    kl_weight: NotNegative = 0.2
    """Weight of the KL to the reference in the reward of each token; with `kl_control: adaptive`, the first weight."""
    kl_control: Literal["adaptive", "fixed"] = "adaptive"
    """`adaptive`: steered towards `kl_target` (Ziegler et al. 2019, https://arxiv.org/abs/1909.08593)."""
    kl_target: Scale = 6.0
    """KL of a completion that `adaptive` steers towards, in nats."""
    kl_horizon: Scale = 10_000.0
    """Completions after which `adaptive` has changed the weight by a factor of at most about 1.2."""
    clip: Scale = 0.2
    """The ratio of new to old probability of a token is clipped to 1 +- `clip`."""
    value_clip: Scale = 0.2
    """How far the value of a state can move during one rollout."""
    value_weight: NotNegative = 0.1
    """Weight of the value loss, which also trains the layers that policy and value head share. Write less if rewards
    are much larger than 1."""
    gamma: Fraction = 1.0
    """Discount of later rewards."""
    lam: Fraction = 0.95
    """Lambda of generalised advantage estimation (GAE, https://arxiv.org/abs/1506.02438)."""
    target_kl: Scale | None = None
    """Go on to the next rollout once the KL between the policy and the one that sampled exceeds 1.5 times this, in nats
    per token; never if left out."""
    reward_baseline: float = 0.0
    """Subtracted from each reward."""
    whiten: bool = True
    """Scale the advantages of a rollout to mean 0 and variance 1, unless all its rewards are equal. Where nearly all
    are equal, this enlarges what the value head is wrong by: write `false` if rewards have few possible values."""

    @override
    def _conflicts(self) -> Iterator[str]:
        for key in ("kl_target", "kl_horizon"):
            if self.kl_control == "fixed" and getattr(self, key) != type(self).model_fields[key].default:
                yield f"{key}: belongs to `kl_control: adaptive`; leave it out"
        if self.kl_control == "adaptive" and not self.kl_weight:
            yield "kl_weight: `adaptive` multiplies it and would leave it at 0; write more, or `kl_control: fixed`"


Algorithm: TypeAlias = Annotated[Rloo | Grpo | Ppo, Field(discriminator="name")]
