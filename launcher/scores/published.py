"""What the five published systems report, as `published.yaml` quotes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.errors import LauncherError

_FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class PublishedTable:
    """The table of one system."""

    title: str
    source: str
    """Paper, or repository with the commit that was read."""
    metric: str
    """What the numbers are; percent but for perplexities."""
    columns: tuple[str, ...]
    rows: dict[str, dict[str, float]]
    """Numbers by model and column; what was not published is missing."""
    remark: str
    """Why the numbers cannot be compared directly; empty if nothing is known against it."""


def published_systems() -> tuple[str, ...]:
    """Name the systems whose numbers are known."""
    return tuple(_read())


def read_published(system: str) -> PublishedTable:
    """Read the table of a system.

    Raises:
        LauncherError: There is no system of that name.
    """
    tables = _read()
    if system not in tables:
        raise LauncherError(f"--published {system}: no such system; write one of {', '.join(tables)}")
    return PublishedTable(**{**tables[system], "columns": tuple(tables[system]["columns"])})


def _read() -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return tables
