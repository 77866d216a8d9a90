"""What text is generated from, and how: prompts, chat templates, decoding."""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import FolderName, Input, Name, Positive, Section
from launcher.recipe.sections.chat_sources import Template
from launcher.recipe.sections.evaluation_tasks import WITHOUT_OPTIONS, QuestionTask

_LEAST_TEMPERATURE = 0.01


class ChatPrompt(Section):
    """Each prompt becomes a user's turn, as models that were fine-tuned on conversations expect it."""

    template: Template = "tokenizer"
    """How a conversation becomes text: by the tokenizer's own template, or by one of ours."""
    system_prompt: Annotated[str, Field(min_length=1)] | None = None
    """System prompt of conversations that have none."""


class Decoding(Section):
    """How the tokens of a text are chosen. The decoding settings in the model's `generation_config.json` are not
    used."""

    max_new_tokens: Positive = 256
    """Tokens of a text at most."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: always the most likely token (greedy). Otherwise tokens are sampled at this temperature, with random numbers
    that depend only on the recipe's seed, the item and the position."""
    top_k: Positive | None = None
    """Sample from this many of the most likely tokens; from all if left out."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the most likely tokens that together have this probability; 1: from all."""
    repetition_penalty: Annotated[float, Field(ge=1)] = 1.0
    """Makes tokens of the prompt and of the text so far less likely: positive logits are divided by this number,
    negative ones multiplied (CTRL, https://arxiv.org/abs/1909.05858). 1: off."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """A text ends before the first of these strings in it."""

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature == 0

    @override
    def _conflicts(self) -> Iterator[str]:
        if 0 < self.temperature < _LEAST_TEMPERATURE:
            yield f"temperature: `{self.temperature:g}` is too close to 0 for fp32; write `0` for greedy decoding"
        for key in ("top_k", "top_p"):
            if self.is_greedy and getattr(self, key) != type(self).model_fields[key].default:
                yield f"{key}: belongs to a `temperature` above 0; leave it out"


class PromptSource(Section):
    """Where prompts come from, and how they become token ids."""

    files: Name
    """Files, as a glob below the profile's `roots.data`, or `./...` relative to the recipe; with .gz or .zst, too."""
    chat: ChatPrompt | None = None
    """Make each prompt a user's turn. If left out, a prompt is continued as it is."""

    def inputs(self, key: str) -> Iterator[Input]:
        """Give the files.

        Args:
            key: Of this section in the recipe.
        """
        yield Input(f"{key}.files", "files", self.files)


class TextPrompts(PromptSource):
    """JSON records of `prompt` and, if there is one, `id`."""

    format: Literal["prompt"]
    """Records of `prompt`."""


class ConversationPrompts(PromptSource):
    """Conversations; the answer to the last question is generated."""

    format: Literal["messages", "sharegpt"]
    """As `sft` reads them. An answer at the end of a conversation is the one to generate, and is left out."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.chat is None:
            yield f"chat: `{self.format}` needs a chat template; write `chat: {{template: tokenizer}}`"


class QuestionPrompts(QuestionTask):
    """Questions with options, worded as in an evaluation."""

    name: FolderName = "questions"
    """Name in messages."""
    chat: ChatPrompt | None = None
    """Make each prompt a user's turn. If left out, a prompt is continued as it is."""

    @property
    def answers(self) -> Literal["letters", "texts"]:
        """What the answers of examples are."""
        return "texts" if self.prompt == "biomed_llama" or self.format in ("pubmedqa", *WITHOUT_OPTIONS) else "letters"


PromptData: TypeAlias = Annotated[TextPrompts | ConversationPrompts | QuestionPrompts, Field(discriminator="format")]
"""Prompts in one format."""
