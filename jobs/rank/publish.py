"""Results that several runs of one recipe may make at once: the first counts, and nothing else is ever replaced."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from jobs.rank.atomic_files import sync
from launcher.errors import LauncherError


def is_in_place(folder: Path, key: str, describe_other: Callable[[], str | None]) -> bool:
    """Tell whether a run's very result is there already.

    Args:
        folder: Where it goes.
        key: Of the recipe, which gives the folder its name.
        describe_other: Says what is there instead; None if it is this result.

    Raises:
        LauncherError: something else is there.
    """
    if not folder.exists():
        return False
    if other := describe_other():
        raise LauncherError(f"{folder}: {other}; write another name as `{key}`, or remove that folder")
    return True


def put_in_place(made: Path, folder: Path, is_published: Callable[[], bool]) -> None:
    """Give a result its name, in one rename; another run of the same recipe may have been quicker.

    Args:
        made: Whole, and on disk.
        folder: Where it goes, on the same file system.
        is_published: Tells whether the result is there already.
    """
    try:
        os.rename(made, folder)
    except OSError:
        if not is_published():
            raise
        shutil.rmtree(made, ignore_errors=True)
    sync(folder.parent)
