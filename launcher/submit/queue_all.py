"""Carrying out a submission plan: run directories, sbatch, job ids. A failure on the way leaves nothing behind."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from launcher.errors import LauncherError, SlurmError
from launcher.monitor.find import run_id
from launcher.run.paths import RunDir, SubmissionDir
from launcher.site.submit_limit import is_exceeded
from launcher.site.suspect_nodes import avoid_suspects
from launcher.slurm.queue import Queue, dependency, queue_of
from launcher.submit.freeze import Freezer, FrozenRun, NewRun, freeze_submission, make_folder
from launcher.submit.plan_submission import PlannedRun, PlannedSubmission, SubmissionPlan
from launcher.submit.resubmit import queue_part


def submit(plan: SubmissionPlan, on_frozen: Callable[[list[RunDir]], None] | None = None) -> list[FrozenRun]:
    """Queue what was planned: one run directory for each recipe, one sbatch call for all that want equal resources.

    Args:
        plan: What was planned.
        on_frozen: Called with the runs before they are queued.

    Returns:
        The runs, in the order of the recipes; of a `prepare` in several tasks, the one that completes the corpus.

    Raises:
        LauncherError: Another call has queued the same recipes since this one was planned.
        SlurmError: Slurm refused; what this call made and queued is gone again.
    """
    freezer = Freezer(plan)
    freezer.publish_code()
    folders = freezer.name_runs()
    with _AllOrNothing(queue_of(plan.cluster)) as call:
        for one in reversed(plan.submissions):  # the folder of a group holds those of its shares
            call.freeze(freezer, one, [_new_run(plan, folders[run.position], run) for run in one.call.runs])
        if on_frozen:
            on_frozen(folders)
        for one in plan.submissions:
            awaited = plan.makers.get(one.call.runs[0].position, ())
            made_by = [f"afterok:{call.job_of(folders[maker])}" for maker in sorted(awaited)]
            call.enqueue(one.folder, [*plan.dependencies, *made_by], plan.awaited_by(one))
    by_folder = {frozen.folder: frozen for runs in call.runs.values() for frozen in runs}
    return [by_folder[folder] for folder in folders]


def freeze_only(plan: SubmissionPlan) -> list[FrozenRun]:
    """Make the run directories of a plan; `launcher.submit.resubmit` queues them.

    Returns:
        The runs, in the order of the recipes.

    Raises:
        LauncherError: Another call has made the same submission since this one was planned.
    """
    freezer = Freezer(plan)
    freezer.publish_code()
    folders = freezer.name_runs()
    with _AllOrNothing(queue_of(plan.cluster)) as call:
        for one in reversed(plan.submissions):
            call.freeze(freezer, one, [_new_run(plan, folders[run.position], run) for run in one.call.runs])
    by_folder = {frozen.folder: frozen for runs in call.runs.values() for frozen in runs}
    return [by_folder[folder] for folder in folders]


def _new_run(plan: SubmissionPlan, folder: RunDir, planned: PlannedRun) -> NewRun:
    recipe, share = plan.recipes[planned.position], planned.share
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

    def job_of(self, run: RunDir) -> str:
        """The job of a run that was queued."""
        found = (frozen for runs in self.runs.values() for frozen in runs if frozen.folder == run)
        return next(found).record.submissions[-1].job_id

    def enqueue(self, submission: SubmissionDir, conditions: Sequence[str], awaited: Sequence[SubmissionDir]) -> None:
        conditions = [*conditions, *(f"afterany:{self.jobs[other]}" for other in awaited)]
        runs = self.runs[submission]
        avoided = avoid_suspects(self.queue.cluster, runs[0].folder)
        waits = dependency(conditions, is_kept=self.queue.cluster.slurm.guardian)
        try:
            job, now = self.queue.add(submission, [*waits, *avoided.options]), time.time()
        except SlurmError as error:
            if conditions or not is_exceeded(error) or not all(run.record.sweep for run in runs):
                raise
            self._enqueue_part(submission)
            if not self.jobs:
                raise
            return
        self.jobs[submission] = job
        for index, frozen in enumerate(runs):
            frozen.avoids = avoided.nodes
            frozen.add_job(self.queue.element(job, index, len(runs)), submission, now)

    def _enqueue_part(self, submission: SubmissionDir) -> None:
        """Queue as many points of a sweep as there is room for; the others are queued when some have ended."""
        job, _ = queue_part(self.queue, submission, [*enumerate(self.runs[submission])])
        if job:
            self.jobs[submission] = job

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
