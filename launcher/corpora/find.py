"""Listing corpora, and finding the one that a user names."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from launcher.artifacts.corpus_manifest import MANIFEST, IdFormat, Manifest, read_manifest
from launcher.cluster import Cluster
from launcher.errors import LauncherError
from launcher.run.paths import expand

ID_CODES: dict[IdFormat, str] = {"uint16": "H", "uint32": "I"}
"""The formats of token ids in the words of the `array` module."""
_SHOWN = 10


@dataclass(frozen=True)
class PublishedCorpus:
    """A corpus on disk, as its manifest describes it."""

    folder: Path
    manifest: Manifest


def is_path(text: str) -> bool:
    """Tell whether a text is a folder rather than a name below the profile's `roots.corpora`."""
    return "/" in text or os.path.isfile(Path(text) / MANIFEST)


def find_corpus(cluster: Cluster, name: str) -> Path:
    """Find a corpus by its name.

    Args:
        cluster: Its `roots.corpora` is where to look.
        name: Name of a folder there.

    Raises:
        LauncherError: There is none, or it is not complete; the message lists the names that exist.
    """
    root = expand(cluster.roots.corpora)
    if os.path.isdir(root / name):  # False, not an error, where this user may not look
        return root / name
    if os.path.isdir(root / f"{name}.partial"):
        raise LauncherError(f"`{name}`: is not complete yet; `launcher status` shows how far the run that makes it is")
    raise LauncherError(f"`{name}`: no corpus below `{root}` has this name; {_hint(name, _names(root))}")


def open_published(folder: Path) -> PublishedCorpus:
    """Read the manifest of a corpus.

    Raises:
        LauncherError: It is not a corpus, or this user may not read it.
    """
    try:
        return PublishedCorpus(folder, read_manifest(folder))
    except PermissionError as error:
        raise LauncherError(f"{error.filename}: permission denied; ask the owner of `{folder}` for access") from None
    except NotADirectoryError:
        raise LauncherError(f"{folder}: is a file; write the folder of a corpus") from None


def _names(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob(f"*/{MANIFEST}"))


def _hint(name: str, known: list[str]) -> str:
    if near := difflib.get_close_matches(name, known, n=1):
        return f"did you mean `{near[0]}`?"
    if not known:
        return "it has none; submit the `prepare` recipe that makes it, or write a path"
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f"there are {', '.join(f'`{one}`' for one in known[:_SHOWN])}{more}; or write a path"
