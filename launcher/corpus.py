"""manifest.json of a prepared corpus: what it is made of, and how to tell that it is whole."""

import hashlib
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from launcher.errors import LauncherError

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
"""Beside the manifest, so that a corpus can be decoded by itself; its checksum is `tokenizer.fingerprint`."""
FORMAT: Literal[3] = 3
"""Version of the corpus format; also part of every fingerprint."""

Split: TypeAlias = Literal["train", "validation"]
IdFormat: TypeAlias = Literal["uint16", "uint32"]
SPLITS: tuple[Split, ...] = ("train", "validation")
ID_BYTES: dict[IdFormat, int] = {"uint16": 2, "uint32": 4}
Key = TypeVar("Key", bound=str)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Shard(_Record):
    """One file of token ids and, beside it in NAME.index, the documents' ends (datatrove's `.ds` layout).

    Ends are little-endian uint64, counted in tokens from the start of the shard.
    """

    name: str
    """Path below the corpus folder, e.g. `train/00000.ds`."""
    tokens: int
    documents: int
    sha256: str
    index_sha256: str


class SourceFile(_Record):
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
    """Of them in the corpus, when all has been decided; not counted for conversations."""
    tokens: dict[Split, int] = {}
    """Of these documents."""


class Tally(_Record):
    """What became of the records of one source file, or of all."""

    records: int = 0
    """Lines that are not blank, citations, articles or rows."""
    bad_records: int = 0
    """Records that could not be read, and all records of damaged files (an estimate)."""
    dropped: dict[str, int] = {}
    """Readable documents left out, by reason."""
    documents: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    tokens: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    licenses: dict[str, int] = {}
    """Documents by licence: an article's own where it states one, else its source's."""
    phi: dict[str, int] = {}
    """What looks like patients' data, by pattern, in the documents that passed all filters, later duplicates among them
    (see `jobs.data.clean.phi`); empty if the recipe does not ask for it."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            records=self.records + other.records,
            bad_records=self.bad_records + other.bad_records,
            dropped=_sum(self.dropped, other.dropped),
            documents=_sum(self.documents, other.documents),
            tokens=_sum(self.tokens, other.tokens),
            licenses=_sum(self.licenses, other.licenses),
            phi=_sum(self.phi, other.phi),
        )


def _sum(left: dict[Key, int], right: dict[Key, int]) -> dict[Key, int]:
    return {key: left.get(key, 0) + right.get(key, 0) for key in sorted({*left, *right})}


class TokenizerRecord(_Record):
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


class SplitRule(_Record):
    """Which documents are held out for validation."""

    validation: float
    """Share of the documents."""
    rule: str = (
        "BLAKE2b with a digest of 8 bytes, read as a big-endian number, of the document's text, or of `mimic_iv/` or "
        "`mimic_iii/` and the SUBJECT_ID, all in UTF-8: for validation if below validation * 2^64"
    )


class EvaluationSet(_Record):
    """A file of evaluation data that no document of the corpus shares a run of words with."""

    path: str
    sha256: str
    records: int
    """List elements, lines or rows."""
    ngrams: int
    """Runs of words in it that documents were searched for, without those of files before it."""
    documents: int
    """Documents dropped for it; each counts for the first record that is found."""
    found: int
    """Records that were found."""
    found_most: dict[str, int]
    """The most frequent of them by their number, from 1, with their documents. Where one has many, it may hold
    a phrase that everybody writes."""


class Manifest(_Record):
    """Everything there is to say about a prepared corpus."""

    format: Literal[3] = FORMAT
    corpus: str
    data_use: Literal["open", "credentialed"]
    fingerprint: str
    """Equal for equal source files, filters, split and tokenizer: the shards are then the same bytes."""
    code: str
    """Version and snapshot of the code that made it; several, joined by commas, if parts were kept from an earlier try
    with other code."""
    tokenizer: TokenizerRecord
    dtype: IdFormat
    split: SplitRule
    clean: dict[str, Any]
    """The recipe's `clean`."""
    decontamination: tuple[EvaluationSet, ...] = ()
    """What the recipe's `clean.decontaminate` found."""
    counts: Tally
    sources: tuple[SourceFile, ...]
    shards: dict[Split, tuple[Shard, ...]]

    @property
    def all_shards(self) -> list[Shard]:
        """Of all splits."""
        return [shard for split in SPLITS for shard in self.shards[split]]

    def sizes(self) -> dict[str, int]:
        """Bytes of all shards and their indices, by their paths below the folder."""
        ids = {shard.name: shard.tokens * ID_BYTES[self.dtype] for shard in self.all_shards}
        return ids | {f"{shard.name}.index": shard.documents * 8 for shard in self.all_shards}

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every file of the corpus but this one, by its path below the folder."""
        indices = {f"{shard.name}.index": shard.index_sha256 for shard in self.all_shards}
        ids = {shard.name: shard.sha256 for shard in self.all_shards}
        return {TOKENIZER: self.tokenizer.fingerprint} | ids | indices


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a published corpus.

    Raises:
        LauncherError: there is none, or it is not one.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise LauncherError(
            f"{folder}: is not a prepared corpus ({MANIFEST} is missing); submit the `prepare` recipe that makes it"
        ) from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = f"{path}: {'.'.join(map(str, fault['loc']))}".removesuffix(": ")
        fix = "copy it anew, or remove the folder and prepare the corpus again"
        raise LauncherError(f"{where}: {fault['msg']}; {fix}") from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
