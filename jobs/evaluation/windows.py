"""Cut documents into windows, in which each token but the first ones is predicted exactly once.

Places count the tokens of all documents one after another, whether or not a window may cross from one to the next.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Window:
    """What the model reads at once, and what it predicts of it."""

    start: int
    """Place of the first token that is read."""
    first: int
    """Place of the first token that is predicted."""
    end: int
    """Place after the last one that is predicted; it is not read itself."""

    @property
    def length(self) -> int:
        """Tokens that are read."""
        return self.end - 1 - self.start


class DocumentPlaces:
    """Where documents are when they lie one after another.

    Args:
        lengths: Tokens of each document.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.starts = [*accumulate(lengths, initial=0)]
        """Place of the first token of each document, and at last the number of all tokens."""

    def parts(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Give the documents of a range: number, first token of it in the range, and the token after the last."""
        number = bisect_right(self.starts, start) - 1
        while start < end:
            origin, stop = self.starts[number], min(end, self.starts[number + 1])
            yield number, start - origin, stop - origin
            start, number = stop, number + 1


def windows_of_documents(places: DocumentPlaces, lead: int, length: int, stride: int) -> list[Window]:
    """Cut each document by itself.

    Args:
        places: Of the documents.
        lead: Tokens at the start of each that are given, not predicted; at least one.
        length: Tokens that the model reads at once.
        stride: Tokens that are predicted in a window after the first.
    """
    ends = places.starts[1:]
    return [
        window
        for start, end in zip(places.starts, ends, strict=False)
        for window in _cut(start, start + lead, end, length, stride)
    ]


def windows_of_stream(places: DocumentPlaces, length: int, stride: int) -> list[Window]:
    """Cut all documents together: each but the first begins wherever the one before it ends.

    The tokens that begin a document count as predicted here, although they are part of no text.

    Args:
        places: Of the documents.
        length: Tokens that the model reads at once.
        stride: Tokens that are predicted in a window after the first.
    """
    return [*_cut(0, 1, places.starts[-1], length, stride)]


def _cut(start: int, first: int, end: int, length: int, stride: int) -> Iterator[Window]:
    # As lm-eval's get_rolling_token_windows and make_disjoint_window do: the last window reaches back as far as it can.
    stop = min(end, start + length + 1)
    while first < end:
        yield Window(max(start, stop - 1 - length), first, stop)
        first, stop = stop, min(end, stop + stride)
