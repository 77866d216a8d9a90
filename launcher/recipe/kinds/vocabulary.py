"""kind: vocabulary - a tokenizer learns the words of a domain as additional tokens."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Artifact, FolderName, Fraction, Input, Name
from launcher.recipe.kinds.prepare import Clean
from launcher.recipe.kinds.recipe_base import RecipeBase
from launcher.recipe.sections.text_sources import Source, data_use_conflicts, source_files

SMALLEST_CELL = 11
"""Counts of 1 to 10 patients are not published (cell size suppression policy of the Centers for Medicare & Medicaid
Services, https://resdac.org/articles/cms-cell-size-suppression-policy)."""


class VocabularyRecipe(RecipeBase):
    """Vocabulary expansion."""

    extras: ClassVar[tuple[str, ...]] = ("data",)
    reads_text: ClassVar[bool] = True
    progress: ClassVar[Literal["files"]] = "files"
    trains: ClassVar[Literal[False]] = False
    is_tracked: ClassVar[Literal[False]] = False

    kind: Literal["vocabulary"]
    """Vocabulary expansion."""
    tokenizer: Name
    """The tokenizer to expand, a BPE: name below the profile's `roots.models`, a Hugging Face id, or `./...`
    relative to the recipe."""
    output: FolderName
    """Name of the tokenizer to make, below the profile's `roots.models`."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Where the text comes from."""
    new_tokens: Annotated[int, Field(ge=1)] = 20_000
    """Tokens to add; fewer if the text does not have that many in `min_documents`."""
    min_documents: Annotated[int, Field(ge=1)] = 5
    """A new token must occur in at least this many different documents (of different patients, if the source says), by
    itself or inside of a longer new token."""
    max_characters: Annotated[int, Field(ge=2)] = 16
    """Longest new token, its leading space counted (SentencePiece's default)."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the other documents to learn from, chosen by a hash. A few hundred MB of text are enough; all different
    words must fit in memory."""
    heldout: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of the documents held out to measure both tokenizers, chosen by a hash."""
    clean: Clean = Clean()
    """How documents are filtered: `normalise`, `min_characters`, `max_characters` and `languages`."""
    max_bad_fraction: Fraction = 0.001
    """Unreadable records are counted and skipped up to this share; above it the run fails."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield Input("tokenizer", "tokenizer", self.tokenizer)
        yield from source_files(self.sources)

    @property
    @override
    def makes(self) -> Artifact:
        return Artifact("tokenizer", self.output)

    @override
    def _conflicts(self) -> Iterator[str]:
        for key, n, only in (("nodes", self.resources.nodes, 1), ("gpus_per_node", self.resources.gpus_per_node, 0)):
            if n > only:
                yield f"resources.{key}: `vocabulary` uses the CPUs of one node; write {only}"
        default = Clean()
        for key in ("decontaminate", "phi_check", "exact_duplicates", "near_duplicates", "terminology"):
            if getattr(self.clean, key) != getattr(default, key):
                yield f"clean.{key}: only `prepare` does that; leave it out"
        if self.output == self.tokenizer:
            yield "output: the tokenizer itself is never changed; write another name"
        yield from data_use_conflicts(self.sources, self.data_use)
        if self.data_use == "credentialed" and self.min_documents < SMALLEST_CELL:
            yield (
                f"min_documents: tokens that occur in {self.min_documents} documents could identify patients; "
                f"write at least {SMALLEST_CELL}"
            )
