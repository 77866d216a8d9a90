"""Checkpoints that are complete or absent: staged, made durable, checksummed, then renamed into place.

A folder `step-XXXXXXXX` appears in one rename, with its COMPLETE manifest inside, after everything in it is on disk. A
damaged one (an interrupted copy, rotten bits, a missing file) is moved to `quarantine/` at the next start and never
resumed from. This module knows nothing of Trainer's or torch's formats.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jobs.rank.atomic_files import sync
from jobs.rank.deal import deal
from jobs.rank.process_group import RankGroup
from jobs.train.checkpoint_files import first_absent
from launcher.run.paths import COMPLETE, RunDir, is_checkpoint_complete, published_steps
from launcher.run.typed import read_object

STAGING, CONVERTED, TRASH, QUARANTINE = ".staging", ".converted", ".trash", "quarantine"

_MOST_RANKS = 10**6
Files = dict[str, tuple[int, str]]
"""Size and SHA-256 by path below the checkpoint."""


class CheckpointStore:
    """The checkpoints of one run. All methods are collectives unless they say otherwise."""

    def __init__(self, run: RunDir, group: RankGroup, keep: int, required: Sequence[str]) -> None:
        """Serve one attempt.

        Args:
            run: Whose checkpoints.
            group: The attempt's ranks.
            keep: Number of newest checkpoints to keep.
            required: Patterns of files that a run cannot resume without; `{rank}` stands for each rank that saved.
        """
        self._run = run
        self.group = group
        """The attempt's ranks."""
        self._keep = keep
        self._required = required

    def among(self, group: RankGroup) -> "CheckpointStore":
        """Return the same store for another group of the same ranks. Not a collective."""
        return CheckpointStore(self._run, group, self._keep, self._required)

    @property
    def staging(self) -> Path:
        """Where a checkpoint is written before it is published."""
        return self._run.checkpoints / STAGING

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step lies, or would."""
        return self._run.checkpoint(step)

    @property
    def converted(self) -> Path:
        """Where a checkpoint lies that was converted to be loaded once."""
        return self._run.checkpoints / CONVERTED

    def discard_converted(self) -> None:
        """Remove what was converted, now that all ranks have it."""
        self.group.barrier()
        if self.group.is_main:
            shutil.rmtree(self.converted, ignore_errors=True)

    def open_staging(self, name: str) -> Path:
        """Make an empty folder to write a checkpoint into.

        Only rank 0 makes it: on network file systems, making one folder from many ranks at once fails.
        """
        folder = self.staging / name
        if self.group.is_main:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.group.barrier()
        return folder

    def publish(self, folder: Path, step: int, best: int | None = None) -> None:
        """Turn a staged folder that all ranks have written into the checkpoint of a step.

        Args:
            folder: From `open_staging`.
            step: The step.
            best: Step of the best checkpoint so far, which stays as long as this one does.

        Raises:
            OSError: the disk is full or failed. Nothing is published; older checkpoints are unchanged.
        """
        self.group.barrier()
        sizes = {name: size for listed in self.group.collect(_list_files(folder)) for name, size in listed.items()}
        if self.group.leads_node:
            # Data waits in the memory of the node that wrote it: one rank of each node flushes all files.
            for name in sizes:
                sync(folder / name)
        self.group.barrier()
        share = self._share(sizes)
        parts = self.group.collect({name: _fingerprint(folder / name) for name in share})
        files = {name: entry for part in parts for name, entry in part.items()}
        absent = first_absent(files, self._required, self.group.world_size)
        if absent:
            raise FileNotFoundError(f"{folder}: {absent} was not saved, and the run cannot resume without it")
        if self.group.is_main:
            _seal(folder, {"step": step, "world_size": self.group.world_size, "best": best, "files": files})
            self._put_in_place(folder, step)
            self._rotate()
        self.group.barrier()

    def discard_staging(self) -> None:
        """Remove what was staged; for the rank that failed, so not a collective."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def find_resume(self) -> int | None:
        """Find the newest checkpoint that is complete and intact; quarantine every one that is not.

        Returns:
            Its step, or None to start from scratch. All ranks get the same answer.
        """
        if self.group.is_main:
            self._sweep()
        while True:
            step = self.group.from_main(_newest(self._run) if self.group.is_main else None)
            if step is None:
                return None
            faults = self._faults(self._run.checkpoint(step), step)
            if not faults:
                return step
            if self.group.is_main:
                self._quarantine(self._run.checkpoint(step), faults[0])
            self.group.barrier()

    def intact(self, step: int) -> Path:
        """Return the checkpoint of a step.

        Raises:
            RuntimeError: it is damaged.
        """
        folder = self._run.checkpoint(step)
        if faults := self._faults(folder, step):
            raise RuntimeError(f"checkpoint {folder.name}: {faults[0]}")
        return folder

    def saved_by(self, step: int) -> int:
        """Return the number of ranks that saved a checkpoint. Not a collective."""
        return int(_read_manifest(self._run.checkpoint(step))["world_size"])

    def describe(self, step: int | None) -> str:
        """Describe where training starts, for the log. Not a collective."""
        if step is None:
            return "from scratch"
        saved = self.saved_by(step)
        if saved == self.group.world_size:
            return f"resumes from step {step}"
        # Without a word from Trainer, ranks take the random state of their number, and new ones none.
        return (
            f"resumes from step {step}, which {saved} ranks saved, on {self.group.world_size}: the same data in the "
            "same order, but other random numbers (dropout)"
        )

    def _share(self, sizes: dict[str, int]) -> list[str]:
        names = sorted(sizes)
        numbers = deal([sizes[name] for name in names], self.group.world_size)[self.group.rank]
        return [names[number] for number in numbers]

    def _faults(self, folder: Path, step: int) -> list[str]:
        manifest = self.group.from_main(_try_manifest(folder, step) if self.group.is_main else "")
        if isinstance(manifest, str):
            return [manifest]
        files: Files = manifest["files"]
        absent = first_absent(files, self._required, manifest["world_size"])
        if absent:
            return [f"{absent} is missing, and the run cannot resume without it"]
        share = self._share({name: size for name, (size, _) in files.items()})
        found = self.group.collect([_fault(folder, name, *files[name]) for name in share])
        return sorted(fault for faults in found for fault in faults if fault)

    def _sweep(self) -> None:
        """Remove the remains of killed attempts; quarantine folders that were never completed."""
        self._run.checkpoints.mkdir(exist_ok=True)
        for name in (STAGING, CONVERTED, TRASH):
            shutil.rmtree(self._run.checkpoints / name, ignore_errors=True)
        for folder in sorted(self._run.checkpoints.glob("step-*")):
            if not is_checkpoint_complete(folder):
                self._quarantine(folder, f"{COMPLETE} is missing: the checkpoint was never finished")

    def _quarantine(self, folder: Path, reason: str) -> None:
        place = _free_name(self._run.checkpoints / QUARANTINE / folder.name)
        place.parent.mkdir(exist_ok=True)
        os.rename(folder, place)
        print(f"checkpoint {folder.name}: {reason}; moved to {place}, and not resumed from", flush=True)

    def _put_in_place(self, folder: Path, step: int) -> None:
        final = self._run.checkpoint(step)
        if final.exists():
            self._quarantine(final, "a newer checkpoint of the same step replaces it")
        os.rename(folder, final)
        sync(self._run.checkpoints)

    def _rotate(self) -> None:
        trash = self._run.checkpoints / TRASH
        steps = published_steps(self._run)
        newest = steps[-self._keep :]
        kept = {*newest, *(_best_known_to(self._run.checkpoint(step)) for step in newest)}
        for step in (step for step in steps if step not in kept):
            trash.mkdir(exist_ok=True)  # renamed first, so that no half-removed folder looks complete
            os.rename(self._run.checkpoint(step), trash / f"{step}")
        shutil.rmtree(trash, ignore_errors=True)


