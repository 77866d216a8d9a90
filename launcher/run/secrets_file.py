"""The site's file of secrets: `NAME=value` lines, which only their owner may read. Standard library only."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path


class SecretsFileError(ValueError):
    """The file cannot be used; says why, without any value."""


def read_secrets(path: Path) -> dict[str, str]:
    """Read all secrets of a file.

    Raises:
        SecretsFileError: The file is missing, others may read it, or a line is something else.
    """
    try:
        # The opened file's mode: the name could lead to another file a moment later.
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except OSError as error:
        raise SecretsFileError(f"{path}: the secrets file cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise SecretsFileError(f"{path}: others may read this secrets file (mode {mode:04o}); run `chmod 600 {path}`")
    return dict(_parse_lines(text, path))


def _parse_lines(text: str, path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or not name.strip().isidentifier():
            # The line itself may be a secret.
            raise SecretsFileError(f"{path}:{number}: not a `NAME=value` line")
        value = value.strip()
        quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
        yield name.strip(), value[1:-1] if quoted else value
