"""kind: prepare - from source text to a tokenised, split, checksummed corpus."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, Field
from typing_extensions import override

from launcher.recipe.base import Artifact, FolderName, Fraction, Input, Name, RefusedError, Section, nearest_first
from launcher.recipe.kinds.recipe_base import RecipeBase
from launcher.recipe.sections.terminology import TextTerminology
from launcher.recipe.sections.text_sources import Source, data_use_conflicts, source_files

LANGUAGES = """
af am an ar as az ba be bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fo fr fy ga gd gl gu ha he hi hr
ht hu hy id ig is it ja jv ka kk km kn ko ku ky la lb lg ln lo lt lv mg mk ml mn mr ms mt my ne nl nn no oc om
or pa pl ps pt qu ro ru rw sa se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz vi vo wa xh
yo zh zu
""".split()  # noqa: SIM905 - a list would take a line each
"""ISO 639-1 codes of the languages that py3langid identifies."""


def _refuse_other_codes(code: str) -> str:
    if code not in LANGUAGES:
        raise RefusedError(
            "unknown-name",
            f"`{code}` is not a language that can be identified; write one of {nearest_first(code, LANGUAGES)}",
        )
    return code


LanguageCode: TypeAlias = Annotated[str, AfterValidator(_refuse_other_codes)]


class Minhash(Section):
    """Removal of near duplicates by MinHash (Broder 1997; datatrove's implementation)."""

    ngrams: Annotated[int, Field(ge=1)] = 5
    """Words in a shingle."""
    buckets: Annotated[int, Field(ge=1)] = 14
    """Bands; 14 bands of 8 `hashes` find documents of Jaccard similarity 0.75 with a probability of 77 %."""
    hashes: Annotated[int, Field(ge=1)] = 8
    """Hashes in a band."""


class Decontamination(Section):
    """Removal of documents that contain text of evaluation sets.

    Words are runs of letters and digits, compared without case, punctuation and Unicode's variants of letters. In
    Chinese and Japanese each character is a word, so `ngram` should be higher. The manifest says how many documents
    were dropped for each file.
    """

    files: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Evaluation sets (JSON, JSON lines or CSV, with .gz or .zst, too): globs below `roots.data`, or `./...` relative
    to the recipe. All strings in them count, under any key."""
    ngram: Annotated[int, Field(ge=1)] = 13
    """A document is dropped if it shares this many consecutive words with one of them (Brown et al. 2020,
    https://arxiv.org/abs/2005.14165, appendix C), or a whole question of at least 8 words. Other short texts are
    ignored, since many answers occur in any clinical note."""


class Clean(Section):
    """What happens to documents between reading and tokenising, in this order."""

    normalise: Literal["none", "nfc", "nfkc"] = "none"
    """Unicode normalisation."""
    min_characters: Annotated[int, Field(ge=0)] = 1
    """Shorter documents are dropped and counted, and so are those of white space only."""
    max_characters: Annotated[int, Field(ge=1)] = 4_000_000
    """Longer documents are dropped and counted. A document is tokenised as a whole, which takes about 100 MB of memory
    for each million characters, in as many processes as there are CPUs. Books and articles are shorter."""
    languages: tuple[LanguageCode, ...] = ()
    """ISO 639-1 codes of the languages to keep, identified from the text; all if empty. A document is dropped only if
    the probability that it is in one of them is below 1 in 1,000."""
    decontaminate: Decontamination | None = None
    """Drop documents that overlap with evaluation sets."""
    phi_check: bool = False
    """Count patterns that look like patients' data (telephone, social security and record numbers, addresses of
    mail, pages and computers, full dates, names after titles) and marks of de-identification; counts go into the
    manifest, text never. It removes nothing, and finding nothing proves nothing."""
    exact_duplicates: Literal["keep", "drop"] = "keep"
    """Documents with the same text as an earlier one; notes are compared with those of the same patient only."""
    near_duplicates: Minhash | None = None
    """Drop near duplicates of earlier documents; notes of different patients are compared, too."""
    terminology: TextTerminology | None = None
    """Normalise, mask or vary medical terms in documents for training, before duplicates are dropped."""

    @override
    def _conflicts(self) -> Iterator[str]:
        least, most = self.min_characters, self.max_characters
        if least > most:
            yield f"min_characters: {least:,} is more than `max_characters` ({most:,}); write less"


class PrepareRecipe(RecipeBase):
    """Corpus preparation."""

    extras: ClassVar[tuple[str, ...]] = ("data",)
    reads_text: ClassVar[bool] = True
    progress: ClassVar[Literal["files"]] = "files"
    trains: ClassVar[Literal[False]] = False
    is_tracked: ClassVar[Literal[False]] = False
    array: ClassVar[str | None] = "tasks"

    incidental: ClassVar[frozenset[str]] = RecipeBase.incidental | {"tasks"}

    kind: Literal["prepare"]
    """Corpus preparation."""
    corpus: FolderName
    """Name of the corpus to make, below the profile's `roots.corpora`."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Where the text comes from."""
    tokenizer: Name
    """Name below the profile's `roots.models`, a Hugging Face id, or `./...` relative to the recipe."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.005
    """Share of the documents held out, chosen by a hash of the text; for MIMIC, share of the patients."""
    clean: Clean = Clean()
    """How documents are filtered and cleaned."""
    max_bad_fraction: Fraction = 0.001
    """Unreadable records are counted and skipped up to this share of all records; above it the run fails."""
    tasks: Annotated[int, Field(ge=1)] = 1
    """Array elements that the files are spread over, each with these `resources`; another job completes the corpus."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield Input("tokenizer", "tokenizer", self.tokenizer)
        yield from source_files(self.sources)
        for place, pattern in enumerate(self.clean.decontaminate.files if self.clean.decontaminate else ()):
            yield Input(f"clean.decontaminate.files.{place}", "files", pattern)
        if self.clean.terminology:
            yield self.clean.terminology.needs("clean.terminology")

    @property
    @override
    def makes(self) -> Artifact:
        return Artifact("corpus", self.corpus)

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from data_use_conflicts(self.sources, self.data_use)
        for key, n, only in (("nodes", self.resources.nodes, 1), ("gpus_per_node", self.resources.gpus_per_node, 0)):
            if n > only:
                yield f"resources.{key}: a task of `prepare` has the CPUs of one node; write {only}, and raise `tasks`"
