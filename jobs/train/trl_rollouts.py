"""TRL's RLOO and GRPO trainers with checkpoints from which they resume to the last bit, and our order of prompts.

TRL 1.16 forgets three things in a checkpoint: the rollout it is in, the epoch of the order of prompts, and a reference
that moves. It also converts the adapter of a quantised model to bf16, whose resolution is too coarse for small updates,
and samples with what the model's generation_config.json says of penalties, bans and truncation.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer
from typing_extensions import override

from jobs.data.chat.prompts import PromptOrder
from jobs.train.ppo.sampling import without_published_settings
from jobs.train.reference import REFERENCE
from jobs.train.rollouts.buffer import Rollout, load_rollout, save_rollout
from jobs.train.rollouts.rewards import Completion, NamedScorer, Rewards
from jobs.train.rollouts.samples import Sampled
from jobs.train.trainer import GuardedTrainer
from launcher.recipe.kinds.rl import RlRecipe
from launcher.recipe.sections.rl_algorithms import Grpo, Ppo, Rloo

_NAMES = {
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl_of_token",
    "entropy": "entropy",
    "completions/mean_length": "completion_tokens",
    "completions/clipped_ratio": "truncated",
    "clip_ratio/region_mean": "clipped",
    "empty": "empty",
    "equal_rewards": "equal_rewards",
}
"""TRL's metrics that are kept, and their names here."""


class RolloutSampler(Sampler[int]):
    """Gives the prompts of all rollouts one after the other, each as often as TRL reads it. One pass is the training.

    Args:
        order: Which prompts a rollout has.
        prompts: Prompts in each.
        generations: Completions of a prompt, which follow one another.
        repeats: How often TRL reads a rollout: once for each micro batch of a rank.
        rollouts: How many there are.
    """

    def __init__(self, order: PromptOrder, prompts: int, generations: int, repeats: int, rollouts: int) -> None:
        self._order, self._prompts = order, prompts
        self._generations, self._repeats, self._rollouts = generations, repeats, rollouts

    def __len__(self) -> int:
        return self._rollouts * self._repeats * self._prompts * self._generations

    def __iter__(self) -> Iterator[int]:
        for rollout in range(self._rollouts):
            numbers = self._order.numbers(rollout, self._prompts)
            for _ in range(self._repeats):
                yield from (number for number in numbers for _ in range(self._generations))


