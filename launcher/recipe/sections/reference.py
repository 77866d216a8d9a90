"""The reference that `dpo` compares a model with."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Name, Positive, Section


class ReferenceSync(Section):
    """A reference that follows the model (TR-DPO, https://arxiv.org/abs/2404.09656)."""

    steps: Positive = 512
    """Optimizer steps between two moves."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.6
    """At a move the reference becomes `share` x the model + (1 - `share`) x the reference."""


class Reference(Section):
    """The model that the trained one stays near: the model before training, or another."""

    model: Name | None = None
    """Another model, with the same tokenizer: name below the profile's `roots.models`, a Hugging Face id, or `./...`
    relative to the recipe. If left out: the model before training, which is a frozen copy or, if an adapter is trained,
    the model with the adapter switched off (this takes no memory)."""
    precompute: bool = False
    """Compute the log-probabilities of all answers once, before the first step, and keep them in the run directory.
    No reference is then held in memory."""
    sync: ReferenceSync | None = None
    """Let the reference follow the model. Its weights are part of each checkpoint."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.sync and self.precompute:
            yield "precompute: what is computed beforehand does not follow `sync`; write one of the two"
        if self.sync and self.model:
            yield "sync: moves the model before training, not another one; leave `model` out"
