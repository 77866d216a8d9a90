"""Checkpoints that are complete or absent: staged, made durable, checksummed, then renamed into place.

A folder `step-XXXXXXXX` appears in one rename, with its COMPLETE manifest inside, after everything in it is on disk. A
damaged one (an interrupted copy, rotten bits, a missing file) is moved to `quarantine/` at the next start and never
resumed from. This module knows nothing of Trainer's or torch's formats.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.rank.atomic_files import sync
from jobs.rank.deal import deal
from jobs.rank.process_group import RankGroup
from jobs.train.checkpoint_files import first_absent
from jobs.train.checkpoint_manifest import (
    CheckpointFault,
    CheckpointManifest,
    UnreadableCheckpointError,
    find_fault,
    find_unfinished,
    fingerprint,
    may_pass,
    read_manifest,
    try_manifest,
)
from launcher.run.paths import COMPLETE, RunDir, published_steps
from launcher.run.typed import read_object

STAGING, CONVERTED, TRASH, QUARANTINE = ".staging", ".converted", ".trash", "quarantine"


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
        parts = self.group.collect({name: fingerprint(folder / name) for name in share})
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

        Raises:
            UnreadableCheckpointError: the file system does not give what may well be intact. All ranks raise it.
        """
        if error := self.group.from_main(self._try_sweep() if self.group.is_main else None):
            raise error
        while True:
            step = self.group.from_main(_newest(self._run) if self.group.is_main else None)
            if step is None:
                return None
            damage = self._damage(self._run.checkpoint(step), step)
            if damage is None:
                return step
            if self.group.is_main:
                self.quarantine(self._run.checkpoint(step), damage)
            self.group.barrier()

    def intact(self, step: int) -> Path:
        """Return the checkpoint of a step.

        Raises:
            RuntimeError: it is damaged.
            UnreadableCheckpointError: the file system does not give it now.
        """
        folder = self._run.checkpoint(step)
        if damage := self._damage(folder, step):
            raise RuntimeError(f"checkpoint {folder.name}: {damage}")
        return folder

    def saved_by(self, step: int) -> int:
        """Return the number of ranks that saved a checkpoint. Not a collective."""
        return read_manifest(self._run.checkpoint(step)).world_size

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

    def _damage(self, folder: Path, step: int) -> str | None:
        """Say what is damaged in a checkpoint; None if it is intact."""
        found: CheckpointManifest | CheckpointFault
        found = self.group.from_main(try_manifest(folder, step) if self.group.is_main else CheckpointFault(""))
        if isinstance(found, CheckpointFault):
            return self._worst(folder, [found])
        absent = first_absent(found.files, self._required, found.world_size)
        if absent:
            return f"{absent} is missing, and the run cannot resume without it"
        share = self._share({name: size for name, (size, _) in found.files.items()})
        told = self.group.collect([find_fault(folder, name, *found.files[name]) for name in share])
        return self._worst(folder, [fault for faults in told for fault in faults if fault])

    def _worst(self, folder: Path, faults: Sequence[CheckpointFault]) -> str | None:
        """Return the first damage of those faults; raise what may pass, if there is no damage."""
        if damages := sorted(fault.said for fault in faults if not fault.may_pass):
            return damages[0]
        if passing := sorted(fault.said for fault in faults):
            raise self._unreadable(folder, passing[0])
        return None

    def _unreadable(self, folder: Path, said: str) -> UnreadableCheckpointError:
        return UnreadableCheckpointError(
            f"checkpoint {folder.name}: {said}; it may be intact, so it stays where it is, and the next attempt tries "
            f"again; if this goes on, repair the file system, or move {folder} into "
            f"{self._run.checkpoints / QUARANTINE} to resume from the checkpoint before it"
        )

    def _try_sweep(self) -> UnreadableCheckpointError | None:
        """Sweep, on rank 0; what the other ranks have to know as well is returned."""
        try:
            self._sweep()
        except UnreadableCheckpointError as error:
            return error
        return None

    def _sweep(self) -> None:
        """Remove the remains of killed attempts; quarantine folders that were never completed."""
        self._run.checkpoints.mkdir(exist_ok=True)
        for name in (STAGING, CONVERTED, TRASH):
            shutil.rmtree(self._run.checkpoints / name, ignore_errors=True)
        for folder in sorted(self._run.checkpoints.glob("step-*")):
            fault = find_unfinished(folder)
            if fault and fault.may_pass:
                raise self._unreadable(folder, fault.said)
            if fault:
                self.quarantine(folder, fault.said)

    def quarantine(self, folder: Path, reason: str) -> None:
        """Put a checkpoint aside that nothing is to be resumed from, and say why. Rank 0 calls it; not a collective."""
        place = _free_name(self._run.checkpoints / QUARANTINE / folder.name)
        place.parent.mkdir(exist_ok=True)
        os.rename(folder, place)
        print(f"checkpoint {folder.name}: {reason}; moved to {place}, and not resumed from", flush=True)

    def _put_in_place(self, folder: Path, step: int) -> None:
        final = self._run.checkpoint(step)
        if final.exists():
            self.quarantine(final, "a newer checkpoint of the same step replaces it")
        os.rename(folder, final)
        sync(self._run.checkpoints)

    def _rotate(self) -> None:
        trash = self._run.checkpoints / TRASH
        steps = published_steps(self._run)
        newest = steps[-self._keep :]
        try:
            kept = {*newest, *(_best_known_to(self._run.checkpoint(step)) for step in newest)}
        except OSError:
            return  # which one is the best is not known now: the next checkpoint removes what is too much
        for step in (step for step in steps if step not in kept):
            trash.mkdir(exist_ok=True)  # renamed first, so that no half-removed folder looks complete
            os.rename(self._run.checkpoint(step), trash / f"{step}")
        shutil.rmtree(trash, ignore_errors=True)


def _newest(run: RunDir) -> int | None:
    return max(published_steps(run), default=None)


def _best_known_to(folder: Path) -> int | None:
    try:
        best = read_object(folder / COMPLETE).get("best")
    except (ValueError, AttributeError):  # an old checkpoint that rotted is no reason to end a training
        return None
    except OSError as error:
        if may_pass(error):
            raise
        return None
    return best if isinstance(best, int) else None


def _list_files(folder: Path) -> dict[str, int]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def _seal(folder: Path, manifest: dict[str, Any]) -> None:
    marker = folder / COMPLETE
    marker.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    sync(marker)
    for path in {folder, *(path.parent for path in folder.rglob("*"))}:
        sync(path)


def _free_name(path: Path) -> Path:
    candidates = (path.with_name(f"{path.name}.{number}") if number else path for number in range(10**6))
    return next(candidate for candidate in candidates if not candidate.exists())
