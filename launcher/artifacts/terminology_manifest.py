"""manifest.json of an index of terms: what it was made from, who may use it, and the checksums of its tables."""

from pathlib import Path
from typing import Literal

from launcher.artifacts.corpus_manifest import MANIFEST, ManifestPart, SourceFile, read_valid

CONCEPTS = "concepts.tsv"
TERMS = "terms.tsv"
FORMAT: Literal[1] = 1
"""Version of the tables' format; also part of every fingerprint."""


class TermSourceRecord(ManifestPart):
    """What one source of terms gave."""

    format: str
    license: str
    records: int = 0
    """Lines, rows or abbreviations in its files; 0 if an earlier version made the index, as below."""
    bad_records: int = 0
    """Of them, those that could not be read."""
    concepts: int
    """Concepts that no earlier source has."""
    terms: int
    """Terms in the index."""
    left_out: dict[str, int]
    """Terms that are not in it, by reason."""

    @property
    def left_out_total(self) -> int:
        """Terms that are not in the index, for any reason."""
        return sum(self.left_out.values())


class CountedText(ManifestPart):
    """The text in which mentions were counted."""

    documents: int
    mentions: int
    """Of all concepts."""
    concepts: int
    """Concepts that were mentioned."""
    records: int = 0
    """Of all sources; 0 if an earlier version made the index, as below."""
    bad_records: int = 0
    """Of them, those that could not be read."""


class TerminologyManifest(ManifestPart):
    """The manifest of an index of terms."""

    kind: Literal["terminology"] = "terminology"
    format: Literal[1] = FORMAT
    terminology: str
    """Its name below `roots.models`."""
    data_use: Literal["open", "credentialed"]
    """Of the terms, and of the text that they were counted in; what uses the index inherits it."""
    fingerprint: str
    """Equal for equal source files and settings: the tables are then the same bytes."""
    code: str
    """Version and snapshot of the code that made it."""
    concepts: int
    terms: int
    ambiguous: int
    """Terms with more than one meaning; they are left alone in text unless its context decides."""
    sources: tuple[TermSourceRecord, ...]
    """In the recipe's order, which is that of priority."""
    counted: CountedText | None = None
    bad_examples: tuple[str, ...] = ()
    """The first bad records of all sources for each reason, as `file:line: what is wrong`."""
    files: tuple[SourceFile, ...]
    """Of terms, then of counted text."""
    checksums: dict[str, str]
    """SHA-256 of the tables."""


def read_terminology_manifest(folder: Path) -> TerminologyManifest:
    """Read the manifest of an index of terms.

    Raises:
        LauncherError: the folder holds none.
    """
    missing = "is not an index of terms ({} is missing); submit the `terminology` recipe that makes it"
    return read_valid(TerminologyManifest, folder / MANIFEST, missing, "make the index again")
