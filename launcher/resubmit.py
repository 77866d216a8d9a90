"""Queueing runs again that exist, with the script and the code they had."""

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.facts import read_facts
from launcher.freeze import FrozenRun
from launcher.ledger import has_finished, read_attempts, read_json_lines
from launcher.paths import RunDir, SubmissionDir, list_shares, submissions_root
from launcher.recipe import recipe_adapter
from launcher.record import RunRecord
from launcher.slurm.queue import LocalQueue, SlurmQueue, dependency, queue_of


def resubmit(run: RunDir, cluster: Cluster, nodes: int | None = None) -> str:
    """Queue an existing run again.

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
        elif read_facts(run).is_settled:
            raise RunError(f"`{run.root.name}`: Slurm is still cleaning up job {mine[0]}; try again in a minute")
        raise RunError(f"`{run.root.name}`: is queued or running as job {mine[0]}; `launcher cancel {record.id}` first")
    options = [f"--array={index}"] if size > 1 else []
    if nodes is not None:
        _check_nodes(run, cluster, nodes)
        options.append(f"--nodes={nodes}")
    run.stop_request.unlink(missing_ok=True)
    job_id = queue.element(queue.add(submission, options), index, size)
    FrozenRun(run, record).add_job(job_id, submission, time.time())
    return job_id


def resubmit_group(run: RunDir, cluster: Cluster, missing: Sequence[RunDir]) -> list[str]:
    """Queue again what is missing of a `prepare` in several tasks.

    Args:
        run: The run that completes the corpus; it waits for all tasks that have not finished.
        cluster: Where they go.
        missing: Those of the group that are over and did not finish.

    Returns:
        The new job ids, without the indices of arrays.

    Raises:
        RunError: A submission is gone, or without Slurm one of the group is still running.
    """
    queue = queue_of(cluster)
    if isinstance(queue, LocalQueue):
        return [_restart(run, queue, missing)]
    by_submission: dict[SubmissionDir, list[tuple[int, FrozenRun]]] = defaultdict(list)
    for share in missing:
        if share != run:
            record = RunRecord.read(share.record)
            submission, index, _ = _submission_of(share, record)
            by_submission[submission].append((index, FrozenRun(share, record)))
    run.stop_request.unlink(missing_ok=True)  # its tasks heed it as well
    jobs = [_queue_elements(queue, submission, elements) for submission, elements in by_submission.items()]
    awaited = _unfinished_jobs(run)
    if run in missing:
        record = RunRecord.read(run.record)
        submission, _, _ = _submission_of(run, record)
        jobs.append(queue.add(submission, dependency([f"afterany:{job}" for job in awaited])))
        FrozenRun(run, record).add_job(jobs[-1], submission, time.time())
    elif jobs:
        queue.wait_for(RunRecord.read(run.record).submissions[-1].job_id, awaited)
    return jobs


def _restart(run: RunDir, queue: LocalQueue, missing: Sequence[RunDir]) -> str:
    """Start the process of a group again, which passes over what is finished."""
    submission, _, _ = _submission_of(run, RunRecord.read(run.record))
    if alive := queue.jobs_of(submission):
        raise RunError(f"`{run.root.name}`: is running as {alive[0]}; wait until it has stopped")
    for one in (run, *missing):
        one.stop_request.unlink(missing_ok=True)
    job = queue.add(submission)
    for one in missing:
        FrozenRun(one, RunRecord.read(one.record)).add_job(job, submission, time.time())
    return job


def _queue_elements(queue: SlurmQueue, submission: SubmissionDir, elements: Sequence[tuple[int, FrozenRun]]) -> str:
    """Queue some elements of an array, as many at once as before."""
    size = len(read_json_lines(submission.manifest))
    limit = re.search(r"^#SBATCH --array=[^%\n]*(%\d+)$", submission.script.read_text(encoding="utf-8"), re.MULTILINE)
    indices = ",".join(str(index) for index, _ in elements)
    for _, frozen in elements:
        frozen.folder.stop_request.unlink(missing_ok=True)
    job = queue.add(submission, [f"--array={indices}{limit[1] if limit else ''}"] if size > 1 else [])
    for index, frozen in elements:
        frozen.add_job(queue.element(job, index, size), submission, time.time())
    return job


def _unfinished_jobs(run: RunDir) -> list[str]:
    """Jobs of the tasks that have not finished, without the indices of arrays."""
    unfinished = [share for share in list_shares(run) if not has_finished(read_attempts(share.ledger))]
    entries = [RunRecord.read(share.record).submissions for share in unfinished]
    return [*dict.fromkeys(its[-1].job_id.partition("_")[0] for its in entries if its)]


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


def _submission_of(run: RunDir, record: RunRecord) -> tuple[SubmissionDir, int, int]:
    """Find a run's submission, its index there, and how many runs that has.

    A run whose `launcher submit` was killed halfway knows no submission; the manifests know the run.
    """
    if record.submissions:
        candidates = [Path(record.submissions[-1].folder)]
    else:
        candidates = sorted(submissions_root((run.group if record.share else run).root.parent).glob("*-*"))
    for submission in map(SubmissionDir, candidates):
        runs = [Path(row["run"]) for row in read_json_lines(submission.manifest)]
        for index, one in enumerate(runs):
            if one.name == run.root.name and os.path.realpath(one) == os.path.realpath(run.root):
                return submission, index, len(runs)
    raise RunError(f"`{run.root.name}`: its submission is gone; submit the recipe again: {run.recipe_as_written}")
