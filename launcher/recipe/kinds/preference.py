"""What `reward` and `dpo` have in common: they learn from pairs of answers, one of which is preferred."""

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Direction, Section
from launcher.recipe.kinds.conversations import ConversationRecipe
from launcher.recipe.quantities import Length
from launcher.recipe.sections.preference_sources import PreferenceData
from launcher.recipe.sections.task_metrics import PAIRS


class PairEvaluation(Section):
    """How held-out pairs are evaluated."""

    interval: Length = Length("1 epoch")
    """How often, e.g. `1 epoch` or `200 steps`; always after the last step."""
    resamples: Annotated[int, Field(ge=0)] = 1000
    """Bootstrap resamples for the 95 % confidence intervals of the final scores; 0: none. Pairs of a question are drawn
    together."""


class PreferenceRecipe(ConversationRecipe):
    """Training on pairs of answers."""

    extras: ClassVar[tuple[str, ...]] = ("data", "train", "eval", "align")

    data: PreferenceData
    """The pairs. A sequence of the batch is a pair; both sides are in the same micro batch. In format `unpaired` it is
    an answer."""
    dropout: bool = False
    """Apply the dropout of the model and of the adapter. By default it is off, as in TRL: its noise would hide the
    difference between the two answers."""

    @property
    @override
    def sequences_per_sample(self) -> int:
        return 1 if self.data.is_unpaired else 2

    @property
    @override
    def reports(self) -> Mapping[str, Direction | None]:
        return {**super().reports, **(PAIRS if self.data.validation else {})}

    @property
    def evaluation_interval(self) -> Length:
        """How often held-out pairs are evaluated."""
        raise NotImplementedError

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        for key, length in (
            ("schedule.length", self.schedule.length),
            ("evaluation.interval", self.evaluation_interval),
        ):
            if length.unit == "token":
                yield f"{key}: `{length}` depends on padding; write epochs or steps"
        if not self.dropout and getattr(self.adapter, "dropout", None):
            yield "adapter.dropout: has no effect with `dropout: false`; leave it out, or write `dropout: true`"
        if self.model.tokenizer:
            yield f"model.tokenizer: `{self.kind}` adds no tokens to a model; train it with them by `sft` first"
