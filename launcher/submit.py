"""The use case: check, preview, run directories, sbatch, job ids. A failure on the way leaves nothing behind."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from launcher.cluster import Cluster
from launcher.errors import RunError, SlurmError
from launcher.freeze import Freezer, FrozenRun, NewRun, freeze_submission, make_folder
from launcher.ledger import read_json_lines
from launcher.load import LoadedRecipe
from launcher.paths import RunDir, SubmissionDir, submissions_root
from launcher.preview import PlannedRun, PlannedSubmission, Preview, SubmitOptions, preview, require_feasible
from launcher.recipe import recipe_adapter
from launcher.record import RunRecord
from launcher.runs import run_id
from launcher.slurm.queue import Queue, queue_of


def submit(loaded: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> list[FrozenRun]:
    """Queue recipes: one run directory each, one sbatch call for all that want equal resources.

    Returns:
        The runs, in the order of the recipes; of a `prepare` in several tasks, the one that completes the corpus.

    Raises:
        RecipeError: A recipe cannot work on this cluster.
        RunError: `options.after` names a run that failed, or none.
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


def resubmit(run: RunDir, cluster: Cluster, nodes: int | None = None) -> str:
    """Queue an existing run again, with the script and the code it had.

    Args:
        run: The run.
        cluster: Where it goes.
        nodes: Number of nodes from now on, if not the recipe's; the global batch stays what it is.

    Returns:
        The new job id.

    Raises:
        RunError: The run is queued or running, its submission is gone, or it cannot run on so many nodes.
    """
    record = RunRecord.read(run.record)
    submission, index, size = _submission_of(run, record)
    queue = queue_of(cluster)
    mine = [job for job in queue.jobs_of(submission) if size == 1 or job.endswith(f"_{index}")]
    if mine:
        if mine[0] not in [entry.job_id for entry in record.submissions]:  # its `launcher submit` was killed halfway
            FrozenRun(run, record).add_job(mine[0], submission, time.time())
        raise RunError(f"`{run.root.name}`: is queued or running as job {mine[0]}; `launcher cancel {record.id}` first")
    options = [f"--array={index}"] if size > 1 else []
    if nodes is not None:
        _check_nodes(run, cluster, nodes)
        options.append(f"--nodes={nodes}")
    run.stop_request.unlink(missing_ok=True)
    job = queue.add(submission, options)
    job_id = f"{job}_{index}" if size > 1 else job
    FrozenRun(run, record).add_job(job_id, submission, time.time())
    return job_id


def _check_nodes(run: RunDir, cluster: Cluster, nodes: int) -> None:
    if cluster.executor == "local":
        raise RunError("--nodes: this machine is the only node of a `local` profile; leave it out")
    recipe = json.loads(run.recipe.read_text(encoding="utf-8"))
    recipe["resources"]["nodes"] = nodes
    try:
        recipe_adapter.validate_json(json.dumps(recipe))
    except ValidationError as error:
        reasons = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise RunError(f"--nodes {nodes}: {reasons}") from None


@dataclass
class _AllOrNothing:
    """What one call of `submit` made and queued; all of it is taken back if anything fails, Ctrl-C included."""

    queue: Queue
    runs: dict[SubmissionDir, list[FrozenRun]] = field(default_factory=dict)
    jobs: dict[SubmissionDir, str] = field(default_factory=dict)
    folders: dict[SubmissionDir, list[Path]] = field(default_factory=dict)

    def freeze(self, freezer: Freezer, planned: PlannedSubmission, members: Sequence[NewRun]) -> None:
        submission, made = planned.folder, self.folders.setdefault(planned.folder, [])
        submission.root.mkdir(members[0].item.folder_mode)
        made.append(submission.root)
        freeze_submission(submission, planned.script, members)
        frozen = self.runs[submission] = []
        for new in sorted(members, key=lambda new: new.share is not None):
            make_folder(new)
            made.append(new.folder.root)
            frozen.append(freezer.freeze_run(new, submission))

    def enqueue(self, submission: SubmissionDir, conditions: Sequence[str], awaited: Sequence[SubmissionDir]) -> None:
        conditions = [*conditions, *(f"afterany:{self.jobs[other]}" for other in awaited)]
        job, now = self.queue.add(submission, _dependency(conditions)), time.time()
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


def _dependency(conditions: Sequence[str]) -> list[str]:
    """Options of sbatch that make it wait; what can never come true any more ends the waiting."""
    if not conditions:
        return []
    must_succeed = any(condition.startswith("afterok:") for condition in conditions)
    return [f"--dependency={','.join(conditions)}", *(["--kill-on-invalid-dep=yes"] if must_succeed else [])]


def _submission_of(run: RunDir, record: RunRecord) -> tuple[SubmissionDir, int, int]:
    """Find a run's submission, its index there, and how many runs that has.

    A run whose `launcher submit` was killed halfway knows no submission; the manifests know the run.
    """
    if record.submissions:
        candidates = [Path(record.submissions[-1].folder)]
    else:
        candidates = sorted(submissions_root(run.root.parent).glob("*-*"))
    for submission in map(SubmissionDir, candidates):
        runs = [row["run"] for row in read_json_lines(submission.manifest)]
        if str(run.root) in runs:
            return submission, runs.index(str(run.root)), len(runs)
    raise RunError(f"`{run.root.name}`: its submission is gone; submit the recipe again: {run.recipe_as_written}")
