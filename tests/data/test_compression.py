"""Compressed files of every kind that common tools write are read whole, whatever the case of their suffix."""

import bz2
import gzip
import lzma
import tarfile

import pytest
import zstandard
from pydantic import TypeAdapter

from jobs.data.readers import read
from jobs.data.readers.source_stream import SourceStream
from launcher.recipe.sections.text_sources import Source

PARTS = [b'{"text": "one"}\n{"te', b'xt": "two"}\n', b"", b'{"text": "three"}']


def zstd_frame(content, window_log):
    """A frame of one block whose header asks for this window."""
    descriptor = (window_log - 10) << 3
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content
    return b"\x28\xb5\x2f\xfd\x00" + bytes([descriptor]) + block


def texts_of(path, format="pile"):
    source = TypeAdapter(Source).validate_python({"format": format, "files": path.name})
    stream = SourceStream(path)
    texts = [document.text for document in read(stream, source)]
    assert (stream.bad, stream.first_bad) == (0, [])
    return texts


@pytest.mark.parametrize("window_log", [10, 27, 28, 31])
def test_zstd_files_are_read_whatever_their_window(tmp_path, window_log):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"".join(zstd_frame(part, window_log) for part in PARTS))

    assert texts_of(path) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        ("gz", gzip.compress), ("GZ", gzip.compress), ("zst", zstandard.compress), ("Zst", zstandard.compress),
        ("xz", lzma.compress), ("XZ", lzma.compress), ("bz2", bz2.compress), ("BZ2", bz2.compress),
    ],
)  # fmt: skip
def test_members_and_frames_follow_one_another(tmp_path, suffix, compress):
    path = tmp_path / f"a.JSONL.{suffix}"
    path.write_bytes(b"".join(map(compress, PARTS)))

    assert texts_of(path) == ["one", "two", "three"]


def test_a_skippable_frame_is_skipped(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    skipped = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"index"
    path.write_bytes(zstandard.compress(PARTS[0]) + skipped + zstandard.compress(PARTS[1]) + skipped)

    assert texts_of(path) == ["one", "two"]


@pytest.mark.parametrize("name", ["a.XML.GZ", "a.Tar.Gz", "a.TGZ", "a.tar.XZ", "a.tar.bz2", "a.NXML"])
def test_articles_are_found_whatever_the_case_of_their_names(tmp_path, name):
    article = b"<article><front><article-meta/></front><body><p>Text.</p></body></article>"
    path = tmp_path / name
    kind = name.lower()
    if "tar" in kind or "tgz" in kind:
        member = tmp_path / "One.NXML"
        member.write_bytes(article)
        mode = {"gz": "w:gz", "tgz": "w:gz", "xz": "w:xz", "bz2": "w:bz2"}[kind.rpartition(".")[2]]
        with tarfile.open(path, mode) as archive:
            archive.add(member, "PMC1/One.NXML")
    else:
        path.write_bytes(gzip.compress(article) if kind.endswith(".gz") else article)

    assert texts_of(path, "pmc") == ["Text."]
