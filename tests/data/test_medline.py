"""MEDLINE citations: texts checked by eye, counts of real files, what is withdrawn and what is left out."""

import gzip
import hashlib
import itertools
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as SlowTree

import pytest

from jobs.data.readers.medline import read_medline
from jobs.data.readers.source_stream import SourceStream
from launcher.artifacts.corpus_manifest import read_manifest
from launcher.recipe.sections.text_sources import MedlineSource
from tests.support.prepare_runs import ASSETS, make_context, write_source
from tests.support.shared_data import shared_data

CHECKED = Path(__file__).parents[1] / "support" / "files" / "citations.xml.gz"
OLD, NEW = "pubmed/medline/pubmed20n0014.slice-a.xml.gz", "pubmed/medline/pubmed21n1298.slice-a.xml.gz"

# Starts of the SHA-256 of texts checked by eye against the XML; their publishers do not let us copy them here.
CHECKED_DIGESTS = {
    "29768149.1": "6cd482e13c2bb5a1",  # labels; indented by a pretty printer, also before a subscript
    "30688338.1": "b70bd97489e7bd7b",  # subscripts in the title
    "31418292.1": "884260fcf0516b25",  # bold and italic inside of names
    "31617889.1": "f5788ab2eaf5e6a2",  # a label without text; a line of copyright
    "31993508.1": "935861fa988723c0",  # MathML
    "32614466.1": "0df4a359598fd64f",  # a power
    "33183482.1": "1ac0dbbe1a800ff9",  # a subscript in italics
    "33197460.1": "f35452fc2b1d5876",  # superscripts that are words
}


def read(path, **options):
    source = SourceStream(path)
    return source, list(read_medline(source, MedlineSource(format="medline", files=path.name, **options)))


def record(pmid='<PMID Version="1">7</PMID>', title="A title.", abstract="Text.", rest="<Language>eng</Language>"):
    if abstract and not abstract.startswith("<"):
        abstract = f"<AbstractText>{abstract}</AbstractText>"
    return (
        f"<PubmedArticle><MedlineCitation>{pmid}<Article><ArticleTitle>{title}</ArticleTitle>"
        f"<Abstract>{abstract}</Abstract>{rest}</Article></MedlineCitation></PubmedArticle>"
    )


def read_records(folder, *records, **options):
    content = f"<PubmedArticleSet>{''.join(records)}</PubmedArticleSet>"
    return read(write_source(folder / "a.xml.gz", content.encode()), **options)


def test_texts_are_those_checked_by_eye(golden):
    source, documents = read(CHECKED)

    shown = [f"=== {d.id} {d.metadata.get('drop', 'kept')}\n{d.text}\n" for d in documents]
    golden("citations.txt", "".join(shown))
    assert (source.count, source.bad) == (20, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [OLD, NEW, "pubmed/medline/efetch-29768149.xml.gz"])
def test_texts_of_real_files_are_those_of_a_plain_parser(name):
    path = shared_data(name)
    _, documents = read(path, languages=())
    found = {document.id: document.text for document in documents}
    with gzip.open(path) as file:
        citations = SlowTree.parse(file).getroot().iter("MedlineCitation")
        plain = {f"{c.findtext('PMID')}.{c.find('PMID').get('Version')}": "".join(letters(c)) for c in citations}

    assert [key for key, text in found.items() if bare(text) != bare(plain.pop(key))] == []
    assert plain == {}


def letters(citation):
    """Title and abstract of a citation in the simplest way."""
    yield from citation.find("Article/ArticleTitle").itertext()
    for node in citation.iterfind("Article/Abstract/AbstractText"):
        if any(text.strip() for text in node.itertext()):
            yield node.get("Label", "").replace("UNLABELLED", "")
            yield from node.itertext()


def bare(text):
    """Only letters and digits: without spaces, and the carets that mark powers."""
    return "".join(filter(str.isalnum, text))


