"""Queueing the points of a sweep that the queue had no room for when it was submitted."""

import json
from pathlib import Path

from launcher.cluster import Cluster
from launcher.run.lock import one_at_a_time
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.sweep_points import read_points, sweep_dir
from launcher.site.submit_limit import SubmitLimit, read_submit_limit
from launcher.submit.resubmit import queue_what_fits

_PARTS = 10
"""Points are queued when a tenth of the limit is free, so that a thousand of them are ten calls of sbatch."""


def advance(run: RunDir) -> list[str]:
    """Queue points of the sweep that a run belongs to, as far as there is room.

    Nodes do it when a run ends; anybody may, at any time.

    Returns:
        What was done, a line each.
    """
    record = RunRecord.read(run.record)
    if record.sweep is None:
        return []
    root = run.root.parent
    folder = sweep_dir(root, record.sweep)
    if not folder.waiting.exists():
        return []
    with one_at_a_time(root):
        cluster = Cluster.model_validate_json(json.dumps(record.cluster))
        limit = read_submit_limit(cluster)
        waiting = _waiting(root, record.sweep)
        told = _queue(waiting, limit, cluster) if waiting else []
        if not _waiting(root, record.sweep):
            folder.waiting.unlink(missing_ok=True)
    return told


def _queue(waiting: list[RunDir], limit: SubmitLimit | None, cluster: Cluster) -> list[str]:
    if limit is not None and limit.queued and limit.room < min(len(waiting), max(1, limit.most // _PARTS)):
        return []
    fitting = waiting if limit is None else waiting[: limit.room]
    jobs, rest = queue_what_fits(fitting, cluster)
    queued = len(fitting) - len(rest)
    return [f"queued {queued} of {len(waiting)} waiting points as job {', '.join(jobs)}"] if queued else []


def _waiting(root: Path, sweep: str) -> list[RunDir]:
    """Find the points that were never queued, and that nobody has cancelled."""
    runs = [RunDir(root / point.run) for point in read_points(root, sweep)]
    return [run for run in runs if not RunRecord.read(run.record).submissions and not run.stop_request.exists()]
