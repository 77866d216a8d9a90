"""Reader of PubMed Central articles: JATS XML in files of its own, in sets, and in archives.

The text is title, abstracts and body, a paragraph or heading a block, with blank lines between them. Decided:
    * References, footnotes, tables, figures with their captions, supplements, acknowledgements and everything else
      behind the body are left out, and headings under which nothing is left; so are labels (`1.`, `Figure 2`).
    * Abstracts for tables of contents and for the web repeat the abstract and are left out; summaries by authors
      and editors are kept. Translated abstracts, responses and sub-articles (reviews, translations) are not read.
    * Of the versions of an article the highest is the newest; without a number, that in the later file.
    * Formulas are text where there is MathML or TeX; those that are pictures only are left out.

Element names: https://jats.nlm.nih.gov/archiving/tag-library/1.3/
"""

import io
from collections.abc import Iterator

from datatrove.data import Document

from jobs.data.readers import source_stream
from jobs.data.readers.compression import DECOMPRESSION_ERRORS, format_suffix
from jobs.data.readers.licenses import license_of
from jobs.data.readers.markup import TEXT_LEVEL, ElementRoles, Paragraph, paragraphs_of
from jobs.data.readers.source_stream import SourceStream
from jobs.data.readers.tar_members import BrokenArchiveError, Member, members
from jobs.data.readers.xml_records import BrokenXmlError, Cut, Cutter, Element
from launcher.recipe.sections.text_sources import PmcSource

PMCID = 2**40
"""Added to PMCIDs to make identities: these are shared by all sources, and PMIDs are numbers of the same size."""

_TAGS = (("article",), ("pmc-articleset",))
_ARTICLES = (".nxml", ".xml")
_ARCHIVES = (".tar", ".tgz")
# fmt: off
_BRIEF = frozenset({"graphical", "precis", "short", "teaser", "toc", "video", "web-summary"})
_FLOATS = frozenset({
    "fig", "fig-group", "graphic", "media", "supplementary-material", "table", "table-wrap", "table-wrap-group",
})
_NO_TEXT = _FLOATS | {
    "alt-text", "attrib", "fn", "fn-group", "index-term", "inline-graphic", "inline-supplementary-material", "label",
    "long-desc", "object-id", "permissions", "processing-meta", "ref-list", "related-article", "related-object",
    "sec-meta",
}
_BLOCKS = frozenset({
    "abstract", "boxed-text", "code", "def", "def-item", "disp-quote", "list", "list-item", "p", "preformat", "sec",
    "speech", "statement", "subtitle", "term", "title", "verse-group", "verse-line",
})
# fmt: on
_TITLES = frozenset({"title", "subtitle"})
_SPACED = _FLOATS | {"break", "disp-formula"}


def read_pmc(stream: SourceStream, source: PmcSource) -> Iterator[Document]:
    """Give the file's articles in order."""
    with stream.open() as file:
        if format_suffix(stream.path) in _ARCHIVES:
            yield from _read_archive(stream, file, source)
        else:
            yield from _read_file(stream, file, source)


def article(element: Element, name: str, source: PmcSource) -> Document:
    """Make a document of an article, called `name` if it has no PMCID.

    Raises:
        ValueError: it is not an article; the message does not quote it.
    """
    meta = element.find("front/article-meta")
    if meta is None:
        raise ValueError("has no head (`front/article-meta`)")
    layout = ElementRoles(_NO_TEXT if source.headings else _NO_TEXT | _TITLES, _BLOCKS, _TITLES, _SPACED)
    parts = [node for node in meta.iterfind("abstract") if node.get("abstract-type") not in _BRIEF]
    parts += element.iterfind("body")
    paragraphs = [text for part in parts for text in _without_bare_headings(paragraphs_of(part, layout))]
    pmcid = _pmcid(meta)
    identity = {"identity": PMCID + pmcid, "version": _version(meta)} if pmcid else {}
    metadata = {**identity, "license": license_of(meta), "drop": None if paragraphs else "no_text"}
    return Document(
        "\n\n".join([*_title(meta), *paragraphs]),
        f"PMC{pmcid}" if pmcid else name,
        metadata={key: value for key, value in metadata.items() if value},
    )


def _title(meta: Element) -> list[str]:
    title = meta.find("title-group/article-title")
    roles = ElementRoles(skipped=_NO_TEXT, spaced=_SPACED)
    text = "" if title is None else " ".join(paragraph.text for paragraph in paragraphs_of(title, roles))
    return [text] if text else []


def _pmcid(meta: Element) -> int:
    """The number of an article in PMC; 0 if it has none."""
    for node in meta.iterfind("article-id"):
        digits = (node.text or "").strip().removeprefix("PMC")
        if node.get("pub-id-type") in ("pmc", "pmcid") and digits.isascii() and digits.isdigit() and len(digits) < 10:
            return int(digits)
    return 0


def _version(meta: Element) -> int:
    """The version of an article in PMC, from `PMC6567245.2` or a number of its own; 0 if it states none."""
    stated = [node.text for node in meta.iterfind("article-id[@pub-id-type='pmcid-ver']")]
    stated += [node.text for node in meta.iterfind(".//article-version[@article-version-type='pmc-version']")]
    for text in stated:
        digits = (text or "").strip().rpartition(".")[2]
        if digits.isascii() and digits.isdigit() and len(digits) < 5:
            return int(digits)
    return 0


def _without_bare_headings(paragraphs: list[Paragraph]) -> list[str]:
    kept: list[Paragraph] = []
    for paragraph in reversed(paragraphs):
        if paragraph.level == TEXT_LEVEL or (kept and kept[-1].level > paragraph.level):
            kept.append(paragraph)
    return [paragraph.text for paragraph in reversed(kept)]


def _read_file(stream: SourceStream, file: io.BufferedIOBase, source: PmcSource) -> Iterator[Document]:
    cutter = Cutter(file, *_TAGS)
    try:
        for cut in cutter:
            yield from _document(cut, cut.line, stream, source)
    except (*DECOMPRESSION_ERRORS, BrokenXmlError) as error:
        stream.corrupt_file(cutter.line, str(error))


def _read_archive(stream: SourceStream, file: io.BufferedIOBase, source: PmcSource) -> Iterator[Document]:
    number = 0
    try:
        for member in members(file, lambda name: name.lower().endswith(_ARTICLES), source_stream.MAX_RECORD_BYTES):
            number = member.number
            yield from _read_member(member, stream, source)
    except (*DECOMPRESSION_ERRORS, BrokenArchiveError) as error:
        stream.corrupt_file(number + 1, str(error))


def _read_member(member: Member, stream: SourceStream, source: PmcSource) -> Iterator[Document]:
    # In place of a line, messages name the number of the file in the archive.
    before = stream.count
    try:
        if member.content is None:
            raise BrokenXmlError(f"is larger than {source_stream.MAX_RECORD_BYTES // 2**20} MiB")
        for cut in Cutter(io.BytesIO(member.content), *_TAGS):
            yield from _document(cut, member.number, stream, source)
    except BrokenXmlError as error:
        if stream.count == before:
            stream.count += 1
            stream.record_error(member.number, str(error))


def _document(cut: Cut, line: int, stream: SourceStream, source: PmcSource) -> Iterator[Document]:
    stream.count += 1
    return stream.parsed(line, lambda: article(cut.parse(), f"{stream.path.name}:{line}", source))
