"""Task of an evaluation: perplexity of text, by token, word and byte."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from typing_extensions import override

from launcher.recipe.base import FolderName, Input, Name, Positive, Section
from launcher.recipe.sections.text_sources import Source


class PerplexityTask(Section):
    """Perplexity of documents: those of a prepared corpus, or of text files as `prepare` reads them."""

    needs_model: ClassVar[bool] = True

    type: Literal["perplexity"]
    """Perplexity."""
    name: FolderName
    """Name of the task in scores and messages."""
    corpus: Name | None = None
    """A prepared corpus; write this or `source`."""
    split: Literal["train", "validation"] = "validation"
    """Split of the corpus."""
    source: Source | None = None
    """Text files of one format, as in a `prepare` recipe. They are tokenised with the model's own tokenizer."""
    windows: Literal["lm_eval", "documents", "plain"] | None = None
    """How text is cut into windows that the model reads at once. `lm_eval`: as `loglikelihood_rolling` of the Language
    Model Evaluation Harness 0.4.13 (text files only). `documents`: each document by itself, from its start. `plain`:
    all documents one after another, cut wherever a window ends. If left out: `lm_eval` for files, `documents` for a
    corpus."""
    length: Positive | None = None
    """Tokens that the model reads at once; as many as it has positions if left out."""
    stride: Positive | None = None
    """Tokens that each window after the first predicts; each of them has at least `length` - `stride` tokens before it.
    If left out, windows do not overlap, except that the last window of a text begins earlier so that it is full."""
    max_tokens: Positive | None = None
    """Use only this many first tokens of each document, including the BOS token; all if left out."""
    limit: Positive | None = None
    """Use only this many documents, evenly spread, for a quick look."""

    @property
    def scheme(self) -> Literal["lm_eval", "documents", "plain"]:
        """How text is cut."""
        return self.windows or ("documents" if self.corpus else "lm_eval")

    def inputs(self, key: str) -> Iterator[Input]:
        """Give the corpus or the files.

        Args:
            key: Of the task in the recipe.
        """
        if self.corpus:
            yield Input(f"{key}.corpus", "corpus", self.corpus)
        if self.source:
            is_dataset = self.source.format == "dataset"
            yield Input(f"{key}.source.files", "files", self.source.files, "dataset" if is_dataset else "any")

    @override
    def _conflicts(self) -> Iterator[str]:
        if bool(self.corpus) == bool(self.source):
            yield "source: `corpus` and `source` exclude each other, and one is needed; write one of them"
        if self.corpus and self.windows == "lm_eval":
            yield "windows: `lm_eval` needs text, and a corpus holds token ids; write `documents`, or name a `source`"
        if self.source and self.split != type(self).model_fields["split"].default:
            yield "split: belongs to `corpus`; leave it out"
        if self.stride and self.scheme == "lm_eval":
            yield "stride: the windows of `lm_eval` do not overlap; write `windows: documents`, or leave it out"
        if self.stride and self.length and self.stride > self.length:
            yield f"stride: {self.stride} is more than `length` ({self.length}), so it would leave out tokens"
        if self.max_tokens == 1:
            yield "max_tokens: the first token is not predicted; write 2 or more"
