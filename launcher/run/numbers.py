"""Numbers as people read them. Standard library only."""

from collections.abc import Sequence


def number_list(numbers: Sequence[int]) -> str:
    """Write `0-3, 7`, numbers that follow each other as ranges."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ", ".join("-".join(map(str, ends)) for ends in ranges)


def ranks_in_words(ranks: Sequence[int]) -> str:
    """Write `rank 3` or `ranks 0-3, 7`."""
    return f"rank{'s' * (len(ranks) > 1)} {number_list(ranks)}"
