"""Reader of plain text: a document a line, or a document a file."""

from collections.abc import Iterator
from functools import partial

from datatrove.data import Document

from jobs.data.readers.source_stream import MAX_RECORD_BYTES, UNREADABLE, SourceStream, text_of, without_bom
from launcher.recipe.sections.text_sources import TextSource


def read_text(stream: SourceStream, source: TextSource) -> Iterator[Document]:
    """Give the file's documents; blank lines and blank files are left out."""
    records = stream.lines() if source.document == "line" else _whole(stream)
    for number, record in records:
        for text in stream.parsed(number, partial(text_of, record)):
            yield Document(text.replace("\r\n", "\n").removesuffix("\n"), f"{stream.path.name}:{number}")


def _whole(stream: SourceStream) -> Iterator[tuple[int, bytes]]:
    """Give the whole file as its only record."""
    content = b""
    with stream.open() as file:
        try:
            while len(content) <= MAX_RECORD_BYTES and (chunk := file.read(max(2**18, len(content)))):
                content += chunk if content else without_bom(chunk)
        except UNREADABLE as error:
            stream.corrupt_file(content.count(b"\n") + 1, str(error), records=1)
            return
    if len(content) > MAX_RECORD_BYTES:
        stream.count += 1
        stream.record_error(1, f"is longer than {MAX_RECORD_BYTES // 2**20} MiB")
    elif content and not content.isspace():
        stream.count += 1
        yield 1, content
