"""Byte order marks are read, XML in the encoding that it declares; all else is UTF-8 or refused with line and byte."""

import json

import pytest
from pydantic import TypeAdapter

from jobs.data.chat.records import read_records
from jobs.data.clean.evaluation import read_records as read_evaluation
from jobs.data.labelled.tables import read_classes
from jobs.data.readers import read
from jobs.data.readers.csv_rows import read_rows
from jobs.data.readers.source_stream import SourceStream
from jobs.data.readers.text_file import read_text_file
from launcher.errors import LauncherError
from launcher.recipe.sections.labelled_notes import CsvNotes
from launcher.recipe.sections.text_sources import Source
from tests.support.prepare_runs import write_source

ENCODINGS = ["utf-8", "utf-8-sig"]
OTHERS = {"utf-16": "0xff", "utf-16-be": "0xfe", "utf-32": "0xff"}
WORD = "Ménière"


def encoded(text, encoding):
    return ("\ufeff" + text if encoding == "utf-16-be" else text).encode(encoding)


def texts_of(path, format, **options):
    source = TypeAdapter(Source).validate_python({"format": format, "files": path.name, **options})
    stream = SourceStream(path)
    return [document.text for document in read(stream, source)], stream


FILES = {
    "a.jsonl": (json.dumps({"text": WORD}, ensure_ascii=False), {"format": "pile"}),
    "a.txt": (WORD, {"format": "text"}),
    "b.txt": (WORD, {"format": "text", "document": "file"}),
    "a.csv": (f"subject_id,note_seq,text\n1,2,{WORD}\n", {"format": "mimic_iv"}),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", FILES)
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path, name, encoding):
    content, source = FILES[name]

    texts, stream = texts_of(write_source(tmp_path / name, encoded(content, encoding)), **source)

    assert (texts, stream.first_bad) == ([WORD], [])


@pytest.mark.parametrize("encoding", OTHERS)
@pytest.mark.parametrize("name", FILES)
def test_a_file_in_another_unicode_encoding_is_named_as_such(tmp_path, name, encoding):
    content, source = FILES[name]

    texts, stream = texts_of(write_source(tmp_path / name, encoded(content, encoding)), **source)

    assert texts == []
    assert stream.bad == stream.count > 0
    said = (
        f"{name}:1: the file is corrupt, or of another format: byte {OTHERS[encoding]} at its start says that it is UTF"
    )
    assert said in stream.first_bad[0]


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_latin_1_is_refused_with_line_and_byte(tmp_path, name):
    content, source = FILES[name]

    texts, stream = texts_of(write_source(tmp_path / name, content.encode("latin-1")), **source)

    line = 2 if name == "a.csv" else 1
    assert texts == []
    assert stream.first_bad == [f"{tmp_path / name}:{line}: byte 0xe9 is not UTF-8; save the file as UTF-8"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_conversations_are_read_with_a_byte_order_mark(tmp_path, name, encoding):
    record = json.dumps({"prompt": WORD}, ensure_ascii=False)
    content = f"[{record}, {record}]" if name == "a.json" else f"{record}\n{record}\n"
    stream = SourceStream(write_source(tmp_path / name, encoded(content, encoding)))

    assert [record["prompt"] for _, _, record in read_records(stream)] == [WORD, WORD]
    assert stream.bad == 0


@pytest.mark.parametrize("encoding", OTHERS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_conversations_in_another_unicode_encoding_are_named_as_such(tmp_path, name, encoding):
    stream = SourceStream(write_source(tmp_path / name, encoded('[{"prompt": "a"}]', encoding)))

    assert list(read_records(stream)) == []
    assert f"byte {OTHERS[encoding]} at its start says that it is UTF-" in stream.first_bad[0]


def classes_of(path):
    data = CsvNotes.model_validate(
        {
            "format": "csv",
            "train": "./a.csv",
            "validation": "./b.csv",
            "labels": "multilabel",
            "class_file": path.name,
        }
    )
    return read_classes(data, lambda files: str(path.parent / files))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_first_class_has_no_byte_order_mark_in_it(tmp_path, encoding):
    path = write_source(tmp_path / "codes.txt", encoded("038\n250\nMénière\n", encoding))

    assert classes_of(path) == ("038", "250", "Ménière")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("038\nMénière".encode("latin-1"), r"codes\.txt:2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("038\n250".encode("utf-16"), r"codes\.txt:1: byte 0xff at its start says that it is UTF-16; save it as UTF-8"),
    ],
)
def test_a_class_file_in_another_encoding_is_refused_with_line_and_byte(tmp_path, content, what):
    path = write_source(tmp_path / "codes.txt", content)

    with pytest.raises(LauncherError, match=what):
        classes_of(path)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("name", "content"), [("a.csv", f"{WORD},B\n"), ("a.json", f'[["{WORD}"], ["B"]]')])
