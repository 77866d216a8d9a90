"""How many records a damaged file has lost: estimated from those before the damage, wherever it shows."""

import bz2
import gzip
import json
import lzma
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobs.data.chat.records import read_records
from jobs.data.readers.csv_rows import read_rows
from jobs.data.readers.source_stream import SourceStream

RECORDS = 2000
_DRAW = random.Random(1)
TEXTS = [f"{_DRAW.getrandbits(1600):x}" for _ in range(RECORDS)]
FORMATS: dict[str, tuple[bytes, Callable[[SourceStream], Iterator[Any]]]] = {
    "jsonl": ("".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode(), SourceStream.lines),
    "json": (json.dumps([{"text": text} for text in TEXTS]).encode(), read_records),
    "csv": (
        "".join(["id,text\n", *(f"{number},{text}\n" for number, text in enumerate(TEXTS))]).encode(),
        lambda stream: read_rows(stream, ["id", "text"], ["id"]),
    ),
}
pack_xz = partial(lzma.compress, preset=0)


def read_all(path: Path, format: str) -> tuple[int, SourceStream]:
    stream = SourceStream(path)
    return sum(1 for _ in FORMATS[format][1](stream)), stream


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("suffix", "compress"), [("xz", pack_xz), ("bz2", partial(bz2.compress, compresslevel=1))])
def test_records_behind_damage_are_estimated_from_those_before(
    tmp_path: Path, format: str, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    packed = compress(FORMATS[format][0])
    half = len(packed) // 2
    path = tmp_path / f"a.{format}.{suffix}"
    path.write_bytes(packed[:half] + bytes(400) + packed[half + 400 :])

    given, stream = read_all(path, format)

    assert RECORDS / 5 < given < RECORDS * 0.6
    assert stream.bad == stream.count == pytest.approx(RECORDS, rel=0.2)


@pytest.mark.parametrize("format", FORMATS)
def test_a_wrong_checksum_in_the_middle_costs_what_stands_behind_it_as_well(tmp_path: Path, format: str) -> None:
    content = FORMATS[format][0]
    place = content.rindex(b"\n", 0, len(content) // 2) + 1 if format != "json" else len(content) // 2
    first, second = (gzip.compress(part, 1) for part in (content[:place], content[place:]))
    path = tmp_path / f"a.{format}.gz"
    path.write_bytes(first[:-8] + bytes(4) + first[-4:] + second)

    given, stream = read_all(path, format)

    assert RECORDS / 4 < given <= RECORDS // 2 + 1
    assert "CRC check failed" in stream.first_bad[0]
    assert stream.bad == stream.count == pytest.approx(RECORDS, rel=0.2)


@pytest.mark.parametrize("format", ["jsonl", "json"])
@pytest.mark.parametrize("place", [6_000, 12_000])
def test_what_is_read_ahead_of_early_damage_is_not_taken_for_read(tmp_path: Path, format: str, place: int) -> None:
    packed = pack_xz(FORMATS[format][0])
    path = tmp_path / f"a.{format}.xz"
    path.write_bytes(packed[:place] + bytes(400) + packed[place + 400 :])

    given, stream = read_all(path, format)

    assert 10 < given < 60
    assert stream.bad == stream.count == pytest.approx(RECORDS, rel=0.2)


@pytest.mark.parametrize("format", FORMATS)
def test_a_whole_file_is_not_estimated(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a.{format}.gz"
    path.write_bytes(gzip.compress(FORMATS[format][0], 1))

    given, stream = read_all(path, format)

    assert (given, stream.count, stream.bad) == (RECORDS, RECORDS, 0)


def test_records_that_were_read_count_at_least(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"x" * 100_000 + b"\n" + b"y\n" * 5000)[:-1])

    given, stream = read_all(path, "jsonl")

    assert given == 5001
    assert stream.bad == stream.count >= 5001
