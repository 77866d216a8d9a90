"""kind: cpt - continued pretraining of a causal language model on prepared corpora."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import ClassVar, Literal

from typing_extensions import override

from launcher.recipe.base import Direction, Input, Positive, Section
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.recipe.quantities import Length
from launcher.recipe.sections.during import During, during_conflicts
from launcher.recipe.sections.mixture import Data
from launcher.recipe.sections.task_metrics import task_metrics

HELD_OUT = ("validation_loss", "token_perplexity", "byte_perplexity")
"""What an evaluation says of the held-out text of all corpora, and as `NAME/CORPUS` of each of several."""


class PerplexityEvaluation(Section):
    """How the loss of held-out text is measured: that of the corpora's `validation` splits."""

    interval: Length = Length("1 epoch")
    """How often, e.g. `1 epoch` or `500 steps`; also before the first step and after the last."""
    samples: Literal["all"] | Positive = 1024
    """How many sequences are read, evenly spread over the `validation` splits; `all`: every one."""


class CptRecipe(TrainingRecipe):
    """Continued pretraining."""

    extras: ClassVar[tuple[str, ...]] = ("train",)
    reads_text: ClassVar[bool] = False
    is_traceable: ClassVar[bool] = True

    kind: Literal["cpt"]
    """Continued pretraining."""
    data: Data
    """The corpora and how they are mixed."""
    evaluation: PerplexityEvaluation | None = PerplexityEvaluation()
    """How the loss and perplexity of held-out text are measured; `null`: not at all. Corpora without a `validation`
    split are left out."""
    during: During | None = None
    """Tasks that the model is scored on while it is trained. They change nothing about the training."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield from super().inputs()
        for place, corpus in enumerate(self.data.corpora):
            yield Input(f"data.corpora.{place}.name", "corpus", corpus.name)
        if self.during:
            yield from self.during.inputs()

    @override
    def required_extras(self) -> tuple[str, ...]:
        return (*super().required_extras(), *(("eval",) if self.during else ()))

    @property
    @override
    def reports(self) -> Mapping[str, Direction | None]:
        corpora = [corpus.name for corpus in self.data.corpora] if len(self.data.corpora) > 1 else []
        names = [*HELD_OUT, *(f"{name}/{corpus}" for name in HELD_OUT for corpus in corpora)]
        held_out: Mapping[str, Direction] = dict.fromkeys(names if self.evaluation else [], "minimize")
        return {**super().reports, **held_out, **task_metrics(self.during.tasks if self.during else (), "/")}

    @property
    @override
    def may_quote_text(self) -> bool:
        return self.during is not None

    @property
    @override
    def packs(self) -> str | None:
        return "document" if self.data.packing == "packed" else None

    @property
    @override
    def has_full_rows(self) -> bool:
        return True

    @override
    def samples_in_epoch(self, sizes: Sequence[int]) -> Fraction:
        return self.data.samples_in_epoch(sizes)

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        yield from during_conflicts(self.during, self.data_use, self.parallel.strategy, self.model.attention)
        length = self.schedule.length
        for i, stage in enumerate(self.data.stages):
            if stage.until and length.unit == "step" and stage.until.steps(length.value) >= length.value:
                yield f"data.stages.{i}.until: `{stage.until}` is not before the end (`{length}`); write less"
