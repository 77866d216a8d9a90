"""kind: cpt - continued pretraining of a causal language model on prepared corpora."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal

from typing_extensions import override

from launcher.recipe.data import Data
from launcher.recipe.training import TrainingRecipe


class CptRecipe(TrainingRecipe):
    """Continued pretraining."""

    kind: Literal["cpt"]
    """Continued pretraining."""
    data: Data
    """What it reads."""

    @property
    @override
    def packs(self) -> str | None:
        """What sequences hold several of that must not see each other; None if they do not."""
        return "document" if self.data.packing == "packed" else None

    @override
    def samples_in_epoch(self, sizes: Sequence[int]) -> Fraction:
        """Return how many samples it takes to read the mixture once.

        Args:
            sizes: Samples that each corpus has.
        """
        return self.data.samples_in_epoch(sizes)

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        length = self.schedule.length
        for i, stage in enumerate(self.data.stages):
            if stage.until and length.unit == "step" and stage.until.steps(length.value) >= length.value:
                yield f"data.stages.{i}.until: `{stage.until}` is not before the end (`{length}`); write less"
