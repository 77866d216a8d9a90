"""PPO on transformers' Trainer: a rollout is sampled and judged, then trained on for several steps, then the next one.

Trainer's data loader only counts the micro batches. Which prompts a rollout has follows from its number, so that a
rollout may end early (`target_kl`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from typing_extensions import override

from jobs.train.ppo.kl_control import KlControl
from jobs.train.ppo.objective import clipped_tokens, policy_kl, policy_loss, value_loss
from jobs.train.ppo.rollout import Judge, Judged
from jobs.train.ppo.sampling import generation_config, sample
from jobs.train.rollouts.buffer import MicroBatch, Rollout, load_rollout, save_rollout
from jobs.train.rollouts.rewards import Completion, Rewards
from jobs.train.rollouts.samples import Sampled
from jobs.train.trainer import GuardedTrainer
from launcher.recipe.kinds.rl import RlRecipe
from launcher.recipe.sections.rl_algorithms import PPO_AT_ONCE, Ppo

_STOP_FACTOR = 1.5
"""A rollout ends early beyond this multiple of `target_kl`, as in TRL 0.4."""


class PpoTrainer(GuardedTrainer):
    """Trains a policy with a value head.

    Args:
        recipe: As it is for this attempt.
        prompts: What to answer.
        rewards: What completions are worth.
        reference: The frozen model that the policy is kept near; None: the policy without its adapter.
        record: Takes some completions of a rollout to look at; called by rank 0 alone.
        **trainer: Of `GuardedTrainer`.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *given: Any,
        recipe: RlRecipe,
        prompts: Any,
        rewards: Rewards,
        reference: nn.Module | None,
        record: Callable[[int, Sequence[Sampled]], None],
        **trainer: Any,
    ) -> None:
        super().__init__(*given, **trainer)
        assert isinstance(recipe.algorithm, Ppo)
        self._recipe, self._settings = recipe, recipe.algorithm
        self._prompts, self._rewards, self._record = prompts, rewards, record
        self._control = KlControl(recipe.algorithm)
        pad = prompts.stops[0]
        self._generation = generation_config(recipe.generation, prompts.stops, pad)
        self._judge = Judge(recipe, prompts.stops, pad, reference, self._sum_over_ranks)
        self._number = self._place = 0  # of the rollout, and of the next micro batch in it
        self._batches: list[MicroBatch] = []
        self._said: dict[str, float] = {}
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64)
        set_seed(self.args.seed, device_specific=True)  # or ranks would draw the same tokens

    @override
    def _prepare_inputs(self, inputs: Any) -> Any:
        """Return the next micro batch of the rollout, whatever Trainer's data loader gives."""
        if self._place == 0:
            self._batches = self._roll_out()
        return self._batches[self._place % len(self._batches)]

    @override
    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Train on a micro batch, and go on to the next one or the next rollout."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._place += 1
        if self.accelerator.sync_gradients and (self._has_moved_far() or self._place == self._length):
            self._number, self._place = self._number + 1, 0
        return loss

    @override
    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return this micro batch's part of the mean over the tokens of the step, over all ranks."""
        settings, mask, old = self._settings, inputs["mask"], inputs["logprobs"]
        found = self._judge.score(model, inputs)
        advantages, returns = inputs["advantages"], inputs["returns"]
        of_policy = policy_loss(found["logprobs"], old, advantages, mask, settings.clip)
        of_values = value_loss(found["values"], inputs["values"], returns, mask, settings.value_clip)
        with torch.no_grad():
            moved = policy_kl(found["logprobs"], old, mask)
            clipped = clipped_tokens(found["logprobs"], old, advantages, mask, settings.clip)
            told = (of_policy, of_values, moved, clipped, found["entropies"].sum(), mask.sum())
            self._sums += torch.stack([one.double() for one in told]).cpu()
        # Gradients are averaged over ranks.
        share = self.accelerator.num_processes / inputs["step_tokens"]
        return (of_policy + settings.value_weight * of_values) * share

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what is known of the step, and of the rollout that it began with. A collective."""
        total = dict(zip(_SUMS, self._sum_over_ranks(self._sums).tolist(), strict=True))
        self._sums.zero_()
        tokens = max(1.0, total.pop("tokens"))
        logs.update({name: value / tokens for name, value in total.items()}, **self._said)
        self._said = {}
        super().log(logs, start_time)

    @override
    def save_state(self, folder: Path) -> None:
        """Save the rollout, the place in it, and the weight of the KL penalty."""
        accumulation = self.args.gradient_accumulation_steps
        numbers = {"rollout": self._number, "step": self._place // accumulation, "kl_weight": self._control.weight}
        batches = self._batches if self._place else []
        save_rollout(folder, self.args.process_index, accumulation, Rollout(batches, numbers))

    @override
    def load_state(self, folder: Path) -> None:
        """Go on where `save_state` was called."""
        args = self.args
        accumulation, micro_batch = args.gradient_accumulation_steps, args.per_device_train_batch_size
        saved = load_rollout(folder, args.process_index, args.world_size, accumulation, micro_batch, args.device)
        self._number, self._place = int(saved.numbers["rollout"]), int(saved.numbers["step"]) * accumulation
        self._control.weight, self._batches = saved.numbers["kl_weight"], saved.batches

    @property
    def _length(self) -> int:
        """Micro batches that a rollout is trained on."""
        return len(self._batches) * self._settings.iterations

    def _has_moved_far(self) -> bool:
        """Tell whether the policy has left the one that sampled. A collective if a target is set."""
        if self._settings.target_kl is None:
            return False
        moved, tokens = self._sum_over_ranks(self._sums)[[_SUMS.index("policy_kl"), _SUMS.index("tokens")]].tolist()
        return bool(moved / max(1.0, tokens) > _STOP_FACTOR * self._settings.target_kl)

    def _roll_out(self) -> list[MicroBatch]:
        """Sample completions of this rank's prompts and judge them. A collective."""
        asked = [self._prompts.order.rows[number] for number in self._own_numbers()]
        prompts = [one["prompt"] for one in asked]
        at_once, device = PPO_AT_ONCE * self.args.per_device_train_batch_size, self.args.device
        answers: list[list[int]] = []
        for start in range(0, len(prompts), at_once):
            part = prompts[start : start + at_once]
            answers += sample(self.policy, part, self._generation, device, self.is_sharded)
        completions = [self._completion(one, ids) for one, ids in zip(asked, answers, strict=True)]
        scores = self._rewards.score(completions).to(device)
        judged = self._judge(
            self.model_wrapped, prompts, answers, self._rewards.total(scores), self._control.weight, self.args
        )
        self._tell(completions, scores, judged)
        self._control.update(judged.mean_kl, self._recipe.rollout)
        return judged.batches

    def _own_numbers(self) -> list[int]:
        """Return this rank's prompts: micro batches are dealt out in turn, so that steps have the same on any ranks."""
        numbers, size = (
            self._prompts.order.numbers(self._number, self._recipe.rollout),
            self.args.per_device_train_batch_size,
        )
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        return [one for part in parts[self.args.process_index :: self.args.world_size] for one in part]

    def _completion(self, asked: dict[str, Any], ids: list[int]) -> Completion:
        text = self._prompts.tokenizer.decode(ids, skip_special_tokens=True)
        spoken = ids[:-1] if ids[-1] in self._prompts.stops else ids
        return Completion(asked["messages"], asked["reference"], str(text), spoken)

    def _tell(self, completions: Sequence[Completion], scores: Tensor, judged: Judged) -> None:
        """Keep the numbers of a rollout for the log of its first step, and some completions to look at."""
        totals = self._rewards.total(scores)
        # Of each completion: tokens, whether it has none, whether it was cut off, its reward, and each by itself.
        facts = torch.tensor([[len(one.ids), not one.ids] for one in completions], dtype=torch.float64)
        cut = judged.truncated.double()[:, None].cpu()
        table = self.accelerator.gather(
            torch.cat((facts, cut, totals[:, None].cpu(), scores.cpu()), 1).to(self.args.device)
        )
        means = table.double().mean(0).tolist()
        names = (
            "completion_tokens",
            "empty",
            "truncated",
            "reward",
            *(f"reward/{one}" for one in self._rewards.labels),
        )
        spread = float(table[:, 3].double().std(correction=0))
        self._said = dict(zip(names, means, strict=True)) | {
            "reward_std": spread,
            "equal_rewards": float(spread == 0),
            "kl": judged.mean_kl,
            "kl_weight": self._control.weight,
            "explained_variance": judged.explained_variance,
        }
        samples = self._recipe.samples
        if self.is_world_process_zero() and self._number * self._steps % samples.interval < self._steps:
            kept = zip(completions, totals.tolist(), scores.tolist(), judged.kls, strict=True)
            rows = [
                Sampled.of(one, total, dict(zip(self._rewards.labels, each, strict=True)), kl)
                for one, total, each, kl in kept
            ]
            self._record(self.state.global_step, rows[: samples.count])

    @property
    def _steps(self) -> int:
        return self._settings.minibatches * self._settings.iterations

    def _sum_over_ranks(self, tensor: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(tensor.clone().to(self.args.device), "sum")
        return summed


_SUMS = ("policy_loss", "value_loss", "policy_kl", "clipped", "entropy", "tokens")
"""What is added up over a step."""
