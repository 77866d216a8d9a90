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
from launcher.freeze import Freezer, FrozenRun, ResolvedRecipe, freeze_submission
from launcher.ledger import read_json_lines
from launcher.load import LoadedRecipe
from launcher.paths import RunDir, SubmissionDir, submissions_root
from launcher.preview import PlannedSubmission, SubmitOptions, preview, require_feasible
from launcher.recipe import recipe_adapter
from launcher.record import RunRecord
from launcher.slurm.queue import Queue, queue_of


def submit(loaded: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> list[FrozenRun]:
    """Queue recipes: one run directory each, one sbatch call for all that want equal resources.

    Returns:
        The runs, in the order of the recipes.

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
        for one in wanted.submissions:
            call.freeze(freezer, one, [(folders[place], wanted.recipes[place]) for place in one.positions])
        for one in wanted.submissions:
            call.enqueue(one.folder, wanted.dependency)
    by_folder = {frozen.folder: frozen for runs in call.runs.values() for frozen in runs}
    return [by_folder[folder] for folder in folders]


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

    def freeze(
        self, freezer: Freezer, planned: PlannedSubmission, members: Sequence[tuple[RunDir, ResolvedRecipe]]
    ) -> None:
        submission, made = planned.folder, self.folders.setdefault(planned.folder, [])
        submission.root.mkdir(members[0][1].folder_mode)
        made.append(submission.root)
        freeze_submission(submission, planned.script, members)
        frozen = self.runs[submission] = []
        for folder, recipe in members:
            folder.root.mkdir(recipe.folder_mode)
            made.append(folder.root)
            frozen.append(freezer.freeze_run(folder, recipe, submission))

    def enqueue(self, submission: SubmissionDir, options: Sequence[str]) -> None:
        job, now = self.queue.add(submission, options), time.time()
        self.jobs[submission] = job
        runs = self.runs[submission]
        for index, frozen in enumerate(runs):
            frozen.add_job(f"{job}_{index}" if len(runs) > 1 else job, submission, now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        stuck = [complaint for submission in self.folders if error and (complaint := self._take_back(submission))]
        if stuck:
            raise SlurmError("\n".join([str(error) or "interrupted", *stuck])) from error

    def _take_back(self, submission: SubmissionDir) -> str | None:
        """Cancel and remove one submission; its runs stay if Slurm has them and cannot be reached."""
        job = self.jobs.get(submission)
        try:
            self.queue.cancel(submission)  # searched by name: a failed sbatch may have queued its job all the same
        except SlurmError as error:
            if job:
                return f"job {job} was queued before and could not be cancelled: {error}; `scancel {job}`"
        for folder in self.folders[submission]:
            shutil.rmtree(folder, ignore_errors=True)
        return None


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
