"""The order in which items of several sources are trained on, computed from a seed."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Protocol

from jobs.data.sampling.mixture import Mixture
from jobs.data.sampling.permutation import Permutation


class Places(Protocol):
    """An order of items."""

    def locate(self, index: int) -> tuple[int, int]:
        """Return the source that place `index` of the order is filled from, and with which of its items."""


class Order:
    """Each source gives all its items once, in an order of its own for every epoch, before it gives one twice.

    Args:
        mixture: Chooses the source of each place.
        counts: Items that each source has.
        names: Of the sources; an order depends on its source's name.
        seed: Changes all orders.
    """

    def __init__(self, mixture: Mixture, counts: Sequence[int], names: Sequence[str], seed: int) -> None:
        self._mixture = mixture
        self._counts = tuple(counts)
        self._names = tuple(names)
        self._seed = seed

    def locate(self, index: int) -> tuple[int, int]:
        """Return the source that place `index` of the order is filled from, and with which of its items."""
        source, given = self._mixture.place(index)
        epoch, turn = divmod(given, self._counts[source])
        return source, _permutation(self._counts[source], f"{self._seed}/{self._names[source]}/{epoch}")(turn)


class IndependentDraws:
    """Each place is drawn by itself, with replacement: a source by its share, then any of its items.

    Args:
        shares: Of the sources, up to a common factor.
        counts: Items that each source has.
        seed: Changes all draws.
    """

    def __init__(self, shares: Sequence[Fraction], counts: Sequence[int], seed: int) -> None:
        total = sum(shares)
        self._bounds = [int(share * 2**64 / total) for share in accumulate(shares)]
        self._counts = tuple(counts)
        self._seed = seed

    def locate(self, index: int) -> tuple[int, int]:
        """Return the source that place `index` of the order is filled from, and with which of its items."""
        digest = hashlib.blake2b(f"{self._seed}/{index}".encode(), digest_size=16).digest()
        source = bisect_right(self._bounds, int.from_bytes(digest[:8]))
        return source, int.from_bytes(digest[8:]) * self._counts[source] >> 64


class EvenlySpread:
    """So many of all items of the sources, in order, at equal distances.

    Args:
        counts: Items that each source has.
        chosen: How many of them to give; at most all.
    """

    def __init__(self, counts: Sequence[int], chosen: int) -> None:
        self._ends = list(accumulate(counts))
        self._chosen = chosen

    def locate(self, index: int) -> tuple[int, int]:
        """Return the source that place `index` of the order is filled from, and with which of its items."""
        place = index * self._ends[-1] // self._chosen
        source = bisect_right(self._ends, place)
        return source, place - (self._ends[source - 1] if source else 0)


@lru_cache(maxsize=64)
def _permutation(size: int, key: str) -> Permutation:
    return Permutation(size, key)
