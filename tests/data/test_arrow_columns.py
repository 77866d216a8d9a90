"""Reading columns of text: Parquet files, and Hugging Face datasets on disk."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data.readers import arrow_columns as columns
from jobs.data.readers import read
from jobs.data.readers.source_stream import SourceStream
from jobs.data.sampling.corpus_reader import open_corpus
from jobs.kinds.prepare import main
from launcher.recipe.sections.text_sources import DatasetSource, ParquetSource
from tests.support.prepare_runs import abstracts, files_of, make_context, write_pile

many = settings(max_examples=150)
PLANTED = "Zaphodia"
TEXT = (pa.string(), pa.large_string(), pa.string_view())
FORMATS = pytest.mark.parametrize("suffix", ["parquet", "arrow"])


def write_table(path, table):
    """Write a table as a Parquet file or as the stream that `save_to_disk` leaves, as the name says."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=300)
        return path
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=100)
    return path


def read_table(path, column="text"):
    source = (
        ParquetSource(format="parquet", files="*", column=column)
        if path.suffix == ".parquet"
        else DatasetSource(format="dataset", files="*", column=column)
    )
    stream = SourceStream(path)
    return stream, list(read(stream, source))


def texts_of(documents):
    return [document.text for document in documents]


def not_utf8(kind):
    """Strings of a type, the second of which is not UTF-8."""
    as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    return pa.array([b"one", b"caf\xe9 and more text", b"three"], as_bytes[kind]).view(kind)


@FORMATS
@pytest.mark.parametrize("kind", [*TEXT, pa.dictionary(pa.int32(), pa.string())])
def test_a_column_is_read_in_order(tmp_path, suffix, kind):
    texts = [*abstracts(), "", "a text that stands more than once", "a text that stands more than once"]
    table = pa.table({"n": range(len(texts)), "body": pa.array(texts).cast(kind), "text": ["no"] * len(texts)})
    path = write_table(tmp_path / f"a.{suffix}", table)

    stream, documents = read_table(path, "body")

    assert texts_of(documents) == texts
    assert documents[200].id == f"a.{suffix}:201"
    assert (stream.count, stream.bad, stream.share_read) == (len(texts), 0, 1.0)
    assert len(stream.sha256) == 64


@FORMATS
@pytest.mark.parametrize("kind", TEXT)
def test_rows_without_text_are_bad(tmp_path, suffix, kind, monkeypatch):
    monkeypatch.setattr(columns, "MAX_RECORD_BYTES", 2**20)
    more = pa.array([None, "a\0b", "x" * (2**20 + 1), "x" * 2**20], kind)
    table = pa.table({"text": pa.chunked_array([not_utf8(kind), more])})

    stream, documents = read_table(write_table(tmp_path / f"a.{suffix}", table))

    assert [len(text) for text in texts_of(documents)] == [3, 5, 2**20]
    assert stream.count == 7
    assert [bad.removeprefix(f"{tmp_path}/a.{suffix}:") for bad in stream.first_bad] == [
        "2: byte 0xe9 is not UTF-8; save the file as UTF-8",
        "4: has no text",
        "5: holds NUL bytes, as after a failed copy",
        "6: is longer than 1 MiB",
    ]


@FORMATS
@pytest.mark.parametrize(
    ("column", "what"),
    [
        ("body", "it has no column `body`; there are `bytes`, `list`, `n`, `struct`, `text`; write the name of "),
        ("n", "its column `n` holds int64, not strings"),
        ("bytes", "its column `bytes` holds binary, not strings"),
        ("list", "its column `list` holds list<"),
        ("struct", "its column `struct` holds struct<"),
    ],
)
def test_a_column_that_is_no_text_is_damage_to_all_rows(tmp_path, suffix, column, what):
    rows = {"text": ["a"] * 250, "n": range(250), "bytes": [b"a"] * 250, "list": [["a"]] * 250}
    path = write_table(tmp_path / f"a.{suffix}", pa.table(rows | {"struct": [{"text": "a"}] * 250}))

    stream, documents = read_table(path, column)

    assert documents == []
    assert (stream.count, stream.bad) == (250, 250)
    assert stream.first_bad[0].startswith(f"{path}:1: schema mismatch: {what}")


@FORMATS
def test_long_rows_without_the_column_are_counted_and_not_estimated(tmp_path, suffix):
    texts = [f"{number} " + "".join(map(chr, range(33, 127))) * 60 for number in range(250)]
    path = write_table(tmp_path / f"a.{suffix}", pa.table({"text": texts}))

    stream, _ = read_table(path, "body")

    assert (stream.count, stream.bad) == (250, 250)


