"""Lengths of a corpus's documents, and how many training sequences they make."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import sub
from pathlib import Path

from launcher.artifacts.corpus_manifest import SPLITS, Split
from launcher.corpora.find import PublishedCorpus
from launcher.errors import LauncherError

_ENDS_AT_ONCE = 2**17


@dataclass(frozen=True)
class Lengths:
    """Documents of a split, counted by their tokens."""

    counts: dict[int, int]
    """Number of documents by length, the shortest first."""

    @property
    def documents(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    @property
    def tokens(self) -> int:
        """Tokens of all of them."""
        return sum(length * number for length, number in self.counts.items())

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(self.counts, default=0)

    @property
    def mean(self) -> float:
        """Tokens of a document on average."""
        return self.tokens / self.documents if self.documents else 0.0

    def quantile(self, share: float) -> int:
        """Tokens that at least this share of the documents does not exceed (nearest rank)."""
        wanted, seen = share * self.documents, 0
        for length, number in self.counts.items():
            seen += number
            if seen >= wanted:
                return length
        return 0


@dataclass(frozen=True)
class Packing:
    """What a recipe's `data.packing` makes of a split."""

    sequences: int
    lost: float = 0.0
    """Share of the tokens that is never read."""
    padding: float = 0.0
    """Share of the sequences' places that hold no token."""


def measure_lengths(corpus: PublishedCorpus) -> tuple[dict[Split, Lengths], str]:
    """Count the documents of all splits by length; nothing, and why, if an index is not what it should be."""
    try:
        return {split: count_lengths(corpus, split) for split in SPLITS}, ""
    except LauncherError as error:
        return {}, str(error)


def count_lengths(corpus: PublishedCorpus, split: Split) -> Lengths:
    """Count the documents of a split by length; reads the index files, a little at a time.

    Raises:
        LauncherError: one of them is missing or has another size than the manifest says.
    """
    counts = Counter[int]()
    for shard in corpus.manifest.shards[split]:
        before = 0
        for ends in read_ends(corpus.folder / f"{shard.name}.index", shard.documents):
            counts.update(map(sub, ends, chain((before,), ends)))
            before = ends[-1]
    return Lengths(dict(sorted(counts.items())))


def packings(lengths: Lengths, length: int) -> dict[str, Packing]:
    """Tell what each way of packing makes of documents.

    Args:
        lengths: Of the documents.
        length: The recipe's `batch.sequence_length`.
    """
    tokens, counts = lengths.tokens, lengths.counts
    cut = sum((each - length) * number for each, number in counts.items() if each > length)
    pieces = sum(-(-each // length) * number for each, number in counts.items())
    return {
        "packed": Packing(-(-tokens // length)),
        "truncate": Packing(lengths.documents, _share(cut, tokens), _padding(tokens - cut, lengths.documents * length)),
        "pad": Packing(pieces, padding=_padding(tokens, pieces * length)),
    }


def read_ends(path: Path, documents: int) -> Iterator[Sequence[int]]:
    """Read where the documents of a shard end, some documents at a time.

    Args:
        path: The shard's index.
        documents: How many the manifest says there are.

    Raises:
        LauncherError: The index is missing or of another size.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size != documents * 8:
                raise LauncherError(f"{path}: has {size:,} bytes, not {documents * 8:,}; the corpus is damaged")
            while block := file.read(_ENDS_AT_ONCE * 8):
                yield array("Q", block)
    except FileNotFoundError:
        raise LauncherError(f"{path}: is missing; the corpus is damaged") from None


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _padding(tokens: int, places: int) -> float:
    return 1 - tokens / places if places else 0.0
