"""The use case: check, plan, run directories, sbatch, job ids. A failure on the way leaves nothing behind."""

import hashlib
import itertools
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from launcher.cluster import Cluster
from launcher.errors import LauncherError, RecipeError, RunError, SlurmError
from launcher.freeze import Freezer, FrozenRun, ResolvedRecipe, freeze_submission, resolve
from launcher.ledger import read_attempts, read_json_lines
from launcher.load import LoadedRecipe
from launcher.paths import RunDir, SubmissionDir, expand, submissions_root
from launcher.plan import check_all
from launcher.recipe import PrepareRecipe, recipe_adapter
from launcher.record import RunRecord
from launcher.render import Request, group, render
from launcher.runs import find_run
from launcher.slurm.queue import Queue, queue_of
from launcher.snapshot import Snapshot, read_code


@dataclass(frozen=True)
class SubmitOptions:
    """What the user may say about a submission besides recipes and cluster."""

    after: str | None = None
    """Start only when this run has finished; as `launcher.runs.find_run` understands it."""
    max_parallel: int | None = None
    """How many runs of an array may run at once."""
    rehearsal: bool = False
    """The recipes were shrunk by their `rehearsal` section."""


@dataclass(frozen=True)
class PlannedSubmission:
    """One sbatch call to come."""

    positions: tuple[int, ...]
    """Which of the recipes; their order is that of the array's elements."""
    folder: SubmissionDir
    script: str


@dataclass(frozen=True)
class Plan:
    """What `submit` will do."""

    recipes: tuple[ResolvedRecipe, ...]
    submissions: tuple[PlannedSubmission, ...]
    snapshot: Snapshot
    dependency: tuple[str, ...]
    """Options of sbatch that make it wait for another run."""


