"""Deal files out among ranks or array elements."""

import heapq
from collections.abc import Sequence


def deal(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Deal files out so that all hands get about the same number of bytes.

    The largest file goes first, each to the hand that has least (Graham 1969, https://doi.org/10.1137/0117039): the
    largest hand is at most 4/3 of the best possible. Each process computes this for itself from the sizes alone.

    Returns:
        For each of `count` hands the numbers of its files, the largest first; empty if there are fewer files.
    """
    hands: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, 0, index) for index in range(count)]
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        load, files, index = loads[0]
        hands[index].append(number)
        heapq.heapreplace(loads, (load + sizes[number], files + 1, index))
    return hands
