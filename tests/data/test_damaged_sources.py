"""Source files of a `prepare` whose headers, indexes and contents hold anything: read, or counted as corrupt."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import zstandard
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import TypeAdapter

from jobs.data.readers import read
from jobs.data.readers.source_stream import SourceStream
from launcher.recipe.sections.text_sources import Source
from tests.support.fuzz import damaged_bytes, files_beside, fuzzed

TEXTS = ["one", "two three", "four " * 40]
LINES = b"".join(json.dumps({"text": text, "meta": {"pile_set_name": "x"}}).encode() + b"\n" for text in TEXTS)
ARTICLE = b"<article><front><article-meta/></front><body><p>Text of one.</p></body></article>"
CITATIONS = (
    b'<?xml version="1.0"?><PubmedArticleSet><PubmedArticle><MedlineCitation><PMID Version="1">1</PMID><Article>'
    b"<ArticleTitle>One.</ArticleTitle><Abstract><AbstractText>Text.</AbstractText></Abstract></Article>"
    b"</MedlineCitation></PubmedArticle></PubmedArticleSet>"
)


def archive(kind: Any = tarfile.PAX_FORMAT) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=kind) as made:
        for name in ("PMC1/one.nxml", f"PMC1/{'long' * 40}.nxml", "PMC1/picture.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(ARTICLE)
            made.addfile(member, io.BytesIO(ARTICLE))
    return content.getvalue()


def columns(kind: str) -> bytes:
    content, table = io.BytesIO(), pa.table({"text": TEXTS * 5, "number": list(range(15))})
    if kind == "parquet":
        parquet.write_table(table, content, row_group_size=6)
    else:
        with pa.ipc.new_stream(content, table.schema) as stream:
            stream.write_table(table, max_chunksize=6)
    return content.getvalue()


FILES = {
    "a.jsonl": ("pile", LINES),
    "a.jsonl.gz": ("pile", gzip.compress(LINES, mtime=0)),
    "a.jsonl.zst": ("pile", zstandard.compress(LINES)),
    "a.jsonl.xz": ("pile", lzma.compress(LINES)),
    "a.jsonl.bz2": ("pile", bz2.compress(LINES)),
    "a.tar": ("pmc", archive()),
    "b.tar": ("pmc", archive(tarfile.GNU_FORMAT)),
    "a.tar.gz": ("pmc", gzip.compress(archive(), mtime=0)),
    "a.nxml": ("pmc", ARTICLE),
    "a.xml.gz": ("medline", gzip.compress(CITATIONS, mtime=0)),
    "a.parquet": ("parquet", columns("parquet")),
    "data-00000-of-00001.arrow": ("dataset", columns("arrow")),
}


def source_of(name: str) -> Any:
    fields = {"format": FILES[name][0], "files": name} | (
        {"column": "text"} if FILES[name][0] in ("parquet", "dataset") else {}
    )
    return TypeAdapter(Source).validate_python(fields)


def damaged_file(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
    """The file with other bytes anywhere, in its first or last hundred, or twice."""
    content = FILES[name][1]
    flips = st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=6)
    ends = st.integers(0, min(99, len(content) - 1)) | st.integers(max(0, len(content) - 100), len(content) - 1)
    near = st.lists(st.tuples(ends, st.integers(0, 255)), min_size=1, max_size=4)
    made = (flips | near).map(lambda changes: flipped(content, changes))
    return st.tuples(
        st.just(name), made | damaged_bytes(content) | damaged_bytes(content).map(lambda one: content + one)
    )


def flipped(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(content)
    for place, value in changes:
        changed[place] = value
    return bytes(changed)


def read_all(path: Path, name: str) -> tuple[SourceStream, list[str]]:
    stream = SourceStream(path)
    return stream, [document.text for document in read(stream, source_of(name))]


@fuzzed(st.sampled_from(list(FILES)).flatmap(damaged_file), gate=100)
def test_a_damaged_source_file_is_read_or_counted_as_bad(folder: Path, damage: tuple[str, bytes]) -> None:
    name, content = damage
    path = folder / name
    path.write_bytes(content)
    before = set(files_beside(folder, folder / "none"))

    stream, texts = read_all(path, name)

    assert 0 <= stream.bad <= stream.count
    assert all(isinstance(text, str) for text in texts) and len(texts) <= 1000
    assert bool(stream.first_bad) is bool(stream.bad)
    assert len("".join(stream.first_bad)) < 10_000
    assert set(files_beside(folder, folder / "none")) == before


def test_the_files_that_are_damaged_are_whole(tmp_path: Path) -> None:
    for name, (_, content) in FILES.items():
        (tmp_path / name).write_bytes(content)
        stream, texts = read_all(tmp_path / name, name)
        assert (stream.bad, stream.first_bad) == (0, []) and texts, name
