"""Who this user is: the name, and `~` at the start of a path. Standard library only."""

import getpass
import os
from pathlib import Path


class NoHomeError(ValueError):
    """`~` leads to no folder; the message says why, and what to write."""


def expand_home(path: str | Path) -> Path:
    """Replace `~`, or `~name`, at the start of a path.

    Raises:
        NoHomeError: There is no such user, or this one has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0][1:]
        missing = f"there is no user `{user}`" if user else "you have no home folder here, and HOME is not set"
        raise NoHomeError(f"`{path}`: {missing}; write the folder without `~`") from None


def user_name() -> str:
    """Name this user; by number, if this machine knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())
