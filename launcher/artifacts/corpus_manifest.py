"""manifest.json of a prepared corpus: what it was made from, and the checksums of its files."""

import hashlib
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from launcher.errors import LauncherError

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
"""Next to the manifest, so that a corpus can be decoded by itself; its checksum is `tokenizer.fingerprint`."""
CHANGES = "changes.jsonl"
"""What `clean.terminology` changed: a line for each document for training, in their order."""
FORMAT: Literal[3] = 3
"""Version of the corpus format; also part of every fingerprint."""

TERMINOLOGY_COUNTS = {
    "ambiguous": "ambiguous terms left alone",
    "documents": "documents with changed terms",
    "masked": "terms masked",
    "normalised": "terms normalised",
    "synonym": "terms replaced by a synonym",
    "unsettled": "documents left alone: normalising them had no end",
}
"""What is counted of the terms of a text, in words."""

Split: TypeAlias = Literal["train", "validation"]
IdFormat: TypeAlias = Literal["uint16", "uint32"]
SPLITS: tuple[Split, ...] = ("train", "validation")
ID_BYTES: dict[IdFormat, int] = {"uint16": 2, "uint32": 4}
Key = TypeVar("Key", bound=str)
Described = TypeVar("Described", bound="ManifestPart")


class ManifestPart(BaseModel):
    """A part of a file that describes what a run made."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


class Shard(ManifestPart):
    """One file of token ids and, beside it in NAME.index, the documents' ends (datatrove's `.ds` layout).

    Ends are little-endian uint64, in tokens from the start of the shard.
    """

    name: str
    """Path below the corpus folder, e.g. `train/00000.ds`."""
    tokens: int
    documents: int
    sha256: str
    index_sha256: str


class SourceFile(ManifestPart):
    """One file the corpus was made from."""

    path: str
    format: str
    options: dict[str, Any]
    """How it was read."""
    license: str
    size: int
    sha256: str
    records: int
    """As in the tally."""
    documents: dict[Split, int] = {}
    """Of them in the corpus after all filters; not counted for conversations."""
    tokens: dict[Split, int] = {}
    """Of these documents."""


class Tally(ManifestPart):
    """How many records of one source file, or of all, were kept and dropped."""

    records: int = 0
    """Lines that are not blank, citations, articles or rows."""
    bad_records: int = 0
    """Records that could not be read, and all records of damaged files (an estimate)."""
    bad_reasons: dict[str, int] = {}
    """Of them by what is wrong, with N for numbers; empty if an earlier version made the corpus."""
    dropped: dict[str, int] = {}
    """Readable documents left out, by reason."""
    documents: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    tokens: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    licenses: dict[str, int] = {}
    """Documents by licence: an article's own where it states one, else its source's."""
    phi: dict[str, int] = {}
    """Matches of patterns that look like patients' data (`jobs.data.clean.phi`) in documents that passed all filters,
    duplicates included; empty if the recipe does not ask for it."""
    terminology: dict[str, int] = {}
    """What `clean.terminology` did in documents for training that passed all filters, duplicates included; see
    TERMINOLOGY_COUNTS."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            records=self.records + other.records,
            bad_records=self.bad_records + other.bad_records,
            bad_reasons=_sum(self.bad_reasons, other.bad_reasons),
            dropped=_sum(self.dropped, other.dropped),
            documents=_sum(self.documents, other.documents),
            tokens=_sum(self.tokens, other.tokens),
            licenses=_sum(self.licenses, other.licenses),
            phi=_sum(self.phi, other.phi),
            terminology=_sum(self.terminology, other.terminology),
        )


def _sum(left: dict[Key, int], right: dict[Key, int]) -> dict[Key, int]:
    return {key: left.get(key, 0) + right.get(key, 0) for key in sorted({*left, *right})}


class TokenizerRecord(ManifestPart):
    """The tokenizer whose ids the shards hold."""

    path: str
    """As the recipe names it."""
    vocab_size: int
    """Ids are smaller than this; added tokens are counted."""
    fingerprint: str
    """SHA-256 of the tokenizer's rules and vocabulary."""
    prefix: tuple[int, ...]
    """Ids that start every document (BOS), as the tokenizer itself puts them."""
    eos: int
    """Id that ends every document."""


