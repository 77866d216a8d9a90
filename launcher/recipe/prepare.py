"""kind: prepare - from source text to a tokenised, split, checksummed corpus."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from launcher.recipe.sections import ConflictError, Fraction, RecipeBase, Section, refuse_site_path


class Source(Section):
    """Files of one format."""

    format: Literal["pile"] = "pile"
    """`pile`: JSON lines with a `text` field (.jsonl, .jsonl.gz, .jsonl.zst)."""
    files: str
    """Glob below the profile's `roots.data`, or `./...` relative to the recipe."""
    license: str = "unknown"
    """Licence of the text, kept in the corpus's manifest."""
    subset: str | None = None
    """Keep only documents with this `meta.pile_set_name`."""

    _files = field_validator("files")(refuse_site_path)


class PrepareRecipe(RecipeBase):
    """Corpus preparation."""

    kind: Literal["prepare"]
    """Corpus preparation."""
    corpus: str
    """Name of the corpus to make, below the profile's `roots.corpora`."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Where the text comes from."""
    tokenizer: str
    """Name below the profile's `roots.models`, a Hugging Face id, or `./...` relative to the recipe."""
    validation: Fraction = 0.005
    """Share of the documents held out, chosen by a hash of the text."""
    min_characters: Annotated[int, Field(ge=0)] = 1
    """Shorter documents are dropped and counted."""
    max_bad_fraction: Fraction = 0.001
    """Unreadable lines are counted and skipped up to this share; beyond it the run fails."""

    _tokenizer = field_validator("tokenizer")(refuse_site_path)

    @field_validator("corpus")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"`{name}` cannot name a corpus; write letters, digits, `.`, `_` and `-`")
        return name

    @model_validator(mode="after")
    def _is_one_task(self) -> "PrepareRecipe":
        wanted = (("nodes", self.resources.nodes, 1), ("gpus_per_node", self.resources.gpus_per_node, 0))
        wrong = [
            f"resources.{key}: a corpus is prepared by one task; write {only}" for key, n, only in wanted if n > only
        ]
        if wrong:
            raise ConflictError(wrong)
        return self
