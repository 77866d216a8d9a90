"""Reader of MEDLINE/PubMed citations: baseline files, update files, and what efetch gives.

The text is the title, a line break, and the abstract's paragraphs, as in the Pile's PubMed Abstracts. Decided:
    * Titles stay as NLM writes them: in brackets if they are translations. `[Not Available].` is no title.
      The vernacular title, and abstracts by others or in other languages (OtherAbstract), are left out.
    * Paragraphs of a structured abstract are lines, `LABEL: text`; one that is a label only is left out.
    * Of an article in several languages, one that is asked for is enough. MEDLINE's abstracts are English
      whatever the article's language is, so `languages: []` keeps English abstracts of articles that are not.
    * Lines of copyright are no text of the abstract.
    * Chapters and books of NCBI Bookshelf (efetch gives them among the articles) are citations like others.

Element names: https://dtd.nlm.nih.gov/ncbi/pubmed/doc/out/250101/index.html
"""

from collections.abc import Iterator

from datatrove.data import Document

from jobs.data.readers.intake import DAMAGE, Intake
from jobs.data.readers.markup import text_of
from jobs.data.readers.xml import BrokenXmlError, Cut, Cutter, Element
from launcher.recipe.sources import MedlineSource

_CITATIONS = {"PubmedArticle": "MedlineCitation", "PubmedBookArticle": "BookDocument"}
_DELETIONS = ("DeleteCitation", "DeleteDocument")
_ROOTS = ("PubmedArticleSet", "PubmedBookArticleSet")
_NO_TITLE = "[Not Available]."
_NO_LABEL = ("", "UNLABELLED")


def read_medline(intake: Intake, source: MedlineSource) -> Iterator[Document]:
    """Give the file's citations in order, all versions of them; what the file withdraws goes into `deleted`."""
    with intake.stream() as stream:
        cutter = Cutter(stream, (*_CITATIONS, *_DELETIONS), _ROOTS)
        try:
            for cut in cutter:
                if cut.tag in _CITATIONS:
                    intake.count += 1
                    yield from _document(cut, intake, source)
                else:
                    _delete(cut, intake)
        except (*DAMAGE, BrokenXmlError) as error:
            intake.damage(cutter.line, str(error))


def _document(cut: Cut, intake: Intake, source: MedlineSource) -> Iterator[Document]:
    try:
        document = citation(cut.parse(), source)
    except ValueError as error:
        intake.spoil(cut.line, str(error))
    else:
        yield document


def _delete(cut: Cut, intake: Intake) -> None:
    try:
        for identity, version in deletions(cut.parse()):
            intake.withdraw(identity, version)
    except ValueError as error:
        # Not a citation, but one that stays in the corpus though withdrawn has to be noticed.
        intake.count += 1
        intake.spoil(cut.line, str(error))


def deletions(element: Element) -> list[tuple[int, int]]:
    """Identities and versions that a DeleteCitation withdraws.

    PMID and version together name a citation, and one that says nothing of versions is version 1
    (https://www.nlm.nih.gov/pubs/techbull/jf12/jf12_pm_versioning.html). So other versions stay.

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
        ValueError: it is none; the message quotes nothing of it.
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
