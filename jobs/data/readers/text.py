"""Reader of plain text: a document a line, or a document a file."""

from collections.abc import Iterator

from datatrove.data import Document

from jobs.data.readers.intake import BOM, DAMAGE, MAX_RECORD_BYTES, Intake, text_of
from launcher.recipe.sources import TextSource


def read_text(intake: Intake, source: TextSource) -> Iterator[Document]:
    """Give the file's documents; blank lines and blank files are none."""
    records = intake.lines() if source.document == "line" else _whole(intake)
    for number, record in records:
        try:
            text = text_of(record)
        except ValueError as error:
            intake.spoil(number, str(error))
        else:
            text = text.replace("\r\n", "\n").removesuffix("\n")
            yield Document(text, f"{intake.path.name}:{number}")


def _whole(intake: Intake) -> Iterator[tuple[int, bytes]]:
    """Give the whole file as its only record."""
    content = b""
    with intake.stream() as stream:
        try:
            while len(content) <= MAX_RECORD_BYTES and (piece := stream.read(max(2**18, len(content)))):
                content += piece
        except DAMAGE as error:
            intake.damage(content.count(b"\n") + 1, str(error))
            intake.bad = intake.count = 1  # however large it is
            return
    content = content.removeprefix(BOM)
    if len(content) > MAX_RECORD_BYTES:
        intake.count += 1
        intake.spoil(1, f"is longer than {MAX_RECORD_BYTES // 2**20} MiB")
    elif content and not content.isspace():
        intake.count += 1
        yield 1, content
