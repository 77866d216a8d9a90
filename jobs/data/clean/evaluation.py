"""Evaluation sets as files: their records, and all text in them.

A record is an element of a JSON list, a value of a JSON object, a line of JSON lines or a row of CSV.
Its text is every string in it, however deep, apart from keys: questions, options and contexts have
other names in every set. Answers, identifiers and the like are strings as well; they are too short to count
(see `jobs.data.clean.overlap`). A first row of column names is a record like others, for MMLU has none.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from jobs.data.readers.intake import DAMAGE, MAX_RECORD_BYTES, Intake
from launcher.errors import LauncherError

Record: TypeAlias = list[str]

_COMPRESSED = (".gz", ".zst")
_BLOCK = 2**20


def read_records(path: Path) -> tuple[list[Record], str]:
    """Read an evaluation set.

    Returns:
        The strings of each record, and the file's SHA-256.

    Raises:
        LauncherError: it cannot be read, or is no JSON, JSON lines or CSV.
    """
    intake = Intake(path)
    try:
        with intake.stream() as stream:
            content = b"".join(iter(lambda: stream.read(_BLOCK), b""))  # read at once, it is not checksummed
    except DAMAGE as error:
        raise LauncherError(f"{path}: the file is damaged: {error}; fetch it again") from None
    return list(_parse(path, content)), intake.sha256


def _parse(path: Path, content: bytes) -> Iterator[Record]:
    suffix = Path(path.stem if path.suffix in _COMPRESSED else path.name).suffix
    content = content.removeprefix(b"\xef\xbb\xbf")
    if suffix == ".csv":
        return _rows(path, content)
    if suffix in (".json", ".jsonl", ".ndjson"):
        return _json_records(path, content)
    raise LauncherError(
        f"clean.decontaminate.files: `{path.name}` is neither JSON nor CSV by its name; write a pattern that matches "
        "only .json, .jsonl and .csv (or these with .gz or .zst)"
    )


def _json_records(path: Path, content: bytes) -> Iterator[Record]:
    """Read JSON, or JSON lines, which some sets name .json, too."""
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
        raise LauncherError(f"{path}:{number}: is not JSON: {error.msg}; mend the file") from None


def _rows(path: Path, content: bytes) -> Iterator[Record]:
    csv.field_size_limit(MAX_RECORD_BYTES)
    try:
        yield from csv.reader(io.StringIO(content.decode(), newline=""))  # no other sign ends a row
    except (UnicodeDecodeError, csv.Error) as error:
        what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"is not CSV: {error}"
        raise LauncherError(f"{path}: {what}; mend the file") from None


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