class SplitRule(ManifestPart):
    """Which documents are held out for validation."""

    validation: float
    """Share of the documents."""
    rule: str = (
        "BLAKE2b with a digest of 8 bytes, read as a big-endian number, of the document's text, or of `mimic_iv/` or "
        "`mimic_iii/` and the SUBJECT_ID, all in UTF-8: for validation if below validation * 2^64"
    )


class EvaluationSet(ManifestPart):
    """A file of evaluation data; no document of the corpus shares a run of words with it."""

    path: str
    sha256: str
    records: int
    """List elements, lines or rows."""
    ngrams: int
    """Runs of words in it that documents were searched for, without those of files before it."""
    documents: int
    """Documents dropped for it; each counts for the first record found in it."""
    found: int
    """Records that were found."""
    found_most: dict[str, int]
    """The most frequent of them, by their number from 1, with their documents. One with many may hold a common
    phrase."""


class TermsUsed(ManifestPart):
    """An index of terms, as it was when documents were changed by it."""

    index: str
    """As the recipe names it."""
    fingerprint: str
    """Of its manifest."""
    seed: int
    """Of masks and synonyms."""


class ChangesFile(ManifestPart):
    """The file that says what was changed in each document for training."""

    sha256: str
    size: int


class Manifest(ManifestPart):
    """The manifest of a prepared corpus."""

    format: Literal[3] = FORMAT
    corpus: str
    data_use: Literal["open", "credentialed"]
    fingerprint: str
    """Equal for equal source files, filters, split and tokenizer: the shards are then the same bytes."""
    code: str
    """Version and snapshot of the code that made it; several, joined by commas, if parts were kept of an attempt with
    other code."""
    tokenizer: TokenizerRecord
    dtype: IdFormat
    split: SplitRule
    clean: dict[str, Any]
    """The recipe's `clean`."""
    decontamination: tuple[EvaluationSet, ...] = ()
    """What the recipe's `clean.decontaminate` found."""
    terminology: TermsUsed | None = None
    """The index that `clean.terminology` used."""
    changes: ChangesFile | None = None
    """What it changed."""
    counts: Tally
    bad_examples: tuple[str, ...] = ()
    """The first bad records for each reason, as `file:line: what is wrong`."""
    sources: tuple[SourceFile, ...]
    shards: dict[Split, tuple[Shard, ...]]

    @property
    def all_shards(self) -> list[Shard]:
        """Of all splits."""
        return [shard for split in SPLITS for shard in self.shards[split]]

    def sizes(self) -> dict[str, int]:
        """Bytes of all shards and their indices, by their paths below the folder."""
        ids = {shard.name: shard.tokens * ID_BYTES[self.dtype] for shard in self.all_shards}
        changes = {CHANGES: self.changes.size} if self.changes else {}
        return ids | {f"{shard.name}.index": shard.documents * 8 for shard in self.all_shards} | changes

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every file of the corpus but this one, by its path below the folder."""
        indices = {f"{shard.name}.index": shard.index_sha256 for shard in self.all_shards}
        ids = {shard.name: shard.sha256 for shard in self.all_shards}
        changes = {CHANGES: self.changes.sha256} if self.changes else {}
        return {TOKENIZER: self.tokenizer.fingerprint} | ids | indices | changes


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a published corpus.

    Raises:
        LauncherError: there is none, or it is not valid.
    """
    missing = "is not a prepared corpus ({} is missing); submit the `prepare` recipe that makes it"
    return read_valid(
        Manifest, folder / MANIFEST, missing, "copy it again, or remove the folder and prepare the corpus again"
    )


def read_valid(model: type[Described], path: Path, missing: str, fix: str) -> Described:
    """Read a file that describes what a run made.

    Args:
        model: What it holds.
        path: The file.
        missing: What its folder is without it; `{}` stands for the name.
        fix: What to do about a file that is not valid.

    Raises:
        LauncherError: there is none, or it is not valid.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise LauncherError(f"{path.parent}: {missing.format(path.name)}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = f"{path}: {'.'.join(map(str, fault['loc']))}".removesuffix(": ")
        raise LauncherError(f"{where}: {fault['msg']}; {fix}") from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
