"""Count words: how often each occurs, and in how many different documents, up to `min_documents`."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jobs.rank.atomic_files import replace_durably

Holders = tuple[int, ...]
"""Hashes of the documents (or patients) that contain a word: all, or `min_documents` of them."""


@dataclass
class WordCounts:
    """Counts of words, which take 200 to 450 bytes for each different word."""

    enough: int
    """The recipe's `min_documents`: so many holders of a word are tracked."""
    counts: Counter[str] = field(default_factory=Counter)
    holders: dict[str, Holders] = field(default_factory=dict)
    characters: int = 0
    """Of all text, words or not."""

    def add(self, text: str, words: Iterable[str], holder: int) -> None:
        """Count the words of a document; `holder` is a hash that it shares with documents that count as the same."""
        self.characters += len(text)
        found = Counter(words)
        self.counts.update(found)
        for word in found:
            self.hold(word, (holder,))

    def merge(self, other: "WordCounts") -> None:
        """Add other counts."""
        self.characters += other.characters
        self.counts.update(other.counts)
        for word, holders in other.holders.items():
            self.hold(word, holders)

    def hold(self, word: str, holders: Holders) -> None:
        """Track documents per word up to `min_documents`."""
        known = self.holders.get(word, ())
        if len(known) < self.enough:
            self.holders[word] = tuple(dict.fromkeys((*known, *holders)))[: self.enough]

    def save(self, path: Path) -> None:
        """Write the counts, durably."""
        words = sorted(self.counts)
        arrays = {
            "words": np.frombuffer("\n".join(words).encode(), np.uint8),
            "counts": np.array([self.counts[word] for word in words], "<u8"),
            "ends": np.cumsum([len(self.holders[word]) for word in words], dtype="<u8"),
            "holders": np.array([holder for word in words for holder in self.holders[word]], "<u8"),
            "characters": np.array(self.characters, "<u8"),
        }
        with replace_durably(path) as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path, enough: int) -> "WordCounts":
        """Read counts."""
        with np.load(path) as arrays:
            words = arrays["words"].tobytes().decode().split("\n") if len(arrays["counts"]) else []
            holders = np.split(arrays["holders"], arrays["ends"][:-1].astype(np.int64)) if words else []
            counts = dict(zip(words, arrays["counts"].tolist(), strict=True))
            sets = (tuple(part.tolist()) for part in holders)
            return cls(enough, Counter(counts), dict(zip(words, sets, strict=True)), int(arrays["characters"]))
