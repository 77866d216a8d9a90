"""Files that only a credentialed recipe may read."""

from collections.abc import Iterable
from pathlib import Path

from launcher.artifacts.data_use import find_credentialed
from launcher.errors import LauncherError


def require_open_files(said: str, key: str, paths: Iterable[Path]) -> None:
    """Refuse to read files that were made of credentialed data in an open recipe.

    Args:
        said: The recipe's `data_use`.
        key: Where the recipe names the files.
        paths: The files.

    Raises:
        LauncherError: one of them was made of credentialed data.
    """
    if said == "open" and (found := find_credentialed(paths)):
        path, record = found
        raise LauncherError(
            f"{key}: `{path}` was made of credentialed data, as `{record}` says; write `data_use: credentialed`"
        )
