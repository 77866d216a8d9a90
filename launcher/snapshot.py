"""The code that a run executes: one content-addressed, read-only copy, so later edits never reach a queued job."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import LauncherError
from launcher.paths import snapshots_root

PACKAGES = ("launcher", "jobs")
_HASH_CHARACTERS = 16


@dataclass(frozen=True)
class Snapshot:
    """The Python files of `launcher/` and `jobs/` at one moment, and where their copy lies."""

    folder: Path
    """What goes on PYTHONPATH; its name is the hash of its content."""
    commit: str | None
    """Git commit of the files, with `+changes` if they differ from it."""
    files: Mapping[str, bytes] = field(repr=False)
    """Content by path."""

    def publish(self) -> None:
        """Write the copy, unless the same code was copied before.

        Raises:
            LauncherError: Somebody changed the files of the earlier copy.
        """
        if self.folder.is_dir():
            self._check_copy()
            return
        staging = self.folder.with_name(f".{self.folder.name}.{os.getpid()}")
        for name, content in self.files.items():
            _write_read_only(staging / name, content)
        try:
            staging.rename(self.folder)  # the copy is there completely or not at all
        except OSError:
            shutil.rmtree(staging)
            if not self.folder.is_dir():  # another call published the same code in the meantime
                raise

    def _check_copy(self) -> None:
        if _hash(dict(_python_files(self.folder))) != self.folder.name:
            raise LauncherError(
                f"{self.folder}: files of this code snapshot were changed, and queued runs would execute them; "
                "restore them, or remove the folder once no run's `code` points to it"
            )


def read_code(runs_root: Path, source: Path | None = None) -> Snapshot:
    """Read the code that is running now. Writes nothing.

    Args:
        runs_root: Folder of all runs; snapshots lie in its `.code`.
        source: Folder that holds the packages; by default the one this module was imported from.
    """
    origin = source or Path(__file__).parents[1]
    files = dict(_python_files(origin))
    return Snapshot(snapshots_root(runs_root) / _hash(files), _commit(origin), files)


def _python_files(origin: Path) -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        for folder, subfolders, names in os.walk(origin / package):
            subfolders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                if name.endswith(".py"):
                    yield os.path.relpath(path, origin), Path(path).read_bytes()


def _hash(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:_HASH_CHARACTERS]


def _write_read_only(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o444)


def _commit(origin: Path) -> str | None:
    """Ask git once for both the commit and the changes; an installed package has neither."""
    if not (origin / ".git").exists() or not shutil.which("git"):
        return None
    argv = ["git", "-C", str(origin), "status", "--porcelain=v2", "--branch", "--", *PACKAGES]
    lines = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()
    commits = [line.split()[2] for line in lines if line.startswith("# branch.oid ")]
    changed = any(not line.startswith("#") for line in lines)
    return f"{commits[0]}{'+changes' if changed else ''}" if commits else None
