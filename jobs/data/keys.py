"""Keys of a part's documents: what decides, once all parts are there, which documents stay in the corpus.

Duplicates and older versions can only be told when everything has been read. So each part keeps, beside
its shards, a few bytes for every document, and `finalise` drops documents by their keys, without
reading the text again.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datatrove.data import Document
from numpy.typing import NDArray

from jobs.data.readers.intake import Intake
from jobs.runtime.durable import replace_durably
from launcher.corpus import SPLITS, Split


@dataclass
class KeyRecorder:
    """Collects the keys of one part while its documents run through."""

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
        """Number documents as they come from the reader, and keep the identities of those that have one."""
        for ordinal, document in enumerate(documents):
            document.metadata["ordinal"] = ordinal
            if "identity" in document.metadata:
                self.identified.append(ordinal)
                self.identities.append(document.metadata["identity"])
                self.versions.append(document.metadata.get("version", 0))
            yield document

    def keep(self, document: Document, split: Split, content: int) -> None:
        """Record a document that was written to a shard; those of a split are recorded in the shard's order.

        Args:
            document: As the reader gave it.
            split: It was written to.
            content: Hash of what makes it a copy of another.
        """
        self.ordinals.append(document.metadata["ordinal"])
        self.splits.append(SPLITS.index(split))
        self.texts.append(content)
        license = document.metadata.get("license", self.license)
        self.licenses.append(self.license_names.setdefault(license, len(self.license_names)))

    def save(self, path: Path, intake: Intake) -> None:
        """Write the keys of the part, durably, and what its file withdraws."""
        arrays = {
            "ordinals": np.array(self.ordinals, "<u4"),
            "splits": np.array(self.splits, "u1"),
            "texts": np.array(self.texts, "<u8"),
            "licenses": np.array(self.licenses, "<u4"),
            "license_names": np.array([*self.license_names] or [""]),
            "signed": np.array(self.signed, "<u4"),
            "identified": np.array(self.identified, "<u4"),
            "identities": np.array(self.identities, "<u8"),
            "versions": np.array(self.versions, "<u4"),
            "deleted": np.array(intake.deleted, "<u8"),
            "deleted_versions": np.array(intake.deleted_versions, "<u4"),
        }
        with replace_durably(path) as file:
            np.savez(file, allow_pickle=False, **arrays)


@dataclass(frozen=True)
class Keys:
    """The keys of a finished part."""

    ordinals: NDArray[np.uint32]
    """Of the documents in the shards, in the order they were written: their number among all the reader gave."""
    splits: NDArray[np.uint8]
    """Of the same documents: index into SPLITS."""
    texts: NDArray[np.uint64]
    """Of the same documents: a hash of the text, and of its patient if it has one."""
    licenses: NDArray[np.uint32]
    """Of the same documents: index into `license_names`."""
    license_names: NDArray[np.str_]
    """The licences of the part's documents."""
    signed: NDArray[np.uint32]
    """Those of the same documents, by their place, that have a MinHash signature, in the signatures' order."""
    identified: NDArray[np.uint32]
    """Numbers of the documents that have an identity, written or dropped."""
    identities: NDArray[np.uint64]
    """Their identities."""
    versions: NDArray[np.uint32]
    """Their versions."""
    deleted: NDArray[np.uint64]
    """Identities of what this part withdraws from itself and all parts before it."""
    deleted_versions: NDArray[np.uint32]
    """Versions of the same."""


def load_keys(path: Path) -> Keys:
    """Read the keys of a finished part."""
    with np.load(path, allow_pickle=False) as arrays:
        return Keys(**arrays)
