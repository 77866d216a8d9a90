"""What a model is taught to prefer: pairs of answers in several formats."""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field
from typing_extensions import override

from launcher.recipe.sections.chat_sources import ChatSourceBase, ConversationData


class PreferenceSourceBase(ChatSourceBase):
    """What every source of preferences has."""

    margin: Annotated[str, Field(min_length=1)] | None = None
    """Key of a number in each record by which the two rewards should differ (Llama 2,
    https://arxiv.org/abs/2307.09288, equation 2). For `reward` only."""


class QuestionPreferences(PreferenceSourceBase):
    """Records of `question`, `response_chosen` and `response_rejected`, as MedicalGPT's first versions have them.

    There may be a `system` prompt, and earlier questions and answers as pairs in `history`.
    """

    format: Literal["question"]
    """`question`, `response_chosen`, `response_rejected`."""


class ShareGptPreferences(PreferenceSourceBase):
    """Records of `conversations` up to a question, as in `sft`, and its two answers, `chosen` and `rejected`."""

    format: Literal["sharegpt"]
    """`conversations`, `chosen`, `rejected`."""


class TrlPreferences(PreferenceSourceBase):
    """TRL's records (https://huggingface.co/docs/trl/dataset_formats#preference): `prompt`, `chosen` and `rejected`.

    All three are text, or lists of messages of `role` and `content`. Without `prompt` the two lists begin with the same
    messages.
    """

    format: Literal["trl"]
    """`prompt`, `chosen`, `rejected`."""


class HhRlhfPreferences(PreferenceSourceBase):
    """Records of `chosen` and `rejected`, two transcripts that differ in their last answer.

    Turns begin with an empty line and `Human:` or `Assistant:` (HH-RLHF, https://arxiv.org/abs/2204.05862).
    """

    format: Literal["hh_rlhf"]
    """Transcripts."""


class UnpairedPreferences(PreferenceSourceBase):
    """TRL's records of one answer each: `prompt` and `completion`, text or lists of messages, and `label`.

    `label` is true where the answer is desirable (https://huggingface.co/docs/trl/dataset_formats#unpaired-preference).
    For `loss: kto` only.
    """

    format: Literal["unpaired"]
    """`prompt`, `completion`, `label`."""


PreferenceSource: TypeAlias = Annotated[
    QuestionPreferences | ShareGptPreferences | TrlPreferences | HhRlhfPreferences | UnpairedPreferences,
    Field(discriminator="format"),
]
"""Files of pairs of answers in one format."""


class PreferenceData(ConversationData):
    """Pairs of answers to the same conversation, one of which is preferred."""

    sources: Annotated[tuple[PreferenceSource, ...], Field(min_length=1)]
    """Where the pairs come from."""

    @property
    def is_unpaired(self) -> bool:
        """Whether answers have no partner."""
        return any(isinstance(source, UnpairedPreferences) for source in self.sources)

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        kinds = [isinstance(source, UnpairedPreferences) for source in self.sources]
        if len(set(kinds)) > 1:
            place = kinds.index(not kinds[0])
            yield f"sources.{place}.format: pairs and answers without a partner are not mixed; write two recipes"
