"""Reader of Pile-style JSON lines: `{"text": ..., "meta": {"pile_set_name": ...}}`."""

from collections.abc import Iterator

import orjson
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from jobs.data.lines import SourceLines


class PileReader(PipelineStep):
    """A datatrove reader of one file that counts each line it cannot read, with its number.

    datatrove's own JsonlReader gives up a file at the first byte that is not UTF-8, dies of a line
    that is no object, and does not say which line it skipped.
    """

    type = "reader"
    name = "pile"

    def __init__(self, lines: SourceLines) -> None:
        super().__init__()
        self._lines = lines

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Give the file's documents in order."""
        for number, line in self._lines:
            try:
                document = parse_document(line, f"{self._lines.path.name}:{number}")
            except ValueError as error:
                self._lines.spoil(number, str(error))
            else:
                yield document


def parse_document(line: bytes, name: str) -> Document:
    """Parse one line.

    Raises:
        ValueError: it is not a document; the message quotes nothing of it.
    """
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(fields, dict):
        raise ValueError("is not a JSON object")
    if "text" not in fields:
        raise ValueError("has no `text`")
    if not isinstance(fields["text"], str):
        raise ValueError("its `text` is not a string")
    meta = fields.get("meta")
    return Document(fields["text"], name, metadata=meta if isinstance(meta, dict) else {})
