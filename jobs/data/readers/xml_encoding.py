"""XML in any encoding that it declares, as UTF-8 (https://www.w3.org/TR/xml/#sec-guessing)."""

import codecs
import io
import re

_DECLARATION = re.compile(rb"""<\?xml\s[^>]*?\sencoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]*)["']""")
_LONGEST_DECLARATION = 256
_STARTS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be", b"<\0?\0": "utf-16-le", b"\0<\0?": "utf-16-be"}
# Those that publishers use. Python knows others that are no encodings of files, or that a hostile one could abuse.
_KNOWN = re.compile(
    r"(iso-8859-\d+|windows-\d+|latin-?1|koi8-[ru]|gbk|gb2312|gb18030|big5|shift_jis|euc-(jp|kr))", re.I
)
_UTF8 = ("utf-8", "utf8", "us-ascii", "ascii", "utf-16")  # the last in a file that was converted, with its old start


class UnknownEncodingError(ValueError):
    """A file is not in the encoding that it declares, or in one that is not read."""


class Utf8Stream:
    """Gives a stream's bytes in UTF-8, if it is XML."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._decoder: codecs.IncrementalDecoder | None = None
        self._has_begun = False

    def read1(self, size: int) -> bytes:
        """Give the next bytes; none at the end.

        Raises:
            UnknownEncodingError: see there.
        """
        chunk = self._stream.read1(size) if self._has_begun else self._begin(size)
        if self._decoder is None:
            return chunk
        text = ""
        try:
            while not text and chunk:  # a chunk may be half a character
                text = self._decoder.decode(chunk)
                chunk = b"" if text else self._stream.read1(size)
            return (text or self._decoder.decode(b"", final=True)).encode()
        except UnicodeError as error:
            raise UnknownEncodingError(f"it is not in the encoding that it declares ({_reason(error)})") from None

    def _begin(self, size: int) -> bytes:
        self._has_begun = True
        start = b""
        while len(start) < _LONGEST_DECLARATION and b">" not in start and (chunk := self._stream.read1(size)):
            start += chunk
        if encoding := _encoding_of(start):
            self._decoder = codecs.getincrementaldecoder(encoding)()
        return start


def _encoding_of(start: bytes) -> str | None:
    """Return the encoding of a file by its first bytes; None for UTF-8."""
    for mark, encoding in _STARTS.items():
        if start.startswith(mark):
            return encoding
    declared = _DECLARATION.match(start.removeprefix(codecs.BOM_UTF8))
    name = declared[1].decode().lower() if declared else "utf-8"
    if name in _UTF8 or start.startswith(codecs.BOM_UTF8):
        return None
    try:
        codecs.lookup(name)
    except LookupError:
        name = ""
    if not _KNOWN.fullmatch(name):
        raise UnknownEncodingError("it declares an encoding that is not read; convert it to UTF-8")
    return name


def _reason(error: UnicodeError) -> str:
    return f"byte {error.object[error.start]:#04x}" if isinstance(error, UnicodeDecodeError) else "bytes"
