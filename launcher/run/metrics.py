"""Reading metrics.jsonl, which grows by a line per logged step and may be huge."""

from pathlib import Path
from typing import Any, TypeAlias

from launcher.run.ledger import parse_json_lines, read_json_lines
from launcher.run.typed import fits

Row: TypeAlias = dict[str, Any]
"""`time, step, attempt, loss, lr, grad_norm, tokens_per_second, mfu, memory_gib`."""

_TAIL_BYTES = 4096
"""Some 16 rows: `launcher status` reads them of each of thousands of runs."""


_COUNTS = ("step", "attempt", "bytes", "bytes_total", "phase_done", "phase_total")
_MEASURES = ("loss", "tokens_per_second")


def is_sound(row: Row) -> bool:
    """Tell whether counts and times of a row are such, and measures numbers; a loss may be NaN."""
    return (
        all(_is_count(row[name]) for name in _COUNTS if name in row)
        and fits(float, row.get("time", 0.0))
        and all(isinstance(row.get(name, 0.0), int | float) for name in _MEASURES)
    )


def is_training(row: Row) -> bool:
    """Tell whether a row is of a training's step; others say how many items are done."""
    return "loss" in row


def _is_count(value: object) -> bool:
    return fits(int, value) or (isinstance(value, float) and value.is_integer())


def read_newest_rows(path: Path) -> list[Row]:
    """Read some of the newest rows, without reading the whole file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        content = file.read()
    # The first line is torn, and so left out, if the file is longer.
    return [row for row in parse_json_lines(content) if is_sound(row)]


def read_joined_rows(path: Path) -> list[Row]:
    """Read the one curve that all attempts make: for each step what was logged last.

    Held-out text and tasks are evaluated one after the other, and each has a row of its own for a step.
    """
    rows: dict[int, Row] = {}
    for row in read_json_lines(path):
        if "step" in row and is_sound(row):
            rows[int(row["step"])] = rows.get(int(row["step"]), {}) | row
    return [rows[step] for step in sorted(rows)]
