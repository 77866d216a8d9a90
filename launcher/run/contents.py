"""What identifies the content of what a run reads or makes: a manifest's fingerprint, or files by their checksums.

Standard library only: the batch process registers what has finished.
"""

import contextlib
import glob
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.run.files import replace_text
from launcher.run.typed import read_object

_OF_TOKENIZER = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template")
"""How the names of a tokenizer's files start."""


@dataclass(frozen=True)
class FileStamp:
    """A file as it was when it was looked at."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> "FileStamp":
        """Look at a file."""
        found = os.stat(path)
        return cls(path, found.st_size, found.st_mtime_ns)

    def is_unchanged(self) -> bool:
        """Tell whether the file still is what it was."""
        try:
            return FileStamp.of(self.path) == self
        except OSError:
            return False


@dataclass(frozen=True)
class Content:
    """The content of one input or artifact."""

    known: str | None = None
    """What a manifest says; None: the checksums of the files count."""
    files: tuple[FileStamp, ...] = ()

    def digest(self, cache: Path) -> str:
        """Say in one word what the content is.

        Args:
            cache: Folder of checksums that were computed before.

        Raises:
            OSError: A file cannot be read.
        """
        if self.known is not None:
            return self.known
        rows = [[os.path.basename(stamp.path), file_checksum(stamp, cache)] for stamp in self.files]
        return f"files {hashlib.sha256(json.dumps(rows).encode()).hexdigest()}"

    def is_unchanged(self) -> bool:
        """Tell whether the files are still those that were looked at."""
        return all(stamp.is_unchanged() for stamp in self.files)

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return {"known": self.known, "files": [[one.path, one.size, one.mtime_ns] for one in self.files]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Content":
        """Read what `as_json` wrote."""
        return cls(value["known"], tuple(FileStamp(*row) for row in value["files"]))


def file_checksum(stamp: FileStamp, cache: Path) -> str:
    """SHA-256 of a file, computed once for each size and time of change.

    Args:
        stamp: The file as it is now.
        cache: Folder of what was computed before, a file for each path.
    """
    entry = cache / hashlib.sha256(stamp.path.encode(errors="surrogateescape")).hexdigest()
    known = _read_json(entry)
    if known and [known.get("size"), known.get("mtime_ns")] == [stamp.size, stamp.mtime_ns]:
        return str(known["sha256"])
    with open(stamp.path, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if stamp.is_unchanged():
        with contextlib.suppress(PermissionError):  # the cache is somebody else's: compute it again next time
            cache.mkdir(parents=True, exist_ok=True)
            replace_text(entry, json.dumps({"size": stamp.size, "mtime_ns": stamp.mtime_ns, "sha256": checksum}))
    return checksum


def look_at_files(pattern: str) -> Content | None:
    """Look at the files that a pattern matches; None if there are none."""
    paths = sorted(path for path in glob.iglob(pattern, recursive=True) if os.path.isfile(path))
    return Content(files=_stamps(paths)) if paths else None


def look_at(artifact: str, folder: Path) -> Content | None:
    """Look at a folder that a recipe reads or makes; None if it is not there, or not complete.

    Args:
        artifact: Its type (`launcher.recipe.base.ArtifactType`).
        folder: The folder.
    """
    manifest = _read_json(folder / "manifest.json")
    if artifact in ("corpus", "terminology", "tables"):
        key = "checksums" if artifact == "tables" else "fingerprint"
        return Content(f"{artifact} {_hash(manifest[key])}") if manifest and key in manifest else None
    if not folder.is_dir():
        return None
    if artifact == "tokenizer":
        return _look_at_tokenizer(folder)
    if manifest and ({"run", "inputs"} & manifest.keys()):  # an export, or a merge; written last
        return Content(f"{artifact} {_hash(manifest)}")
    return _files_below(folder)


def _look_at_tokenizer(folder: Path) -> Content | None:
    expansion = _read_json(folder / "expansion.json")
    if expansion:
        return Content(f"tokenizer {_hash(expansion.get('expanded'))}")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    own = [name for name in names if name.startswith(_OF_TOKENIZER) or name.endswith(".model")]
    return Content(files=_stamps(str(folder / name) for name in own)) if own else None


def _files_below(folder: Path) -> Content | None:
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(parent, name) for name in sorted(names) if not name.startswith(".")]
    return Content(files=_stamps(found)) if found else None


def _stamps(paths: Iterable[str]) -> tuple[FileStamp, ...]:
    return tuple(FileStamp.of(path) for path in paths)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = read_object(path)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def digest_all(contents: Sequence[tuple[str, Content]], cache: Path) -> str:
    """Say in one word what all inputs of a run are.

    Args:
        contents: The inputs by their keys.
        cache: As for `Content.digest`.
    """
    return _hash([[key, content.digest(cache)] for key, content in contents])
