"""Reader of Pile-style JSON lines: `{"text": ..., "meta": {"pile_set_name": ...}}`."""

from collections.abc import Iterator

from datatrove.data import Document

from jobs.data.readers.intake import Intake, object_of
from launcher.recipe.sources import PileSource


def read_pile(intake: Intake, source: PileSource) -> Iterator[Document]:
    """Give the file's documents in order; each line that is not one is counted, with its number.

    datatrove's own JsonlReader gives up a file at the first byte that is not UTF-8, dies of a line
    that is no object, and does not say which line it skipped.
    """
    for number, line in intake.lines():
        try:
            document = parse_document(line, f"{intake.path.name}:{number}")
        except ValueError as error:
            intake.spoil(number, str(error))
        else:
            is_wanted = not source.subsets or document.metadata.get("pile_set_name") in source.subsets
            # What the file says of a document is not to be taken for what a reader says.
            document.metadata = {} if is_wanted else {"drop": "other_subset"}
            yield document


def parse_document(line: bytes, name: str) -> Document:
    """Parse one line.

    Raises:
        ValueError: it is not a document; the message quotes nothing of it.
    """
    fields = object_of(line)
    if "text" not in fields:
        raise ValueError("has no `text`")
    if not isinstance(fields["text"], str):
        raise ValueError("its `text` is not a string")
    meta = fields.get("meta")
    return Document(fields["text"], name, metadata=meta if isinstance(meta, dict) else {})
