"""What recipes of all kinds of training on conversations have in common."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import ClassVar

from typing_extensions import override

from launcher.recipe.base import Input
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.recipe.sections.chat import ChatSetup
from launcher.recipe.sections.chat_sources import ConversationData


class ConversationRecipe(TrainingRecipe):
    """Training on conversations."""

    extras: ClassVar[tuple[str, ...]] = ("data", "train")
    reads_text: ClassVar[bool] = True

    data: ConversationData
    """The conversations."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield from super().inputs()
        yield from self.data.inputs()

    @property
    @override
    def chat_template(self) -> str | None:
        return self.data.chat_template

    @property
    @override
    def system_prompt(self) -> str | None:
        return self.data.system_prompt

    @property
    @override
    def chat(self) -> ChatSetup | None:
        template, system_prompt = self.data.chat_template, self.data.system_prompt
        setup = super().chat
        return setup and setup.model_copy(update={"template": template, "system_prompt": system_prompt})

    @override
    def samples_in_epoch(self, sizes: Sequence[int]) -> Fraction:
        return sum(self.data.shares(sizes), Fraction(0)) if self.data.mixture == "epochs" else Fraction(sum(sizes))
