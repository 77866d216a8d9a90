"""Secrets: from the site's file into this process's environment, and nowhere else."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from launcher.errors import RunError
from launcher.run.paths import expand


def load_secrets(secrets_file: str | None, wanted: Iterable[str]) -> None:
    """Put the secrets that a recipe names into `os.environ`, and no others.

    Args:
        secrets_file: The cluster profile's file of `NAME=value` lines, mode 0600.
        wanted: Names that the recipe needs.

    Raises:
        RunError: The file is missing or others may read it, or a secret is missing. The message has no value.
    """
    names = tuple(wanted)
    if secrets_file is not None and names:
        found = _read(expand(secrets_file))
        os.environ.update({name: found[name] for name in names if name in found})
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        where = f"`{secrets_file}`" if secrets_file else "the cluster profile's `secrets_file`"
        listed = ", ".join(f"`{name}`" for name in missing)
        raise RunError(f"secrets: {listed} not set on {os.uname().nodename}; write NAME=value into {where}")


def _read(path: Path) -> dict[str, str]:
    try:
        # The opened file's mode: the name could lead to another file a moment later.
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except OSError as error:
        raise RunError(f"{path}: the secrets file cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise RunError(f"{path}: others may read this secrets file (mode {mode:04o}); run `chmod 600 {path}`")
    return dict(_parse_line(line, number, path) for number, line in enumerate(text.split("\n"), 1) if _holds(line))


def _holds(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _parse_line(line: str, number: int, path: Path) -> tuple[str, str]:
    name, equals, value = line.strip().removeprefix("export ").partition("=")
    if not equals or not name.strip().isidentifier():
        # The line itself may be a secret.
        raise RunError(f"{path}:{number}: not a `NAME=value` line")
    value = value.strip()
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
    return name.strip(), value[1:-1] if quoted else value
