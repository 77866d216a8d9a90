"""Reader of MEDLINE/PubMed citations: baseline files, update files, and what efetch gives.

The text is the title, a line break, and the abstract's paragraphs, as in the Pile's PubMed Abstracts. Decided:
    * Titles stay as NLM writes them: in brackets if translated. `[Not Available].` is left out, and so are vernacular
      titles and abstracts by others or in other languages (OtherAbstract).
    * Paragraphs of a structured abstract are lines, `LABEL: text`; one that has only a label is left out.
    * An article in several languages is kept if one of them is asked for. MEDLINE's abstracts are English whatever the
      article's language is, so `languages: []` keeps English abstracts of other articles.
    * Copyright lines do not belong to the abstract.
    * Chapters and books of NCBI Bookshelf (efetch gives them among the articles) are citations like others.

Element names: https://dtd.nlm.nih.gov/ncbi/pubmed/doc/out/250101/index.html
"""

from collections.abc import Iterator

from datatrove.data import Document

from jobs.data.readers.compression import DECOMPRESSION_ERRORS
from jobs.data.readers.markup import text_of
from jobs.data.readers.source_stream import SourceStream
from jobs.data.readers.xml_records import BrokenXmlError, Cut, Cutter, Element
from launcher.recipe.sections.text_sources import MedlineSource

_CITATIONS = {"PubmedArticle": "MedlineCitation", "PubmedBookArticle": "BookDocument"}
_DELETIONS = ("DeleteCitation", "DeleteDocument")
_ROOTS = ("PubmedArticleSet", "PubmedBookArticleSet")
_NO_TITLE = "[Not Available]."
_NO_LABEL = ("", "UNLABELLED")


def read_medline(stream: SourceStream, source: MedlineSource) -> Iterator[Document]:
    """Give the file's citations in order, all versions of them; what the file withdraws goes into `deleted`."""
    with stream.open() as file:
        cutter = Cutter(file, (*_CITATIONS, *_DELETIONS), _ROOTS)
        try:
            for cut in cutter:
                if cut.tag in _CITATIONS:
                    stream.count += 1
                    yield from _documents(cut, stream, source)
                else:
                    _delete(cut, stream)
        except (*DECOMPRESSION_ERRORS, BrokenXmlError) as error:
            stream.corrupt_file(cutter.line, str(error))


def _documents(cut: Cut, stream: SourceStream, source: MedlineSource) -> Iterator[Document]:
    for element, document in stream.parsed(cut.line, lambda: (it := cut.parse(), citation(it, source))):
        stream.count_values(dict.fromkeys(node.text for node in element.iter("Language")))
        yield document


def _delete(cut: Cut, stream: SourceStream) -> None:
    try:
        for identity, version in deletions(cut.parse()):
            stream.withdraw(identity, version)
    except ValueError as error:
        # It counts as a record: a withdrawn citation that stays in the corpus has to be noticed.
        stream.count += 1
        stream.record_error(cut.line, str(error))


def deletions(element: Element) -> list[tuple[int, int]]:
    """Return the identities and versions that a DeleteCitation withdraws; other versions stay.

    Without a version, version 1 is meant (https://www.nlm.nih.gov/pubs/techbull/jf12/jf12_pm_versioning.html).

    Raises:
        ValueError: one of them is not a number.
    """
    return [
        (_number(pmid.text, "a deleted PMID"), _number(pmid.get("Version", "1"), "a deleted version"))
        for pmid in element.iter("PMID")
    ]


def citation(element: Element, source: MedlineSource) -> Document:
    """Make a document of a citation.

    Raises:
        ValueError: it is not a citation; the message does not quote it.
    """
    record = element.find(_CITATIONS[element.tag])
    article = record if record is None or record.tag == "BookDocument" else record.find("Article")
    if article is None:
        raise ValueError("has no article")
    pmid = record.find("PMID")
    if pmid is None:
        raise ValueError("has no PMID")
    identity, version = _number(pmid.text, "its PMID"), _number(pmid.get("Version", "1"), "its version")
    abstract = _abstract(article, source.labels)
    metadata: dict[str, int | str] = {"identity": identity, "version": version}
    if reason := _reason_to_drop(article, abstract, source):
        metadata["drop"] = reason
    return Document("\n".join([*_title(article), *abstract]), f"{identity}.{version}", metadata=metadata)


def _reason_to_drop(article: Element, abstract: list[str], source: MedlineSource) -> str | None:
    if source.languages and not any(node.text in source.languages for node in article.iterfind("Language")):
        return "other_language"
    return "no_abstract" if source.require_abstract and not abstract else None


def _title(article: Element) -> list[str]:
    for name in ("ArticleTitle", "Book/BookTitle"):
        title = article.find(name)
        if title is not None and (text := text_of(title)) not in ("", _NO_TITLE):
            return [text]
    return []


def _abstract(article: Element, has_labels: bool) -> list[str]:
    paragraphs = []
    for node in article.iterfind("Abstract/AbstractText"):
        label = node.get("Label", "").strip() if has_labels else ""
        if text := text_of(node):
            paragraphs.append(text if label in _NO_LABEL else f"{label.removesuffix(':')}: {text}")
    return paragraphs


def _number(text: str | None, what: str) -> int:
    digits = (text or "").strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise ValueError(f"{what} is not a number")
    return int(digits)