def test_counts_of_a_baseline_file():
    source, documents = read(shared_data(OLD))

    assert (source.count, source.bad, len(source.deleted), len(documents)) == (5000, 0, 0, 5000)
    dropped = Counter(document.metadata.get("drop") for document in documents)
    assert dropped["other_language"] == 1193
    _, documents = read(shared_data(OLD), languages=())
    assert Counter(document.metadata.get("drop") for document in documents) == {None: 2549, "no_abstract": 2451}


def test_counts_of_an_update_file():
    source, documents = read(shared_data(NEW), languages=())

    assert (source.count, source.bad, len(source.deleted)) == (1993, 0, 20)
    assert Counter(document.metadata.get("drop") for document in documents) == {None: 1703, "no_abstract": 290}
    versions = {}
    for document in documents:
        versions.setdefault(document.metadata["identity"], []).append(document.metadata["version"])
    assert {pmid: sorted(found) for pmid, found in versions.items() if len(found) > 1} == {
        30271887: [1, 2, 3, 4],
        33728380: [1, 2],
    }
    _, unlabelled = read(shared_data(NEW), languages=(), labels=False)
    assert sum(one.text != other.text for one, other in zip(documents, unlabelled, strict=True)) == 768


@pytest.mark.slow
def test_inline_markup_is_text_in_all_abstracts_that_have_any():
    _, documents = read(shared_data(NEW), languages=())
    found = {document.id: document.text for document in documents}
    with gzip.open(shared_data(NEW)) as file:
        citations = list(SlowTree.parse(file).getroot().iter("MedlineCitation"))
    marked = [one for one in citations if one.find("Article/Abstract/AbstractText/*") is not None]

    assert len(marked) == 369
    for citation in marked:
        text = bare(found[f"{citation.findtext('PMID')}.{citation.find('PMID').get('Version')}"])
        inline = citation.iterfind("Article/Abstract/AbstractText/*")
        assert all(bare("".join(node.itertext())) in text for node in inline)


def test_texts_that_may_not_be_copied_are_those_checked_by_eye():
    _, new = read(shared_data(NEW))
    _, efetch = read(shared_data("pubmed/medline/efetch-29768149.xml.gz"))
    texts = {document.id: document.text for document in [*new, *efetch]}

    assert {key: digest(texts[key]) for key in CHECKED_DIGESTS} == CHECKED_DIGESTS


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("size", [2**25, pytest.param(2**28, marks=pytest.mark.slow)], ids=["32 MiB", "256 MiB"])
def test_memory_does_not_grow_with_the_file(tmp_path, size):
    path = tmp_path / "large.xml.gz"
    count = write_large(path, size)

    read_all = subprocess.run(
        [sys.executable, "-c", READ_ALL, path],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )

    records, bad, peak = map(int, read_all.stdout.split())
    assert (records, bad) == (count, 0)
    assert peak < 2**28  # most of it Python and its packages


READ_ALL = r"""
import re, sys
from pathlib import Path
from jobs.data.readers.source_stream import SourceStream
from jobs.data.readers.medline import read_medline
from launcher.recipe.sections.text_sources import MedlineSource

source = SourceStream(Path(sys.argv[1]))
assert all(document.text for document in read_medline(source, MedlineSource(format="medline", files="large.xml.gz")))
# Not getrusage: its peak is that of the process that started this one, if that is higher.
peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
print(source.count, source.bad, int(peak[1]) * 1024)
"""


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(2**26, marks=pytest.mark.slow, id="64 MiB"),
        pytest.param(2**31, marks=pytest.mark.long, id="2 GiB"),
    ],
)
def test_a_whole_task_takes_no_more_memory_for_a_larger_file(tmp_path, size):
    """Read, filtered, signed, tokenised and written by a worker, then merged: less than 1 GB, whatever the size."""
    small, large = peaks_of_a_whole_task(tmp_path / "small", 2**25), peaks_of_a_whole_task(tmp_path / "large", size)

    assert max(large) < 10**9
    assert all(more < less + 2**26 for less, more in zip(small, large, strict=True)), (small, large)


