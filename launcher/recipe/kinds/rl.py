"""kind: rl - reinforcement learning: a language model answers questions and learns from rewards for its answers."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Direction, Input
from launcher.recipe.kinds.conversations import ConversationRecipe
from launcher.recipe.sections.adapter import Adapter, Lora
from launcher.recipe.sections.prompts import PromptData
from launcher.recipe.sections.rewards import ModelReward, Reward
from launcher.recipe.sections.rl_algorithms import PPO_AT_ONCE, Algorithm, Ppo, Rloo
from launcher.recipe.sections.rollouts import (
    RolloutEvaluation,
    RolloutLimits,
    RolloutSamples,
    RolloutSampling,
    RolloutSize,
)


class RlRecipe(ConversationRecipe):
    """Reinforcement learning."""

    extras: ClassVar[tuple[str, ...]] = ("data", "train", "align")

    kind: Literal["rl"]
    """Reinforcement learning."""
    data: PromptData
    """The questions."""
    algorithm: Algorithm
    """The algorithm, which says how rewards update the policy."""
    rewards: Annotated[tuple[Reward, ...], Field(min_length=1)]
    """What completions are rewarded for. The policy learns from the weighted sum; each reward is also logged."""
    generation: RolloutSampling = RolloutSampling()
    """How completions are sampled."""
    evaluation: RolloutEvaluation = RolloutEvaluation()
    """How held-out prompts are evaluated."""
    samples: RolloutSamples = RolloutSamples()
    """Completions to look at."""
    end: RolloutLimits = RolloutLimits()
    """When a training that has gone wrong is ended."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield from super().inputs()
        for place, reward in enumerate(self.rewards):
            if isinstance(reward, ModelReward):
                yield from reward.inputs(f"rewards.{place}")

    @property
    @override
    def has_value_head(self) -> bool:
        return isinstance(self.algorithm, Ppo)

    @property
    @override
    def has_frozen_copy(self) -> bool:
        needs_reference = isinstance(self.algorithm, Ppo) or self.algorithm.kl_weight > 0
        return needs_reference and self.adapter is None

    @property
    @override
    def loads_frozen_copy_first(self) -> bool:
        return isinstance(self.algorithm, Ppo)

    @property
    @override
    def shards_frozen_copy(self) -> bool:
        return not isinstance(self.algorithm, Ppo) and super().shards_frozen_copy

    @property
    @override
    def scoring_models(self) -> tuple[str, ...]:
        return tuple(reward.path for reward in self.rewards if isinstance(reward, ModelReward))

    @property
    def generations(self) -> int:
        """Completions of each prompt in a rollout."""
        return 1 if isinstance(self.algorithm, Ppo) else self.algorithm.generations

    @property
    def rollout(self) -> int:
        """Completions that are sampled at once, over all ranks."""
        return self.batch.sequences * self.algorithm.minibatches

    @property
    @override
    def rollout_size(self) -> RolloutSize:
        """TRL samples all completions of a rank side by side. It reads them again with the policy where that will have
        changed before all of them are trained on, `rloo` always; with a reference if the KL has a weight."""
        algorithm, completions = self.algorithm, self.rollout // self.resources.world_size
        steps, new_tokens = algorithm.minibatches * algorithm.iterations, self.generation.max_new_tokens
        if isinstance(algorithm, Ppo):
            at_once = min(completions, PPO_AT_ONCE * self.batch.least_micro_batch)
            return RolloutSize(completions, at_once, new_tokens, passes=2, steps=steps, gathers_weights=False)
        passes = (isinstance(algorithm, Rloo) or steps > 1) + (algorithm.kl_weight > 0)
        return RolloutSize(completions, completions, new_tokens, passes, steps, gathers_weights=True)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the rewards in metrics."""
        return tuple(reward.label or reward.type for reward in self.rewards)

    @property
    @override
    def reports(self) -> Mapping[str, Direction | None]:
        names = ("reward", *(f"reward/{label}" for label in self.labels)) if self.data.validation else ()
        rewards: Mapping[str, Direction] = dict.fromkeys(names, "maximize")
        return {**super().reports, **rewards}

    @override
    def samples_in_epoch(self, sizes: Sequence[int]) -> Fraction:
        """Return how many completions are trained on while the prompts are read once."""
        return super().samples_in_epoch(sizes) * self.generations * self.algorithm.iterations

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        yield from self._length_conflicts()
        yield from self._rollout_conflicts()
        yield from self._reference_conflicts()
        for place, label in enumerate(self.labels):
            if label in self.labels[:place]:
                yield f"rewards.{place}.label: `{label}` is used twice; write another name"

    def _length_conflicts(self) -> Iterator[str]:
        for key, length in (
            ("schedule.length", self.schedule.length),
            ("evaluation.interval", self.evaluation.interval),
        ):
            if length.unit == "token":
                yield f"{key}: `{length}` depends on what is sampled; write epochs or steps"
        new, least = self.generation.max_new_tokens, self.generation.min_new_tokens
        if new >= self.batch.sequence_length:
            yield (
                f"generation.max_new_tokens: {new} tokens leave no room for a prompt in "
                f"`batch.sequence_length: {self.batch.sequence_length}`; write less, or a longer sequence"
            )
        if least > new:
            yield f"generation.min_new_tokens: {least} is more than `max_new_tokens` ({new}); write less"

    def _rollout_conflicts(self) -> Iterator[str]:
        if self.rollout % self.generations:
            yield (
                f"batch.global_batch: {self.rollout} completions of a rollout are not a multiple of "
                f"`algorithm.generations` ({self.generations}); write a multiple of it"
            )
        if not isinstance(self.algorithm, Ppo):
            return
        for key, whole in (("top_p", 1.0), ("top_k", 0)):
            if getattr(self.generation, key) != whole:
                yield (
                    f"generation.{key}: `ppo` needs samples of the whole policy, since it compares probabilities "
                    f"under it; write `{whole}`"
                )

    def _reference_conflicts(self) -> Iterator[str]:
        """Refuse what would make the reference another model than the one that training starts from."""
        if self.model.adapters:
            yield "model.adapters: the reference would be the model without them; merge them first (`kind: merge`)"
        if self.model.tokenizer:
            yield "model.tokenizer: `rl` adds no tokens to a model; train it with them by `cpt` or `sft` first"
        if self.model.init == "random":
            yield "model.init: a random model samples noise, and has no reference; write `pretrained`"
        if self.adapter and (reason := _adapter_limit(self.adapter)):
            yield reason
        if self.adapter and getattr(self.algorithm, "sync", None):
            yield (
                "algorithm.sync: with an `adapter` the reference is the model without it, which cannot move; "
                "leave one of them out"
            )
        if getattr(self.algorithm, "sync", None) and self.parallel.strategy != "ddp":
            yield "algorithm.sync: is supported with `ddp` only, where each rank has the whole reference; write `ddp`"
        if reason := _strategy_limit(self):
            yield f"parallel.strategy: {reason}"


def _adapter_limit(adapter: Adapter) -> str | None:
    if not isinstance(adapter, Lora):
        return f"adapter.method: `{adapter.method}` is not supported by `rl`; write `lora`"
    if adapter.init in ("pissa", "olora"):
        return (
            f"adapter.init: `{adapter.init}` changes the weights, so that the model without its adapter is no "
            "reference; write `default`"
        )
    if adapter.bias != "none":
        return "adapter.bias: biases stay when the adapter is switched off to get the reference; write `none`"
    if adapter.embeddings != "frozen":
        return "adapter.embeddings: is not supported by `rl`; write `frozen`"
    if adapter.dropout:
        return (
            "adapter.dropout: the old and the new probability of a token would differ by chance, because each is "
            "computed with other weights left out; write `0.0`"
        )
    return None


def _strategy_limit(recipe: RlRecipe) -> str | None:
    if recipe.parallel.strategy == "hybrid_shard":
        return "`hybrid_shard` is not supported by `rl`; write `full_shard` or `ddp`"
    return None
