"""Reader of PubMed Central articles: JATS XML in files of its own, in sets, and in archives.

The text is title, abstracts and body, a paragraph or heading a block, with blank lines between them. Decided:
    * References, footnotes, tables, figures with their captions, supplements, acknowledgements and everything else
      behind the body are left out, and headings under which nothing is left; so are labels (`1.`, `Figure 2`).
    * Abstracts for tables of contents and for the web repeat the abstract and are left out; summaries by authors
      and editors are kept. Translated abstracts, responses and sub-articles (reviews, translations) are not read.
    * Formulas are text where there is MathML or TeX; those that are pictures only are left out.

Element names: https://jats.nlm.nih.gov/archiving/tag-library/1.3/
"""

import io
from collections.abc import Iterator

from datatrove.data import Document

from jobs.data.readers import intake as bounds
from jobs.data.readers.archive import BrokenArchiveError, Member, members
from jobs.data.readers.intake import DAMAGE, Intake
from jobs.data.readers.licenses import license_of
from jobs.data.readers.markup import TEXT_LEVEL, Layout, Paragraph, paragraphs_of
from jobs.data.readers.xml import BrokenXmlError, Cut, Cutter, Element
from launcher.recipe.sources import PmcSource

PMCID = 2**40
"""Added to a PMCID it is an identity: these are one space for all sources, and PMIDs are numbers of the same size."""

_TAGS = (("article",), ("pmc-articleset",))
_ARTICLES = (".nxml", ".xml")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_BRIEF = frozenset({"graphical", "precis", "short", "teaser", "toc", "video", "web-summary"})
_FLOATS = frozenset(
    {"fig", "fig-group", "graphic", "media", "supplementary-material", "table", "table-wrap", "table-wrap-group"}
)
_NO_TEXT = _FLOATS | frozenset(
    {
        "alt-text",
        "attrib",
        "fn",
        "fn-group",
        "index-term",
        "inline-graphic",
        "inline-supplementary-material",
        "label",
        "long-desc",
        "object-id",
        "permissions",
        "processing-meta",
        "ref-list",
        "related-article",
        "related-object",
        "sec-meta",
    }
)
_BLOCKS = frozenset(
    {
        "abstract",
        "boxed-text",
        "code",
        "def",
        "def-item",
        "disp-quote",
        "list",
        "list-item",
        "p",
        "preformat",
        "sec",
        "speech",
        "statement",
        "subtitle",
        "term",
        "title",
        "verse-group",
        "verse-line",
    }
)
_TITLES = frozenset({"title", "subtitle"})
_SPACED = _FLOATS | {"break", "disp-formula"}


def read_pmc(intake: Intake, source: PmcSource) -> Iterator[Document]:
    """Give the file's articles in order."""
    with intake.stream() as stream:
        if intake.path.name.endswith(_ARCHIVES):
            yield from _read_archive(intake, stream, source)
        else:
            yield from _read_file(intake, stream, source)


def article(element: Element, name: str, source: PmcSource) -> Document:
    """Make a document of an article.

    Args:
        element: The article.
        name: Its name if it has no PMCID.
        source: What to keep.

    Raises:
        ValueError: it is none; the message quotes nothing of it.
    """
    meta = element.find("front/article-meta")
    if meta is None:
        raise ValueError("has no head (`front/article-meta`)")
    layout = Layout(_NO_TEXT if source.headings else _NO_TEXT | _TITLES, _BLOCKS, _TITLES, _SPACED)
    parts = [node for node in meta.iterfind("abstract") if node.get("abstract-type") not in _BRIEF]
    parts += element.iterfind("body")
    paragraphs = [text for part in parts for text in _without_bare_headings(paragraphs_of(part, layout))]
    pmcid = _pmcid(meta)
    metadata = {"identity": PMCID + pmcid if pmcid else None, "license": license_of(meta)}
    metadata["drop"] = None if paragraphs else "no_text"
    return Document(
        "\n\n".join([*_title(meta), *paragraphs]),
        f"PMC{pmcid}" if pmcid else name,
        metadata={key: value for key, value in metadata.items() if value},
    )


def _title(meta: Element) -> list[str]:
    title = meta.find("title-group/article-title")
    if title is None:
        return []
    return [" ".join(paragraph.text for paragraph in paragraphs_of(title, Layout(skipped=_NO_TEXT, spaced=_SPACED)))]


def _pmcid(meta: Element) -> int:
    """The number of an article in PMC; 0 if it has none."""
    for node in meta.iterfind("article-id"):
        digits = (node.text or "").strip().removeprefix("PMC")
        if node.get("pub-id-type") in ("pmc", "pmcid") and digits.isascii() and digits.isdigit() and len(digits) < 10:
            return int(digits)
    return 0


def _without_bare_headings(paragraphs: list[Paragraph]) -> list[str]:
    kept: list[Paragraph] = []
    for paragraph in reversed(paragraphs):
        if paragraph.level == TEXT_LEVEL or (kept and kept[-1].level > paragraph.level):
            kept.append(paragraph)
    return [paragraph.text for paragraph in reversed(kept)]


def _read_file(intake: Intake, stream: io.BufferedIOBase, source: PmcSource) -> Iterator[Document]:
    cutter = Cutter(stream, *_TAGS)
    try:
        for cut in cutter:
            yield from _document(cut, cut.line, intake, source)
    except (*DAMAGE, BrokenXmlError) as error:
        intake.damage(cutter.line, str(error))


def _read_archive(intake: Intake, stream: io.BufferedIOBase, source: PmcSource) -> Iterator[Document]:
    number = 0
    try:
        for member in members(stream, lambda name: name.endswith(_ARTICLES), bounds.MAX_RECORD_BYTES):
            number = member.number
            yield from _read_member(member, intake, source)
    except (*DAMAGE, BrokenArchiveError) as error:
        intake.damage(number + 1, str(error))


def _read_member(member: Member, intake: Intake, source: PmcSource) -> Iterator[Document]:
    """Read a file of an archive. Instead of lines, messages have the number of the file in the archive."""
    before = intake.count
    try:
        if member.content is None:
            raise BrokenXmlError(f"is larger than {bounds.MAX_RECORD_BYTES // 2**20} MiB")
        for cut in Cutter(io.BytesIO(member.content), *_TAGS):
            yield from _document(cut, member.number, intake, source)
    except BrokenXmlError as error:
        if intake.count == before:
            intake.count += 1
            intake.spoil(member.number, str(error))


def _document(cut: Cut, line: int, intake: Intake, source: PmcSource) -> Iterator[Document]:
    intake.count += 1
    try:
        document = article(cut.parse(), f"{intake.path.name}:{line}", source)
    except ValueError as error:
        intake.spoil(line, str(error))
    else:
        yield document
