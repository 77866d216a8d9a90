"""kind: sft - supervised fine-tuning: a language model learns the answers of conversations."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.chat import ChatData
from launcher.recipe.training import TrainingRecipe
from launcher.recipe.units import Length


class SftRecipe(TrainingRecipe):
    """Supervised fine-tuning."""

    kind: Literal["sft"]
    """Supervised fine-tuning."""
    data: ChatData
    """What it reads."""
    neftune_alpha: Annotated[float, Field(gt=0)] | None = None
    """Noise on the embeddings while training (NEFTune, Jain et al. 2023, https://arxiv.org/abs/2310.05914), of each
    example by its own length; 5 to 15."""
    evaluate: Length = Length("1 epoch")
    """How often the loss of held-out answers (`data.validation`) is measured; also before the first step and after the
    last."""

    @property
    @override
    def packs(self) -> str | None:
        """What sequences hold several of that must not see each other; None if they do not."""
        return "example" if self.data.packing == "bfd" else None

    @override
    def samples_in_epoch(self, sizes: Sequence[int]) -> Fraction:
        """Return how many sequences it takes to read the mixture once.

        Args:
            sizes: Sequences that each source has.
        """
        return sum(self.data.shares(sizes), Fraction(0)) if self.data.mixture == "epochs" else Fraction(sum(sizes))

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        for key, length in (("schedule.length", self.schedule.length), ("evaluate", self.evaluate)):
            if length.unit == "token":
                yield f"{key}: `{length}` depends on padding; write epochs or steps"