def peaks_of_a_whole_task(folder, size):
    """Bytes that the task and its worker have at most held in memory."""
    folder.mkdir()
    count = write_large(folder / "large.xml.gz", size)
    sources = [{"format": "medline", "files": "./large.xml.gz"}]
    clean = {"languages": ["en"], "near_duplicates": {"buckets": 2, "hashes": 8}}
    resources = {"cpus_per_task": 1, "time": "1h"}
    context = make_context(folder, sources=sources, clean=clean, resources=resources)

    argv = [sys.executable, "-c", PREPARE, context.run.root]
    subprocess.run(argv, check=True, capture_output=True, cwd=Path(__file__).parents[2])

    assert read_manifest(folder / "corpora" / "corpus").counts.records == count
    return [int((context.run.root / name).read_text()) for name in ("task", "worker")]


PREPARE = r"""
import re, sys
from pathlib import Path
from jobs.kinds import prepare
from jobs.rank.context import load_context
from jobs.rank.ranks import Ranks
from launcher.run.paths import RunDir

run, process_file = Path(sys.argv[1]), prepare.process_file

def note_peak(name):
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    (run / name).write_text(str(int(peak[1]) * 1024))

def measured(*arguments):
    part = process_file(*arguments)
    note_peak("worker")
    return part

prepare.process_file = measured
prepare.main(load_context(RunDir(run), 0, Ranks(0, 1, 0, 1, 0)))
note_peak("task")
"""


FILLED = re.compile(rb"(<PMID Version=\"1\">|<AbstractText[^>]*>)(.*?)(?=</PMID>|</AbstractText>)", re.DOTALL)


def write_large(path, size):
    """Write the checked citations again and again, under ever new PMIDs with ever other abstracts, to that size.

    The abstracts are made of sentences of real ones, drawn at random, so that few documents are duplicates.
    """
    content = re.sub(rb"<Language>...<", b"<Language>eng<", gzip.decompress(CHECKED.read_bytes()))
    head, tail = content.index(b"<PubmedArticle>"), content.index(b"</PubmedArticleSet>")
    texts = [
        text
        for tag, text in FILLED.findall(gzip.decompress((ASSETS / "medline.xml.gz").read_bytes()))
        if tag.startswith(b"<Abs")
    ]
    sentences = [sentence + b"." for text in texts for sentence in text.split(b". ") if b"<" not in sentence]
    draw, pmids, written = random.Random(0).choices, itertools.count(1), 0

    def fill(match):
        return match[1] + (b"%d" % next(pmids) if match[1].startswith(b"<PMID") else b" ".join(draw(sentences, k=10)))

    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(content[:head])
        while written < size:
            written += file.write(FILLED.sub(fill, content[head:tail]))
        file.write(content[tail:])
    return next(pmids) - 1


def test_the_shipped_file_holds_its_abstracts():
    source, documents = read(ASSETS / "medline.xml.gz")

    assert (source.count, source.bad, len(source.deleted)) == (120, 0, 1)
    assert all("drop" not in document.metadata for document in documents)


def test_a_structured_abstract_is_a_line_a_part(tmp_path):
    abstract = (
        '<AbstractText Label="AIM:">One</AbstractText><AbstractText Label="UNLABELLED">Two</AbstractText>'
        '<AbstractText Label="LEVEL"/><CopyrightInformation>No</CopyrightInformation><AbstractText>Three</AbstractText>'
    )

    _, [labelled] = read_records(tmp_path, record(abstract=abstract))
    _, [plain] = read_records(tmp_path, record(abstract=abstract), labels=False)

    assert labelled.text == "A title.\nAIM: One\nTwo\nThree"
    assert plain.text == "A title.\nOne\nTwo\nThree"


