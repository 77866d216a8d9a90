"""Typing `launcher ...` without the second that a new process takes."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jsonschema
from typer.testing import CliRunner

from launcher.cli import NO_BUGS, app
from launcher.cli.json_forms import OUTPUTS
from launcher.cli.json_schemas import output_schema
from launcher.errors import LauncherError
from launcher.run.home import NoHomeError
from launcher.run.typed import DamagedFileError

MENDABLE = (LauncherError, DamagedFileError, NoHomeError)
"""Errors that `launcher.cli.run` prints in a line."""


def launcher(*arguments: str, code: int = 0, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Run the command in this process, insist on its exit code, and return what it wrote to stdout and stderr."""
    result = CliRunner().invoke(app, arguments, env=dict(environ or {}))
    if isinstance(result.exception, MENDABLE):
        assert getattr(result.exception, "exit_code", 2) == code, str(result.exception)
        return result.stdout, f"{result.stderr}{result.exception}\n"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    if "--json" in arguments:
        insist_on_schema(arguments, result.stdout)
    return result.stdout, result.stderr


def launcher_with_any_code(*arguments: str, environ: Mapping[str, str] | None = None) -> int:
    """Run the command in this process and return its exit code; what it prints as JSON has to be as its schema says."""
    result = CliRunner().invoke(app, arguments, env=dict(environ or {}))
    if isinstance(result.exception, MENDABLE):
        assert str(result.exception)
        return int(getattr(result.exception, "exit_code", 2))
    if isinstance(result.exception, OSError) and result.exception.errno in NO_BUGS:
        return 1
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if "--json" in arguments and result.stdout:
        insist_on_schema(arguments, result.stdout)
    return result.exit_code


def insist_on_schema(arguments: Sequence[str], printed: str) -> None:
    """Insist that what a command printed is as its schema says, without a key that the schema does not know."""
    command = next(name for name in OUTPUTS if name.split() == [*arguments[: len(name.split())]])
    answers = strict_schema(command)
    found = json.loads(printed, parse_constant=_refuse)
    errors = jsonschema.Draft202012Validator(answers).iter_errors(found)
    told = [f"{error.json_path}: {error.message[:500]}" for error in _innermost(errors)]
    assert told == [], f"launcher {command} --json: {told}"


def _innermost(errors: Any) -> list[Any]:
    """Say what is wrong in the form that fits best, not that no form fits."""
    return [jsonschema.exceptions.best_match([error]) for error in errors]


def _refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


@cache
def strict_schema(command: str) -> dict[str, Any]:
    """The schema of an output, with no key allowed that it does not name."""
    found: dict[str, Any] = _closed(output_schema(command))
    return found


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(one) for key, one in schema.items()}
    is_object = isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema
    return closed | ({"additionalProperties": False} if is_object and schema.get("type") == "object" else {})
