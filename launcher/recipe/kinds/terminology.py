"""kind: terminology - ontologies, the UMLS and lists of abbreviations become an index of terms."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Artifact, FolderName, Fraction, Input
from launcher.recipe.kinds.recipe_base import RecipeBase
from launcher.recipe.sections.terminology import TermSource, term_files
from launcher.recipe.sections.text_sources import Source, data_use_conflicts


class TerminologyRecipe(RecipeBase):
    """An index of terms."""

    extras: ClassVar[tuple[str, ...]] = ("data",)
    reads_text: ClassVar[bool] = True
    progress: ClassVar[Literal["files"]] = "files"
    trains: ClassVar[Literal[False]] = False
    is_tracked: ClassVar[Literal[False]] = False

    kind: Literal["terminology"]
    """An index of terms."""
    output: FolderName
    """Name of the index to make, below the profile's `roots.models`."""
    terms: Annotated[tuple[TermSource, ...], Field(min_length=1)]
    """Where the terms come from. If two sources have a term, the first one decides what it means. Abbreviations keep
    the meanings of all sources."""
    exclude: tuple[str, ...] = ()
    """Terms to leave out, such as common words that a source lists as names. Each must be in a source."""
    count_in: tuple[Source, ...] = ()
    """Text in which mentions of each concept are counted, for `masking`."""
    max_bad_fraction: Fraction = 0.001
    """Unreadable records are counted and skipped up to this share of the records of each source; above it the run
    fails."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield from term_files(self.terms)
        for place, source in enumerate(self.count_in):
            is_dataset = source.format == "dataset"
            yield Input(f"count_in.{place}.files", "files", source.files, "dataset" if is_dataset else "any")

    @property
    @override
    def makes(self) -> Artifact:
        return Artifact("terminology", self.output)

    @override
    def _conflicts(self) -> Iterator[str]:
        for key, n, only in (("nodes", self.resources.nodes, 1), ("gpus_per_node", self.resources.gpus_per_node, 0)):
            if n > only:
                yield f"resources.{key}: `terminology` uses the CPUs of one node; write {only}"
        for place, source in enumerate(self.terms):
            if source.format == "umls" and self.data_use == "open":
                yield f"terms.{place}.format: the UMLS is under a licence agreement; write `data_use: credentialed`"
        for conflict in data_use_conflicts(self.count_in, self.data_use):
            yield conflict.replace("sources.", "count_in.", 1)
