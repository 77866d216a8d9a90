"""Typing `launcher ...` without the second that a new process takes."""

from collections.abc import Mapping

from typer.testing import CliRunner

from launcher.cli import app
from launcher.errors import LauncherError


def launcher(*arguments: str, code: int = 0, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Run the command in this process, insist on its exit code, and return what it wrote to stdout and stderr."""
    result = CliRunner().invoke(app, arguments, env=dict(environ or {}))
    if isinstance(result.exception, LauncherError):
        assert result.exception.exit_code == code, str(result.exception)
        return result.stdout, f"{result.stderr}{result.exception}\n"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr
