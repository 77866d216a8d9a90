"""The questions that a policy answers: conversations from the sources of fine-tuning, without the last answer."""

from typing import Annotated, Literal

from pydantic import Field

from launcher.recipe.sections.chat_sources import ChatSource, ConversationData


class PromptData(ConversationData):
    """Conversations up to the last answer. Rewards can compare completions with that answer."""

    sources: Annotated[tuple[ChatSource, ...], Field(min_length=1)]
    """Where the conversations come from."""
    too_long: Literal["drop", "truncate"] = "drop"
    """What happens to a prompt of more than `batch.sequence_length` - `generation.max_new_tokens` tokens: it is left
    out, or loses its beginning."""
