"""Documents with identities and copies, and the rules by which they go, in plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st


@dataclass(frozen=True)
class Doc:
    """A document as a reader gives it; one that a filter drops is not written."""

    text: int = 0
    identity: int | None = None
    version: int = 0
    is_written: bool = True


@dataclass(frozen=True)
class File:
    docs: tuple[Doc, ...] = ()
    deleted: tuple[tuple[int, int], ...] = ()
    """Identities and versions."""


def decisions_by_hand(files: Sequence[File], drops_duplicates: bool) -> list[list[str | None]]:
    """What is decided about each written document, file by file: a reason to drop it, or None."""
    everything = [(number, place, doc) for number, file in enumerate(files) for place, doc in enumerate(file.docs)]
    seen: set[int] = set()
    decisions: list[list[str | None]] = [[] for _ in files]
    for number, place, doc in everything:
        decision = None
        if is_deleted(files, number, doc):
            decision = "deleted"
        elif any(
            other.identity == doc.identity is not None
            and not is_deleted(files, its_number, other)
            and (other.version, its_number, its_place) > (doc.version, number, place)
            for its_number, its_place, other in everything
        ):
            decision = "superseded"
        elif drops_duplicates and doc.is_written and doc.text in seen:
            decision = "duplicate"
        if doc.is_written:
            if decision is None:
                seen.add(doc.text)
            decisions[number].append(decision)
    return decisions


def is_deleted(files: Sequence[File], number: int, doc: Doc) -> bool:
    """Tell whether the document's own file or a later one withdraws it."""
    return doc.identity is not None and any((doc.identity, doc.version) in file.deleted for file in files[number:])


versions = st.sampled_from([0, 1, 2, 2**32 - 1])
docs = st.builds(
    Doc,
    text=st.sampled_from([0, 1, 2, 3, 2**64 - 1]),
    identity=st.none() | st.sampled_from([0, 1, 2, 2**64 - 1]),
    version=versions,
    is_written=st.sampled_from([True, True, False]),
)
files = st.lists(
    st.builds(
        File,
        docs=st.lists(docs, max_size=6).map(tuple),
        deleted=st.lists(st.tuples(st.sampled_from([0, 1, 7, 2**64 - 1]), versions), max_size=4).map(tuple),
    ),
    max_size=5,
)
