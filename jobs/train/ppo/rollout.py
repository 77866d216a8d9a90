"""What a rollout is trained on: probabilities when it was sampled, values, advantages and returns of its tokens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import TrainingArguments

from jobs.train.ppo.objective import SumOverRanks, are_equal, estimate_advantages, is_last, token_rewards, whiten
from jobs.train.rollouts.buffer import MicroBatch
from launcher.recipe.kinds.rl import RlRecipe
from launcher.recipe.sections.rl_algorithms import Ppo

_PER_TOKEN = ("logprobs", "entropies", "values")


@dataclass(frozen=True)
class Judged:
    """A rank's part of a rollout, ready to be trained on."""

    batches: list[MicroBatch]
    kls: list[float]
    """Of each completion to the reference, in nats."""
    truncated: Tensor
    """Whether each completion was cut off, shape (completions)."""
    mean_kl: float
    """Of all completions of all ranks."""
    explained_variance: float
    """Share of the variance of the returns that the values foresaw, over all ranks."""


class Judge:
    """Turns completions and their rewards into what PPO trains on."""

    def __init__(
        self,
        recipe: RlRecipe,
        stops: Sequence[int],
        pad: int,
        reference: nn.Module | None,
        sum_over_ranks: SumOverRanks,
    ) -> None:
        assert isinstance(recipe.algorithm, Ppo)
        self._settings = recipe.algorithm
        self._least = recipe.generation.min_new_tokens
        self._stops, self._pad = tuple(stops), pad
        self._reference = reference
        self._sum = sum_over_ranks

    def __call__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        scores: Tensor,
        kl_weight: float,
        args: TrainingArguments,
    ) -> Judged:
        """Judge a rollout. A collective.

        Args:
            model: The policy, as Trainer wraps it.
            prompts: Token ids.
            answers: Token ids of the completions.
            scores: Their rewards.
            kl_weight: Factor of the KL penalty.
            args: Sizes of micro batches.
        """
        settings = self._settings
        rollout = self._laid_out(prompts, answers, args.device)
        micro_batch, mask = args.per_device_train_batch_size, rollout["mask"]
        seen = self._seen(model, rollout, micro_batch)
        reference = self._seen_by_reference(model, rollout, micro_batch)["logprobs"]
        rewards = token_rewards(scores, seen["logprobs"], reference, mask, kl_weight, settings.reward_baseline)
        advantages, returns = estimate_advantages(rewards, seen["values"], mask, settings.gamma, settings.lam)
        explained = self._explained(advantages, returns, mask)
        if settings.whiten and not are_equal(scores, self._sum):
            advantages = whiten(advantages, mask, self._sum)
        kls = ((seen["logprobs"] - reference) * mask).sum(1)
        total = self._sum(torch.stack((kls.sum().double(), torch.tensor(len(kls), device=args.device).double())))
        whole = rollout | {name: seen[name] for name in ("logprobs", "values")}
        whole |= {"advantages": advantages, "returns": returns}
        ends = torch.tensor([answer[-1] in self._stops for answer in answers])
        batches = self._cut(whole, micro_batch, args.gradient_accumulation_steps)
        return Judged(batches, kls.tolist(), ~ends, float(total[0] / total[1]), explained)

    def score(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return probabilities, entropies and values of the tokens of a batch; 0 outside of its mask."""
        ids, mask = batch["ids"], batch["mask"]
        options: dict[str, Any] = {}
        if self._least:
            place = mask.cumsum(1)  # 1 for the first token of a completion
            options = {
                "forbidden": mask & (place <= self._least),
                "forbidden_ids": torch.tensor(self._stops, device=ids.device),
            }
        found = model(input_ids=ids, scored=mask, **options)
        return {
            name: torch.zeros(mask.shape, device=ids.device).masked_scatter(mask, found[name])
            for name in _PER_TOKEN
            if name in found
        }

    def _laid_out(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], device: torch.device
    ) -> dict[str, Tensor]:
        """Put each prompt and its completion into a row, filled up at its end, with a mask of the completion."""
        width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        ids = torch.full((len(prompts), width), self._pad)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor([*prompt, *answer])
            mask[row, len(prompt) : end] = True
        return {"ids": ids.to(device), "mask": mask.to(device)}

    @torch.no_grad()
    def _seen(self, model: nn.Module, rollout: dict[str, Tensor], size: int) -> dict[str, Tensor]:
        was_training = model.training
        model.eval()
        parts = [
            self.score(model, {name: tensor[start : start + size] for name, tensor in rollout.items()})
            for start in range(0, len(rollout["ids"]), size)
        ]
        model.train(was_training)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _seen_by_reference(self, model: nn.Module, rollout: dict[str, Tensor], size: int) -> dict[str, Tensor]:
        if self._reference is not None:
            return self._seen(self._reference, rollout, size)
        with _adapter_off(model):
            return self._seen(model, rollout, size)

    def _explained(self, advantages: Tensor, returns: Tensor, mask: Tensor) -> float:
        """Return 1 - Var(returns - values) / Var(returns). A collective."""
        sums = [
            mask.sum(),
            *(((one * mask).double() ** power).sum() for one in (advantages, returns) for power in (1, 2)),
        ]
        count, errors, squares, total, total_squares = self._sum(torch.stack([one.double() for one in sums])).tolist()
        left, variance = squares / count - (errors / count) ** 2, total_squares / count - (total / count) ** 2
        return 1 - left / variance if variance > 0 else 0.0

    def _cut(self, whole: dict[str, Tensor], size: int, accumulation: int) -> list[MicroBatch]:
        """Cut a rollout into micro batches without needless filling, each with the tokens of its step on all ranks."""
        parts = [
            {name: tensor[start : start + size] for name, tensor in whole.items()}
            for start in range(0, len(whole["ids"]), size)
        ]
        batches: list[MicroBatch] = []
        for start in range(0, len(parts), accumulation):
            step = parts[start : start + accumulation]
            tokens = self._sum(torch.stack([part["mask"].sum() for part in step]).sum().double())
            batches += [{**_trimmed(part), "step_tokens": tokens.float()} for part in step]
        return batches


def _trimmed(part: dict[str, Tensor]) -> dict[str, Tensor]:
    width = int(part["mask"].any(0).nonzero().max()) + 1
    assert is_last(part["mask"]).sum() == len(part["mask"]), "each row has one completion"
    return {name: tensor[:, :width] for name, tensor in part.items()}


@contextmanager
def _adapter_off(model: nn.Module) -> Iterator[None]:
    """Leave the adapter out of the forward pass: what remains is the model that training started from."""
    with next(module for module in model.modules() if isinstance(module, PeftModel)).disable_adapter():
        yield
