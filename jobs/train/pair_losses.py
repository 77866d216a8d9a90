"""Which trainer has the loss of a `dpo` recipe, and the recipe in TRL's terms."""

from typing import Any

from transformers import TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.kto_config import KTOConfig

from jobs.train.dpo_trainer import GuardedDpoTrainer
from jobs.train.kto_trainer import GuardedKtoTrainer
from jobs.train.orpo_trainer import GuardedOrpoTrainer
from jobs.train.pair_trainer import PairTrainer
from launcher.recipe.kinds.dpo import DpoRecipe


def trainer_of(recipe: DpoRecipe) -> type[PairTrainer]:
    """Return the trainer that has the recipe's loss."""
    others: dict[str, type[PairTrainer]] = {"kto": GuardedKtoTrainer, "orpo": GuardedOrpoTrainer}
    return others.get(recipe.loss, GuardedDpoTrainer)


def arguments_of(recipe: DpoRecipe) -> tuple[type[TrainingArguments], dict[str, Any]]:
    """Express the recipe's loss in TRL's terms."""
    if recipe.loss == "kto":
        weights = {"desirable_weight": recipe.desirable_weight, "undesirable_weight": recipe.undesirable_weight}
        return KTOConfig, {"beta": recipe.beta, **weights}
    return DPOConfig, {"loss_type": [recipe.loss], "beta": recipe.beta, "label_smoothing": recipe.label_smoothing}
