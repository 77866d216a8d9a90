"""Queueing runs again that exist, with the script and the code they had."""

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import ValidationError

from launcher.cluster import Cluster
from launcher.errors import RunError, SlurmError
from launcher.monitor.elsewhere import find_elsewhere
from launcher.monitor.run_state import read_state
from launcher.recipe import read_recipe
from launcher.run.ledger import StopRequest, has_finished, read_attempts, read_json_lines
from launcher.run.lock import one_at_a_time
from launcher.run.paths import RunDir, SubmissionDir, expand, list_shares, submissions_root
from launcher.run.record import RunRecord
from launcher.site.submit_limit import is_exceeded, read_submit_limit
from launcher.site.suspect_nodes import avoid_suspects
from launcher.slurm.local_queue import LocalQueue
from launcher.slurm.queue import Queue, SlurmQueue, dependency, queue_of
from launcher.submit.freeze import FrozenRun
from launcher.submit.queued_elements import Elements, jobs_of_element, leave_out_queued


def resubmit(run: RunDir, cluster: Cluster, nodes: int | None = None, conditions: Sequence[str] = ()) -> str:
    """Queue an existing run again.

    Args:
        run: The run.
        cluster: Where it goes.
        nodes: Number of nodes from now on, if not the recipe's; the global batch stays what it is.
        conditions: What it waits for: `afterok:12`.

    Returns:
        The new job id.

    Raises:
        RunError: The run is queued or running, its submission is gone, or it cannot run on so many nodes.
    """
    with _lock(cluster):
        record = RunRecord.read(run.record)
        submission, index, size = _submission_of(run, record)
        queue = queue_of(cluster)
        _refuse_queued(FrozenRun(run, record), submission, jobs_of_element(queue.jobs_of(submission), index, size))
        if nodes is not None:
            _check_nodes(run, cluster, nodes)
        options = [*([] if nodes is None else [f"--nodes={nodes}"]), *dependency(conditions, is_kept=True)]
        job = _queue_elements(queue, submission, [(index, FrozenRun(run, record))], options, nodes)
        return queue.element(job, index, size)


def _refuse_queued(frozen: FrozenRun, submission: SubmissionDir, jobs: Sequence[str]) -> None:
    if not jobs:
        return
    record, name = frozen.record, frozen.folder.root.name
    if jobs[0] not in [entry.job_id for entry in record.submissions]:  # its `launcher submit` was killed halfway
        frozen.add_job(jobs[0], submission, time.time())
    elif read_state(frozen.folder).is_terminal:
        raise RunError(f"`{name}`: Slurm is still cleaning up job {jobs[0]}; try again in a minute")
    raise RunError(f"`{name}`: is queued or running as job {jobs[0]}; `launcher cancel {record.id}` first")


def queue_what_fits(
    runs: Sequence[RunDir], cluster: Cluster, conditions: Sequence[str] = ()
) -> tuple[list[str], list[RunDir]]:
    """Queue runs that exist, those of one submission with one call of sbatch.

    Args:
        runs: The runs.
        cluster: Where they go.
        conditions: What they wait for: `afterok:12`.

    Returns:
        The jobs that carry them out now, without the indices of arrays, and the runs that the user's limit of jobs left
        no room for.

    Raises:
        RunError: A submission is gone.
        SlurmError: Slurm refused for another reason.
    """
    with _lock(cluster):
        return _queue_what_fits(runs, queue_of(cluster), conditions)


def _queue_what_fits(runs: Sequence[RunDir], queue: Queue, conditions: Sequence[str]) -> tuple[list[str], list[RunDir]]:
    by_submission: dict[SubmissionDir, list[tuple[int, FrozenRun]]] = defaultdict(list)
    manifests: dict[str, dict[str, int]] = {}
    for run in runs:
        record = RunRecord.read(run.record)
        submission, index = _place_of(run, record, manifests)
        by_submission[submission].append((index, FrozenRun(run, record)))
    jobs: list[str] = []
    waiting: list[RunDir] = []
    for submission, elements in by_submission.items():
        options = dependency(conditions, is_kept=True)
        missing, found = leave_out_queued(queue, submission, elements)
        job, rest = queue_elements(queue, submission, missing, options) if missing and not waiting else (None, missing)
        jobs += [*found, *([job] if job else [])]
        waiting += [frozen.folder for _, frozen in rest]
    return jobs, waiting


