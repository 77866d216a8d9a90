"""Rewards of held-out prompts, evaluated while a policy is trained."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from jobs.train.ppo.sampling import generation_config, sample
from jobs.train.rollouts.rewards import Completion, Rewards
from jobs.train.trainer import GuardedTrainer
from launcher.recipe.kinds.rl import RlRecipe


class HeldOutRewards:
    """Samples a completion of each held-out prompt and rewards it.

    Random numbers are those of the seed and the rank, at each evaluation the same; training keeps its own.

    Args:
        recipe: As it is for this attempt.
        rows: The prompts, with `prompt`, `messages` and `reference`.
        tokenizer: The policy's.
        stops: Tokens that end a completion.
        rewards: What completions are worth.
    """

    def __init__(
        self, recipe: RlRecipe, rows: Any, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], rewards: Rewards
    ) -> None:
        self._seed, self._rows, self._tokenizer = recipe.seed, rows, tokenizer
        self._stops, self._rewards = tuple(stops), rewards
        self._generation = generation_config(recipe.generation, stops, stops[0])

    def __call__(self, trainer: GuardedTrainer, wants_stop: Callable[[], bool]) -> dict[str, float] | None:
        """Return the mean of each reward and of their sum; None if a stop was asked for. A collective."""
        args = trainer.args
        devices = [args.device] if args.device.type == "cuda" else []
        sums = torch.zeros(len(self._rewards.labels) + 4, dtype=torch.float64)
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._seed + args.process_index)
            for asked, counts in self._batches(args.process_index, args.world_size, args.per_device_train_batch_size):
                if wants_stop():
                    return None
                sums += self._rewarded(trainer, asked, counts)
        total = trainer.accelerator.reduce(sums.to(args.device), "sum").tolist()
        *means, number = total
        names = ("reward", *(f"reward/{label}" for label in self._rewards.labels), "completion_tokens", "empty")
        return {name: mean / number for name, mean in zip(names, means, strict=True)}

    def _batches(self, rank: int, ranks: int, size: int) -> list[tuple[list[Any], list[bool]]]:
        """Deal the prompts out to as many batches on each rank; what is there to fill up does not count."""
        width, batches = size * ranks, []
        for start in range(0, len(self._rows), width):
            places = range(start + rank * size, start + (rank + 1) * size)
            counts = [place < len(self._rows) for place in places]
            batches.append(([self._rows[min(place, len(self._rows) - 1)] for place in places], counts))
        return batches

    def _rewarded(self, trainer: GuardedTrainer, asked: list[Any], counts: list[bool]) -> torch.Tensor:
        prompts = [one["prompt"] for one in asked]
        answers = sample(trainer.policy, prompts, self._generation, trainer.args.device, trainer.is_sharded)
        completions = [self._completion(one, ids) for one, ids in zip(asked, answers, strict=True)]
        scores = self._rewards.score(completions)
        facts = torch.tensor([[len(one.ids), not one.ids, 1] for one in completions])
        table = torch.cat((self._rewards.total(scores)[:, None], scores, facts), dim=1).double()
        return table[torch.tensor(counts)].sum(0)

    def _completion(self, asked: dict[str, Any], ids: list[int]) -> Completion:
        spoken = ids[:-1] if ids[-1] in self._stops else ids
        text = str(self._tokenizer.decode(ids, skip_special_tokens=True))
        return Completion(asked["messages"], asked["reference"], text, spoken)
