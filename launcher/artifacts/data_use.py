"""Whether something was made of credentialed data: the folders that it lies in say so. Reads small JSON files."""

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from launcher.artifacts.corpus_manifest import MANIFEST
from launcher.run.paths import GENERATIONS, SCORES, RunDir
from launcher.run.typed import read_object

_RECORDS = (RunDir(Path()).recipe.name, MANIFEST, GENERATIONS, SCORES)
"""What may stand in a folder and say of what all below it was made."""


def find_credentialed(paths: Iterable[Path]) -> tuple[Path, Path] | None:
    """Find something that was made of credentialed data.

    It was if it lies anywhere below a folder whose record says `data_use: credentialed`: the resolved recipe of a run,
    the manifest of tables, a corpus or weights, what is told of generated texts, or scores. Links are followed; the
    folder that holds a link counts, too.

    Args:
        paths: Absolute paths of files or folders; they need not exist.

    Returns:
        The first one, and the record that says so; None if there is none.
    """

    @cache
    def record_above(folder: str) -> Path | None:
        above = os.path.dirname(folder)
        return _record_in(folder) or (record_above(above) if above != folder else None)

    real = cache(os.path.realpath)
    for path in paths:
        folder = os.path.dirname(path)
        target = os.path.dirname(os.path.realpath(path)) if os.path.islink(path) else folder
        for one in dict.fromkeys((folder, real(folder), target)):
            if record := record_above(one):
                return path, record
    return None


def _record_in(folder: str) -> Path | None:
    """Return the record of a folder that says `credentialed`; one that cannot be read says nothing."""
    for name in _RECORDS:
        path = Path(folder, name)
        try:
            said = read_object(path)
        except (OSError, ValueError):
            continue
        if isinstance(said, dict) and said.get("data_use") == "credentialed":
            return path
    return None
