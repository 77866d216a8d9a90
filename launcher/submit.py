"""The use case: check, plan, run directories, sbatch, job ids. A failure on the way leaves nothing behind."""

import contextlib
import hashlib
import itertools
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.freeze import Freezer, FrozenRun, ResolvedRecipe, freeze_submission, resolve
from launcher.ledger import read_attempts, read_json_lines
from launcher.load import LoadedRecipe
from launcher.paths import RunDir, SubmissionDir, expand, submissions_root
from launcher.plan import check
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
class Planned:
    """One sbatch call to come."""

    positions: tuple[int, ...]
    """Which of the recipes; their order is that of the array's elements."""
    submission: SubmissionDir
    script: str


def plan_submissions(
    recipes: Sequence[ResolvedRecipe], cluster: Cluster, options: SubmitOptions, snapshot: Snapshot
) -> list[Planned]:
    """Say what `submit` will send: one script for each sbatch call. Changes nothing.

    A submission's folder is named by a hash of its recipes and the first free number, so that what is planned now is,
    to the byte, what is sent next.
    """
    groups = group([item.loaded.recipe for item in recipes], queue_of(cluster).max_elements(len(recipes)))
    taken: set[str] = set()
    planned = []
    for positions in groups:
        members = [recipes[position] for position in positions]
        submission = _free_folder(submissions_root(expand(cluster.roots.runs)), members, taken)
        request = Request(tuple(item.loaded.recipe for item in members), options.max_parallel)
        script = render(request, cluster, submission, snapshot.folder, cluster.python or sys.executable)
        planned.append(Planned(tuple(positions), submission, script))
    return planned


def submit(loaded: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> list[RunDir]:
    """Queue recipes: one run directory each, one sbatch call for all that want equal resources.

    Returns:
        The run directories, in the order of the recipes.

    Raises:
        RecipeError: A recipe cannot work on this cluster.
        RunError: `options.after` names a run that failed, or none.
        SlurmError: Slurm refused; what this call made and queued is gone again.
    """
    dependency = _dependency(options.after, cluster)
    runs_root = expand(cluster.roots.runs)
    submissions_root(runs_root).mkdir(parents=True, exist_ok=True)
    snapshot = read_code(runs_root)
    recipes = [resolve(item) for item in loaded]
    planned = plan_submissions(recipes, cluster, options, snapshot)
    snapshot.publish()
    freezer = Freezer(runs_root, cluster, snapshot, options.rehearsal)
    folders = freezer.name_runs(recipes)
    queue = queue_of(cluster)
    with _all_or_nothing(planned, folders, queue):
        frozen = [_freeze(freezer, one, recipes, folders) for one in planned]
        for one, runs in zip(planned, frozen, strict=True):
            _note_job(queue.add(one.submission, dependency), one.submission, runs)
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


def _dependency(after: str | None, cluster: Cluster) -> list[str]:
    """Options of sbatch that make it wait for a run; none if that run finished already."""
    if after is None:
        return []
    run = find_run(cluster, after)
    record, attempts = RunRecord.read(run.record), read_attempts(run.ledger)
    if any(attempt.reason == "finished" for attempt in attempts):
        return []
    if attempts and attempts[-1].action == "stop":
        raise RunError(f"--after: `{record.id}` ended: {attempts[-1].reason}; `launcher resume {record.id}` first")
    if not record.submissions:
        raise RunError(f"--after: `{record.id}` was never queued; `launcher resume {record.id}` first")
    return [f"--dependency=afterok:{record.submissions[-1].job_id}", "--kill-on-invalid-dep=yes"]


def _free_folder(root: Path, members: Sequence[ResolvedRecipe], taken: set[Path]) -> SubmissionDir:
    digest = hashlib.sha256("".join(item.fingerprint for item in members).encode()).hexdigest()[:8]
    names = (root / f"{digest}-{number}" for number in itertools.count(1))
    free = next(path for path in names if path not in taken and not path.exists())
    taken.add(free)
    return SubmissionDir(free)


def _freeze(
    freezer: Freezer, planned: Planned, recipes: Sequence[ResolvedRecipe], folders: Sequence[RunDir]
) -> list[FrozenRun]:
    planned.submission.root.mkdir(recipes[planned.positions[0]].folder_mode)
    runs = [freezer.freeze_run(folders[place], recipes[place], planned.script) for place in planned.positions]
    freeze_submission(planned.submission, planned.script, runs)
    return runs


def _note_job(job_id: str, submission: SubmissionDir, runs: Sequence[FrozenRun]) -> None:
    now = time.time()
    for index, frozen in enumerate(runs):
        frozen.add_job(f"{job_id}_{index}" if len(runs) > 1 else job_id, submission, now)


@contextlib.contextmanager
def _all_or_nothing(planned: Sequence[Planned], folders: Sequence[RunDir], queue: Queue) -> Iterator[None]:
    """Cancel and remove everything if anything fails, Ctrl-C included.

    A failed sbatch may have queued its job all the same (an answer lost on the way), so the queue is searched.
    """
    try:
        yield
    except BaseException:
        roots = [*(folder.root for folder in folders), *(one.submission.root for one in planned)]
        made = [root for root in roots if root.exists()]
        for one in planned:
            queue.cancel(one.submission)
        for root in made:
            shutil.rmtree(root)
        raise


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
