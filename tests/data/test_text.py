"""Reading plain text."""

import tracemalloc
from itertools import accumulate
from pathlib import PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data.readers import read, source_stream, text
from jobs.data.readers.source_stream import SourceStream
from jobs.data.sampling.corpus_reader import open_corpus
from jobs.kinds.prepare import main
from jobs.rank.deal import deal
from launcher.monitor.status import read_statuses
from launcher.recipe.sections.text_sources import TextSource
from tests.support.corpora import flaws_of
from tests.support.prepare_runs import Group, abstracts, write_source

many = settings(max_examples=150)


def read_text(path, document="line"):
    source = SourceStream(path)
    return source, list(read(source, TextSource(format="text", files="*", document=document)))


def test_a_document_is_a_line_that_is_not_blank(tmp_path):
    path = write_source(tmp_path / "a.txt.gz", b"\xef\xbb\xbfone\r\n\n \t\n  two \nthr\xc3\xa9\xc3\xa9")

    source, documents = read_text(path)

    assert [(document.text, document.id) for document in documents] == [
        ("one", "a.txt.gz:1"),
        ("  two ", "a.txt.gz:4"),
        ("thréé", "a.txt.gz:5"),
    ]
    assert (source.count, source.bad) == (3, 0)


def test_a_document_is_a_file(tmp_path):
    path = write_source(tmp_path / "a.txt.zst", b"\xef\xbb\xbfone\r\n\r\n two\n")

    source, documents = read_text(path, "file")

    assert [(document.text, document.id) for document in documents] == [("one\n\n two", "a.txt.zst:1")]
    assert (source.count, source.bad) == (1, 0)


@pytest.mark.parametrize("document", ["line", "file"])
@pytest.mark.parametrize("content", [b"", b" \n\n\t\r\n"])
def test_a_blank_file_holds_no_document(tmp_path, document, content):
    source, documents = read_text(write_source(tmp_path / "a.txt", content), document)

    assert (documents, source.count, source.bad) == ([], 0, 0)
    assert source.sha256


@pytest.mark.parametrize(
    ("bad", "what", "what_of_the_file"),
    [
        (
            b"caf\xe9",
            "byte 0xe9 is not UTF-8; save the file as UTF-8",
            "byte 0xe9 in line 2 of it is not UTF-8; save the file as UTF-8",
        ),
        (b"a\0b", "holds NUL bytes, as after a failed copy", "holds NUL bytes, as after a failed copy"),
    ],
)
def test_bytes_that_are_no_text_are_bad(tmp_path, bad, what, what_of_the_file):
    path = write_source(tmp_path / "a.txt", b"one\n" + bad + b"\nthree\n")

    source, documents = read_text(path)
    whole, none = read_text(path, "file")

    assert [document.text for document in documents] == ["one", "three"]
    assert (source.count, source.first_bad) == (3, [f"{path}:2: {what}"])
    assert (none, whole.count, whole.first_bad) == ([], 1, [f"{path}:1: {what_of_the_file}"])


def test_a_file_that_is_too_large_is_bad_and_not_held(tmp_path):
    path = write_source(tmp_path / "a.txt.zst", b"word " * (source_stream.MAX_RECORD_BYTES // 4))
    tracemalloc.start()

    source, documents = read_text(path, "file")

    assert tracemalloc.get_traced_memory()[1] < 4 * source_stream.MAX_RECORD_BYTES
    tracemalloc.stop()
    assert (documents, source.count, source.first_bad) == ([], 1, [f"{path}:1: is longer than 64 MiB"])
    assert source.sha256


def test_the_largest_file_is_a_document(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MAX_RECORD_BYTES", 1000)

    sizes = [len(read_text(write_source(tmp_path / f"{n}.txt", b"x" * n), "file")[1]) for n in (999, 1000, 1001)]

    assert sizes == [1, 1, 0]


def test_a_truncated_file_is_no_document(tmp_path):
    path = write_source(tmp_path / "a.txt.gz", b"".join(b"%d words\n" % number**7 for number in range(1000)))
    path.write_bytes(path.read_bytes()[:-9])

    source, documents = read_text(path, "file")

    assert (documents, source.count, source.bad) == ([], 1, 1)
    assert "the file is corrupt" in source.first_bad[0]


@many
@given(content=st.binary(max_size=200), suffix=st.sampled_from(["txt", "txt.gz", "txt.zst"]), is_packed=st.booleans())
def test_any_bytes_are_read_without_a_crash(tmp_path, content, suffix, is_packed):
    path = tmp_path / f"a.{suffix}"
    if is_packed:
        write_source(path, content)
    else:
        path.write_bytes(content)

    for document in ("line", "file"):
        source, documents = read_text(path, document)
        assert len(documents) <= source.count
        assert bool(source.first_bad) == bool(source.bad)


@pytest.mark.slow
def test_a_thousand_small_files_in_twenty_tasks_become_one_corpus(tmp_path, make_cluster):
    texts = [f"{number}. {text[: 50 + len(text) // 9]}" for number in range(2) for text in abstracts()]
    assert len(texts) == 1000
    for number, written in enumerate(texts):
        write_source(tmp_path / f"{number:04d}.txt", written.encode())
    sources = [{"format": "text", "files": "./*.txt", "document": "file"}]
    group = Group(tmp_path, 20, sources=sources, resources={"cpus_per_task": 1, "time": "1h"})

    told = []
    for index in range(20):
        main(group.share(index))
        told.append(status_of(group, make_cluster))
    main(group.last)

    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.txt"))]
    shares = deal(sizes, 20)
    assert {len(share) for share in shares} <= set(range(40, 61))
    assert [status.step for status in told] == list(accumulate(map(len, shares)))
    done = accumulate(sum(sizes[number] for number in share) for share in shares)
    assert [status.bytes_done for status in told] == list(done)
    assert {(status.total_steps, status.bytes_total) for status in told} == {(1000, sum(sizes))}
    corpus = open_corpus(group.corpus)
    assert flaws_of(corpus.folder) == []
    counts = corpus.manifest.counts
    assert (counts.records, sum(counts.documents.values()), counts.bad_records) == (1000, 1000, 0)
    assert [PurePath(source.path).name for source in corpus.manifest.sources] == [f"{n:04d}.txt" for n in range(1000)]


def status_of(group, make_cluster):
    """What `launcher status` says of all runs of a group."""
    [status], _ = read_statuses(make_cluster(executor="local"), [group.last.run])
    return status
