"""Decide which of the written documents stay in the corpus, by the keys of all source files.

The first of these rules that applies drops a document:
    deleted: its version was withdrawn by its own file or a later one; a file after that may bring it back.
    superseded: there is a newer document of the same identity: a higher version, or the same version in a later file or
        further down in the file. Documents that filters dropped count as newer ones, deleted documents do not.
    duplicate: an earlier document that stays has the same text, and the same patient if there are patients.
    near_duplicate: see `jobs.data.dedup.near_duplicates`.

The order of files is that of `jobs.data.dedup.file_order`.

Nearly all of it is arithmetic on arrays: 40 million documents take 4 GB.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jobs.data.dedup.document_keys import Keys
from launcher.artifacts.corpus_manifest import SPLITS, Split

Flags: TypeAlias = NDArray[np.bool_]
Decisions: TypeAlias = NDArray[np.uint8]
"""KEPT or the number of a reason for each written document of a source file, in order."""

KEPT, DELETED, SUPERSEDED, DUPLICATE, NEAR_DUPLICATE = range(5)
REASONS = {
    DELETED: "deleted",
    SUPERSEDED: "superseded",
    DUPLICATE: "duplicate",
    NEAR_DUPLICATE: "near_duplicate",
}


@dataclass(frozen=True)
class DecidedFile:
    """The documents of a source file, and what was decided about them."""

    keys: Keys
    decisions: Decisions

    @property
    def stays(self) -> Flags:
        """Which of the written documents stay."""
        flags: Flags = self.decisions == KEPT
        return flags

    def stays_in(self, split: Split) -> Flags:
        """Which of a split's documents stay, in the order of the file's shard."""
        flags: Flags = self.stays[self.keys.splits == SPLITS.index(split)]
        return flags


def decide(files: Sequence[Keys], drops_duplicates: bool) -> list[DecidedFile]:
    """Decide by identity, version and text; near duplicates are found among what stays.

    Args:
        files: Keys of all source files, in order.
        drops_duplicates: Whether only the first of the documents with the same text (and patient) stays.
    """
    decided = [
        DecidedFile(keys, _of_written(keys, its)) for keys, its in zip(files, _decide_identities(files), strict=True)
    ]
    if drops_duplicates:
        _drop_duplicates(decided)
    return decided


def mark(files: Sequence[DecidedFile], places: NDArray[np.integer[Any]], reason: int) -> None:
    """Drop documents for a reason; `places` are their ascending numbers among those of all source files."""
    starts = np.cumsum([0, *(len(file.decisions) for file in files)])
    cuts = np.searchsorted(places, starts)
    for file, start, first, last in zip(files, starts, cuts, cuts[1:], strict=False):
        file.decisions[places[first:last] - start] = reason


def _decide_identities(files: Sequence[Keys]) -> list[Decisions]:
    """Decide about all documents that have an identity, written or not."""
    identities = _joined([keys.identities for keys in files], np.uint64)
    versions = _joined([keys.versions for keys in files], np.uint32)
    stays = ~_joined(_deleted(files), np.bool_)
    decisions = np.where(stays, SUPERSEDED, DELETED).astype(np.uint8)
    decisions[newest(identities, versions, np.flatnonzero(stays))] = KEPT
    ends = np.cumsum([len(keys.identities) for keys in files], dtype=int)
    return [decisions[end - len(keys.identities) : end] for keys, end in zip(files, ends, strict=True)]


def newest(identities: NDArray[np.uint64], versions: NDArray[np.uint32], among: NDArray[np.intp]) -> NDArray[np.intp]:
    """Find the newest document of each identity, `among` these ascending places; later documents are newer."""
    order = among[np.lexsort((versions[among], identities[among]))]  # stable: of equal versions the last is newest
    return order[_differs_from_next(identities[order])]


def _deleted(files: Sequence[Keys]) -> Iterator[Flags]:
    """Give flags of the documents whose version is withdrawn by their own file or a later one."""
    withdrawn = np.unique(_joined([keys.deleted for keys in files], np.uint64))
    last = _last_withdrawals(files)
    for number, keys in enumerate(files):
        flags = _is_among(keys.identities, withdrawn)
        for place in np.flatnonzero(flags):  # few: NLM withdraws a citation in a thousand
            flags[place] = last.get((int(keys.identities[place]), int(keys.versions[place])), -1) >= number
        yield flags


def _is_among(values: NDArray[np.uint64], ascending: NDArray[np.uint64]) -> Flags:
    """Tell which values are among ascending ones; np.isin would sort all of these again for each file."""
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    places = np.searchsorted(ascending, values)
    flags: Flags = ascending[np.minimum(places, len(ascending) - 1)] == values
    return flags


def _last_withdrawals(files: Sequence[Keys]) -> dict[tuple[int, int], int]:
    """Return the last source file that withdraws each identity and version."""
    last: dict[tuple[int, int], int] = {}
    for number, keys in enumerate(files):
        withdrawn = zip(keys.deleted.tolist(), keys.deleted_versions.tolist(), strict=True)
        last.update(dict.fromkeys(withdrawn, number))
    return last


def _of_written(keys: Keys, decided: Decisions) -> Decisions:
    """Pick the decisions about written documents; those without an identity stay."""
    decisions = np.full(len(keys.ordinals), KEPT, np.uint8)
    _, written, identified = np.intersect1d(keys.ordinals, keys.identified, assume_unique=True, return_indices=True)
    decisions[written] = decided[identified]
    return decisions


def _drop_duplicates(files: Sequence[DecidedFile]) -> None:
    texts = _joined((file.keys.texts for file in files), np.uint64)
    stays = np.flatnonzero(_joined((file.stays for file in files), np.bool_))
    is_later = np.ones(len(stays), np.bool_)
    is_later[np.unique(texts[stays], return_index=True)[1]] = False
    mark(files, stays[is_later], DUPLICATE)


def _differs_from_next(values: NDArray[np.uint64]) -> Flags:
    return np.append(values[1:] != values[:-1], True)[: len(values)]


def _joined(arrays: Iterable[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays])