class _Rollouts(GuardedTrainer):
    """What both trainers need besides TRL's methods."""

    # TRL's, on which this depends; their types are too narrow or missing there.
    args: Any
    ref_model: Any
    num_iterations: int
    _metrics: Any
    _buffered_inputs: Any
    _step: int
    eos_token_ids: Any
    generation_config: Any

    def __init__(
        self,
        *given: Any,
        recipe: RlRecipe,
        order: PromptOrder,
        rewards: Rewards,
        record: Callable[[int, Sequence[Sampled]], None],
        **trainer: Any,
    ) -> None:
        del trainer["data_collator"]  # TRL's trainers have one of their own
        self._recipe, self._order, self._rewards, self._record = recipe, order, rewards, record
        reward_funcs = [self._reward_function(place, scorer) for place, scorer in enumerate(rewards.scorers)]
        super().__init__(*given, reward_funcs=reward_funcs, **trainer)
        _restore_precision(self.model)

    def _reward_function(self, place: int, scorer: NamedScorer) -> Callable[..., list[float]]:
        """Return a reward as TRL calls it."""

        def reward(
            completions: list[str],
            completion_ids: list[list[int]],
            messages: list[Any],
            reference: list[str],
            log_metric: Callable[[str, float], None],
            **_: Any,
        ) -> list[float]:
            spoken = [ids[:-1] if ids[-1] in self.eos_token_ids else ids for ids in completion_ids]
            answered = [Completion(*one) for one in zip(messages, reference, completions, spoken, strict=True)]
            if place == 0:
                log_metric("empty", sum(not one.ids for one in answered) / len(answered))
                self._answered = answered
            return scorer.score(answered)

        reward.__name__ = scorer.label
        return reward

    @override
    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        algorithm, args = self._recipe.algorithm, self.args
        steps = algorithm.minibatches * algorithm.iterations
        repeats = args.steps_per_generation * algorithm.iterations
        generations = self._recipe.generations
        prompts = self._recipe.rollout // generations
        return RolloutSampler(self._order, prompts, generations, repeats, -(-args.max_steps // steps))

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Take prompts as they are: their tokens are those of fine-tuning."""
        return prompts, None, {}

    def _generate_single_turn(self, *given: Any, **named: Any) -> Any:
        """Sample from the policy as it is: the loss knows of no other settings than the recipe's."""
        with without_published_settings(self.policy, self.generation_config):
            return super()._generate_single_turn(*given, **named)  # type: ignore[misc]

    def _calculate_rewards(self, *given: Any, **named: Any) -> Tensor:
        """Note the groups in which all have the same reward: TRL looks only after it has subtracted the KL."""
        rewards: Tensor = super()._calculate_rewards(*given, **named)  # type: ignore[misc]
        totals = self._learned_from(rewards).view(-1, self._recipe.generations)
        equal = (totals.max(1).values == totals.min(1).values).float().mean().item()
        self._metrics["train"]["equal_rewards"].append(equal)
        self._show(rewards[self.args.process_index * len(self._answered) :])
        return rewards

    def _learned_from(self, rewards: Tensor) -> Tensor:
        """Return what TRL makes of the rewards of completions: the weighted sum, within the limits of `rloo`."""
        clip, totals = getattr(self._recipe.algorithm, "reward_clip", None), self._rewards.total(rewards)
        return totals if clip is None else totals.clamp(*clip)

    def _show(self, rewards: Tensor) -> None:
        """Pass some completions on, with their rewards; those of rank 0."""
        samples = self._recipe.samples
        steps = self._recipe.algorithm.minibatches * self._recipe.algorithm.iterations
        if not self.is_world_process_zero() or self.state.global_step % samples.interval >= steps:
            return
        rows = [
            Sampled.of(one, total, dict(zip(self._rewards.labels, each, strict=True)))
            for one, total, each in zip(
                self._answered, self._rewards.total(rewards).tolist(), rewards.tolist(), strict=False
            )
        ]
        self._record(self.state.global_step, rows[: samples.count])

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Give TRL's metrics the names that they have in every algorithm."""
        found = self._metrics["train"]
        kept = {ours: found[theirs] for theirs, ours in _NAMES.items() if theirs in found}
        kept |= {
            f"reward/{label}": found[key] for label in self._rewards.labels if (key := f"rewards/{label}/mean") in found
        }
        found.clear()
        of_tokens = kept.pop("kl_of_token", [])
        if of_tokens and "completion_tokens" in kept:  # GRPO tells the first in every step, both where it has sampled
            [tokens] = kept["completion_tokens"]
            kept["kl"] = [kl * tokens for kl in of_tokens]  # of a completion it is the sum over its tokens
        found.update(kept)
        super().log(logs, start_time)

    @override
    def save_state(self, folder: Path) -> None:
        """Save the rollout, where the next step still needs it, and a reference that moves."""
        accumulation, inside = self.args.gradient_accumulation_steps, self._step % self._micro_steps
        rollout = Rollout(self._buffered_inputs if inside else [], {"step": self._step // accumulation})
        save_rollout(folder, self.args.process_index, accumulation, rollout)
        if self.args.sync_ref_model and self.is_world_process_zero():
            weights = {name: one.detach().cpu() for name, one in self._reference_parameters()}
            self._saver.put(weights, partial(save_file, filename=folder / REFERENCE))

    @override
    def load_state(self, folder: Path) -> None:
        """Go on where `save_state` was called."""
        args = self.args
        accumulation, micro_batch = args.gradient_accumulation_steps, args.per_device_train_batch_size
        saved = load_rollout(folder, args.process_index, args.world_size, accumulation, micro_batch, args.device)
        self._step = int(saved.numbers["step"]) * accumulation
        self._buffered_inputs = saved.batches or None
        if args.sync_ref_model:
            moved = load_file(folder / REFERENCE)
            with torch.no_grad():
                for name, parameter in self._reference_parameters():
                    parameter.copy_(moved[name])

    @property
    def _micro_steps(self) -> int:
        """Micro batches that a rank trains on before TRL samples again."""
        return int(self.args.steps_per_generation * self.num_iterations)

    def _reference_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        reference: nn.Module = self.accelerator.unwrap_model(self.ref_model)
        return reference.named_parameters()


class GuardedRlooTrainer(_Rollouts, RLOOTrainer):
    """RLOO."""


class GuardedGrpoTrainer(_Rollouts, GRPOTrainer):
    """GRPO."""


def trl_arguments(recipe: RlRecipe, accumulation: int) -> dict[str, Any]:
    """Express a recipe in TRL's terms.

    Args:
        recipe: With `rloo` or `grpo`.
        accumulation: Micro batches of a step on each rank.
    """
    algorithm, generation = recipe.algorithm, recipe.generation
    assert not isinstance(algorithm, Ppo)
    of_reference = {
        "sync_ref_model": algorithm.sync is not None,
        "ref_model_sync_steps": algorithm.sync.steps if algorithm.sync else 1,
        "ref_model_mixup_alpha": algorithm.sync.share if algorithm.sync else 1.0,
    }
    limits = {"min_new_tokens": generation.min_new_tokens} if generation.min_new_tokens else None
    return {
        "num_generations": algorithm.generations,
        "num_iterations": algorithm.iterations,
        "steps_per_generation": accumulation * algorithm.minibatches,
        "beta": algorithm.kl_weight,
        "epsilon": algorithm.clip,
        "epsilon_high": algorithm.clip_high,
        "mask_truncated_completions": algorithm.mask_truncated,
        "reward_weights": [reward.weight for reward in recipe.rewards],
        "max_completion_length": generation.max_new_tokens,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "top_k": generation.top_k,
        "repetition_penalty": 1.0,
        "generation_kwargs": limits,
        "disable_dropout": True,
        "trust_remote_code": recipe.model.trust_remote_code,
        **of_reference,
        **_own_arguments(algorithm),
    }


def _own_arguments(algorithm: Rloo | Grpo) -> dict[str, Any]:
    if isinstance(algorithm, Rloo):
        return {"normalize_advantages": algorithm.normalize_advantages, "reward_clip_range": algorithm.reward_clip}
    return {"loss_type": algorithm.loss, "scale_rewards": algorithm.scale_rewards}


TRAINERS = {"rloo": (GuardedRlooTrainer, RLOOConfig), "grpo": (GuardedGrpoTrainer, GRPOConfig)}
"""Trainer and arguments of each algorithm that TRL has."""


def _restore_precision(model: nn.Module | None) -> None:
    if isinstance(model, PeftModel):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
