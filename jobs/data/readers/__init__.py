"""Readers: one function a format, from a source file to its documents.

A reader takes an `Intake` and the recipe's source, and yields datatrove documents in the file's order.
It holds no more than one record at a time, counts records in `Intake.count` and those it cannot read
with `Intake.spoil`, and quotes nothing of the text anywhere but in the document.

What it may say about a document, in its `metadata`:
    drop: reason to leave the document out (`other_language`); such a document is yielded all the same.
    identity, version: numbers; of the documents with one identity only the newest stays in a corpus.
    split_key: documents with the same key (a patient) are in the same split.
    license: the document's own licence.
    removal_marks: how many marks of de-identification its text had that cleaning takes out; missing if none.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from datatrove.data import Document

from jobs.data.readers.dataset import read_dataset
from jobs.data.readers.intake import Intake
from jobs.data.readers.medline import read_medline
from jobs.data.readers.notes import read_mimic_iii, read_mimic_iv
from jobs.data.readers.parquet import read_parquet
from jobs.data.readers.pile import read_pile
from jobs.data.readers.pmc import read_pmc
from jobs.data.readers.text import read_text
from launcher.recipe.sources import Source

Reader: TypeAlias = Callable[[Intake, Any], Iterator[Document]]

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


def read(intake: Intake, source: Source) -> Iterator[Document]:
    """Read one file of a source."""
    return _READERS[source.format](intake, source)