def require_feasible(loaded: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> None:
    """Refuse recipes that cannot work on this cluster.

    Raises:
        RecipeError: With all faults of all recipes.
    """
    pending = _corpus_made_by(find_run(cluster, options.after)) if options.after else []
    if faults := check_all(loaded, cluster, pending):
        raise RecipeError(faults)


def plan_submissions(loaded: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> Plan:
    """Say what `submit` will send, to the byte. Changes nothing.

    Raises:
        RunError: `options.after` names a run that failed, or none.
    """
    dependency = _dependency(options.after, cluster)
    runs_root = _runs_root(cluster)
    snapshot = read_code(runs_root)
    recipes = tuple(resolve(item) for item in loaded)
    planned, taken = [], set[Path]()
    for positions in group([item.recipe for item in loaded], queue_of(cluster).max_elements(len(loaded))):
        members = [recipes[position] for position in positions]
        folder = _free_folder(submissions_root(runs_root), members, taken)
        request = Request(tuple(item.loaded.recipe for item in members), options.max_parallel)
        script = render(request, cluster, folder, snapshot.folder, cluster.python or sys.executable)
        planned.append(PlannedSubmission(tuple(positions), folder, script))
    return Plan(recipes, tuple(planned), snapshot, dependency)


def submit(loaded: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> list[RunDir]:
    """Queue recipes: one run directory each, one sbatch call for all that want equal resources.

    Returns:
        The run directories, in the order of the recipes.

    Raises:
        RecipeError: A recipe cannot work on this cluster.
        RunError: `options.after` names a run that failed, or none.
        SlurmError: Slurm refused; what this call made and queued is gone again.
    """
    require_feasible(loaded, cluster, options)
    todo, runs_root = plan_submissions(loaded, cluster, options), _runs_root(cluster)
    submissions_root(runs_root).mkdir(parents=True, exist_ok=True)
    todo.snapshot.publish()
    freezer = Freezer(runs_root, cluster, todo.snapshot, options.rehearsal)
    folders = freezer.name_runs(todo.recipes)
    with _AllOrNothing(queue_of(cluster)) as call:
        for one in todo.submissions:
            call.freeze(freezer, one, todo.recipes, folders)
        for one in todo.submissions:
            call.enqueue(one.folder, todo.dependency)
    return folders


def resubmit(run: RunDir, cluster: Cluster) -> str:
    """Queue an existing run again, with the script and the code it had.

    Returns:
        The new job id.

    Raises:
        RunError: The run is queued or running, or its submission is gone.
    """
    record = RunRecord.read(run.record)
    submission, index, size = _submission_of(run, record)
    queue = queue_of(cluster)
    mine = [job for job in queue.jobs_of(submission) if size == 1 or job.endswith(f"_{index}")]
    if mine:
        raise RunError(f"`{run.root.name}`: is queued or running as job {mine[0]}; `launcher cancel {record.id}` first")
    run.stop_request.unlink(missing_ok=True)
    job = queue.add(submission, [f"--array={index}"] if size > 1 else [])
    job_id = f"{job}_{index}" if size > 1 else job
    FrozenRun(run, record).add_job(job_id, submission, time.time())
    return job_id


def _dependency(after: str | None, cluster: Cluster) -> tuple[str, ...]:
    """Options of sbatch that make it wait for a run; none if that run finished already."""
    if after is None:
        return ()
    run = find_run(cluster, after)
    record, attempts = RunRecord.read(run.record), read_attempts(run.ledger)
    if any(attempt.reason == "finished" for attempt in attempts):
        return ()
    if attempts and attempts[-1].action == "stop":
        raise RunError(f"--after: `{record.id}` ended: {attempts[-1].reason}; `launcher resume {record.id}` first")
    if not record.submissions:
        raise RunError(f"--after: `{record.id}` was never queued; `launcher resume {record.id}` first")
    return (f"--dependency=afterok:{record.submissions[-1].job_id}", "--kill-on-invalid-dep=yes")


def _corpus_made_by(run: RunDir) -> list[str]:
    """The corpus that will be there once a run has finished."""
    recipe = recipe_adapter.validate_json(run.recipe.read_text(encoding="utf-8"))
    return [recipe.corpus] if isinstance(recipe, PrepareRecipe) else []


def _runs_root(cluster: Cluster) -> Path:
    unset = [name for name in re.findall(r"\$\{?(\w+)", cluster.roots.runs) if name not in os.environ]
    if unset:
        raise LauncherError(
            f"cluster profile `{cluster.name}`: roots.runs: `{cluster.roots.runs}`: ${unset[0]} is not set in this "
            "shell; set it, or write the folder itself"
        )
    return expand(cluster.roots.runs)


def _free_folder(root: Path, members: Sequence[ResolvedRecipe], taken: set[Path]) -> SubmissionDir:
    """Name a submission by a hash of its recipes and the first free number, so that a plan is repeatable."""
    digest = hashlib.sha256("".join(item.fingerprint for item in members).encode()).hexdigest()[:8]
    names = (root / f"{digest}-{number}" for number in itertools.count(1))
    free = next(path for path in names if path not in taken and not path.exists())
    taken.add(free)
    return SubmissionDir(free)


@dataclass
class _AllOrNothing:
    """What one call of `submit` made and queued; all of it is taken back if anything fails, Ctrl-C included."""

    queue: Queue
    runs: dict[SubmissionDir, list[FrozenRun]] = field(default_factory=dict)
    jobs: dict[SubmissionDir, str] = field(default_factory=dict)
    folders: dict[SubmissionDir, list[Path]] = field(default_factory=dict)

    def freeze(
        self, freezer: Freezer, planned: PlannedSubmission, recipes: Sequence[ResolvedRecipe], names: Sequence[RunDir]
    ) -> None:
        submission, made = planned.folder, self.folders.setdefault(planned.folder, [])
        submission.root.mkdir(recipes[planned.positions[0]].folder_mode)
        made.append(submission.root)
        members = [(names[place], recipes[place]) for place in planned.positions]
        freeze_submission(submission, planned.script, members)
        frozen = self.runs[submission] = []
        for folder, recipe in members:
            folder.root.mkdir(recipe.folder_mode)
            made.append(folder.root)
            frozen.append(freezer.freeze_run(folder, recipe, planned.script))

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
