"""What a model is taught from: conversations in several formats, how they are mixed, rendered and packed. Pure data."""

from collections.abc import Iterator, Sequence
from fractions import Fraction as Exact
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from launcher.recipe.data import Weight
from launcher.recipe.rules import ConflictError, FolderName, Fraction, Section, refuse_site_path

OptionAnswer: TypeAlias = Literal["text", "letter", "both"]


class ChatSourceBase(Section):
    """What every source of conversations has."""

    name: FolderName
    """Name of the source in messages, logs and the export's manifest."""
    files: str
    """Files, as a glob below the profile's `roots.data`, or `./...` relative to the recipe: JSON lines (`.jsonl`) or a
    JSON list or object of records (`.json`), with .gz or .zst, too."""
    weight: Weight = 1.0
    """Share of this source in the mixture; `data.mixture` says of what."""
    license: str = "unknown"
    """Licence of the text, kept with the prepared examples."""

    _files = field_validator("files")(refuse_site_path)


class AlpacaSource(ChatSourceBase):
    """Records of `instruction`, `input` (may be empty) and `output`, and `system` if there is one."""

    format: Literal["alpaca"]
    """`instruction`, `input`, `output`."""


class ShareGptSource(ChatSourceBase):
    """Records of `conversations`, a list of `{"from": "human" | "gpt" | "system", "value"}`, and `system_prompt`."""

    format: Literal["sharegpt"]
    """Turns of `human` and `gpt`."""


class MessagesSource(ChatSourceBase):
    """Records of `messages`, a list of `{"role": "user" | "assistant" | "system", "content"}`."""

    format: Literal["messages"]
    """Turns of `user` and `assistant`."""


class PromptCompletionSource(ChatSourceBase):
    """Records of `prompt` and `completion`, both text."""

    format: Literal["prompt_completion"]
    """`prompt` and `completion`."""


class InstructSource(ChatSourceBase):
    """Records of `source`, `input` and `output`, as BioMed-LLaMA's instruction data."""

    format: Literal["instruct"]
    """`source`, `input`, `output`."""
    subsets: tuple[str, ...] = ()
    """Keep only records with one of these as `source`; all if empty."""


class MedQaSource(ChatSourceBase):
    """MedQA (https://arxiv.org/abs/2009.13081): `question`, `options` by letter, and `answer_idx` or `answer`."""

    format: Literal["medqa"]
    """MedQA's questions."""
    answer: OptionAnswer = "text"
    """What is to be said: the option's text, its letter, or `(B) text`."""


class MedMcqaSource(ChatSourceBase):
    """MedMCQA (https://arxiv.org/abs/2203.14371): `question`, `opa` to `opd`, `cop`."""

    format: Literal["medmcqa"]
    """MedMCQA's questions."""
    cop_base: Literal[0, 1]
    """Number of the first option in `cop`. Copies differ: the authors' files count from 1, Hugging Face's from 0."""
    answer: OptionAnswer = "text"
    """What is to be said: the option's text, its letter, or `(B) text`."""


class PubMedQaSource(ChatSourceBase):
    """PubMedQA (https://arxiv.org/abs/1909.06146): the authors' JSON object of records, or lines as on Hugging Face."""

    format: Literal["pubmedqa"]
    """PubMedQA's questions."""
    context: bool = True
    """Show the abstract (without its conclusion) with the question."""
    answer: Literal["decision", "decision_and_reason"] = "decision"
    """`yes`, `no` or `maybe`; or that and the abstract's conclusion."""
    exclude: str | None = None
    """Files like `test_ground_truth.json`, a JSON object: records whose PubMed number is a key of it are left out. A
    glob as `files`."""

    @field_validator("exclude")
    @classmethod
    def _no_site_path(cls, exclude: str | None) -> str | None:
        return None if exclude is None else refuse_site_path(exclude)


ChatSource: TypeAlias = Annotated[
    AlpacaSource
    | ShareGptSource
    | MessagesSource
    | PromptCompletionSource
    | InstructSource
    | MedQaSource
    | MedMcqaSource
    | PubMedQaSource,
    Field(discriminator="format"),
]
"""Files of conversations in one format."""

Template: TypeAlias = Literal["tokenizer", "chatml", "llama2", "llama3", "alpaca", "plain"]


class ChatData(Section):
    """What the model reads, and what of it it is to learn: the answers."""

    sources: Annotated[tuple[ChatSource, ...], Field(min_length=1)]
    """Where the conversations come from."""
    mixture: Literal["epochs", "proportions"] = "epochs"
    """What weights mean. `epochs`: how often a source is read while the mixture is read once. `proportions`: shares of
    the sequences."""
    draws: Literal["permuted", "independent"] = "permuted"
    """`permuted`: a source gives all its sequences before it gives one twice. `independent`: each is drawn by itself,
    with replacement, as BioMed-LLaMA did; with `packing: pad`."""
    chat_template: Template = "tokenizer"
    """How conversations become text: by the tokenizer's own template, or by one of ours, which is then saved with the
    model."""
    system_prompt: Annotated[str, Field(min_length=1)] | None = None
    """For conversations that have none of their own."""
    packing: Literal["bfd", "pad"] = "bfd"
    """How examples become sequences. `bfd`: several in one, by best fit decreasing, isolated from each other; none is
    cut. `pad`: one each, padded to the longest of its micro batch."""
    too_long: Literal["drop", "truncate"] = "drop"
    """What happens to an example of more than `sequence_length` tokens."""
    validation: Fraction = 0.0
    """Share of the conversations held out, chosen by a hash of their first question."""
    max_bad_fraction: Fraction = 0.001
    """Unreadable records are counted and skipped up to this share of all records; beyond it the run fails."""

    def shares(self, sizes: Sequence[int]) -> list[Exact]:
        """Return each source's share of the sequences, up to a common factor; for epochs, its sequences in one.

        Args:
            sizes: Sequences that each source has.
        """
        weights = [Exact(str(source.weight)) for source in self.sources]
        return [w * (size if self.mixture == "epochs" else 1) for w, size in zip(weights, sizes, strict=True)]

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> "ChatData":
        if conflicts := [*self._conflicts()]:
            raise ConflictError(conflicts)
        return self

    def _conflicts(self) -> Iterator[str]:
        names = [source.name for source in self.sources]
        for i, name in enumerate(names):
            if name in names[:i]:
                yield f"sources.{i}.name: `{name}` is there twice; write another name"
        if self.draws == "independent" and self.packing == "bfd":
            yield "packing: `draws: independent` draws single examples; write `pad`"
        if self.validation == 1:
            yield "validation: leaves nothing to train on; write less than 1"