def queue_elements(
    queue: Queue, submission: SubmissionDir, elements: Elements, options: Sequence[str] = ()
) -> tuple[str | None, Elements]:
    """Queue runs of a submission, as many as the user's limit of jobs leaves room for.

    Returns:
        The job, None if there was no room at all; and the rest.

    Raises:
        SlurmError: Slurm refused for another reason.
    """
    try:
        return _queue_elements(queue, submission, elements, options), []
    except SlurmError as error:
        if not is_exceeded(error):
            raise
    return queue_part(queue, submission, elements, options)


def queue_part(
    queue: Queue, submission: SubmissionDir, elements: Elements, options: Sequence[str] = ()
) -> tuple[str | None, Elements]:
    """Do as `queue_elements` does once the user's limit of jobs has left no room for all of them."""
    limit = read_submit_limit(queue.cluster)
    count = len(elements) // 2 if limit is None else min(limit.room, len(elements) - 1)
    while count > 0:
        try:
            return _queue_elements(queue, submission, elements[:count], options), elements[count:]
        except SlurmError as error:
            if not is_exceeded(error):
                raise
        count //= 2
    return None, elements


def _place_of(run: RunDir, record: RunRecord, manifests: dict[str, dict[str, int]]) -> tuple[SubmissionDir, int]:
    """Find a run's submission and its index there; each manifest is read once."""
    folder = record.submissions[-1].folder if record.submissions else record.frozen_for
    if folder:
        if folder not in manifests:
            rows = read_json_lines(SubmissionDir(Path(folder)).manifest)
            manifests[folder] = {Path(row["run"]).name: place for place, row in enumerate(rows)}
        if run.root.name in manifests[folder]:
            return SubmissionDir(Path(folder)), manifests[folder][run.root.name]
    submission, index, _ = _submission_of(run, record)
    return submission, index


def resubmit_group(
    run: RunDir, cluster: Cluster, missing: Sequence[RunDir], conditions: Sequence[str] = ()
) -> list[str]:
    """Queue again what is missing of a `prepare` in several tasks.

    Args:
        run: The run that completes the corpus; it waits for all tasks that have not finished.
        cluster: Where they go.
        missing: Those of the group that are over and did not finish.
        conditions: What all of them wait for: `afterok:12`.

    Returns:
        The new job ids, without the indices of arrays.

    Raises:
        RunError: A submission is gone, or without Slurm one of the group is still running.
    """
    queue = queue_of(cluster)
    with _lock(cluster):
        if isinstance(queue, LocalQueue):
            return [_restart(run, queue, missing)]
        return _resubmit_group(run, queue, missing, conditions)


def _resubmit_group(run: RunDir, queue: SlurmQueue, missing: Sequence[RunDir], conditions: Sequence[str]) -> list[str]:
    by_submission: dict[SubmissionDir, list[tuple[int, FrozenRun]]] = defaultdict(list)
    for share in missing:
        if share != run:
            record = RunRecord.read(share.record)
            submission, index, _ = _submission_of(share, record)
            by_submission[submission].append((index, FrozenRun(share, record)))
    run.stop_request.unlink(missing_ok=True)  # it would stop its tasks as well
    waits = dependency(conditions, is_kept=True)
    jobs = []
    for submission, elements in by_submission.items():
        rest, found = leave_out_queued(queue, submission, elements)
        jobs += [*found, *([_queue_elements(queue, submission, rest, waits)] if rest else [])]
    awaited = _unfinished_jobs(run)
    if run in missing:
        record = RunRecord.read(run.record)
        submission, index, _ = _submission_of(run, record)
        rest, found = leave_out_queued(queue, submission, [(index, FrozenRun(run, record))])
        waits = dependency([*conditions, *(f"afterany:{job}" for job in awaited)], is_kept=bool(conditions))
        jobs += [*found, *([_queue_elements(queue, submission, rest, waits)] if rest else [])]
    elif jobs:
        queue.wait_for(RunRecord.read(run.record).submissions[-1].job_id, awaited)
    return jobs


