"""Find words that texts share with evaluation sets, by an index of the sets.

What counts is a run of `ngram` words of a string of a record. A shorter string counts as a whole if it ends in a
question mark and has at least `SHORTEST` words, the smallest run that Brown et al. 2020
(https://arxiv.org/abs/2005.14165, appendix C) look for. Other strings are options and common phrases: "CT scan of the
chest, abdomen, and pelvis" would empty a corpus of radiology reports. Words are runs of letters and digits in lower
case, or one Chinese or Japanese character each, both in Unicode's form NFKC, so that `clean.normalise` makes no
difference.
"""

# datatrove 0.10: NGramsDecontFilter fails with xxhash 4, and its indexer needs lighteval.
# datatrove's NGramsDecontFilter looks up every n-gram of every document: 6 MB/s, with words split as here. This looks
# up seeds, a few words at every few words, so close that each run of the shortest length contains one. Only around
# seeds that are in the index all runs are looked up: 22 MB/s.

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from jobs.data.clean.evaluation import Record, read_records
from jobs.data.clean.text import normalised
from launcher.errors import LauncherError

SHORTEST = 8
_CHARACTERS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_CHARACTER = re.compile(rf"[{_CHARACTERS}]")
_WORD = re.compile(r"[^\W_]+")
_WORD_OR_CHARACTER = re.compile(rf"[{_CHARACTERS}]|[^\W_{_CHARACTERS}]+")
_STRETCH = 2**17
"""Words of a document in memory at once; also the characters of a text that surely has fewer."""


@dataclass(frozen=True)
class EvaluationFile:
    """An evaluation set that was read."""

    path: Path
    sha256: str
    records: int
    ngrams: int
    """Runs of words that it added to the index."""


@dataclass(frozen=True)
class EvaluationIndex:
    """All runs of words that no document may have; some 150 bytes of memory each."""

    files: tuple[EvaluationFile, ...]
    ngram: int
    """Words in the longest runs."""
    seeds: frozenset[str]
    """All seeds in the runs."""
    hashes: NDArray[np.uint64]
    """Of all runs, ascending."""
    owners: NDArray[np.uint32]
    """The number of the first record that has each of them, counted through all files."""

    def find(self, text: str) -> int | None:
        """Return the number of a record that shares a run of words with a text, or None."""
        owners = (self._find(words) for words in stretches(text, self.ngram - 1))
        return next((owner for owner in owners if owner is not None), None)

    def place(self, owner: int) -> tuple[int, int]:
        """Return the file of a record, and its number there, counted from 1."""
        starts = list(accumulate((file.records for file in self.files), initial=0))
        number = bisect_right(starts, owner) - 1
        return number, owner - starts[number] + 1

    def _find(self, words: Sequence[str]) -> int | None:
        size = seed_words(self.ngram)
        step = shortest_run(self.ngram) - size + 1
        seeds = [" ".join(words[start : start + size]) for start in range(0, len(words) - size + 1, step)]
        if self.seeds.isdisjoint(seeds):
            return None
        places = (number * step for number, seed in enumerate(seeds) if seed in self.seeds)
        return next((owner for place in places if (owner := self._find_around(words, place)) is not None), None)

    def _find_around(self, words: Sequence[str], place: int) -> int | None:
        """Look up all runs that contain the seed at a place."""
        end = place + seed_words(self.ngram)
        runs = [
            " ".join(words[start : start + length])
            for length in range(shortest_run(self.ngram), self.ngram + 1)
            for start in range(max(0, end - length), min(place, len(words) - length) + 1)
        ]
        hashes = np.fromiter(map(hash_of, runs), np.uint64, len(runs))
        found = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        hits = np.flatnonzero(self.hashes[found] == hashes)
        return int(self.owners[found[hits[0]]]) if len(hits) else None


def build_index(paths: Iterable[Path], ngram: int) -> EvaluationIndex:
    """Read the files of evaluation sets, and index all runs of `ngram` words.

    Raises:
        LauncherError: a file cannot be read, or no text in all of them is long enough.
    """
    files: list[EvaluationFile] = []
    owners: dict[int, int] = {}
    seeds: set[str] = set()
    for path in paths:
        records, sha256 = read_records(path)
        before, first = len(owners), sum(file.records for file in files)
        for owner, record in enumerate(records, first):
            for run in runs_of(record, ngram):
                owners.setdefault(hash_of(" ".join(run)), owner)
                seeds.update(" ".join(seed) for seed in ngrams(run, seed_words(ngram)))
        files.append(EvaluationFile(path, sha256, len(records), len(owners) - before))
    if not owners:
        raise LauncherError(
            f"clean.decontaminate.files: no text of {ngram} words or more is in "
            f"{', '.join(file.path.name for file in files)}; name the files that hold questions or contexts"
        )
    hashes = np.fromiter(owners, np.uint64, len(owners))
    order = np.argsort(hashes)
    in_order = np.fromiter(owners.values(), np.uint32, len(owners))[order]
    return EvaluationIndex(tuple(files), ngram, frozenset(seeds), hashes[order], in_order)


def runs_of(record: Record, ngram: int) -> Iterator[Sequence[str]]:
    """Give the runs of words of a record that documents must not have."""
    for string in record:
        words = words_of(string)
        if len(words) >= ngram or (len(words) >= SHORTEST and string.rstrip().endswith(("?", "\uff1f"))):
            yield from ngrams(words, min(ngram, len(words)))


def shortest_run(ngram: int) -> int:
    """Return the number of words in the shortest runs."""
    return min(SHORTEST, ngram)


def seed_words(ngram: int) -> int:
    """Return the length of seeds: longer ones are rarely found by chance, but have to lie closer together."""
    return max(1, shortest_run(ngram) * 3 // 4)


def ngrams(words: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Give all runs of `size` words."""
    return (words[start : start + size] for start in range(len(words) - size + 1))


def words_of(text: str) -> list[str]:
    """Split a text into words."""
    folded = _folded(text)
    return _pattern(folded).findall(folded)


def stretches(text: str, shared: int) -> Iterator[list[str]]:
    """Split a text into words, a long one in stretches that share so many words that no run is cut."""
    if len(text) <= _STRETCH:
        yield words_of(text)
        return
    folded = _folded(text)
    words = (match.group() for match in _pattern(folded).finditer(folded))
    stretch: list[str] = []
    while more := list(islice(words, _STRETCH)):
        stretch = [*stretch[len(stretch) - shared :], *more]
        yield stretch


def hash_of(run: str) -> int:
    """64 bits of XXH3: if 10^9 runs are looked up among 3 million, one is found by chance in one of 6,000 corpora."""
    return xxhash.xxh3_64_intdigest(run.encode())


def _folded(text: str) -> str:
    return normalised("NFKC", text).lower()


def _pattern(text: str) -> re.Pattern[str]:
    # Telling words and characters apart takes twice as long.
    return _WORD_OR_CHARACTER if not text.isascii() and _CHARACTER.search(text) else _WORD
