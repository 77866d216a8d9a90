"""Small files that are read as a whole: lists of classes, numbers to leave out, evaluation sets, predictions."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.data.readers.compression import DECOMPRESSION_ERRORS
from jobs.data.readers.source_stream import MAX_RECORD_BYTES, EncodingError, SourceStream, without_bom
from launcher.errors import LauncherError

MAX_BYTES = 2**30
"""Larger files are refused, and those that a decompressor makes larger: a small file may hold any number of bytes."""
_BLOCK = 2**20


def read_content(stream: SourceStream) -> bytes:
    """Read a file, decompressed as its name says; afterwards its checksum is known.

    Raises:
        LauncherError: it is too large, truncated or corrupt; the message does not quote it.
    """
    content = io.BytesIO()
    try:
        with stream.open() as file:
            while block := file.read(_BLOCK):
                content.write(block)
                _require_size(stream.path, content.tell())
        return content.getvalue()
    except DECOMPRESSION_ERRORS as error:
        unquoted = str(error).partition(" (b'")[0]  # gzip's message quotes the first bytes
        raise LauncherError(f"{stream.path}: the file is corrupt: {unquoted}; fetch it again") from None


def _require_size(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise LauncherError(f"{path}: has more than {MAX_BYTES // 2**20:,} MiB of text; split it, or name another file")


@contextmanager
def csv_text(path: Path, content: bytes) -> Iterator[io.StringIO]:
    """Give the text of a CSV file to be read by the csv module in a `with` block.

    Args:
        path: For messages.
        content: Of the file.

    Raises:
        LauncherError: it is in another encoding, or csv cannot read it.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    text = decoded(path, content)
    if "\0" in text:
        raise LauncherError(f"{path}: holds NUL bytes, as after a failed copy; fetch it again")
    try:
        yield io.StringIO(text, newline="")  # no other sign ends a row
    except csv.Error as error:
        raise LauncherError(f"{path}: is not CSV: {error}; correct the file") from None


def decoded(path: Path, content: bytes) -> str:
    """Decode the content of a text file in UTF-8, with or without a byte order mark.

    Raises:
        LauncherError: it is in another encoding; names the line and the byte.
    """
    try:
        content = without_bom(content)
        return content.decode()
    except EncodingError as error:
        raise LauncherError(f"{path}:1: {error}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise LauncherError(f"{path}:{line}: {what}") from None


def read_text_file(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        LauncherError: it is too large, or in another encoding; names the line and the byte.
    """
    _require_size(path, path.stat().st_size)
    return decoded(path, path.read_bytes())
