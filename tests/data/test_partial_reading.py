"""Files of which the start is enough are not read to their end, and files that are read as a whole have a limit."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.data.chat.records import read_records
from jobs.data.clean import evaluation
from jobs.data.readers import text_file
from jobs.data.readers.csv_rows import column_names
from jobs.data.readers.source_stream import SourceStream
from jobs.data.readers.text_file import read_content, read_text_file
from launcher.errors import LauncherError

SIZE = 48 * 2**20


def bytes_read(do: Callable[[], object]) -> int:
    """Bytes that this process asked the system for meanwhile."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = so_far()
    do()
    return so_far() - before


def test_names_of_columns_are_read_without_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.write(b"Id,text,LABEL\n1,a,0\n")
        file.truncate(SIZE)

    assert bytes_read(lambda: column_names(path)) < SIZE // 4
    assert column_names(path) == ["id", "text", "label"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)), ("b.csv.gz", b""), ("c.csv.gz", b"no gzip")],
)
def test_names_of_columns_of_compressed_and_damaged_tables(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)

    assert column_names(tmp_path / name) == (["a", "b"] if name == "a.csv.gz" else [])


def test_the_first_line_tells_the_layout_of_records_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": "first"}\n' + b'{"a": "%b"}\n' % (b"x" * 2**20) * (SIZE // 2**20))
    stream, found = SourceStream(path), []

    assert bytes_read(lambda: found.extend(line for line, _, _ in read_records(stream))) < 1.25 * SIZE
    assert found == [*range(1, 2 + SIZE // 2**20)]


def test_a_small_file_that_unpacks_to_more_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_file, "MAX_BYTES", 2**22)
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b"[%b]" % (b" " * SIZE)))
    tracemalloc.start()

    with pytest.raises(LauncherError, match=r"a\.json\.gz: has more than 4 MiB of text; split it"):
        read_content(SourceStream(path))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**24

    with pytest.raises(LauncherError, match=r"a\.json\.gz: has more than 4 MiB"):
        evaluation.read_records(path)


def test_a_file_of_just_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_file, "MAX_BYTES", 1000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps("x" * 998))
    stream = SourceStream(path)

    assert len(read_content(stream)) == len(read_text_file(path)) == 1000
    assert len(stream.sha256) == 64

    path.write_text(json.dumps("x" * 999))
    for read in (read_text_file, lambda one: read_content(SourceStream(one))):
        with pytest.raises(LauncherError, match=r"a\.json: has more than 0 MiB of text"):
            read(path)
