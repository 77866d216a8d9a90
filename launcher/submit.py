"""The use case: check, preview, run directories, sbatch, job ids. A failure on the way leaves nothing behind."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from launcher.cluster import Cluster
from launcher.errors import LauncherError, SlurmError
from launcher.freeze import Freezer, FrozenRun, NewRun, freeze_submission, make_folder
from launcher.load import LoadedRecipe
from launcher.paths import RunDir, SubmissionDir, submissions_root
from launcher.preview import PlannedRun, PlannedSubmission, Preview, SubmitOptions, preview, require_feasible
from launcher.runs import run_id
from launcher.slurm.queue import Queue, dependency, queue_of


def submit(loaded: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> list[FrozenRun]:
    """Queue recipes: one run directory each, one sbatch call for all that want equal resources.

    Returns:
        The runs, in the order of the recipes; of a `prepare` in several tasks, the one that completes the corpus.

    Raises:
        RecipeError: A recipe cannot work on this cluster.
        RunError: `options.after` names a run that failed, or none.
        LauncherError: Another call is queueing the same recipes at this moment.
        SlurmError: Slurm refused; what this call made and queued is gone again.
    """
    require_feasible(loaded, cluster, options)
    wanted = preview(loaded, cluster, options)
    submissions_root(wanted.runs_root).mkdir(parents=True, exist_ok=True)
    wanted.snapshot.publish()
    freezer = Freezer(wanted.runs_root, cluster, wanted.snapshot, options.rehearsal)
    folders = freezer.name_runs(wanted.recipes)
    with _AllOrNothing(queue_of(cluster)) as call:
        for one in reversed(wanted.submissions):  # the folder of a group holds those of its shares
            call.freeze(freezer, one, [_new_run(wanted, folders[run.position], run) for run in one.runs])
        for one in wanted.submissions:
            call.enqueue(one.folder, wanted.conditions, wanted.awaited_by(one))
    by_folder = {frozen.folder: frozen for runs in call.runs.values() for frozen in runs}
    return [by_folder[folder] for folder in folders]


def _new_run(wanted: Preview, folder: RunDir, planned: PlannedRun) -> NewRun:
    recipe, share = wanted.recipes[planned.position], planned.share
    group = run_id(folder) if planned.in_group else None
    return NewRun(folder.share(share.index) if share else folder, recipe, group, share)


@dataclass
class _AllOrNothing:
    """What one call of `submit` made and queued; all of it is taken back if anything fails, Ctrl-C included."""

    queue: Queue
    runs: dict[SubmissionDir, list[FrozenRun]] = field(default_factory=dict)
    jobs: dict[SubmissionDir, str] = field(default_factory=dict)
    folders: dict[SubmissionDir, list[Path]] = field(default_factory=dict)

    def freeze(self, freezer: Freezer, planned: PlannedSubmission, members: Sequence[NewRun]) -> None:
        submission = planned.folder
        try:
            submission.root.mkdir(members[0].item.folder_mode)
        except FileExistsError:  # so its jobs are not ours to take back
            raise LauncherError(
                f"{submission.root}: another `launcher submit` has just queued the same recipes; submit them once more "
                "if you want both"
            ) from None
        made = self.folders[submission] = [submission.root]
        freeze_submission(submission, planned.script, members)
        frozen = self.runs[submission] = []
        for new in sorted(members, key=lambda new: new.share is not None):
            make_folder(new)
            made.append(new.folder.root)
            frozen.append(freezer.freeze_run(new, submission))

    def enqueue(self, submission: SubmissionDir, conditions: Sequence[str], awaited: Sequence[SubmissionDir]) -> None:
        conditions = [*conditions, *(f"afterany:{self.jobs[other]}" for other in awaited)]
        job, now = self.queue.add(submission, dependency(conditions)), time.time()
        self.jobs[submission] = job
        runs = self.runs[submission]
        for index, frozen in enumerate(runs):
            frozen.add_job(self.queue.element(job, index, len(runs)), submission, now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            return
        stuck = {submission: why for submission in reversed(self.folders) if (why := self._cancel(submission))}
        kept = [folder for submission in stuck for folder in self.folders[submission]]
        for folder in (folder for made in self.folders.values() for folder in made):
            if not any(other.is_relative_to(folder) for other in kept):
                shutil.rmtree(folder, ignore_errors=True)
        if stuck:
            raise SlurmError("\n".join([str(error) or "interrupted", *stuck.values()])) from error

    def _cancel(self, submission: SubmissionDir) -> str | None:
        """Cancel one submission; say why its runs have to stay, if Slurm has them and cannot be reached."""
        job = self.jobs.get(submission)
        try:
            self.queue.cancel(submission)  # searched by name: a failed sbatch may have queued its job all the same
        except SlurmError as error:
            return f"job {job} was queued before and could not be cancelled: {error}; `scancel {job}`" if job else None
        return None
