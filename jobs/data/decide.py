"""Which of the written documents stay in the corpus, decided by the keys of all parts.

The rules, in this order; a document goes under the first that takes it:
    deleted: its version was withdrawn by its own file or a later one; a file after that may bring it back.
    superseded: there is a newer document of the same identity: a higher version, or the same version in a
        later file or further down in the file. What filters dropped counts as well: a newer version in
        another language leaves no older one behind. What was deleted does not count: it supersedes nothing.
    duplicate: an earlier document that stays has the same text, and the same patient if there are patients.
    near_duplicate: see `jobs.data.near`.

Nearly all of it is arithmetic on arrays, without a Python object for a document: 40 million documents take 4 GB.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jobs.data.keys import Keys
from launcher.corpus import SPLITS, Split

Flags: TypeAlias = NDArray[np.bool_]
Verdicts: TypeAlias = NDArray[np.uint8]
"""Of the written documents of a part, in the order they were written: KEPT or the number of a reason."""

KEPT, DELETED, SUPERSEDED, DUPLICATE, NEAR_DUPLICATE = range(5)
REASONS = {
    DELETED: "deleted",
    SUPERSEDED: "superseded",
    DUPLICATE: "duplicate",
    NEAR_DUPLICATE: "near_duplicate",
}


@dataclass(frozen=True)
class Judged:
    """A part's documents, and what was decided about them."""

    keys: Keys
    verdicts: Verdicts

    @property
    def stays(self) -> Flags:
        """Which of the written documents stay."""
        flags: Flags = self.verdicts == KEPT
        return flags

    def stays_in(self, split: Split) -> Flags:
        """Which of a split's documents stay, in the order of the part's shard."""
        flags: Flags = self.stays[self.keys.splits == SPLITS.index(split)]
        return flags


def decide(parts: Sequence[Keys], drops_duplicates: bool) -> list[Judged]:
    """Decide by identity, version and text; near duplicates are found among what stays.

    Args:
        parts: Keys of all parts, in the order of their files.
        drops_duplicates: Only the first of the documents with the same text (and patient) stays.

    Returns:
        Each part's documents with the verdicts.
    """
    judged = [Judged(keys, _of_written(keys, its)) for keys, its in zip(parts, _judge_identities(parts), strict=True)]
    if drops_duplicates:
        _drop_duplicates(judged)
    return judged


def mark(parts: Sequence[Judged], places: NDArray[np.integer[Any]], reason: int) -> None:
    """Drop documents.

    Args:
        parts: All parts.
        places: Of the documents among the written ones of all parts, ascending.
        reason: Why.
    """
    starts = np.cumsum([0, *(len(part.verdicts) for part in parts)])
    cuts = np.searchsorted(places, starts)
    for part, start, first, last in zip(parts, starts, cuts, cuts[1:], strict=False):
        part.verdicts[places[first:last] - start] = reason


def _judge_identities(parts: Sequence[Keys]) -> list[Verdicts]:
    """Judge all documents that have an identity, written or not."""
    identities = _joined([keys.identities for keys in parts], np.uint64)
    versions = _joined([keys.versions for keys in parts], np.uint32)
    stays = ~_joined(_deleted(parts), np.bool_)
    verdicts = np.where(stays, SUPERSEDED, DELETED).astype(np.uint8)
    verdicts[newest(identities, versions, np.flatnonzero(stays))] = KEPT
    ends = np.cumsum([len(keys.identities) for keys in parts], dtype=int)
    return [verdicts[end - len(keys.identities) : end] for keys, end in zip(parts, ends, strict=True)]


def newest(identities: NDArray[np.uint64], versions: NDArray[np.uint32], among: NDArray[np.intp]) -> NDArray[np.intp]:
    """Find the newest document of each identity.

    Args:
        identities: Of documents, older ones first.
        versions: Of the same documents.
        among: Places of the documents that count, ascending.
    """
    order = among[np.lexsort((versions[among], identities[among]))]  # stable: of equal versions the last is newest
    return order[_differs_from_next(identities[order])]


def _deleted(parts: Sequence[Keys]) -> Iterator[Flags]:
    """Tell which documents with an identity are withdrawn, in their version, by their own file or one behind it."""
    withdrawn = np.unique(_joined([keys.deleted for keys in parts], np.uint64))
    last = _last_withdrawals(parts)
    for number, keys in enumerate(parts):
        flags = np.isin(keys.identities, withdrawn)
        for place in np.flatnonzero(flags):  # few: NLM withdraws a citation in a thousand
            flags[place] = last.get((int(keys.identities[place]), int(keys.versions[place])), -1) >= number
        yield flags


def _last_withdrawals(parts: Sequence[Keys]) -> dict[tuple[int, int], int]:
    """Give the last part that withdraws it, by identity and version."""
    last: dict[tuple[int, int], int] = {}
    for number, keys in enumerate(parts):
        withdrawn = zip(keys.deleted.tolist(), keys.deleted_versions.tolist(), strict=True)
        last.update(dict.fromkeys(withdrawn, number))
    return last


def _of_written(keys: Keys, judged: Verdicts) -> Verdicts:
    """Pick the verdicts on the documents that were written; those without identity stay."""
    verdicts = np.full(len(keys.ordinals), KEPT, np.uint8)
    _, written, identified = np.intersect1d(keys.ordinals, keys.identified, assume_unique=True, return_indices=True)
    verdicts[written] = judged[identified]
    return verdicts


def _drop_duplicates(parts: Sequence[Judged]) -> None:
    texts = _joined((part.keys.texts for part in parts), np.uint64)
    stays = np.flatnonzero(_joined((part.stays for part in parts), np.bool_))
    is_later = np.ones(len(stays), np.bool_)
    is_later[np.unique(texts[stays], return_index=True)[1]] = False
    mark(parts, stays[is_later], DUPLICATE)


def _differs_from_next(values: NDArray[np.uint64]) -> Flags:
    return np.append(values[1:] != values[:-1], True)[: len(values)]


def _joined(arrays: Iterable[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays])