def test_evaluation_sets_are_read_with_a_byte_order_mark(tmp_path, name, content, encoding):
    records, _ = read_evaluation(write_source(tmp_path / name, encoded(content, encoding)))

    assert records[0][0] == WORD


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
def test_evaluation_sets_in_other_encodings_are_refused_with_line_and_byte(tmp_path, name):
    path = write_source(tmp_path / name, f'"one"\n"{WORD}"\n'.encode("latin-1"))

    with pytest.raises(LauncherError, match=rf"{name}:2: byte 0xe9 is not UTF-8"):
        read_evaluation(path)


def test_a_line_inside_a_cell_is_named(tmp_path):
    stream = SourceStream(write_source(tmp_path / "a.csv", b'id,text\n1,"one\ntwo\xe9"\n'))

    assert list(read_rows(stream, ["text"], ["id"])) == []
    assert stream.first_bad[0].endswith("a.csv:2: byte 0xe9 in line 2 of it is not UTF-8; save the file as UTF-8")


CITATION = (
    "<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>{}</ArticleTitle>"
    "<Abstract><AbstractText>{}</AbstractText></Abstract><Language>eng</Language></Article></MedlineCitation>"
    "</PubmedArticle></PubmedArticleSet>"
)


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("", "utf-8"), ("", "utf-8-sig"), ("", "utf-16"), ("UTF-8", "utf-8-sig"), ("utf-8", "utf-8"),
        ("ISO-8859-1", "latin-1"), ("iso-8859-15", "iso-8859-15"), ("windows-1252", "cp1252"), ("UTF-16", "utf-16"),
        ("UTF-16", "utf-16-le"), ("UTF-16", "utf-16-be"), ("UTF-16", "utf-8"), ("gb18030", "gb18030"),
    ],
)  # fmt: skip
def test_xml_is_read_in_the_encoding_that_it_declares(tmp_path, declared, encoding):
    head = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    abstract = f"{WORD} " * 40_000  # several chunks
    path = write_source(tmp_path / "a.xml.gz", encoded(head + CITATION.format(WORD, abstract), encoding))

    texts, stream = texts_of(path, "medline")

    assert stream.first_bad == []
    assert texts == [f"{WORD}\n{abstract.strip()}"]


@pytest.mark.parametrize(
    ("head", "tail", "what"),
    [
        ('<?xml version="1.0" encoding="EBCDIC-XX"?>', b"", "it declares an encoding that is not read"),
        ('<?xml version="1.0" encoding="unicode_escape"?>', b"", "it declares an encoding that is not read"),
        ('<?xml version="1.0" encoding="gbk"?>', b"\xff", "it is not in the encoding that it declares (byte 0xff)"),
    ],
)
def test_xml_in_no_known_encoding_is_refused(tmp_path, head, tail, what):
    path = write_source(tmp_path / "a.xml", head.encode() + tail + CITATION.format("a", "b").encode())

    texts, stream = texts_of(path, "medline")

    assert texts == []
    assert what in stream.first_bad[0]


def test_a_text_file_is_read_without_its_mark(tmp_path):
    assert read_text_file(write_source(tmp_path / "a.txt", b"\xef\xbb\xbftext")) == "text"
