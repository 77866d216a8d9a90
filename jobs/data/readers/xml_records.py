"""XML records of any provenance: cut out of the byte stream by their tags, then parsed one by one.

A damaged record costs that record alone, and no record takes more memory than a bound. The parser never sees a
document type, so there is no entity to expand and nothing to load. Named characters that document types take from ISO
(`&alpha;`) are read all the same, by HTML's list: all but the sets ISOgrk1, 2 and 4
(https://www.w3.org/TR/xml-entity-names/).

Tags inside comments, CDATA sections and processing instructions do not count. Elsewhere a `<` that starts no tag is not
XML (https://www.w3.org/TR/xml/#syntax).
"""

# Why not lxml's iterparse. Measured on 2026-11-29 (lxml 6, 2 cores, CPU only) on 10,000 citations with one fault in
# the middle (`<` in the text, bad UTF-8, an unknown entity, a hole of NUL bytes, a text of 12 MB): iterparse stops
# there, so 5,000 are lost. With `recover=True` it still loses 5,000 after a `<` in the text or a long text, and gives
# the damaged citation as if it were whole after bad UTF-8, a hole or a missing end tag. This loses the damaged one
# and reports it. The speed is the same (30 MB/s): nearly all time goes into the parser and the text.

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.entities import html5
from typing import Any, TypeAlias

from lxml import etree

from jobs.data.readers import source_stream
from jobs.data.readers.xml_encoding import UnknownEncodingError, Utf8Stream

Element: TypeAlias = Any
"""lxml has no types of its own."""

MAX_MARKUP = 2**20
"""More tags, attributes and references (`&mu;`) are a record error: each takes some 110 bytes, and 4 in the file."""

_LONGEST_TAG = 64
"""Longer than any markup that is searched for, which may lie across two chunks."""
_CHUNK = 2**17
_CLOSES = {b"<!--": re.compile(rb"-->"), b"<![CDATA[": re.compile(rb"\]\]>"), b"<?": re.compile(rb"\?>")}
_DOCTYPE = b"<!DOCTYPE"
# Named characters, and the places where a name does not count. An open one ends with the record: linear time.
_NAME = re.compile(
    rb"<!--.*?(?:-->|\Z)|<!\[CDATA\[.*?(?:\]\]>|\Z)|<\?.*?(?:\?>|\Z)|&([A-Za-z][A-Za-z0-9]{1,31};)", re.DOTALL
)
_NAMES_OF_XML = (b"amp;", b"lt;", b"gt;", b"quot;", b"apos;")
_DOCTYPE_SUBSET = re.compile(rb"[\[>]")
_DOCTYPE_CLOSE = re.compile(rb"\]\s{0,8}>")

# Older files declare these in their document type.
_OPEN = b'<x xmlns:mml="http://www.w3.org/1998/Math/MathML" xmlns:xlink="http://www.w3.org/1999/xlink">'
_CLOSE = b"</x>"


class BrokenXmlError(ValueError):
    """A file ends early or holds something else; the message does not quote it."""


@dataclass(frozen=True)
class Cut:
    """One element as it stands in the file."""

    line: int
    """1-based number of the line it starts in."""
    tag: str
    content: bytes
    """From its start tag to its end tag; empty with a fault."""
    fault: str = ""
    """Why it cannot be read."""

    def parse(self) -> Element:
        """Parse the element, and remove its namespace.

        Raises:
            ValueError: it is not well-formed or too large; the message does not quote it.
        """
        if self.fault:
            raise ValueError(self.fault)
        if len(self.content) > MAX_MARKUP and sum(map(self.content.count, (b"<", b"&", b'="', b"='"))) > MAX_MARKUP:
            raise ValueError(f"has more than {MAX_MARKUP:,} tags, attributes and references")
        try:
            return _parsed(self.content)
        except etree.XMLSyntaxError as error:
            raise ValueError(_said(error, self.line)) from None


