"""Keys of the documents of a source file, by which `finalise` decides which documents stay in the corpus.

Duplicates and older versions are known only when everything has been read. So a few bytes for every document are kept
beside the shards, and documents are dropped without reading the text again.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datatrove.data import Document
from numpy.typing import NDArray

from jobs.data.readers.source_stream import SourceStream
from jobs.rank.atomic_files import replace_durably
from launcher.artifacts.corpus_manifest import SPLITS, Split

_FORMATS = {
    "ordinals": "<u4", "splits": "u1", "texts": "<u8", "licenses": "<u4", "signed": "<u4", "identified": "<u4",
    "identities": "<u8", "versions": "<u4", "deleted": "<u8", "deleted_versions": "<u4",
}  # fmt: skip


@dataclass
class KeyRecorder:
    """Collects the keys of one source file while its documents are processed; see `Keys`."""

    license: str
    """Of documents that state none themselves."""
    ordinals: "array[int]" = field(default_factory=lambda: array("I"))
    splits: "array[int]" = field(default_factory=lambda: array("B"))
    texts: "array[int]" = field(default_factory=lambda: array("Q"))
    licenses: "array[int]" = field(default_factory=lambda: array("I"))
    license_names: dict[str, int] = field(default_factory=dict)
    signed: "array[int]" = field(default_factory=lambda: array("I"))
    identified: "array[int]" = field(default_factory=lambda: array("I"))
    identities: "array[int]" = field(default_factory=lambda: array("Q"))
    versions: "array[int]" = field(default_factory=lambda: array("I"))

    def number(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Number documents as they come from the reader, and record their identities."""
        for ordinal, document in enumerate(documents):
            document.metadata["ordinal"] = ordinal
            if "identity" in document.metadata:
                self.identified.append(ordinal)
                self.identities.append(document.metadata["identity"])
                self.versions.append(document.metadata.get("version", 0))
            yield document

    def keep(self, document: Document, split: Split, content: int) -> None:
        """Record a document written to the shard of a split; `content` is a hash that copies of it share."""
        self.ordinals.append(document.metadata["ordinal"])
        self.splits.append(SPLITS.index(split))
        self.texts.append(content)
        license = document.metadata.get("license", self.license)
        self.licenses.append(self.license_names.setdefault(license, len(self.license_names)))

    def save(self, path: Path, stream: SourceStream) -> None:
        """Write the keys, and what the file withdraws."""
        columns = {**vars(self), "deleted": stream.deleted, "deleted_versions": stream.deleted_versions}
        arrays = {name: np.array(columns[name], form) for name, form in _FORMATS.items()}
        arrays["license_names"] = np.array([*self.license_names] or [""])
        with replace_durably(path) as file:
            np.savez(file, allow_pickle=False, **arrays)


@dataclass(frozen=True)
class Keys:
    """The keys of the documents of a source file."""

    ordinals: NDArray[np.uint32]
    """Of the documents in the shards, in the order they were written: their numbers among all that were read."""
    splits: NDArray[np.uint8]
    """Of the same documents: index into SPLITS."""
    texts: NDArray[np.uint64]
    """Of the same documents: a hash of the text, and of its patient if it has one."""
    licenses: NDArray[np.uint32]
    """Of the same documents: index into `license_names`."""
    license_names: NDArray[np.str_]
    """The licences of the documents."""
    signed: NDArray[np.uint32]
    """Places of the same documents that have a MinHash signature, in the signatures' order."""
    identified: NDArray[np.uint32]
    """Numbers of the documents that have an identity, written or dropped."""
    identities: NDArray[np.uint64]
    """Their identities."""
    versions: NDArray[np.uint32]
    """Their versions."""
    deleted: NDArray[np.uint64]
    """Identities that this file withdraws from itself and all files before it."""
    deleted_versions: NDArray[np.uint32]
    """Versions of the same."""


def load_keys(path: Path) -> Keys:
    """Read the keys of a source file."""
    with np.load(path, allow_pickle=False) as arrays:
        return Keys(**arrays)
