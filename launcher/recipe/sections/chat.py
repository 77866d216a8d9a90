"""What `launcher chat` talks to: models with what their runs say about them, found before the chat program starts."""

from typing import Annotated, Literal, Self

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Section
from launcher.recipe.sections.chat_sources import Template
from launcher.recipe.sections.common import Model
from launcher.recipe.sections.evaluated_model import EvaluatedModel
from launcher.recipe.sections.generation import Decoding

NO_ADAPTER = "none"
"""Name by which the model without any adapter is chosen."""


class ChatSetup(Section):
    """What a recipe says about talking to the model that its run makes or uses."""

    model: EvaluatedModel
    """The model; of a training, the one that it starts from."""
    makes_model: bool
    """Whether the run's export is meant, and `model` says how to load it."""
    template: Template | None = None
    """How a conversation becomes text; None: the recipe does not say."""
    system_prompt: str | None = None
    """System prompt."""
    decoding: Decoding = Decoding()
    """How tokens are chosen."""

    @classmethod
    def of_training(cls, model: Model, dtype: Literal["bf16", "fp16", "fp32"]) -> Self:
        """Return how to load what a training exports: as the model that it started from.

        Args:
            model: The recipe's.
            dtype: In which it was trained.
        """
        shared = {key: getattr(model, key) for key in ("path", "quantization", "trust_remote_code")}
        attention = "sdpa" if model.attention == "flex" else model.attention  # flex is for packed sequences
        return cls(model=EvaluatedModel(dtype=dtype, attention=attention, **shared), makes_model=True)


class ChatSubject(Section):
    """One model to talk to, and its adapters, as folders or Hugging Face ids."""

    title: str
    """What the user calls it."""
    model: EvaluatedModel
    """How to load it; names in it are for messages."""
    base: str
    """The weights."""
    tokenizer: str | None = None
    """The tokenizer, if it is not beside the last adapter or the weights."""
    adapters: dict[str, tuple[str, ...]]
    """For each choice, the adapters to apply one after the other."""
    choice: str
    """The one to start with."""
    template: Template | None = None
    """How a conversation becomes text; None: the tokenizer's own template, else `plain`."""
    system_prompt: str | None = None
    """System prompt to start with."""
    data_use: Literal["open", "credentialed"] = "open"
    """Whether it was made of credentialed data."""

    @override
    def _conflicts(self) -> list[str]:
        return [] if self.choice in self.adapters else [f"choice: there is no adapter `{self.choice}`"]


class ChatRequest(Section):
    """What the chat program is to do."""

    subjects: Annotated[tuple[ChatSubject, ...], Field(min_length=1, max_length=2)]
    """The models; two answer the same questions."""
    decoding: Decoding = Decoding()
    """How tokens are chosen at the start."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of sampling at the start."""
    device: Literal["cuda", "cpu"] = "cuda"
    """`cuda`: the GPUs that there are, else the CPU."""
    web: bool = False
    """Whether to serve a page instead of using the terminal."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port of the page; a free one if left out."""
    login_host: str | None = None
    """Machine through which the node is reached; None: the program runs on the machine of the user's shell."""

    @property
    def data_use(self) -> Literal["open", "credentialed"]:
        """`credentialed` if one of the models is."""
        closed = any(subject.data_use == "credentialed" for subject in self.subjects)
        return "credentialed" if closed else "open"
