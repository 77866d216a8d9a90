"""Queueing points of a sweep together: one call of sbatch for each of their arrays."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.pipeline.record import StageRecord
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.submit.resubmit import queue_what_fits

QUEUE_IS_FULL = re.compile(r"submit limit|MaxSubmitJob|violates accounting/QOS policy|temporarily unable to accept")
"""What sbatch says when no more jobs are taken for now."""


@dataclass
class PointQueue:
    """Collects points of one sweep that wait for the same jobs, until there is one of another sweep."""

    cluster: Cluster
    told: list[str]
    """Takes what was done, a line each."""
    jobs: dict[str, str]
    """Takes the jobs of the points."""
    is_full: bool = False
    _points: list[tuple[StageRecord, RunDir]] = field(default_factory=list)
    _conditions: Sequence[str] = ()

    def add(self, point: StageRecord, run: RunDir, conditions: Sequence[str]) -> None:
        """Collect a point.

        Args:
            point: The point.
            run: Its run.
            conditions: What it waits for: `afterok:12`.
        """
        if conditions != self._conditions:
            self.flush()
        self._points.append((point, run))
        self._conditions = conditions

    def begin(self, stage: StageRecord) -> None:
        """Queue what was collected, unless the next stage is a point of the same sweep."""
        if self._points and self._points[0][0].sweep != stage.sweep:
            self.flush()

    def flush(self) -> None:
        """Queue what was collected.

        Raises:
            SlurmError: Slurm refused for another reason than a full queue.
        """
        points, self._points = self._points, []
        if not points:
            return
        runs = [run for _, run in points]
        before = {run: len(RunRecord.read(run.record).submissions) for run in runs}
        try:
            _, waiting = queue_what_fits(runs, self.cluster, self._conditions)
        except SlurmError as error:
            if not QUEUE_IS_FULL.search(str(error)):
                raise
            waiting = [run for run in runs if len(RunRecord.read(run.record).submissions) == before[run]]
        records = {run: RunRecord.read(run.record) for run in runs}
        queued = {one.name: records[run].submissions[-1].job_id for one, run in points if run not in waiting}
        self.jobs.update(queued)
        self.is_full |= bool(waiting)
        self._tell(str(points[0][0].sweep), [*queued.values()], len(waiting))

    def _tell(self, sweep: str, jobs: Sequence[str], waiting: int) -> None:
        after = f" {','.join(self._conditions)}" if self._conditions else ""
        if jobs:
            named = ", ".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
            self.told.append(f"{sweep}: queued {_points(len(jobs))} as job {named}{after}")
        if waiting:
            self.told.append(f"{sweep}: {_points(waiting)} to be queued later, since the queue takes no more")


def _points(count: int) -> str:
    return f"{count} point{'s' * (count != 1)}"
