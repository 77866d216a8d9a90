"""What a completion is rewarded for. Its reward is the weighted sum of all entries."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field
from typing_extensions import override

from launcher.recipe.base import AdapterInput, FolderName, Input, Name, Positive, Section


def _refuse_bad_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"`{pattern}` is not a regular expression ({error}); correct it") from None
    return pattern


class RewardBase(Section):
    """What every reward has."""

    weight: float = 1.0
    """Factor of this reward; below 0 it becomes a penalty."""
    label: FolderName | None = None
    """Name of this reward in metrics; its type if left out."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if not self.weight:
            yield "weight: 0 makes a reward without effect; leave the reward out"


class ModelReward(RewardBase):
    """The output of a reward model for the conversation with the completion."""

    type: Literal["model"]
    """A reward model."""
    path: Name
    """Export of a `reward` run, or any model with one output for a sequence: a name below the profile's `roots.models`,
    a Hugging Face id, or `./...` relative to the recipe. With `adapter`: the model that it was trained on."""
    adapter: Name | None = None
    """The adapter and its head that a `reward` run trained on that model; named like `path`."""
    trained_on: str | None = None
    """The base model as the adapter's files name it, if that is another name of the same model."""
    system_prompt: Annotated[str, Field(min_length=1)] | None = None
    """System prompt that the reward model reads conversations with, in place of `data.system_prompt`; the one that it
    was trained with, as its manifest says, if left out."""

    def inputs(self, key: str) -> Iterator[Input]:
        """Give the model, and its adapter.

        Args:
            key: Of the reward in the recipe.
        """
        yield Input(f"{key}.path", "model", self.path)
        if self.adapter:
            name, base, known_as = self.adapter, self.path, self.trained_on
            yield AdapterInput(
                f"{key}.adapter", "adapter", name, base=base, trained_on=known_as, merged="if possible", is_alone=True
            )

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        if self.trained_on and not self.adapter:
            yield "trained_on: there is no `adapter` that was trained; leave it out"


class AnswerLetterReward(RewardBase):
    """1 if the first option letter in the completion is that of the reference answer, else 0."""

    type: Literal["answer_letter"]
    """The letter of the right option, written as `B`, `(B)` or `B.`."""
    after: str = ""
    """Read only what comes after the last occurrence of this text, e.g. `<answer>`; a completion without it gets 0."""


class PubMedQaReward(RewardBase):
    """1 if the first decision in the completion (`yes`, `no`, `maybe`) is that of the reference answer, else 0."""

    type: Literal["pubmedqa_decision"]
    """PubMedQA's decision."""
    after: str = ""
    """Read only what comes after the last occurrence of this text, e.g. `<answer>`; a completion without it gets 0."""


class FormatReward(RewardBase):
    """1 if the whole completion matches a pattern, else 0."""

    type: Literal["format"]
    """The form of the completion."""
    pattern: Annotated[str, AfterValidator(_refuse_bad_pattern)]
    """Regular expression of Python that the whole completion must match; `.` matches line breaks, too."""


class LengthReward(RewardBase):
    """1 if the number of tokens is between two limits; less, down to 0, the further it is from them."""

    type: Literal["length"]
    """The length of the completion."""
    at_least: Positive = 1
    """Tokens; a shorter completion gets its length divided by this."""
    at_most: Positive | None = None
    """Tokens; a longer completion gets this divided by its length."""

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        if self.at_most is not None and self.at_most < self.at_least:
            yield f"at_most: {self.at_most} is less than `at_least` ({self.at_least}); write more"


class TokenReward(RewardBase):
    """Fraction of the completion's tokens that are a given one. This is easy to learn; for trials."""

    type: Literal["token"]
    """A given token."""
    token: Annotated[str, Field(min_length=1)]
    """The token, as the tokenizer writes it, or text that is one token."""


Reward: TypeAlias = Annotated[
    ModelReward | AnswerLetterReward | PubMedQaReward | FormatReward | LengthReward | TokenReward,
    Field(discriminator="type"),
]
