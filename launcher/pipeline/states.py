"""How the stages of a pipeline are doing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from launcher.cluster import Cluster
from launcher.monitor.status import RunStatus, read_statuses
from launcher.pipeline.record import Pipeline, StageRecord
from launcher.pipeline.search_stage import SearchState, read_search, recall_trial
from launcher.pipeline.selection import Verdict, list_points, recall, select_best
from launcher.run.paths import RunDir

NEVER_SATISFIED = "DependencyNeverSatisfied"


@dataclass(frozen=True)
class StageState:
    """One stage, and how its run is doing."""

    stage: StageRecord
    run: RunDir | None
    """None if it was removed; of a selection also as long as nothing is selected."""
    status: RunStatus | None
    points: "tuple[StageState, ...]" = ()
    """Of a selection: what it selects from."""
    search: SearchState | None = None
    """Of a search, as long as no trial is selected."""

    @property
    def members(self) -> tuple[RunStatus, ...]:
        """The runs that share its work, and last the one that completes it; of most stages it is the only one."""
        if self.status is None:
            return ()
        group = self.status.group
        return (*group.tasks, group.finalise) if group else (self.status,)

    @property
    def is_finished(self) -> bool:
        """Whether it is done."""
        return self.status is not None and self.status.state == "finished"

    @property
    def is_alive(self) -> bool:
        """Whether it waits in Slurm's queue, or runs, or nobody can tell; of a selection, whether a point does."""
        if self.points and self.run is None:
            return any(point.is_alive for point in self.points)
        return self.status is not None and not self.status.is_over

    @property
    def is_waiting(self) -> bool:
        """Whether its job has not started yet."""
        return self.status is not None and self.status.state == "queued"

    @property
    def is_stuck(self) -> bool:
        """Whether its job waits for one that failed, and never starts unless somebody repairs it."""
        return self.is_waiting and any(NEVER_SATISFIED in member.why for member in self.members)

    @property
    def may_advance(self) -> bool:
        """Whether it may be queued unasked: it never was, or it started before its inputs were there.

        Of a selection: whether it can be made now.
        """
        if self.search:
            state = self.search.status.state
            return state == "not submitted" or (self.verdict.run is not None and state != "stopped")
        if self.stage.select:
            return self.run is None and self.verdict.run is not None
        if self.status is None:
            return False
        if self.status.state == "not submitted":
            return not self.status.stop_requested
        last = self.status.attempts[-1] if self.status.attempts else None
        return self.status.state == "failed" and last is not None and last.missing_inputs

    @cached_property
    def verdict(self) -> Verdict:
        """Which of its points a selection selects, or why it selects none yet."""
        assert self.stage.select is not None
        if self.search:
            return self.search.verdict
        if self.stage.search:
            return recall_trial(self.stage, self.run) if self.run else Verdict(None, "its search was removed")
        if self.run is not None:
            return recall(self.stage.select, self.run, {point.stage.name: point.run for point in self.points})
        unfinished = [point for point in self.points if not point.is_finished]
        coming = [point for point in unfinished if point.is_alive or point.may_advance]
        if coming:
            return Verdict(None, f"waits for {len(coming)} of {len(self.points)} points", is_open=True)
        if len(unfinished) > self.stage.select.allow_failed:
            return Verdict(None, f"{list_points([point.stage.name for point in unfinished])} ended without a result")
        finished = {point.stage.name: point.run for point in self.points if point.is_finished and point.run}
        return select_best(self.stage.select, finished)

    @property
    def may_resume(self) -> bool:
        """Whether `launcher resume` queues it."""
        return self.status is not None and self.status.is_over and not self.is_finished


def read_stages(pipeline: Pipeline, cluster: Cluster) -> tuple[dict[str, StageState], tuple[str, ...]]:
    """Read how the stages are doing; Slurm is asked once, and for each search that is under way.

    Returns:
        The stages in their order, and notes about what could not be read.
    """
    runs = pipeline.runs()
    statuses, notes = read_statuses(cluster, [*runs.values()]) if runs else ([], ())
    by_folder = {one.folder: one for one in statuses}
    states: dict[str, StageState] = {}
    root = pipeline.folder.root.parent
    for stage in pipeline.record.stages:
        run = runs.get(stage.name)
        points = tuple(states[name] for name in stage.awaits) if stage.select and not stage.search else ()
        status = by_folder.get(str(run.root)) if run else None
        is_open = stage.search is not None and run is None
        search = read_search(stage, root, cluster, pipeline.is_stopped) if is_open else None
        states[stage.name] = StageState(stage, run, search.status if search else status, points, search)
    return states, notes


def is_over(states: Mapping[str, StageState]) -> bool:
    """Tell whether nothing of a pipeline is queued, runs, or can be queued without a person's word."""
    for one in states.values():
        if one.is_alive and not one.points and not _waits_forever(one, states):
            return False
        if _is_ready(one, states):
            return False
    return True


def find_stalled(states: Mapping[str, StageState]) -> list[str]:
    """Name the stages that can be queued, let go or selected, if nothing is under way whose end would see to it.

    That is so for some seconds after the end of a stage, until its batch process has advanced the pipeline. It stays so
    if that process was killed before.
    """
    if any(_goes_on(one, states) for one in states.values()):
        return []
    finished = {name for name, one in states.items() if one.is_finished}
    stuck = {name for name, one in states.items() if one.is_stuck and finished.issuperset(one.stage.awaits)}
    return [name for name, one in states.items() if name in stuck or _is_ready(one, states)]


def _goes_on(one: StageState, states: Mapping[str, StageState]) -> bool:
    """Tell whether a stage is queued or runs, and will end without anybody's doing."""
    if not one.is_alive or one.points or one.is_stuck:
        return False
    before = (states[name] for name in one.stage.awaits)
    return not one.is_waiting or all(other.is_finished or _goes_on(other, states) for other in before)


def _is_ready(one: StageState, states: Mapping[str, StageState]) -> bool:
    """Tell whether a stage can be queued now; of a selection, whether it can be made."""
    return one.may_advance and (bool(one.points) or all(states[name].is_finished for name in one.stage.awaits))


def _waits_forever(one: StageState, states: Mapping[str, StageState]) -> bool:
    """Tell whether a queued stage waits for one that is over, or waits forever, and did not finish."""
    awaited = [states[name] for name in one.stage.awaits]
    if not one.is_waiting or one.status is None:
        return False
    return any(not other.is_finished and (not other.is_alive or _waits_forever(other, states)) for other in awaited)


def jobs_waiting(one: StageState) -> Iterator[tuple[str, list[str]]]:
    """Give the jobs of a stage that have not started, and what each waits for besides other stages."""
    *tasks, last = one.members
    arrays = [*dict.fromkeys(task.job_id.partition("_")[0] for task in tasks if not task.is_over)]
    for job in dict.fromkeys(task.job_id.partition("_")[0] for task in tasks if task.state == "queued"):
        yield job, []
    if last.state == "queued":
        yield last.job_id, [f"afterany:{job}" for job in arrays]
