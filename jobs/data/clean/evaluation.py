"""Read the records of evaluation sets, and all text in them.

A record is an element of a JSON list, a value of a JSON object, a line of JSON lines or a row of CSV. Its text is every
string in it, however deep, apart from keys: each set names questions, options and contexts in its own way. Answers and
identifiers are too short to count (see `jobs.data.clean.overlap`). A header row is a record like others; MMLU has none.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from jobs.data.readers.compression import format_suffix
from jobs.data.readers.source_stream import SourceStream
from jobs.data.readers.text_file import csv_text, decoded, read_content
from launcher.errors import LauncherError

Record: TypeAlias = list[str]


def read_records(path: Path) -> tuple[list[Record], str]:
    """Read the strings of each record of an evaluation set, and the file's SHA-256.

    Raises:
        LauncherError: it cannot be read, or is not JSON, JSON lines or CSV.
    """
    stream = SourceStream(path)
    content = read_content(stream)
    return list(_parse(path, content)), stream.sha256


def _parse(path: Path, content: bytes) -> Iterator[Record]:
    suffix = format_suffix(path)
    if suffix == ".csv":
        return _rows(path, content)
    if suffix in (".json", ".jsonl", ".ndjson"):
        return _json_records(path, decoded(path, content).encode())
    raise LauncherError(
        f"clean.decontaminate.files: `{path.name}` has no name of JSON or CSV; write a pattern that matches "
        "only .json, .jsonl and .csv (or these with .gz, .zst, .xz or .bz2)"
    )


def _json_records(path: Path, content: bytes) -> Iterator[Record]:
    """Read JSON or JSON lines; some sets name both .json."""
    try:
        whole = orjson.loads(content)
    except orjson.JSONDecodeError:
        for number, line in enumerate(content.splitlines(), 1):
            yield _strings(_loads(path, number, line)) if line.strip() else []
    else:
        records = whole.values() if isinstance(whole, dict) else whole if isinstance(whole, list) else [whole]
        yield from map(_strings, records)


def _loads(path: Path, number: int, line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LauncherError(f"{path}:{number}: is not JSON: {error.msg}; correct the file") from None


def _rows(path: Path, content: bytes) -> Iterator[Record]:
    with csv_text(path, content) as text:
        yield from csv.reader(text)


def _strings(value: Any) -> Record:
    strings, waiting = [], [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            strings.append(value)
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return strings
