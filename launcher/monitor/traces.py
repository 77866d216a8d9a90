"""When each attempt of a run trained which steps: what accounts of time need of metrics.jsonl, in one pass."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import orjson

from launcher.run.ledger import Attempt, parse_json_lines
from launcher.run.metrics import Row
from launcher.run.typed import LARGEST

_CHUNK_BYTES = 4 << 20
_TIMES = (float, int)


@dataclass
class AttemptTrace:
    """The rows of one attempt, summed up."""

    rows: int
    first_step: int
    first_time: float
    last_step: int
    last_time: float
    kept_time: float | None
    """Of its last row that still counts; None if none does."""

    @property
    def seconds_per_row(self) -> float:
        """Mean time between two rows, pauses included; 0 of one row."""
        return (self.last_time - self.first_time) / (self.rows - 1) if self.rows > 1 else 0.0


class Traces(dict[int, AttemptTrace]):
    """What metrics.jsonl says of each attempt that it knows, by the attempt's number.

    Args:
        limits: As `kept_limits` gives them.
    """

    def __init__(self, limits: Mapping[int, float]) -> None:
        super().__init__()
        self._limits = limits

    def add(self, attempt: int, rows: Sequence[Row]) -> int:
        """Take rows of one attempt, later than those before; return how many of them, from the first on, count."""
        limit = self._limits.get(attempt, math.inf)
        first, last = rows[0], rows[-1]
        kept = len(rows) if last["step"] <= limit else sum(row["step"] <= limit for row in rows)
        kept_time = float(rows[kept - 1]["time"]) if kept else None
        if known := self.get(attempt):
            known.rows += len(rows)
            known.last_step, known.last_time = int(last["step"]), float(last["time"])
            known.kept_time = known.kept_time if kept_time is None else kept_time
        else:
            self[attempt] = AttemptTrace(
                *(len(rows), int(first["step"]), float(first["time"])),
                *(int(last["step"]), float(last["time"]), kept_time),
            )
        return kept


def kept_limits(attempts: Sequence[Attempt]) -> dict[int, float]:
    """Say of each attempt the last step of it that counts: what comes later was lost, or done again by another one.

    An attempt that resumed at step N takes the place of all that was done after N before it. An attempt that ended
    keeps what it saved.
    """
    limits: dict[int, float] = {}
    resumed = math.inf
    for attempt in reversed(attempts):
        saved = math.inf
        if attempt.ended is not None and attempt.reason != "finished" and attempt.first_step is not None:
            saved = attempt.last_step or 0
        limits[attempt.number] = min(resumed, saved)
        if attempt.first_step is not None:
            resumed = min(resumed, attempt.first_step)
    return limits


def read_traces(path: Path, limits: Mapping[int, float]) -> Traces:
    """Read when each attempt trained what."""
    traces = Traces(limits)
    for attempt, rows in read_steps(path):
        traces.add(attempt, rows)
    return traces


def read_steps(path: Path) -> Iterator[tuple[int, list[Row]]]:
    """Read the rows of a file, however large, in pieces, each of one attempt; rows without a step or time are left out.

    Of a million rows the json module takes five times as long as orjson; it is asked only for what orjson refuses:
    numbers that JSON does not have (a loss of NaN), and torn lines.
    """
    for lines in _read_lines(path):
        try:
            rows = orjson.loads(b"[" + b",".join(lines) + b"]")
        except orjson.JSONDecodeError:
            rows = list(_parse_one_by_one(lines))
        rows = [
            row
            for row in rows
            if row.__class__ is dict
            and row.get("step").__class__ is int
            and row.get("attempt", 0).__class__ is int
            and row.get("time").__class__ in _TIMES
            and 0 <= row["step"] < LARGEST
            and -LARGEST < row["time"] < LARGEST
        ]  # `launcher.run.metrics.is_sound` in the time that a million rows leave
        if rows and len({row.get("attempt") for row in rows}) == 1:
            yield rows[0].get("attempt", 0), rows
        else:
            for attempt, group in groupby(rows, lambda row: row.get("attempt", 0)):
                yield attempt, list(group)


def _read_lines(path: Path) -> Iterator[list[bytes]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        while lines := file.readlines(_CHUNK_BYTES):
            yield [line for line in lines if not line.isspace()]


def _parse_one_by_one(lines: Iterable[bytes]) -> Iterator[Row]:
    for line in lines:
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError:
            yield from parse_json_lines(line)
