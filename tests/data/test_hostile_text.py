"""Text that repeats a few characters for hundreds of kilobytes: what goes over it again and again would take hours."""

import io
import tarfile
from xml.sax.saxutils import escape

import pytest
from datatrove.data import Document
from lxml import etree

from jobs.data.clean.overlap import words_of
from jobs.data.clean.phi import PhiCheck
from jobs.data.readers.csv_rows import read_rows
from jobs.data.readers.markup import text_of
from jobs.data.readers.notes import clean_note
from jobs.data.readers.pmc import read_pmc
from jobs.data.readers.source_stream import SourceStream
from jobs.data.readers.tar_members import members
from launcher.recipe.sections.text_sources import PmcSource
from tests.support.prepare_runs import write_source

BYTES = 300_000
UNITS = [
    " ", "\t", "\n", " \n", "\n ", "\r\n", "\u00a0", "\u00a0\n", "a ", "1", "1 ", "1-", "-1", "1/", "1.", "(1",
    "a.", "a@", "@a", "@-", "a-", "[", "]", "[**", "**]", "*", "_", "___", "__ ", "\"", "\"\"", "\",", ",\"",
    "\"\n", "\n\"", ",", "1,\n", "<", ">", "&", "&amp;", "\\begin{document}", "\\end{document}", "$", "\\",
    "Dr ", "Mr.", "MRN ", "Record number ", "Jan 1 ", "1 Jan ", "2015-", "19/", "st ", "(", "creative commons ",
    "creativecommons.org/licenses/", "http://", "www.", "SSN ", "1 path=", "\u5b57",
]  # fmt: skip
hostile = pytest.mark.parametrize("unit", UNITS, ids=ascii)


def repeated(unit):
    return unit * (BYTES // len(unit))


@hostile
def test_inline_markup_is_read_in_linear_time(unit):
    text = escape(repeated(unit))

    element = etree.fromstring(f"<t>{text}x<sub>{text}</sub>{text}x<sup>{text}</sup>{text}<i/>x<sub>1</sub></t>")

    assert len(text_of(element)) <= 6 * BYTES


@hostile
def test_tex_is_read_in_linear_time(unit):
    element = etree.fromstring(f"<t><tex-math>{escape(repeated(unit))}</tex-math></t>")

    assert len(text_of(element)) <= BYTES


def test_formulas_are_looked_for_once_among_many_neighbours():
    element = etree.fromstring("<t>" + "<tex-math>x</tex-math>" * 400_000 + "</t>")

    assert text_of(element) == "x" * 400_000


@hostile
def test_an_articles_head_is_read_in_linear_time(tmp_path, unit):
    text = escape(repeated(unit))
    head = (
        f"<permissions><license><license-p>{text}</license-p></license></permissions><title-group><article-title>{text}"
    )
    article = f"<article><front><article-meta>{head}</article-title></title-group></article-meta></front></article>"
    stream = SourceStream(write_source(tmp_path / "a.nxml", article.encode()))

    assert len(list(read_pmc(stream, PmcSource(format="pmc", files="*")))) == 1


@hostile
def test_notes_are_cleaned_and_checked_in_linear_time(unit):
    text = f"Dr {repeated(unit)}x"

    for how in ("published", "keep_structure"):
        assert len(clean_note(text, how)) <= len(text)
    assert PhiCheck().filter(Document(text, ""))
    assert len(words_of(text)) <= len(text)


@hostile
@pytest.mark.parametrize("row", ['1,"{}"\n', "1,{}\n", '1,"{}\n', '1,"{}"x\n'])
def test_tables_are_read_in_linear_time(tmp_path, unit, row):
    path = write_source(tmp_path / "a.csv", ("number,text\n" + row.format(repeated(unit)) + "1,x\n").encode())
    stream = SourceStream(path)

    assert len(list(read_rows(stream, ["text"], ["number"]))) <= stream.count <= BYTES + 1


@pytest.mark.parametrize("unit", [b"1", b"1 path=", b"1 ", b"\n", b" path="])
def test_names_in_archives_are_read_in_linear_time(unit):
    header = tarfile.TarInfo("name")
    header.type, header.size = tarfile.XHDTYPE, 2**16
    content = header.tobuf(tarfile.PAX_FORMAT) + (unit * 2**16)[: 2**16]

    entries = list(members(io.BytesIO(content * 200 + b"\0" * 512), lambda _: True, 1))

    assert entries == []