def test_only_title_and_abstract_are_text(tmp_path):
    rest = "<VernacularTitle>Nein</VernacularTitle><Language>eng</Language>"
    other = "<OtherAbstract><AbstractText>No</AbstractText></OtherAbstract>"
    citation = record(title="[Not Available].", rest=rest).replace("</MedlineCitation>", other + "</MedlineCitation>")

    _, [document] = read_records(tmp_path, citation)

    assert document.text == "Text."


@pytest.mark.parametrize(
    ("languages", "wanted", "reason"),
    [(["eng"], ("eng",), None), (["ger"], ("eng",), "other_language"), (["ger", "eng"], ("eng",), None),
     (["ger"], (), None), ([], ("eng",), "other_language")],
)  # fmt: skip
def test_one_language_that_is_wanted_is_enough(tmp_path, languages, wanted, reason):
    rest = "".join(f"<Language>{language}</Language>" for language in languages)

    _, [document] = read_records(tmp_path, record(rest=rest), languages=wanted)

    assert document.metadata.get("drop") == reason


@pytest.mark.parametrize("abstract", ["", "<AbstractText/>", "<AbstractText> <i/>\n</AbstractText>"])
def test_titles_alone_are_kept_only_if_asked_for(tmp_path, abstract):
    _, [dropped] = read_records(tmp_path, record(abstract=abstract))
    _, [kept] = read_records(tmp_path, record(abstract=abstract), require_abstract=False)

    assert dropped.metadata == {"identity": 7, "version": 1, "drop": "no_abstract"}
    assert (kept.text, kept.metadata) == ("A title.", {"identity": 7, "version": 1})


def test_deletions_are_collected_and_are_no_citations(tmp_path):
    source, documents = read_records(
        tmp_path, record(), '<DeleteCitation><PMID Version="3">8</PMID><PMID>9</PMID></DeleteCitation>'
    )

    assert (list(source.deleted), list(source.deleted_versions)) == ([8, 9], [3, 1])
    assert (source.count, len(documents)) == (1, 1)


def test_deletions_that_cannot_be_read_are_noticed(tmp_path):
    source, documents = read_records(
        tmp_path, record(), "<DeleteCitation><PMID>8</PMID><PMID>x</PMID></DeleteCitation>"
    )

    assert (list(source.deleted), source.count, source.bad, len(documents)) == ([], 2, 1, 1)
    assert source.first_bad[0].endswith("a.xml.gz:1: a deleted PMID is not a number")


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (record(pmid=""), "has no PMID"),
        (record(pmid="<PMID>x</PMID>"), "its PMID is not a number"),
        (record(pmid="<PMID>12345678901</PMID>"), "its PMID is not a number"),
        (record(pmid='<PMID Version="one">1</PMID>'), "its version is not a number"),
        ("<PubmedArticle><MedlineCitation/></PubmedArticle>", "has no article"),
        ("<PubmedArticle></PubmedArticle>", "has no article"),
    ],
)
def test_a_citation_that_is_none_is_bad(tmp_path, broken, fault):
    source, documents = read_records(tmp_path, record(), broken)

    assert (source.count, source.bad, len(documents)) == (2, 1, 1)
    assert source.first_bad == [f"{source.path}:1: {fault}"]


def test_books_are_citations(tmp_path):
    book = (
        '<PubmedBookArticle><BookDocument><PMID Version="2">20301295</PMID><Book><BookTitle>The Book</BookTitle></Book>'
        "{}<Language>eng</Language><Abstract><AbstractText>Text.</AbstractText></Abstract></BookDocument>"
        "</PubmedBookArticle>"
    )

    _, [chapter, whole] = read_records(
        tmp_path, book.format('<ArticleTitle book="gene">A Chapter</ArticleTitle>'), book.format("")
    )

    assert (chapter.text, whole.text) == ("A Chapter\nText.", "The Book\nText.")
    assert chapter.metadata == {"identity": 20301295, "version": 2}