def _newest(run: RunDir) -> int | None:
    return max(published_steps(run), default=None)


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_object(folder / COMPLETE)
    files = {name: (int(size), str(digest)) for name, (size, digest) in manifest["files"].items()}
    world_size = int(manifest["world_size"])
    if not 0 < world_size <= _MOST_RANKS:
        raise ValueError(f"{world_size} ranks")
    if outside := [name for name in files if not _is_inside(name)]:
        raise ValueError(f"{outside[0][:80]!r} is not in it")
    return {"step": int(manifest["step"]), "world_size": world_size, "files": files}


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return name.isprintable() and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _best_known_to(folder: Path) -> int | None:
    try:
        best = read_object(folder / COMPLETE).get("best")
    except (OSError, ValueError, AttributeError):  # an old checkpoint that rotted is no reason to end a training
        return None
    return best if isinstance(best, int) else None


def _try_manifest(folder: Path, step: int) -> dict[str, Any] | str:
    try:
        manifest = _read_manifest(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return f"{COMPLETE} is unreadable ({type(error).__name__}: {error})"
    return manifest if manifest["step"] == step else f"{COMPLETE} is of step {manifest['step']}"


def _list_files(folder: Path) -> dict[str, int]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def _fingerprint(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _fault(folder: Path, name: str, size: int, digest: str) -> str | None:
    try:
        found_size, found_digest = _fingerprint(folder / name)
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    if found_size != size:
        return f"{name} has {found_size} bytes, not {size}"
    return None if found_digest == digest else f"{name} has changed since it was saved (its checksum differs)"


def _seal(folder: Path, manifest: dict[str, Any]) -> None:
    marker = folder / COMPLETE
    marker.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    sync(marker)
    for path in {folder, *(path.parent for path in folder.rglob("*"))}:
        sync(path)


def _free_name(path: Path) -> Path:
    candidates = (path.with_name(f"{path.name}.{number}") if number else path for number in range(10**6))
    return next(candidate for candidate in candidates if not candidate.exists())
