"""Reading source lines, whatever is in the file; run as a fuzz test of the JSON reader as well."""

import gzip
import hashlib
import json

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from jobs.data.readers import read as read_source
from jobs.data.readers import source_stream
from jobs.data.readers.pile import parse_document, read_pile
from jobs.data.readers.source_stream import MAX_VALUES, SourceStream
from launcher.recipe.sections.text_sources import PileSource, Source
from tests.support.prepare_runs import write_source

many = settings(max_examples=150)
suffixes = st.sampled_from(["jsonl", "jsonl.gz", "jsonl.zst", "jsonl.xz", "jsonl.bz2"])


def read(path):
    source = SourceStream(path)
    return source, list(read_pile(source, PileSource(format="pile", files=path.name)))


def test_lines_are_numbered_as_in_the_file_and_blank_ones_left_out(tmp_path):
    path = write_source(tmp_path / "a.jsonl.gz", b"one\n\n  \r\ntwo\r\nthree")
    source = SourceStream(path)

    assert list(source.lines()) == [(1, b"one\n"), (4, b"two\r\n"), (5, b"three")]
    assert (source.count, source.bad, source.share_read) == (3, 0, 1.0)


def test_the_mark_before_text_of_windows_is_no_part_of_the_first_line(tmp_path):
    source, documents = read(write_source(tmp_path / "a.jsonl.zst", b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}'))
    blank = SourceStream(write_source(tmp_path / "b.jsonl", b"\xef\xbb\xbf"))

    assert [document.text for document in documents] == ["one", "two"]
    assert (source.count, source.bad) == (2, 0)
    assert (list(blank.lines()), blank.count) == ([], 0)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_files_of_several_streams_are_read_to_the_end(tmp_path, compress):
    path = tmp_path / {gzip.compress: "a.gz", zstandard.compress: "a.zst"}[compress]
    path.write_bytes(compress(b"one\n") + compress(b"") + compress(b"two\n"))

    assert [line for _, line in SourceStream(path).lines()] == [b"one\n", b"two\n"]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_an_empty_file_has_no_lines(tmp_path, suffix):
    path = write_source(tmp_path / f"a.{suffix}", b"")
    source = SourceStream(path)

    assert list(source.lines()) == []
    assert (source.count, source.bad) == (0, 0)


@pytest.mark.parametrize(
    "name",
    ["a.jsonl.gz", "a.jsonl.zst", "a.csv.gz", "a.xml.gz", "a.tar.gz", "a.tgz", "a.txt.gz", "a.csv.xz", "a.tar.bz2"],
)
def test_a_compressed_file_of_no_bytes_is_damaged(tmp_path, name):
    formats = {"jsonl": "pile", "csv": "mimic_iv", "xml": "medline", "tar": "pmc", "tgz": "pmc", "txt": "text"}
    source = {"format": formats[name.split(".")[1]], "files": name}
    path = tmp_path / name
    path.touch()
    stream = SourceStream(path)

    assert list(read_source(stream, TypeAdapter(Source).validate_python(source))) == []
    assert (stream.count, stream.bad, stream.sha256) == (1, 1, hashlib.sha256().hexdigest())
    assert "the file is corrupt" in stream.first_bad[0]


def test_every_reason_is_counted_and_some_of_each_are_named(tmp_path):
    lines = [b"[%d" % number for number in range(8)] + [b"7"] + [b'{"text": 1}'] * 6 + [b'{"text": "\xe9"}']
    source, _ = read(write_source(tmp_path / "a.jsonl", b"\n".join(lines)))

    assert sorted(source.reasons.values()) == [1, 1, 6, 8]
    assert source.reasons.total() == source.bad == 16
    named = [int(bad.split(":")[1]) for bad in source.first_bad]
    assert named == [1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 16]


def test_reasons_without_end_are_bounded(tmp_path):
    source = SourceStream(write_source(tmp_path / "a.txt", b"x"))
    for number in range(1000):
        source.record_error(number, f"has no `{chr(0x4E00 + number)}`")

    assert len(source.reasons) <= 60
    assert source.reasons.total() == 1000


def test_damage_is_named_before_bad_lines(tmp_path):
    path = write_source(tmp_path / "a.jsonl.gz", b"broken\n" * 20)
    path.write_bytes(path.read_bytes()[:-1])

    source, _ = read(path)

    assert "a.jsonl.gz:21: the file is corrupt" in source.first_bad[0]
    assert "a.jsonl.gz:1: is not JSON" in source.first_bad[1]


def test_a_line_that_is_too_long_is_skipped_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr(source_stream, "MAX_RECORD_BYTES", 1000)
    content = b"a" * 999 + b"\n" + b"b" * 1000 + b"\n" + b"c" * 5_000_000 + b"\nnext\n" + b"d" * 1000
    source = SourceStream(write_source(tmp_path / "a.jsonl.zst", content))

    assert [(number, len(line)) for number, line in source.lines()] == [(1, 1000), (4, 5)]
    assert (source.count, source.bad) == (5, 3)
    assert [bad.rsplit(":", 2)[1] for bad in source.first_bad] == ["2", "3", "5"]


def test_a_small_file_that_expands_enormously_is_read_in_bounded_memory(tmp_path):
    import tracemalloc

    path = write_source(tmp_path / "a.jsonl.zst", b"x" * 2**28)
    assert path.stat().st_size < 50_000
    tracemalloc.start()
    source = SourceStream(path)

    assert list(source.lines()) == []

    assert (source.count, source.bad) == (1, 1)
    assert tracemalloc.get_traced_memory()[1] < 4 * source_stream.MAX_RECORD_BYTES
    tracemalloc.stop()


@many
@given(content=st.binary(max_size=400), suffix=suffixes)
@example(content=b"\x1f\x8b", suffix="jsonl.gz")
@example(content=b"\x28\xb5\x2f\xfd", suffix="jsonl.zst")
@example(content=b"\xfd7zXZ\0", suffix="jsonl.xz")
@example(content=b"BZh9", suffix="jsonl.bz2")
@example(content=b"no bzip2", suffix="jsonl.bz2")
def test_any_bytes_are_read_without_a_crash(tmp_path, content, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)

    source, documents = read(path)

    assert all(isinstance(document.text, str) for document in documents)
    assert len(documents) <= source.count
    assert bool(source.first_bad) == bool(source.bad)


@many
@given(data=st.data(), suffix=st.sampled_from(["jsonl.gz", "jsonl.zst", "jsonl.xz", "jsonl.bz2"]))
def test_damaged_compression_is_survived_and_noticed_or_harmless(tmp_path, data, suffix):
    texts = [f"document {number}" for number in range(50)]
    path = write_source(tmp_path / f"a.{suffix}", "".join(json.dumps({"text": t}) + "\n" for t in texts).encode())
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(content)

    source, documents = read(path)

    # zstd files carry no checksum unless their writer asked for one, so only gzip's damage always shows.
    assert source.bad or suffix == "jsonl.zst" or [document.text for document in documents] == texts


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)


