"""Freezing: what was planned becomes run directories and submission directories, all that a node will read."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from launcher.cluster import Cluster
from launcher.load import LoadedRecipe
from launcher.paths import RunDir, SubmissionDir
from launcher.plan import checkpoint_bytes, starting_micro_batch
from launcher.record import RunRecord, Share, Submitted, fingerprint
from launcher.render import slug
from launcher.snapshot import Snapshot

_ID_BYTES = 3


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with the text of its recipe.json."""

    loaded: LoadedRecipe
    text: str
    fingerprint: str

    @property
    def folder_mode(self) -> int:
        """Credentialed data is for nobody else's eyes; other runs are as open as the user's umask allows."""
        return 0o700 if self.loaded.recipe.data_use == "credentialed" else 0o777


def resolve(loaded: LoadedRecipe) -> ResolvedRecipe:
    """Fix the text and the fingerprint of a recipe."""
    text = loaded.recipe.model_dump_json(indent=1)
    return ResolvedRecipe(loaded, text, fingerprint(json.loads(text)))


@dataclass(frozen=True)
class NewRun:
    """A run that is to be made."""

    folder: RunDir
    item: ResolvedRecipe
    group: str | None = None
    share: Share | None = None


@dataclass(frozen=True)
class FrozenRun:
    """A run directory and what its run.json says."""

    folder: RunDir
    record: RunRecord

    def add_job(self, job_id: str, submission: SubmissionDir, when: float) -> None:
        """Note in run.json that the run was queued."""
        self.record.submissions.append(Submitted(job_id, str(submission.root), when))
        self.record.write(self.folder.record)


@dataclass(frozen=True)
class Freezer:
    """Makes the run directories of one call of `launcher submit`.

    Args:
        runs_root: Folder of all runs; it exists.
        cluster: Where they go.
        snapshot: The code that they execute.
        rehearsal: Whether the recipes were shrunk.
    """

    runs_root: Path
    cluster: Cluster
    snapshot: Snapshot
    rehearsal: bool

    def name_runs(self, recipes: Sequence[ResolvedRecipe]) -> list[RunDir]:
        """Choose the folders `<name>-<time>-<id>`, with ids that no other run of this root has."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        taken = {name.rpartition("-")[2] for name in os.listdir(self.runs_root)}
        folders = []
        for recipe in (item.loaded.recipe for item in recipes):
            while (run_id := secrets.token_hex(_ID_BYTES)) in taken:
                pass
            taken.add(run_id)
            folders.append(RunDir(self.runs_root / f"{slug(recipe.name) or recipe.kind}-{stamp}-{run_id}"))
        return folders

    def freeze_run(self, new: NewRun, submission: SubmissionDir) -> FrozenRun:
        """Fill a run's empty folder; run.json comes last, since a folder without it is no run."""
        folder = new.folder
        _write_new(folder.recipe_as_written, new.item.loaded.text)
        _write_new(folder.recipe, new.item.text)
        _link_or_copy(submission.script, folder.submission)
        os.symlink(f"../../{self._code_from_run}" if new.share else self._code_from_run, folder.code)
        record = self._record(new)
        record.write(folder.record)
        return FrozenRun(folder, record)

    def _record(self, new: NewRun) -> RunRecord:
        item, owner = new.item, new.folder.group if new.share else new.folder
        _, day, clock, _ = owner.root.name.rsplit("-", 3)
        run_id = new.folder.root.name.rpartition("-")[2]
        return RunRecord(
            id=run_id,
            name=item.loaded.recipe.name,
            kind=item.loaded.recipe.kind,
            fingerprint=item.fingerprint,
            created=time.time(),
            code_hash=self.snapshot.folder.name,
            code_commit=self.snapshot.commit,
            recipe_folder=os.path.dirname(os.path.abspath(item.loaded.path)),
            wandb_id=f"{day}-{clock}-{run_id}",
            cluster=self._cluster_fields,
            rehearsal=self.rehearsal,
            group=new.group,
            share=new.share,
            micro_batch=starting_micro_batch(item.loaded, self.cluster),
            checkpoint_bytes=checkpoint_bytes(item.loaded, self.cluster),
        )

    @cached_property
    def _code_from_run(self) -> str:
        return os.path.relpath(self.snapshot.folder, self.runs_root / "run")

    @cached_property
    def _cluster_fields(self) -> dict[str, Any]:
        return self.cluster.model_dump(mode="json")


def make_folder(new: NewRun) -> None:
    """Make a run's empty folder; that of a share lies in its group's."""
    if new.share:
        new.folder.group.shares.mkdir(new.item.folder_mode, exist_ok=True)
    new.folder.root.mkdir(new.item.folder_mode)


def freeze_submission(folder: SubmissionDir, script: str, runs: Sequence[NewRun]) -> None:
    """Write what sbatch gets and the manifest, which maps array indices to runs."""
    rows = ({"run": str(new.folder.root), "fingerprint": new.item.fingerprint} for new in runs)
    folder.manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder.script.write_text(script, encoding="utf-8")


def _write_new(path: Path, text: str) -> None:
    """Write a file in a third of the time that `Path.write_text` takes; it must not be there yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; making an inode is the slow part of a run directory, and arrays have a thousand."""
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links between folders
        shutil.copyfile(source, target)