def _restart(run: RunDir, queue: LocalQueue, missing: Sequence[RunDir]) -> str:
    """Start the process of a group again, which passes over what is finished."""
    submission, _, _ = _submission_of(run, RunRecord.read(run.record))
    if alive := queue.jobs_of(submission):
        raise RunError(f"`{run.root.name}`: is running as {alive[0]}; wait until it has stopped")
    for one in (*list_shares(run), run):
        if seen := find_elsewhere(read_state(one)):
            raise RunError(f"`{run.root.name}`: is running {seen}; wait until it has stopped")
    run.stop_request.unlink(missing_ok=True)  # it would stop its tasks as well
    for one in missing:
        StopRequest.withdraw(one.stop_request)
    job = queue.add(submission)
    for one in missing:
        FrozenRun(one, RunRecord.read(one.record)).add_job(job, submission, time.time())
    return job


def _queue_elements(
    queue: Queue,
    submission: SubmissionDir,
    elements: Sequence[tuple[int, FrozenRun]],
    options: Sequence[str] = (),
    nodes: int | None = None,
) -> str:
    """Queue some runs of a submission; as many elements of an array run at once as before."""
    size = len(read_json_lines(submission.manifest))
    limit = re.search(r"^#SBATCH --array=[^%\n]*(%\d+)$", submission.script.read_text(encoding="utf-8"), re.MULTILINE)
    indices = _ranges([index for index, _ in elements])
    for _, frozen in elements:
        StopRequest.withdraw(frozen.folder.stop_request)
    array = [f"--array={indices}{limit[1] if limit else ''}"] if size > 1 else []
    avoided = avoid_suspects(queue.cluster, elements[0][1].folder, nodes)
    job = queue.add(submission, [*array, *options, *avoided.options])
    for index, frozen in elements:
        frozen.add_job(queue.element(job, index, size), submission, time.time())
    return job


def _lock(cluster: Cluster) -> AbstractContextManager[None]:
    return one_at_a_time(expand(cluster.roots.runs))


def _ranges(indices: Sequence[int]) -> str:
    """Write indices as sbatch takes them: `0-2,5`."""
    ranges: list[list[int]] = []
    for index in sorted(indices):
        if ranges and ranges[-1][-1] == index - 1:
            ranges[-1][1:] = [index]
        else:
            ranges.append([index])
    return ",".join("-".join(map(str, one)) if one[-1] - one[0] > 1 else ",".join(map(str, one)) for one in ranges)


def _unfinished_jobs(run: RunDir) -> list[str]:
    unfinished = [share for share in list_shares(run) if not has_finished(read_attempts(share.ledger))]
    entries = [RunRecord.read(share.record).submissions for share in unfinished]
    return [*dict.fromkeys(its[-1].job_id.partition("_")[0] for its in entries if its)]


def _check_nodes(run: RunDir, cluster: Cluster, nodes: int) -> None:
    if cluster.executor == "local":
        raise RunError("--nodes: this machine is the only node of a `local` profile; leave it out")
    recipe = json.loads(run.recipe.read_text(encoding="utf-8"))
    recipe["resources"]["nodes"] = nodes
    try:
        read_recipe(json.dumps(recipe))
    except ValidationError as error:
        reasons = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise RunError(f"--nodes {nodes}: {reasons}") from None


def _submission_of(run: RunDir, record: RunRecord) -> tuple[SubmissionDir, int, int]:
    """Find a run's submission, its index there, and how many runs that has.

    A run whose `launcher submit` was killed halfway knows no submission; the manifests know the run.
    """
    if record.submissions:
        candidates = [Path(record.submissions[-1].folder)]
    elif record.frozen_for:
        candidates = [Path(record.frozen_for)]
    else:
        candidates = sorted(submissions_root((run.group if record.share else run).root.parent).glob("*-*"))
    for submission in map(SubmissionDir, candidates):
        runs = [Path(row["run"]) for row in read_json_lines(submission.manifest)]
        for index, one in enumerate(runs):
            if one.name == run.root.name and os.path.realpath(one) == os.path.realpath(run.root):
                return submission, index, len(runs)
    raise RunError(f"`{run.root.name}`: its submission is gone; submit the recipe again: {run.recipe_as_written}")
