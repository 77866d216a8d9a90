"""Faults of files and disks: what was written is torn or flipped, or nothing can be written any more."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from random import Random

from typing_extensions import override

from launcher.devcluster.chaos.fault import ChaosFault
from launcher.devcluster.chaos.process_faults import choose_rank
from launcher.devcluster.chaos.target import ChaosTarget
from launcher.errors import LauncherError

_ROOM = 64 * 1024
"""Bytes that a full disk has left; too few for any checkpoint."""
_KILL = "; kill -9 of rank"


class TearCheckpoint(ChaosFault):
    """A file of the newest checkpoint lost its end, and then a rank dies."""

    name = "tear-checkpoint"
    phases = ("training",)
    needs_checkpoint = True

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Cut one file in two, and kill a rank."""
        folder, path = _choose_file(target, rng)
        size = path.stat().st_size
        os.truncate(path, rng.randrange(size))
        return f"{folder.name}/{path.relative_to(folder)} torn{_kill_one(target, rng)}"


class FlipCheckpoint(ChaosFault):
    """One bit of the newest checkpoint rotted, and then a rank dies."""

    name = "flip-checkpoint"
    phases = ("training",)
    needs_checkpoint = True

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Flip a bit of one file, and kill a rank."""
        folder, path = _choose_file(target, rng)
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        return f"{folder.name}/{path.relative_to(folder)} has a flipped bit{_kill_one(target, rng)}"


class TearLedger(ChaosFault):
    """A power cut tore a line of the ledger, and then a rank dies."""

    name = "tear-ledger"

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Append the beginning of a line, and kill a rank."""
        last = target.run.ledger.read_bytes().splitlines()[-1]
        with target.run.ledger.open("ab") as ledger:
            ledger.write(last[: rng.randrange(1, len(last))])
        return f"half a line in the ledger{_kill_one(target, rng)}"


class FillDisk(ChaosFault):
    """The disk of the checkpoints is full until the attempt is over."""

    name = "full-disk"
    phases = ("training",)
    _is_mounted = False

    @override
    def why_not(self, target: ChaosTarget) -> str:
        """A small disk has to be mounted."""
        return _why_no_mount() if os.geteuid() == 0 else "only root can mount a small disk"

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Mount a disk with nothing free over the checkpoints, which stay what they are."""
        folder = target.run.checkpoints
        folder.mkdir(exist_ok=True)
        aside = folder.with_name("checkpoints-aside")
        try:
            shutil.copytree(folder, aside, symlinks=True, dirs_exist_ok=True)
            size = sum(_space(path) for path in aside.rglob("*")) + _ROOM
            _call("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder))
            try:
                shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
            except BaseException:
                _call("umount", "--lazy", str(folder))  # what lies below it is whole
                raise
            self._is_mounted = True
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return f"{_ROOM // 1024} KiB left for checkpoints"

    @override
    def undo(self, target: ChaosTarget) -> None:
        """Bring the larger disk back, with what was written meanwhile."""
        if not self._is_mounted:
            return
        folder = target.run.checkpoints
        kept = folder.with_name("checkpoints-kept")
        shutil.copytree(folder, kept, symlinks=True, dirs_exist_ok=True)
        _call("umount", "--lazy", str(folder))
        self._is_mounted = False
        shutil.rmtree(folder)
        kept.rename(folder)


class ForbidWriting(ChaosFault):
    """The file system of the run directory is read-only until the run has given up."""

    name = "read-only"
    phases = ("training",)
    until = "at rest"
    _way_back: tuple[str, ...] = ()
    """The command that takes it back; empty if there is nothing to take back."""

    @override
    def why_not(self, target: ChaosTarget) -> str:
        """Root may write whatever the mode says, so the file system has to be mounted again."""
        return _why_no_mount() if os.geteuid() == 0 else ""

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Mount it read-only, or take away the right to write, which root does not need."""
        root = str(target.run.root)
        if os.geteuid() == 0:
            _call("mount", "--bind", root, root)
            self._way_back = ("umount", "--lazy", root)
            _call("mount", "-o", "remount,ro,bind", root)
        else:
            self._way_back = ("chmod", "-R", "u+w", root)
            _call("chmod", "-R", "a-w", root)
        return "the run directory is read-only"

    @override
    def undo(self, target: ChaosTarget) -> None:
        """Allow writing again."""
        if self._way_back:
            _call(*self._way_back)
            self._way_back = ()


def _choose_file(target: ChaosTarget, rng: Random) -> tuple[Path, Path]:
    """Choose a file of the newest checkpoint."""
    folder = target.newest_checkpoint
    if folder is None:
        raise LauncherError("chaos: the run has no checkpoint")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return folder, rng.choice(files)


def _kill_one(target: ChaosTarget, rng: Random) -> str:
    number, process = choose_rank(target, rng)
    process.send(signal.SIGKILL)
    return f"{_KILL} {number}"


def _space(path: Path) -> int:
    """Bytes that a file or folder takes on a tmpfs, which counts in pages."""
    page = os.sysconf("SC_PAGE_SIZE")
    return -(-path.lstat().st_size // page) * page if path.is_file() else page


def _why_no_mount() -> str:
    """Say why nothing can be mounted here, by trying: root of a container often may not."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            _call("mount", "-t", "tmpfs", "-o", "size=64k", "none", folder)
        except (LauncherError, OSError) as error:
            return f"nothing can be mounted here: {str(error).removeprefix('chaos: ')}"
        _call("umount", "--lazy", folder)
    return ""


def _call(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LauncherError(f"chaos: `{' '.join(argv)}` failed: {done.stderr.strip()}")
