"""Queueing searches: an array whose elements each carry out one trial after the other."""

import itertools
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import LauncherError, RunError, how_to_install
from launcher.load import LoadedRecipe
from launcher.monitor.trials import PastTrial, jobs_elsewhere, read_past
from launcher.run.ledger import StopRequest, read_json_lines
from launcher.run.lock import one_at_a_time
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.sweep_points import sweep_dir
from launcher.run.trials import Owner, SearchDir, find_search, take_up
from launcher.slurm.queue import dependency, queue_of
from launcher.submit.plan_submission import SubmissionPlan
from launcher.submit.render import Request, render
from launcher.submit.search_record import SearchRecord


@dataclass(frozen=True)
class SearchPlan:
    """A search that is to be queued, or to go on."""

    record: SearchRecord
    folder: SearchDir
    corners: SubmissionPlan
    """Recipes at the corners of its space, which were checked."""

    @property
    def is_new(self) -> bool:
        """Whether it was never submitted."""
        return not self.folder.record.is_file()

    @property
    def past(self) -> list[PastTrial]:
        """The trials that there are."""
        return read_past(self.folder, self.record.search.metric)

    @property
    def left(self) -> int:
        """How many trials are missing or not over."""
        return _count_left(self.past, self.record.search.budget)


@dataclass(frozen=True)
class QueuedElements:
    """What became of a search."""

    jobs: tuple[str, ...]
    """New jobs, without the indices of arrays."""
    elements: int
    """How many elements they have."""
    left: int
    """Trials that are not over."""
    alive: int
    """Elements that were queued or running before."""

    def __str__(self) -> str:
        """Say what was queued."""
        elements = f"{self.elements} element{'s' * (self.elements != 1)}"
        return f"queued {elements} for {self.left} trials as job {', '.join(self.jobs)}"


def plan_search(corners: SubmissionPlan, items: Sequence[LoadedRecipe]) -> SearchPlan:
    """Work out what submitting a search would do. Changes nothing.

    Args:
        corners: Plan of the recipes at the corners of its space.
        items: These recipes.

    Raises:
        RunError: The name belongs to another search, or to a sweep.
    """
    recipe, item = items[0].recipe, items[0]
    search = recipe.search
    assert search is not None
    if recipe.shares > 1:
        raise RunError(f"{item.path}: {recipe.array}: a trial is one run; write 1, or leave it out")
    if search.package and corners.cluster.python is None and find_spec(search.package) is None:
        raise RunError(
            f"{item.path}: search: this Python has no `{search.package}`, which nodes need to choose values; install "
            f"it with {how_to_install('search')}; or write `method: random` without a `pruner`"
        )
    direction = search.direction or recipe.reports[search.metric]
    assert direction is not None  # `Search.metric_fault`
    options, cluster = corners.options, corners.cluster
    record = SearchRecord(
        name=recipe.name,
        section=json.loads(search.model_dump_json()),
        direction=direction,
        recipe=json.loads(recipe.model_dump_json()),
        text=item.text,
        path=str(item.path.absolute()),
        cluster=cluster.model_dump(mode="json"),
        code=str(corners.snapshot.folder),
        commit=corners.snapshot.commit,
        rehearsal=options.rehearsal,
        is_open=recipe.data_use == "open",
        pipeline=str(options.pipeline) if options.pipeline else None,
        stage=options.stage,
    )
    folder = SearchDir(sweep_dir(corners.runs_root, recipe.name).root)
    if sweep_dir(corners.runs_root, recipe.name).points.exists():
        raise RunError(f"{item.path}: name: `{recipe.name}` is a sweep already; write another name")
    if folder.record.is_file() and SearchRecord.read(folder.record).subject != record.subject:
        raise RunError(
            f"{item.path}: the search `{recipe.name}` tries another recipe, space or metric, so its trials cannot be "
            "compared with these; write another `name`"
        )
    return SearchPlan(record, folder, corners)


def script_of(plan: SearchPlan) -> str:
    """Render the script that a new search would send."""
    size = min(plan.record.search.parallel, plan.corners.options.max_parallel or sys.maxsize)
    return _render(plan.record, plan.record.site, _free_folder(plan.folder), size)


def submit_search(plan: SearchPlan) -> QueuedElements:
    """Write what the nodes need, and queue as many elements as the search wants and has work for.

    Raises:
        SlurmError: Slurm refused.
    """
    with one_at_a_time(plan.corners.runs_root):
        is_new = plan.is_new
        try:
            freeze_search(plan)
            most, after = plan.corners.options.max_parallel, plan.corners.dependencies
            return queue_missing(plan.folder, plan.record.site, after, most)
        except BaseException:
            if is_new:
                shutil.rmtree(plan.folder.root, ignore_errors=True)
            raise


def freeze_search(plan: SearchPlan) -> None:
    """Write what the nodes need; what there is of it is replaced."""
    root, mode = plan.corners.runs_root, 0o777 if plan.record.is_open else 0o700
    root.joinpath(".submissions").mkdir(parents=True, exist_ok=True)
    plan.corners.snapshot.publish()
    plan.folder.root.parent.mkdir(exist_ok=True)
    plan.folder.root.mkdir(mode, exist_ok=True)
    for folder in (plan.folder.trials, plan.folder.staging, plan.folder.elements):
        folder.mkdir(exist_ok=True)
    plan.record.write(plan.folder.record)


def queue_missing(
    folder: SearchDir, cluster: Cluster, conditions: Sequence[str] = (), most: int | None = None
) -> QueuedElements:
    """Queue elements for the trials of a search that are missing or not over, if there are too few.

    Args:
        folder: The search.
        cluster: Its site.
        conditions: What the elements wait for: `afterok:12`.
        most: How many there may be at once, if not as many as the search says.

    Raises:
        RunError: It was stopped, and its elements are not gone yet.
        SlurmError: Slurm refused; nothing was queued.
    """
    with one_at_a_time(folder.runs_root):
        return _queue_missing(folder, cluster, conditions, most)


