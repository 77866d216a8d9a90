"""kind: prepare - from source text to a tokenised, split, checksummed corpus."""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, field_validator, model_validator

from launcher.recipe.rules import ConflictError, FolderName, Fraction, Section, refuse_site_path
from launcher.recipe.sections import RecipeBase
from launcher.recipe.sources import Source, data_use_conflicts

LANGUAGES = """
af am an ar as az ba be bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fo fr fy ga gd gl gu ha he hi hr
ht hu hy id ig is it ja jv ka kk km kn ko ku ky la lb lg ln lo lt lv mg mk ml mn mr ms mt my ne nl nn no oc om
or pa pl ps pt qu ro ru rw sa se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz vi vo wa xh
yo zh zu
""".split()  # noqa: SIM905 - a list would take a line each
"""ISO 639-1 codes of the languages that py3langid can tell."""


def _refuse_other_codes(code: str) -> str:
    if code not in LANGUAGES:
        raise ValueError(f"`{code}` is none of the languages that can be told; write {', '.join(LANGUAGES)}")
    return code


LanguageCode: TypeAlias = Annotated[str, AfterValidator(_refuse_other_codes)]


class Minhash(Section):
    """Removal of near duplicates by MinHash (Broder 1997; datatrove's implementation)."""

    ngrams: Annotated[int, Field(ge=1)] = 5
    """Words in a shingle."""
    buckets: Annotated[int, Field(ge=1)] = 14
    """Bands; with `hashes` 8 and 14 bands, documents of Jaccard similarity 0.75 meet with 77 % probability."""
    hashes: Annotated[int, Field(ge=1)] = 8
    """Hashes in a band."""


class Decontamination(Section):
    """Removal of documents that contain text of evaluation sets.

    Words are runs of letters and digits, without case, punctuation and Unicode's variants of letters; in Chinese
    and Japanese each character is one, so that `ngram` should be higher there. What was dropped for each file is in
    the manifest.
    """

    files: Annotated[tuple[str, ...], Field(min_length=1)]
    """Evaluation sets (JSON, JSON lines or CSV, with .gz or .zst, too): globs below `roots.data`, or `./...` relative
    to the recipe. All strings in them count, whatever their key is."""
    ngram: Annotated[int, Field(ge=1)] = 13
    """A document goes as a whole if it shares this many consecutive words with one of them (Brown et al. 2020,
    https://arxiv.org/abs/2005.14165, appendix C), or a whole question of at least 8 words. Other short texts are
    ignored: many an answer stands in any clinical note."""

    @field_validator("files")
    @classmethod
    def _no_site_path(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(refuse_site_path, files))


class Clean(Section):
    """What happens to documents between reading and tokenising, in this order."""

    normalise: Literal["none", "nfc", "nfkc"] = "none"
    """Unicode normalisation."""
    min_characters: Annotated[int, Field(ge=0)] = 1
    """Shorter documents are dropped and counted."""
    max_characters: Annotated[int, Field(ge=1)] = 4_000_000
    """Longer documents are dropped and counted: a document is tokenised as a whole, which takes some 100 MB of memory
    for each million characters, in as many processes as there are CPUs. The longest books and articles are shorter."""
    languages: tuple[LanguageCode, ...] = ()
    """ISO 639-1 codes of the languages to keep, found by the text itself; all if empty. What may be in one of
    them stays: only where that is less probable than 1 in 1,000 a document goes."""
    decontaminate: Decontamination | None = None
    """Drop documents that overlap with evaluation sets."""
    phi_check: bool = False
    """Count patterns that look like patients' data (telephone, social security and record numbers, addresses of
    mail, pages and computers, full dates, names after titles) and marks of de-identification; counts go into the
    manifest, text never. A smell test: it removes nothing, and finding nothing proves nothing."""
    exact_duplicates: Literal["keep", "drop"] = "keep"
    """Documents with the same text as an earlier one; of notes, those of the same patient."""
    near_duplicates: Minhash | None = None
    """Drop near duplicates of earlier documents; notes of different patients are compared as well."""

    @model_validator(mode="after")
    def _refuse_to_drop_all(self) -> "Clean":
        least, most = self.min_characters, self.max_characters
        if least > most:
            raise ConflictError([f"min_characters: {least:,} is more than `max_characters` ({most:,}); write less"])
        return self


class PrepareRecipe(RecipeBase):
    """Corpus preparation."""

    kind: Literal["prepare"]
    """Corpus preparation."""
    corpus: FolderName
    """Name of the corpus to make, below the profile's `roots.corpora`."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Where the text comes from."""
    tokenizer: str
    """Name below the profile's `roots.models`, a Hugging Face id, or `./...` relative to the recipe."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.005
    """Share of the documents held out, chosen by a hash of the text; of MIMIC, of the patients, by their number."""
    clean: Clean = Clean()
    """What happens to documents on the way."""
    max_bad_fraction: Fraction = 0.001
    """Unreadable records are counted and skipped up to this share of all records; beyond it the run fails, as soon as
    that is clear."""
    tasks: Annotated[int, Field(ge=1)] = 1
    """Tasks of the array that the files are spread over, each with these `resources`; the last step is a job of its
    own."""

    _tokenizer = field_validator("tokenizer")(refuse_site_path)

    @property
    def makes(self) -> str:
        """Name that other recipes can use once this one has been carried out."""
        return self.corpus

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> "PrepareRecipe":
        if messages := [*self._resource_conflicts(), *data_use_conflicts(self.sources, self.data_use)]:
            raise ConflictError(messages)
        return self

    def _resource_conflicts(self) -> Iterator[str]:
        for key, n, only in (("nodes", self.resources.nodes, 1), ("gpus_per_node", self.resources.gpus_per_node, 0)):
            if n > only:
                yield f"resources.{key}: a task of `prepare` uses the CPUs of one node; write {only}, and raise `tasks`"
