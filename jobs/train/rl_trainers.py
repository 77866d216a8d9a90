"""The Trainer of each algorithm of reinforcement learning."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset as TorchDataset
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from jobs.data.chat.prompts import PromptOrder
from jobs.models.build import DTYPES, build
from jobs.models.parallel import accumulation_steps
from jobs.models.value_head import add_value_head, let_score
from jobs.train.during import EvaluationDuringTraining
from jobs.train.ppo.trainer import PpoTrainer
from jobs.train.reference import REFERENCE
from jobs.train.rollouts.buffer import FILES
from jobs.train.rollouts.reward_model import unsharded
from jobs.train.rollouts.rewards import Rewards
from jobs.train.rollouts.watch import RolloutWatch
from jobs.train.run import TrainingRun
from jobs.train.trainer import GuardedTrainer
from jobs.train.trl_rollouts import TRAINERS, trl_arguments
from launcher.recipe.kinds.rl import RlRecipe


@dataclass(frozen=True)
class Questions:
    """What the policy answers."""

    order: PromptOrder
    tokenizer: PreTrainedTokenizerBase
    stops: Sequence[int]
    """Tokens that end a completion."""


def begin(run: TrainingRun[RlRecipe], steps: int, epoch: Fraction) -> None:
    """Find the checkpoint to resume from, and make the arguments of the algorithm's Trainer (`TrainingRun.begin`)."""
    recipe = run.recipe
    if recipe.algorithm.name == "ppo":
        run.begin(steps, epoch, state_files=FILES)
        return
    _, arguments_class = TRAINERS[recipe.algorithm.name]
    arguments = trl_arguments(recipe, accumulation_steps(recipe.batch, run.group.world_size))
    files = (*FILES, REFERENCE) if arguments["sync_ref_model"] else FILES
    run.begin(steps, epoch, arguments_class, files, **arguments)


def make_trainer(
    run: TrainingRun[RlRecipe],
    policy: PreTrainedModel,
    questions: Questions,
    rewards: Rewards,
    during: Sequence[EvaluationDuringTraining],
) -> GuardedTrainer:
    """Make the Trainer.

    Args:
        run: The training.
        policy: Adapted if the recipe says so.
        questions: What to answer.
        rewards: What completions are worth.
        during: Evaluates held-out prompts.
    """
    recipe = run.recipe
    common: dict[str, Any] = {
        "recipe": recipe,
        "rewards": rewards,
        "record": run.record_samples,
        "callbacks": [RolloutWatch(recipe.end, recipe.algorithm.name, recipe.generation), *during],
    }
    if recipe.algorithm.name == "ppo":
        reference = _frozen_copy(run) if recipe.adapter is None else None
        add_value_head(policy, recipe.generation.temperature)
        return run.trainer(
            policy,
            _Places(run.steps * recipe.batch.sequences),
            _as_it_is,
            trainer_class=PpoTrainer,
            prompts=questions,
            reference=reference,
            **common,
        )
    trainer_class, _ = TRAINERS[recipe.algorithm.name]
    return run.trainer(
        policy,
        questions.order.rows,
        _as_it_is,
        trainer_class=trainer_class,
        processing_class=questions.tokenizer,
        order=questions.order,
        **common,
    )


class _Places(TorchDataset[int]):
    """So many samples without content."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        return index


def _as_it_is(samples: list[Any]) -> Any:
    return {"places": torch.tensor(samples)}


def _frozen_copy(run: TrainingRun[RlRecipe]) -> nn.Module:
    """Load the model that training starts from once more, whole on each rank, in the format that is computed in."""
    recipe = run.recipe
    path, dtype = run.context.model_path(recipe.model.path), DTYPES[recipe.precision.dtype]
    with unsharded():
        reference = build(AutoModelForCausalLM, recipe.model, path, recipe.seed, dtype)
    let_score(reference, recipe.generation.temperature)
    placed: nn.Module = reference.to(run.group.device)  # type: ignore[arg-type]
    return placed.eval().requires_grad_(False)
