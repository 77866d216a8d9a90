"""kind: vocabulary - a tokenizer learns the words of a domain, as new tokens behind those that it has."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from launcher.recipe.prepare import Clean
from launcher.recipe.rules import ConflictError, FolderName, Fraction, refuse_site_path
from launcher.recipe.sections import RecipeBase
from launcher.recipe.sources import Source, data_use_conflicts

SMALLEST_CELL = 11
"""Counts of 1 to 10 patients are not published (cell size suppression policy of the Centers for Medicare & Medicaid
Services, https://resdac.org/articles/cms-cell-size-suppression-policy)."""


class VocabularyRecipe(RecipeBase):
    """Vocabulary expansion."""

    kind: Literal["vocabulary"]
    """Vocabulary expansion."""
    tokenizer: str
    """The tokenizer to expand, a BPE: name below the profile's `roots.models`, a Hugging Face id, or `./...`
    relative to the recipe."""
    output: FolderName
    """Name of the tokenizer to make, below the profile's `roots.models`."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Where the text comes from."""
    new_tokens: Annotated[int, Field(ge=1)] = 20_000
    """Tokens to add; fewer if the text does not have as many that are common enough."""
    min_documents: Annotated[int, Field(ge=1)] = 5
    """A token must occur in so many documents of different text (where a source tells: of different patients)."""
    max_characters: Annotated[int, Field(ge=2)] = 16
    """Longest new token, its leading space counted (SentencePiece's default)."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the other documents to learn from, chosen by a hash. Some hundred MB of text are enough; all different
    words have to fit in memory."""
    heldout: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of the documents that nothing is learned from, to measure on; chosen by a hash."""
    clean: Clean = Clean()
    """What happens to documents on the way: `normalise`, `min_characters`, `max_characters` and `languages`."""
    max_bad_fraction: Fraction = 0.001
    """Unreadable records are counted and skipped up to this share; beyond it the run fails."""

    _tokenizer = field_validator("tokenizer")(refuse_site_path)

    @property
    def makes(self) -> str:
        """Name that other recipes can use once this one has been carried out."""
        return self.output

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> "VocabularyRecipe":
        conflicts = [*self._resource_conflicts(), *self._clean_conflicts(), *self._data_use_conflicts()]
        if self.output == self.tokenizer:
            conflicts.append("output: the tokenizer itself is never changed; write another name")
        if conflicts:
            raise ConflictError(conflicts)
        return self

    def _resource_conflicts(self) -> Iterator[str]:
        for key, n, only in (("nodes", self.resources.nodes, 1), ("gpus_per_node", self.resources.gpus_per_node, 0)):
            if n > only:
                yield f"resources.{key}: `vocabulary` uses the CPUs of one node; write {only}"

    def _clean_conflicts(self) -> Iterator[str]:
        default = Clean()
        for key in ("decontaminate", "phi_check", "exact_duplicates", "near_duplicates"):
            if getattr(self.clean, key) != getattr(default, key):
                yield f"clean.{key}: only `prepare` does that; leave it out"

    def _data_use_conflicts(self) -> Iterator[str]:
        yield from data_use_conflicts(self.sources, self.data_use)
        if self.data_use == "credentialed" and self.min_documents < SMALLEST_CELL:
            yield (
                f"min_documents: tokens of {self.min_documents} documents could tell who is in credentialed text; "
                f"write at least {SMALLEST_CELL}"
            )
