"""A pseudo-random order of n things that is computed, not stored."""

import hashlib
import struct

_MASK64 = 2**64 - 1
_ROUNDS = 4


class Permutation:
    """A keyed bijection of range(n): any position of the order in constant time and memory.

    A balanced Feistel network on the smallest even number of bits that holds n, walked along its
    cycle until the value falls below n (Black & Rogaway, "Ciphers with Arbitrary Finite Domains",
    2002, https://eprint.iacr.org/2001/012). The domain is less than 4n, so under 4 walks on average.
    """

    def __init__(self, size: int, key: str) -> None:
        self._size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._keys = struct.unpack(f"<{_ROUNDS}Q", hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS).digest())

    def __call__(self, index: int) -> int:
        """Return the item at place `index` of the order."""
        item = self._encrypt(index)
        while item >= self._size:
            item = self._encrypt(item)
        return item

    def _encrypt(self, value: int) -> int:
        mask = (1 << self._half) - 1
        left, right = value >> self._half, value & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return left << self._half | right


def _mix(value: int) -> int:
    # Finaliser of splitmix64: Steele, Lea & Flood 2014, https://doi.org/10.1145/2660193.2660195
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK64
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK64
    return value ^ value >> 31