@many
@given(record=json_values | st.fixed_dictionaries({"text": json_values, "meta": json_values}))
def test_any_json_is_a_document_or_refused(record):
    line = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")
    is_document = isinstance(record, dict) and isinstance(record.get("text"), str)

    try:
        document = parse_document(line, "name")
    except ValueError as error:
        # NaN, lone surrogates, numbers beyond 64 bits
        assert not is_document or str(error).startswith("is not JSON") or "is not UTF-8" in str(error)
    else:
        assert is_document
        assert document.text == record["text"].encode().decode()


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"[" * 500 + b"]" * 500 + b",", b"0,"])
def test_a_line_of_millions_of_values_is_bad_before_they_take_a_gigabyte(tmp_path, unit):
    content = b'{"text": "", "x": [%b0]}\n{"text": "small"}\n' % (unit * (MAX_VALUES // min(len(unit) - 1, 500) + 1))
    path = write_source(tmp_path / "a.jsonl", content)

    source, documents = read(path)

    assert source.first_bad == [f"{path}:1: has more than 2,097,152 values"]
    assert [document.text for document in documents] == ["small"]


def test_text_with_as_many_commas_as_prose_may_have_is_read(tmp_path):
    text = "A comma, now and then. " * 2**16
    _, documents = read(write_source(tmp_path / "a.jsonl", json.dumps({"text": text}).encode()))

    assert [document.text for document in documents] == [text]


def test_what_is_said_of_a_file_that_is_not_gzipped_quotes_nothing_of_it(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b"Zaphodia")

    source, _ = read(path)

    assert source.first_bad == [f"{path}:1: the file is corrupt, or of another format: Not a gzipped file"]


@many
@given(line=st.binary(max_size=200))
def test_a_refusal_quotes_nothing_of_the_line(line):
    try:
        parse_document(line, "name")
    except ValueError as error:
        assert error.__cause__ is None
        said = str(error)
        assert said.isascii()
        assert len(said) < 150


def test_a_file_that_gives_nothing_counts_by_its_size(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b"<html>" + b"not what it should be " * 5000)
    source = SourceStream(path)

    assert list(source.lines()) == []
    assert source.bad == source.count == round(path.stat().st_size / 1000)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_the_checksum_is_the_files_however_it_is_read(tmp_path, suffix):
    path = write_source(tmp_path / f"a.{suffix}", b"some text\n" * 300_000)
    source = SourceStream(path)

    with source.open() as stream:
        assert stream.readline() == b"some text\n"
        assert len(stream.read()) == 2_999_990

    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
