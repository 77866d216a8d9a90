"""The code that a run executes: one content-addressed, read-only copy, so later edits never reach a queued job.

Reading all files at each submission takes longer than anything else that is done with them. So what was read is
remembered by the files' sizes, times and inodes, as git does it (https://git-scm.com/docs/racy-git): files in the same
state have the same content.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import LauncherError
from launcher.run.files import replace_text
from launcher.run.paths import snapshots_root

_LOG = logging.getLogger(__name__)
PACKAGES = ("launcher", "jobs")
_HASH_CHARACTERS = 16
_SETTLED_SECONDS = 60
"""Files that changed later than this before they were read may change again without another time of change, on a file
system with coarse times, or with a clock that differs from ours. Their content is not remembered."""
_READINGS = 20


@dataclass(frozen=True)
class Snapshot:
    """The Python files of `launcher/` and `jobs/` at one moment, and where their copy lies."""

    folder: Path
    """What goes on PYTHONPATH; its name is the hash of its content."""
    commit: str | None
    """Git commit of the files, with `+changes` if they differ from it."""
    state: str | None = field(repr=False)
    """State by which the files can be recognised; None if they changed just now."""
    files: Mapping[str, bytes] | None = field(repr=False)
    """Content by path; None if it was not read, since the copy of files in this state exists."""

    def publish(self) -> None:
        """Write the copy, unless the same code was copied before.

        Raises:
            LauncherError: Somebody changed or removed the files of the earlier copy.
        """
        if self.folder.is_dir():
            self._check_copy()
        elif self.files is None:
            raise LauncherError(f"{self.folder}: this code snapshot has just been removed; submit once more")
        else:
            self._write_copy(self.files)
        if self.state:
            _remember(self.folder, self.state)

    def _check_copy(self) -> None:
        state = _state(self.folder)
        if _recall(self.folder.parent, state.digest) == self.folder.name:
            return
        if _hash(_read(self.folder)) != self.folder.name:
            raise LauncherError(
                f"{self.folder}: files of this code snapshot were changed, and queued runs would execute them; "
                "restore them, or remove the folder once no run's `code` points to it"
            )
        if state.is_settled:
            _remember(self.folder, state.digest)

    def _write_copy(self, files: Mapping[str, bytes]) -> None:
        staging = self.folder.with_name(f".{self.folder.name}.{os.getpid()}")
        try:
            for name, content in files.items():
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                (staging / name).write_bytes(content)
                (staging / name).chmod(0o444)
        except OSError as error:  # the disk is full
            error.filename = str(self.folder)
            shutil.rmtree(staging, ignore_errors=True)
            raise
        state = _state(staging).digest  # nobody else knows this folder yet
        try:
            staging.rename(self.folder)  # the copy is there completely or not at all
        except OSError:
            shutil.rmtree(staging)
            if not self.folder.is_dir():  # another call published the same code in the meantime
                raise
        else:
            _remember(self.folder, state)


def read_code(runs_root: Path, source: Path | None = None) -> Snapshot:
    """Read the code that is running now. Writes nothing.

    Args:
        runs_root: Folder of all runs; snapshots lie in its `.code`.
        source: Folder that holds the packages; by default the one this module was imported from.

    Raises:
        LauncherError: The files change all the time.
    """
    origin, snapshots = source or Path(__file__).parents[2], snapshots_root(runs_root)
    git = _ask_git(origin)  # which works at the same time
    try:
        state = _state(origin)
        known, files = _recall(snapshots, state.digest), None
        if known is None or not (snapshots / known).is_dir():
            state, files = _read_unchanged(origin, state)
            known = _hash(files)
    finally:
        commit = _commit(git)
    _LOG.info("code snapshot: %s, %s", snapshots / known, "is to be written" if files else "as it is")
    return Snapshot(snapshots / known, commit, state.digest if state.is_settled else None, files)


@dataclass(frozen=True)
class _State:
    """What tells that files have not changed, without reading them."""

    digest: str
    is_settled: bool
    """Whether a later change will show."""


def _state(folder: Path) -> _State:
    """Look at names, inodes, sizes and times of the Python files; those of a folder that moves stay the same."""
    now, newest, digest = time.time_ns(), 0, hashlib.sha256()
    for name, path in _python_files(folder):
        descriptor = os.open(path, os.O_RDONLY)  # NFS asks the server when a file is opened, and need not before
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
        words = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(f"{name}\0{words}\0".encode())
    return _State(digest.hexdigest(), newest < now - _SETTLED_SECONDS * 10**9)


def _read_unchanged(origin: Path, before: _State) -> tuple[_State, dict[str, bytes]]:
    """Read all files as they are at one moment."""
    for _ in range(_READINGS):
        files, after = _read(origin), _state(origin)
        if after.digest == before.digest:
            return before, files
        before = after
    raise LauncherError(f"{origin}: files of {' and '.join(PACKAGES)} change all the time; submit when they do not")


def _recall(snapshots: Path, state: str) -> str | None:
    """Name the snapshot that holds what files in this state hold; None if they have not been read yet."""
    try:
        return (snapshots / ".known" / state).read_text(encoding="ascii") or None
    except OSError:
        return None


def _remember(snapshot: Path, state: str) -> None:
    known = snapshot.parent / ".known" / state
    if not known.exists():
        known.parent.mkdir(exist_ok=True)
        replace_text(known, snapshot.name)


def _python_files(origin: Path) -> Iterator[tuple[str, str]]:
    """Give the names of the files below a folder, and their paths."""
    start = len(str(origin)) + 1
    for package in PACKAGES:
        for folder, subfolders, names in os.walk(origin / package):
            subfolders.sort()
            for name in sorted(names):
                if name.endswith(".py"):
                    path = f"{folder}/{name}"
                    yield path[start:], path


def _read(origin: Path) -> dict[str, bytes]:
    return {name: Path(path).read_bytes() for name, path in _python_files(origin)}


def _hash(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:_HASH_CHARACTERS]


def _ask_git(origin: Path) -> "subprocess.Popen[str] | None":
    """Ask git once for both the commit and the changes; an installed package has neither."""
    if not (origin / ".git").exists() or not shutil.which("git"):
        return None
    argv = ["git", "-C", str(origin), "status", "--porcelain=v2", "--branch", "--", *PACKAGES]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _commit(git: "subprocess.Popen[str] | None") -> str | None:
    if git is None:
        return None
    lines = git.communicate()[0].splitlines()
    commits = [line.split()[2] for line in lines if line.startswith("# branch.oid ")]
    changed = any(not line.startswith("#") for line in lines)
    return f"{commits[0]}{'+changes' if changed else ''}" if commits else None