class Cutter:
    """Cuts elements out of a stream.

    Args:
        stream: The bytes, decompressed, in UTF-8 or the encoding that they declare.
        elements: Tags of the elements to cut out; they do not nest.
        roots: Tags of elements that have to end before the file does.
    """

    def __init__(self, stream: io.BufferedIOBase, elements: tuple[str, ...], roots: tuple[str, ...] = ()) -> None:
        self._window = _XmlWindow(Utf8Stream(stream))
        self._elements, self._roots = frozenset(elements), frozenset(roots)
        self._expected = elements[0]
        self._opened, self._open_roots, self._is_empty = "", 0, True
        names = "|".join([*elements, *roots]).encode()
        self._markup = re.compile(rb"<(?:(?:%b)[\s>]|/(?:%b)\s{0,8}>|!--|!\[CDATA\[|\?|!DOCTYPE)" % (names, names))

    @property
    def line(self) -> int:
        """The line that has been reached."""
        return self._window.line

    def __iter__(self) -> Iterator[Cut]:
        """Give the elements in order; raise BrokenXmlError at the end of a file that is not whole."""
        while markup := self._window.find(self._markup):
            tag = markup.strip(b"</> \t\r\n").decode()
            if markup in _CLOSES or markup == _DOCTYPE:
                self._pass_over(markup)
            elif tag in self._roots:
                self._open_roots += -1 if markup.startswith(b"</") else 1
                self._is_empty = False
            else:
                yield from self._turn(tag, markup)
        yield from self._end()

    def _turn(self, tag: str, markup: bytes) -> Iterator[Cut]:
        """Handle the start or the end of an element."""
        is_end = markup.startswith(b"</")
        if is_end and tag == self._opened:
            yield self._window.cut(tag)
        elif self._opened:
            yield self._unfinished()
        elif is_end:
            self._window.hold(len(markup))
            yield Cut(self._window.started, tag, b"", "has no start tag")
        if is_end:
            self._opened = ""
            self._window.release()
        else:
            self._opened = tag
            self._window.hold(len(markup))
        self._is_empty = False

    def _end(self) -> Iterator[Cut]:
        if self._opened:
            yield self._unfinished()
        if self._is_empty:
            raise BrokenXmlError(f"holds no `<{self._expected}>`")
        if self._opened or self._open_roots > 0:
            raise BrokenXmlError("ends before its last end tag")

    def _unfinished(self) -> Cut:
        return Cut(self._window.started, self._opened, b"", "has no end tag")

    def _pass_over(self, markup: bytes) -> None:
        if markup == _DOCTYPE:
            if self._window.find(_DOCTYPE_SUBSET) == b"[":
                self._window.find(_DOCTYPE_CLOSE)
        else:
            self._window.find(_CLOSES[markup])


class _XmlWindow:
    """The part of a stream that is in memory: the present chunk, and the current element from its start."""

    def __init__(self, stream: Utf8Stream) -> None:
        self.line = 1
        self.started = 1
        """Line in which the last element that was held starts."""
        self._stream = stream
        self._bytes = bytearray()
        self._position = 0
        """Behind the last match."""
        self._is_held = self._is_too_long = False

    def find(self, pattern: re.Pattern[bytes]) -> bytes | None:
        """Move behind the next match and return it; None at the end of the stream."""
        start = self._position
        while (match := pattern.search(self._bytes, start)) is None:
            start = max(self._position, len(self._bytes) - _LONGEST_TAG)
            start -= self._forget(start)
            try:
                chunk = self._stream.read1(_CHUNK)
            except UnknownEncodingError as error:
                raise BrokenXmlError(str(error)) from None
            if not chunk:
                self._position = len(self._bytes)
                return None
            self._bytes += chunk
        self._position = match.end()
        return match.group()

    def hold(self, length: int) -> None:
        """Keep everything from the start of the last match, which has this length."""
        self._drop(self._position - length)
        self.started, self._is_held, self._is_too_long = self.line, True, False

    def release(self) -> None:
        self._is_held = False

    def cut(self, tag: str) -> Cut:
        """Return what was held, up to the end of the last match."""
        if self._is_too_long or self._position > source_stream.MAX_RECORD_BYTES:
            return Cut(self.started, tag, b"", f"is larger than {source_stream.MAX_RECORD_BYTES // 2**20} MiB")
        return Cut(self.started, tag, bytes(memoryview(self._bytes)[: self._position]))

    def _forget(self, count: int) -> int:
        """Drop bytes unless they are held; return how many were dropped."""
        if self._is_held and len(self._bytes) > source_stream.MAX_RECORD_BYTES:
            self._is_held, self._is_too_long = False, True
        if self._is_held:
            return 0
        self._drop(count)
        return count

    def _drop(self, count: int) -> None:
        self.line += self._bytes.count(b"\n", 0, count)
        del self._bytes[:count]
        self._position = max(0, self._position - count)


def _parsed(content: bytes) -> Element:
    try:
        element = etree.fromstring(b"%b%b%b" % (_OPEN, content, _CLOSE), _parser())[0]
    except etree.XMLSyntaxError:
        numbered = _NAME.sub(_by_number, content)
        if numbered == content:
            raise
        element = etree.fromstring(b"%b%b%b" % (_OPEN, numbered, _CLOSE), _parser())[0]
    namespace = element.tag.rpartition("}")[0]
    if namespace:
        for node in element.iter(f"{namespace}}}*"):
            node.tag = node.tag.removeprefix(f"{namespace}}}")
    return element


def _by_number(match: re.Match[bytes]) -> bytes:
    name = match[1]
    characters = "" if name is None or name in _NAMES_OF_XML else html5.get(name.decode(), "")
    return b"".join(b"&#%d;" % ord(character) for character in characters) or match[0]


def _parser() -> Any:
    # With libxml2's own limits: depth 256, texts of 10 MB. A new one each time, since a parser keeps its messages.
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        collect_ids=False,
    )


def _said(error: Any, line: int) -> str:
    """Name the kind of error and its line; libxml2's message may quote the text."""
    last = error.error_log.last_error
    kind = last.type_name if last else "ERR_UNKNOWN"
    where = line + (error.lineno or 1) - 1
    return f"is not well-formed XML ({kind.removeprefix('ERR_').lower().replace('_', ' ')} in line {where})"
