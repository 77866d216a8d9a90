"""What a model is taught from: conversations in several formats, and how they are mixed, rendered and packed."""

from collections.abc import Iterator, Sequence
from fractions import Fraction as Exact
from typing import Annotated, Literal, TypeAlias

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import FolderName, Fraction, Input, Name, Section
from launcher.recipe.sections.mixture import Weight
from launcher.recipe.sections.terminology import TextTerminology

OptionAnswer: TypeAlias = Literal["text", "letter", "both"]


class ChatSourceBase(Section):
    """What every source of conversations has."""

    format: str
    """How its records are written."""
    name: FolderName
    """Name of the source in messages, logs and the export's manifest."""
    files: Name
    """Files, as a glob below the profile's `roots.data`, or `./...` relative to the recipe: JSON lines (`.jsonl`) or a
    JSON list or object of records (`.json`), with .gz or .zst, too."""
    weight: Weight = 1.0
    """Share of this source in the mixture; `data.mixture` says of what."""
    license: str = "unknown"
    """Licence of the text, kept with the prepared examples."""


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
    """What the model should answer: the option's text, its letter, or `(B) text`."""


class MedMcqaSource(ChatSourceBase):
    """MedMCQA (https://arxiv.org/abs/2203.14371): `question`, `opa` to `opd`, `cop`."""

    format: Literal["medmcqa"]
    """MedMCQA's questions."""
    cop_base: Literal[0, 1]
    """Number of the first option in `cop`. Copies differ: the authors' files count from 1, Hugging Face's from 0."""
    answer: OptionAnswer = "text"
    """What the model should answer: the option's text, its letter, or `(B) text`."""


class PubMedQaSource(ChatSourceBase):
    """PubMedQA (https://arxiv.org/abs/1909.06146): the authors' JSON object of records, or lines as on Hugging Face."""

    format: Literal["pubmedqa"]
    """PubMedQA's questions."""
    context: bool = True
    """Show the abstract (without its conclusion) with the question."""
    answer: Literal["decision", "decision_and_reason"] = "decision"
    """`yes`, `no` or `maybe`; or that and the abstract's conclusion."""
    exclude: Name | None = None
    """Files such as `test_ground_truth.json`, JSON objects by PubMed number: records with these numbers are left out. A
    glob like `files`."""


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


class ConversationData(Section):
    """Conversations from files, and how they become sequences of tokens."""

    sources: Annotated[tuple[ChatSourceBase, ...], Field(min_length=1)]
    """Where the conversations come from."""
    mixture: Literal["epochs", "proportions"] = "epochs"
    """What weights mean. `epochs`: how often a source is read while the mixture is read once. `proportions`: shares of
    the sequences."""
    chat_template: Template = "tokenizer"
    """How conversations become text: by the tokenizer's own template, or by one of ours, which is then saved with the
    model."""
    system_prompt: Annotated[str, Field(min_length=1)] | None = None
    """System prompt of conversations that have none."""
    too_long: Literal["drop", "truncate"] = "drop"
    """What happens to an example of more than `sequence_length` tokens."""
    validation: Fraction = 0.0
    """Share of the conversations held out, chosen by a hash of their first question."""
    max_bad_fraction: Fraction = 0.001
    """Unreadable records are counted and skipped up to this share of all records; beyond it the run fails."""

    @property
    def last_answer_only(self) -> bool:
        """Whether all answers but the last one of a conversation are context."""
        return True

    def inputs(self) -> Iterator[Input]:
        """Give the files of all sources."""
        for place, source in enumerate(self.sources):
            yield Input(f"data.sources.{place}.files", "files", source.files)
            if isinstance(source, PubMedQaSource) and source.exclude:
                yield Input(f"data.sources.{place}.exclude", "files", source.exclude)

    def shares(self, sizes: Sequence[int]) -> list[Exact]:
        """Return each source's share of the sequences, up to a common factor; for epochs, its sequences in one.

        Args:
            sizes: Sequences that each source has.
        """
        weights = [Exact(str(source.weight)) for source in self.sources]
        return [w * (size if self.mixture == "epochs" else 1) for w, size in zip(weights, sizes, strict=True)]

    @override
    def _conflicts(self) -> Iterator[str]:
        names = [source.name for source in self.sources]
        for i, name in enumerate(names):
            if name in names[:i]:
                yield f"sources.{i}.name: `{name}` is used twice; write another name"
        if self.validation == 1:
            yield "validation: leaves nothing to train on; write less than 1"


class ChatData(ConversationData):
    """The conversations; the model learns their answers."""

    sources: Annotated[tuple[ChatSource, ...], Field(min_length=1)]
    """Where the conversations come from."""
    draws: Literal["permuted", "independent"] = "permuted"
    """`permuted`: all sequences of a source are read before one is read twice. `independent`: sequences are drawn with
    replacement, as BioMed-LLaMA did; needs `packing: pad`."""
    train_on: Literal["all", "last"] = "all"
    """Which answers of a conversation are learned: all of them, or the last one, with the others as context."""
    packing: Literal["bfd", "pad"] = "bfd"
    """How examples become sequences. `bfd`: several in one, by best fit decreasing; they cannot attend to one another,
    and none is cut. `pad`: one each, padded to the longest of its micro batch."""
    stratify_by: Name | None = None
    """A key of the records, such as `final_decision`: the held-out conversations of all sources together have the same
    share of each of its values. If left out, a hash alone decides."""
    terminology: TextTerminology | None = None
    """Normalise medical terms in what is trained on; mask or vary them in the turns of the user only."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield from super().inputs()
        if self.terminology:
            yield self.terminology.needs("data.terminology")

    @property
    @override
    def last_answer_only(self) -> bool:
        return self.train_on == "last"

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        if self.stratify_by and not self.validation:
            yield "stratify_by: nothing is held out; write a share as `validation`, or leave it out"
        if self.draws == "independent" and self.packing == "bfd":
            yield "packing: `draws: independent` draws single examples; write `pad`"
        for place, source in enumerate(self.sources):
            if self.terminology and getattr(source, "answer", None) in ("text", "both"):
                yield (
                    f"sources.{place}.answer: `terminology` could change an option and not the answer that repeats it; "
                    "write `letter`"
                )
