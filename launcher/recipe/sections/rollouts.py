"""How completions are sampled, which of them are kept to look at, and when a training that went wrong is ended."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from launcher.recipe.base import Positive, Section
from launcher.recipe.quantities import Length


@dataclass(frozen=True)
class RolloutSize:
    """What each rank samples before it is trained on: not a part of a recipe, it follows from several."""

    completions: int
    """Of a rank, in one rollout."""
    at_once: int
    """Those that are sampled side by side."""
    new_tokens: int
    """Of the longest completion."""
    passes: int
    """Forward passes of the policy and of its reference over the finished completions."""
    steps: int
    """That a rollout is trained on."""
    gathers_weights: bool
    """With ZeRO-3 all weights are gathered on each GPU while it samples."""


class RolloutSampling(Section):
    """How completions are sampled. By default all tokens can be sampled: with `top_p` or `top_k` the loss would compare
    probabilities of another distribution, and the KL to the reference could become negative."""

    max_new_tokens: Positive = 128
    """Tokens of a completion at most."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens before a completion can end. Until then `ppo` sets the probability of the end to 0 in policy and
    reference; `rloo` and `grpo` do not."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Logits are divided by it, in sampling and in the loss."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the most probable tokens that together have this probability; 1: from all. Not for `ppo`."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample from this many of the most probable tokens; 0: from all. Not for `ppo`."""


class RolloutEvaluation(Section):
    """How rewards of held-out prompts (`data.validation`) are evaluated, with completions sampled as in training."""

    interval: Length = Length("1 epoch")
    """How often, e.g. `1 epoch` or `50 steps`; also before the first step and after the last. Rewards go to
    evaluations.jsonl and to W&B."""


class RolloutSamples(Section):
    """Completions to look at: `outputs/samples.jsonl`, and W&B unless the data is credentialed."""

    interval: Positive = 50
    """Steps between two rollouts from which completions are kept."""
    count: Positive = 4
    """Completions that are kept of such a rollout."""


class RolloutLimits(Section):
    """When a training has gone wrong. It then ends, says why, and is not restarted; checkpoints are kept."""

    least_kl: float = -1.0
    """A KL to the reference below this, in nats per completion, counts as negative. A true KL is never negative."""
    negative_kl: Positive = 10
    """Rollouts in a row with a negative KL."""
    equal_rewards: Positive = 50
    """Rollouts in a row in which the completions of each prompt (`ppo`: all completions) have the same reward, so that
    nothing can be learned."""
    empty: Positive = 5
    """Rollouts in a row in which most completions are empty."""
