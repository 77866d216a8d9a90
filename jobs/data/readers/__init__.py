"""Readers: one function a format, from a source file to its documents.

A reader takes a `SourceStream` and the recipe's source, and yields datatrove documents in the file's order. It holds
one record at a time, counts records in `SourceStream.count`, reports those it cannot read to
`SourceStream.record_error`, and quotes the text nowhere but in the document.

A document's `metadata` may hold:
    drop: reason to leave the document out (`other_language`); it is yielded all the same.
    identity, version: numbers; of the documents with one identity only the newest stays in a corpus.
    split_key: documents with the same key (a patient) are in the same split.
    license: the document's own licence.
    removal_marks: number of marks of de-identification that cleaning removed; missing if none.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from datatrove.data import Document

from jobs.data.readers.dataset import read_dataset
from jobs.data.readers.medline import read_medline
from jobs.data.readers.notes import read_mimic_iii, read_mimic_iv
from jobs.data.readers.parquet import read_parquet
from jobs.data.readers.pile import read_pile
from jobs.data.readers.pmc import read_pmc
from jobs.data.readers.source_stream import SourceStream
from jobs.data.readers.text import read_text
from launcher.recipe.names import names_in
from launcher.recipe.sections.text_sources import Source

Reader: TypeAlias = Callable[[SourceStream, Any], Iterator[Document]]

_READERS: dict[str, Reader] = {
    "dataset": read_dataset,
    "medline": read_medline,
    "mimic_iii": read_mimic_iii,
    "mimic_iv": read_mimic_iv,
    "parquet": read_parquet,
    "pile": read_pile,
    "pmc": read_pmc,
    "text": read_text,
}


def read(stream: SourceStream, source: Source) -> Iterator[Document]:
    """Read one file of a source, and count what the recipe names in it."""
    if named := names_in(source):
        stream.expect(named.names)
    return _READERS[source.format](stream, source)
