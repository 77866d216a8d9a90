"""Results that several runs of one recipe may make at once: the first counts, and nothing else is ever replaced."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.rank.atomic_files import sync
from jobs.rank.context import Context
from launcher.errors import LauncherError
from launcher.run.files import unwritable_folder

_OWN_MODELS = "ask its owner, or set a `roots.models` of your own in the cluster profile"


def why_closed(error: OSError) -> str | None:
    """Say why nothing may be made in a folder; None if an error has another cause."""
    if error.errno == errno.EROFS:
        return "the file system is read-only"
    return "permission denied" if isinstance(error, PermissionError) else None


@contextmanager
def refusing_closed(fix: str = _OWN_MODELS) -> Iterator[None]:
    """Say in one line that something may not be made.

    Args:
        fix: What to do.

    Raises:
        LauncherError: it may not.
    """
    try:
        yield
    except OSError as error:
        if why := why_closed(error):
            raise LauncherError(f"{error.filename}: {why}; {fix}") from None
        raise


def require_writable(path: Path, fix: str = _OWN_MODELS) -> None:
    """Refuse a place in which nothing may be made, before there is anything to put there.

    Raises:
        LauncherError: this user may not write there.
    """
    if folder := unwritable_folder(path):
        raise LauncherError(f"{folder}: permission denied; {fix}")


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


@contextmanager
def staging_folder(folder: Path, context: Context, fix: str = _OWN_MODELS) -> Iterator[Path]:
    """Make a folder beside a result's final place, and remove it if the result did not come there.

    An attempt that starts again has no use for what an earlier one wrote, and text of patients or gigabytes of weights
    do not stay where nobody looks for them.

    Args:
        folder: Where the result goes.
        context: The run; what its recipe makes of credentialed data is closed to others from the start.
        fix: What to do where the folder may not be made.

    Raises:
        LauncherError: it may not be made.
    """
    staging = folder.with_name(f".{folder.name}.{context.record.id}")
    shutil.rmtree(staging, ignore_errors=True)
    with refusing_closed(fix):
        staging.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir(mode=0o700 if context.recipe.data_use == "credentialed" else 0o777)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


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