def _queue_missing(folder: SearchDir, cluster: Cluster, conditions: Sequence[str], most: int | None) -> QueuedElements:
    record = SearchRecord.read(folder.record)
    search, queue = record.search, queue_of(cluster)
    alive = len(require_no_leavers(folder, cluster))
    folder.stop_request.unlink(missing_ok=True)
    past = read_past(folder, search.metric)
    left = _count_left(past, search.budget)
    count = min(search.parallel, left, most or left) - alive
    if count <= 0:
        return QueuedElements((), 0, left, alive)
    size = count if queue.has_arrays else 1
    prepared = None if alive or (past and not folder.is_prepared) else _find_prepared(folder, size)
    submission = prepared or _freeze_elements(folder, record, cluster, size)
    (folder.elements / submission.root.name).touch()  # the search knows of it before Slurm does
    try:
        options = dependency(conditions, is_kept=cluster.slurm.guardian)
        jobs = tuple(queue.add(submission, options) for _ in range(1 if queue.has_arrays else count))
    except BaseException:
        queue.cancel(submission)
        if not prepared:
            shutil.rmtree(submission.root, ignore_errors=True)
        (folder.elements / submission.root.name).unlink(missing_ok=True)
        raise
    if folder.is_prepared:  # for another number of elements
        folder.prepared.unlink()
    return QueuedElements(jobs, count, left, alive)


def _count_left(past: Sequence[PastTrial], budget: int) -> int:
    return max(0, budget - len(past)) + sum(one.state == "open" for one in past)


def alive_elements(folder: SearchDir, cluster: Cluster) -> list[str]:
    """List the elements of a search that are queued or running; without Slurm those on other machines, too."""
    queue = queue_of(cluster)
    jobs = [job for submission in folder.submissions() for job in queue.jobs_of(submission)]
    if cluster.executor == "local":
        metric = SearchRecord.read(folder.record).search.metric
        jobs += [job for job in jobs_elsewhere(folder, metric) if job not in jobs]
    return jobs


def require_no_leavers(folder: SearchDir, cluster: Cluster) -> list[str]:
    """List the elements of a search that are queued or running, and go on.

    Raises:
        RunError: The search was stopped, so that they are about to leave.
    """
    alive = alive_elements(folder, cluster)
    if alive and folder.stop_request.exists():
        name = SearchRecord.read(folder.record).name
        raise RunError(f"`{name}`: was stopped, and job {alive[0]} is still saving or ending; try again in a minute")
    return alive


def forget_failures(folder: SearchDir) -> int:
    """Let trials that failed or were stopped be taken up again; return how many.

    Args:
        folder: The search.
    """
    record, count = SearchRecord.read(folder.record), 0
    for one in read_past(folder, record.search.metric):
        if one.state in ("failed", "stopped"):
            StopRequest.withdraw(RunDir(folder.runs_root / one.trial.run).stop_request)
            count += take_up(folder, one.trial, one.turn, Owner("", stops=one.stops))
    return count


def _freeze_elements(folder: SearchDir, record: SearchRecord, cluster: Cluster, size: int) -> SubmissionDir:
    """Make the folder of a submission."""
    submission = _free_folder(folder)
    try:
        submission.root.mkdir(0o777 if record.is_open else 0o700)
    except FileExistsError:
        raise LauncherError(
            f"{submission.root}: another `launcher submit` or `resume` is queueing `{record.name}`"
        ) from None
    row = json.dumps({"search": str(folder.root)}) + "\n"
    submission.manifest.write_text(row * size, encoding="utf-8")
    submission.script.write_text(_render(record, cluster, submission, size), encoding="utf-8")
    return submission


def prepare_elements(plan: SearchPlan) -> SubmissionDir:
    """Write the next submission of a search that a node will queue: nodes have no templates of scripts."""
    record, search = plan.record, plan.record.search
    size = min(search.parallel, _count_left(plan.past, search.budget)) if queue_of(record.site).has_arrays else 1
    submission = _freeze_elements(plan.folder, record, record.site, size)
    plan.folder.prepared.unlink(missing_ok=True)
    plan.folder.prepared.symlink_to(f"../../.submissions/{submission.root.name}")
    return submission


def _find_prepared(folder: SearchDir, size: int) -> SubmissionDir | None:
    """Find the submission that was written before, if it has as many elements."""
    if not folder.prepared.is_symlink():
        return None
    submission = SubmissionDir(folder.runs_root / ".submissions" / Path(os.readlink(folder.prepared)).name)
    return submission if submission.script.is_file() and len(read_json_lines(submission.manifest)) == size else None


def _free_folder(folder: SearchDir) -> SubmissionDir:
    root = folder.runs_root / ".submissions"
    names = (root / f"{folder.root.name}-{number}" for number in itertools.count(1))
    return SubmissionDir(next(path for path in names if not path.exists()))


def _render(record: SearchRecord, cluster: Cluster, submission: SubmissionDir, size: int) -> str:
    recipe = record.trial_recipe(0, {}).recipe
    request = Request((recipe,) * size, sweep=record.name)
    return render(request, cluster, submission, Path(record.code), cluster.python or sys.executable)


def require_search(runs_root: Path, name: str) -> SearchDir:
    """Find a search by its name.

    Raises:
        RunError: There is none.
    """
    folder = find_search(runs_root, name)
    if folder is None:
        raise RunError(f"`{name}`: is no search; `launcher status` lists the runs")
    return folder
