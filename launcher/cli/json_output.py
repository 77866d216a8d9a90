"""What `--json` prints: one object with the version of its form first, in JSON that every parser reads."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import typer

SCHEMA_VERSION = 1
"""Raised when a key is removed, renamed or changes its meaning; new keys do not raise it."""


def print_json(found: Mapping[str, Any], form: str = "") -> None:
    """Print the answer of a command for other programs.

    Args:
        found: The answer; `launcher.cli.json_schemas` says what each command's holds.
        form: Which of several forms of answers this is; it is printed as `type`.
    """
    head = {"schema_version": SCHEMA_VERSION, **({"type": form} if form else {})}
    typer.echo(json.dumps(head | _plain(found), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """Write what JSON does not have in another way: null for NaN and infinity, text for paths."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, PurePath) else value
