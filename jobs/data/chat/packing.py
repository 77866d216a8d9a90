"""Packing: which examples share a sequence."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def best_fit_decreasing(lengths: Sequence[int] | NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Pack whole examples of at most `capacity` tokens into few sequences; return the examples of each.

    From the longest down, each goes to the sequence where it leaves the least room (Johnson 1974,
    https://doi.org/10.1016/0022-0000(74)90026-7: at most 11/9 of the fewest possible sequences, and a few). Examples of
    equal length stay in order.
    """
    packs: list[list[int]] = []
    with_room = defaultdict[int, list[int]](list)
    rooms = 0  # bit r is set where some sequence has room for exactly r more tokens
    for example in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        length = int(lengths[example])
        if fitting := rooms >> length:
            room = length + (fitting & -fitting).bit_length() - 1
            pack = with_room[room].pop()
            rooms ^= (not with_room[room]) << room
        else:
            room, pack = capacity, len(packs)
            packs.append([])
        packs[pack].append(example)
        with_room[room - length].append(pack)
        rooms |= 1 << (room - length)
    return packs
