"""What is proved of a prepared model before it is trained: assumptions whose breach would not fail, but teach nonsense.

Each proof is a few forward passes over a few tokens, and a collective, as forward passes of sharded models are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Trainer

from jobs.data.sampling.dataset import flattening_collator
from jobs.models.dropout import is_without_dropout, require_no_dropout
from jobs.models.parallel import reshard
from jobs.train.causal_check import require_causality, require_next_token_loss
from jobs.train.isolation_check import require_isolation
from launcher.recipe.kinds.training import TrainingRecipe


@dataclass(frozen=True)
class Proofs:
    """What a training takes for granted."""

    packs: str | None = None
    """What is packed into sequences and must not attend to one another; None if nothing is."""
    predicts_tokens: bool = False
    """Whether the model is a causal language model."""
    by_own_loss: bool = False
    """Whether it is trained by the loss that transformers' models compute, the one of next tokens."""

    def require(self, trainer: Trainer) -> None:
        """Refuse a model for which something of it does not hold. A collective.

        Args:
            trainer: Has prepared its model.

        Raises:
            RunError: it does not.
        """
        model: Any = trainer.model
        if not (self.packs or self.predicts_tokens or is_without_dropout(model)):
            return
        prepared, device, dtype = trainer.model_wrapped, trainer.args.device, _rounds_as(trainer)
        vocabulary = int(model.config.get_text_config().vocab_size)
        if self.predicts_tokens:
            require_causality(prepared, vocabulary, device, dtype)
        if self.by_own_loss and trainer.compute_loss_func is None:
            require_next_token_loss(prepared, vocabulary, device)
        if self.packs:
            require_isolation(prepared, vocabulary, device, dtype, self.packs)
        if is_without_dropout(model):
            require_no_dropout(prepared, vocabulary, device)
        reshard(model)


def _rounds_as(trainer: Trainer) -> torch.dtype:
    """Return the format whose rounding logits have.

    With weights of 8 bits, which numbers of a layer are kept out of them depends on all tokens of a batch.
    """
    args: Any = trainer.args
    if args.bf16 or getattr(trainer.model, "is_loaded_in_8bit", False):
        return torch.bfloat16
    return torch.float16 if args.fp16 else torch.float32


def proofs_of(recipe: TrainingRecipe, collator: Callable[..., Any], by_default: bool) -> Proofs:
    """Say what a recipe's training takes for granted.

    Args:
        recipe: The recipe.
        collator: Makes a micro batch of samples.
        by_default: Whether the trainer has no loss of its own.
    """
    predicts_tokens = recipe.predicts == "tokens"
    packs = recipe.packs or ("sample" if collator is flattening_collator else None)
    return Proofs(packs, predicts_tokens, by_own_loss=predicts_tokens and by_default)
