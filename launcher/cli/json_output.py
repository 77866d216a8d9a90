"""What `--json` prints: one object with the version of its form first, in JSON that every parser reads."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import typer

from launcher.errors import Fault, FaultCode, LauncherError, RecipeError
from launcher.run.home import NoHomeError

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


@contextmanager
def faults_as_json(
    is_wanted: bool, answer: Mapping[str, Any], form: str, file: str, code: FaultCode = "invalid-value"
) -> Iterator[None]:
    """Print what is wrong with a recipe or a profile as an answer with `faults`, and exit with 2.

    Args:
        is_wanted: Whether to print JSON; else the error is left as it is.
        answer: The other keys.
        form: As for `print_json`.
        file: What to name as the file of an error that is no list of faults.
        code: What kind of mistake that error is.
    """
    try:
        yield
    except (LauncherError, NoHomeError) as error:
        if not is_wanted or getattr(error, "exit_code", 2) != 2:
            raise
        faults = error.faults if isinstance(error, RecipeError) else (Fault(file, None, "", str(error), code),)
        print_json({**answer, "faults": [vars(fault) for fault in faults]}, form)
        raise typer.Exit(2) from None


def _plain(value: Any) -> Any:
    """Write what JSON does not have in another way: null for NaN and infinity, text for paths."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, PurePath) else value
