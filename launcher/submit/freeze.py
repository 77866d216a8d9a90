"""Freezing: what was planned becomes run directories and submission directories, all that a node will read."""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from launcher.recipe import Recipe
from launcher.run.files import link_or_copy, write_text
from launcher.run.locations import root_of
from launcher.run.paths import RunDir, SubmissionDir, expand, submissions_root
from launcher.run.record import CorpusShare, RunRecord, Submitted
from launcher.submit.plan_submission import SubmissionPlan
from launcher.submit.planned_recipe import PlannedRecipe
from launcher.submit.render import slug

_ID_BYTES = 3


@dataclass(frozen=True)
class NewRun:
    """A run that is to be made."""

    folder: RunDir
    item: PlannedRecipe
    group: str | None = None
    share: CorpusShare | None = None


@dataclass
class FrozenRun:
    """A run directory and what its run.json says."""

    folder: RunDir
    record: RunRecord
    avoids: tuple[str, ...] = ()
    """Suspect nodes that its job was not to be given."""

    def add_job(self, job_id: str, submission: SubmissionDir, when: float) -> None:
        """Note in run.json that the run was queued."""
        self.record.submissions.append(Submitted(job_id, str(submission.root), when))
        self.record.write(self.folder.record)


@dataclass(frozen=True)
class Freezer:
    """Makes the run directories of one submission plan."""

    plan: SubmissionPlan

    def publish_code(self) -> None:
        """Make the folder of all runs, those for what runs make, and the copy of the code that they execute.

        A credentialed job that had to make a folder of the site would make it for its user alone.
        """
        submissions_root(self.plan.runs_root).mkdir(parents=True, exist_ok=True)
        roots = self.plan.cluster.roots.model_dump()
        for made in {root_of(one.recipe.makes.type) for one in self.plan.recipes if one.recipe.makes}:
            with contextlib.suppress(OSError):  # the job says what is wrong, if it needs the folder
                os.makedirs(expand(roots[made]), exist_ok=True)
        self.plan.snapshot.publish()

    def name_runs(self) -> list[RunDir]:
        """Choose a folder `<name>-<time>-<id>` for each recipe, with ids that no other run of this root has."""
        names = name_runs(self.plan.runs_root, [item.recipe for item in self.plan.recipes])
        return [RunDir(self.plan.runs_root / name) for name in names]

    def freeze_run(self, new: NewRun, submission: SubmissionDir) -> FrozenRun:
        """Fill a run's empty folder; run.json comes last, since a folder without it is no run."""
        folder = new.folder
        write_text(folder.recipe_as_written, new.item.loaded.text)
        write_text(folder.recipe, new.item.text)
        link_or_copy(submission.script, folder.submission)
        os.symlink(f"../../{self._code_from_run}" if new.share else self._code_from_run, folder.code)
        record = self._record(new, submission)
        record.write(folder.record)
        return FrozenRun(folder, record)

    def _record(self, new: NewRun, submission: SubmissionDir) -> RunRecord:
        item, owner = new.item, new.folder.group if new.share else new.folder
        _, day, clock, _ = owner.root.name.rsplit("-", 3)
        run_id, point = new.folder.root.name.rpartition("-")[2], item.loaded.point
        return RunRecord(
            id=run_id,
            name=item.recipe.name,
            kind=item.recipe.kind,
            fingerprint=item.fingerprint,
            created=time.time(),
            code_hash=self.plan.snapshot.folder.name,
            code_commit=self.plan.snapshot.commit,
            recipe_folder=item.loaded.folder,
            wandb_id=f"{day}-{clock}-{run_id}",
            cluster=self._cluster_fields,
            rehearsal=self.plan.options.rehearsal,
            group=new.group,
            share=new.share,
            micro_batch=item.forecast.micro_batch,
            checkpoint_bytes=item.checkpoint_bytes,
            sweep=point.sweep if point else None,
            point=dict(point.values) if point else None,
            pipeline=str(self.plan.options.pipeline) if self.plan.options.pipeline else None,
            stage=item.loaded.stage or self.plan.options.stage,
            frozen_for=str(submission.root),
        )

    @cached_property
    def _code_from_run(self) -> str:
        return os.path.relpath(self.plan.snapshot.folder, self.plan.runs_root / "run")

    @cached_property
    def _cluster_fields(self) -> dict[str, Any]:
        return self.plan.cluster.model_dump(mode="json")


def name_runs(runs_root: Path, recipes: Sequence[Recipe]) -> list[str]:
    """Choose names of folders for runs of recipes."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    taken = {name.rpartition("-")[2] for name in os.listdir(runs_root)}
    names = []
    for recipe in recipes:
        while (run_id := secrets.token_hex(_ID_BYTES)) in taken:
            pass
        taken.add(run_id)
        names.append(f"{slug(recipe.name) or recipe.kind}-{stamp}-{run_id}")
    return names


def make_folder(new: NewRun) -> None:
    """Make a run's empty folder; that of a share lies in its group's."""
    if new.share:
        new.folder.group.shares.mkdir(new.item.folder_mode, exist_ok=True)
    new.folder.root.mkdir(new.item.folder_mode)


def freeze_submission(folder: SubmissionDir, script: str, runs: Sequence[NewRun]) -> None:
    """Write what sbatch gets and the manifest, which maps array indices to runs."""
    rows = ({"run": str(new.folder.root), "fingerprint": new.item.fingerprint} for new in runs)
    write_text(folder.manifest, "".join(json.dumps(row) + "\n" for row in rows))
    write_text(folder.script, script)