def test_rows_behind_damage_are_estimated_from_the_batches_before(tmp_path):
    path = write_table(tmp_path / "a.arrow", pa.table({"text": [f"{number:05d}" * 20 for number in range(1000)]}))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"x" * (len(content) - len(content) // 2)
    path.write_bytes(content)

    stream, documents = read_table(path)

    assert 300 < len(documents) < 600
    assert stream.count == stream.bad == pytest.approx(1000, rel=0.1)


@FORMATS
def test_a_file_that_is_something_else_is_damaged(tmp_path, suffix):
    for number, content in enumerate((b"", PLANTED.encode() * 50, b"PAR1" + PLANTED.encode() + b"PAR1")):
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(content)

        stream, documents = read_table(path)

        assert (documents, stream.count, stream.bad) == ([], 1, 1)
        assert stream.first_bad == [
            f"{path}:1: the file is corrupt, or of another format: pyarrow cannot read it (ArrowInvalid)"
        ]


@FORMATS
def test_a_truncated_file_is_damaged_wherever_it_ends(tmp_path, suffix):
    path = write_table(tmp_path / f"a.{suffix}", pa.table({"text": [f"text {n}" for n in range(1000)]}))
    content = path.read_bytes()

    for length in [0, 8, *range(100, len(content), 97), len(content) - 8, len(content) - 1]:
        path.write_bytes(content[:length])
        stream, _ = read_table(path)
        assert stream.bad == stream.count > 0
        assert "the file is corrupt" in stream.first_bad[0]


def test_a_stream_that_stops_between_batches_ends_early(tmp_path):
    path = write_table(tmp_path / "a.arrow", pa.table({"text": [f"text {n}" for n in range(250)]}))
    path.write_bytes(path.read_bytes()[:-8])

    stream, documents = read_table(path)

    assert len(documents) == stream.count == stream.bad == 250
    assert stream.first_bad == [f"{path}:251: the file is corrupt: it ends early"]


@FORMATS
def test_an_empty_table_has_no_rows(tmp_path, suffix):
    stream, documents = read_table(write_table(tmp_path / f"a.{suffix}", pa.table({"text": pa.array([], pa.string())})))

    assert (documents, stream.count, stream.bad) == ([], 0, 0)


def test_a_text_that_stands_once_in_a_file_for_many_rows_is_not_held_for_all(tmp_path):
    text = pa.array(["x" * 2**20]).dictionary_encode()
    table = pa.table({"text": text.take(pa.array([0] * 5000))})
    pq.write_table(table, tmp_path / "a.parquet", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    stream = SourceStream(tmp_path / "a.parquet")
    before, most = pa.total_allocated_bytes(), 0

    for document in read(stream, ParquetSource(format="parquet", files="*")):
        assert len(document.text) == 2**20
        most = max(most, pa.total_allocated_bytes() - before)

    assert stream.count == 5000
    assert most < 16 * 2**20


def test_row_groups_are_read_a_few_rows_at_a_time(tmp_path):
    texts = [f"{number} " * 2000 for number in range(3000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", use_dictionary=False, row_group_size=3000)
    before, most = pa.total_allocated_bytes(), 0
    del texts

    for _ in read(SourceStream(tmp_path / "a.parquet"), ParquetSource(format="parquet", files="*")):
        most = max(most, pa.total_allocated_bytes() - before)

    assert 0 < most < 16 * 2**20


def test_what_datasets_saves_is_read(tmp_path):
    texts = abstracts()
    data = datasets.Dataset.from_dict({"text": texts, "n": list(range(len(texts)))}).shuffle(seed=1)
    data.save_to_disk(str(tmp_path / "saved"), num_shards=3)
    files = sorted((tmp_path / "saved").glob("data-*.arrow"))
    assert len(files) == 3

    read_ones = [text for file in files for text in texts_of(read_table(file)[1])]

    assert read_ones == data["text"][:]
    assert sorted(read_ones) == sorted(texts)


@FORMATS
def test_the_format_of_the_source_makes_no_difference_to_the_corpus(tmp_path, suffix):
    made = []
    for name in (suffix, "jsonl"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "jsonl":
            write_pile(folder / "a.jsonl", abstracts()[:50])
        else:
            write_table(folder / f"a.{name}", pa.table({"text": abstracts()[:50]}))
        source = {"format": {"jsonl": "pile", "parquet": "parquet", "arrow": "dataset"}[name], "files": f"./a.{name}"}
        main(make_context(folder, sources=[source]))
        corpus = open_corpus(folder / "corpora" / "corpus")
        made.append(
            {path: content for path, content in files_of(corpus.folder).items() if path.endswith((".ds", "index"))}
        )

    assert made[0] == made[1]
    assert len(made[0]) == 4


@FORMATS
@many
@given(data=st.data())
def test_damaged_bytes_are_survived_and_quoted_nowhere(tmp_path, suffix, data):
    path = write_table(tmp_path / f"a.{suffix}", pa.table({"text": [f"{PLANTED} {n}" for n in range(500)]}))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)

    stream, documents = read_table(path)

    assert len(documents) <= max(500, stream.count)
    assert bool(stream.first_bad) == bool(stream.bad)
    assert PLANTED not in "".join(stream.first_bad)
