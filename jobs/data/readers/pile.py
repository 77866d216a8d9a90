"""Reader of Pile-style JSON lines: `{"text": ..., "meta": {"pile_set_name": ...}}`."""

from collections.abc import Iterator
from functools import partial

from datatrove.data import Document

from jobs.data.readers.source_stream import SourceStream, object_of
from launcher.recipe.sections.text_sources import PileSource


def read_pile(stream: SourceStream, source: PileSource) -> Iterator[Document]:
    """Give the file's documents in order."""
    # datatrove's JsonlReader stops at the first byte that is not UTF-8, fails on a line that is not an object, and does
    # not say which line it skipped.
    for number, line in stream.lines():
        for document in stream.parsed(number, partial(parse_document, line, f"{stream.path.name}:{number}")):
            subset = document.metadata.get("pile_set_name")
            stream.count_values([subset])
            is_wanted = not source.subsets or subset in source.subsets
            # The file's own metadata must not be mistaken for a reader's.
            document.metadata = {} if is_wanted else {"drop": "other_subset"}
            yield document


def parse_document(line: bytes, name: str) -> Document:
    """Parse one line.

    Raises:
        ValueError: it is not a document; the message does not quote it.
    """
    fields = object_of(line)
    if "text" not in fields:
        raise ValueError("has no `text`")
    if not isinstance(fields["text"], str):
        raise ValueError("its `text` is not a string")
    meta = fields.get("meta")
    return Document(fields["text"], name, metadata=meta if isinstance(meta, dict) else {})
