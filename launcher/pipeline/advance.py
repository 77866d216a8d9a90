"""Queueing what can be queued: anybody may run it, at any time, as often as they like.

The folder of a pipeline says what there is to do, Slurm and the run directories say what has been done; nothing else is
remembered. Each stage has one run directory, so that even two jobs of one stage carry its run out once.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import RunError, SlurmError
from launcher.pipeline.choose import Choice, recipe_of
from launcher.pipeline.find import pipelines_with
from launcher.pipeline.note_queued import forget_queued, note_queued
from launcher.pipeline.point_queue import QUEUE_IS_FULL, PointQueue
from launcher.pipeline.record import Pipeline, StageRecord, replace_link
from launcher.pipeline.renew_search import adopt_search
from launcher.pipeline.search_stage import SearchState
from launcher.pipeline.selection import recall
from launcher.pipeline.states import StageState, jobs_waiting, read_stages
from launcher.run.ledger import StopRequest
from launcher.run.locations import Locations
from launcher.run.lock import one_at_a_time
from launcher.run.paths import RunDir, SubmissionDir, list_shares
from launcher.run.record import RunRecord
from launcher.run.stage_inputs import missing_inputs
from launcher.slurm.queue import end_jobs, queue_of
from launcher.submit.resubmit import resubmit, resubmit_group
from launcher.submit.searches import forget_failures, queue_missing


def advance(pipeline: Pipeline, cluster: Cluster, resume: bool = False) -> list[str]:
    """Queue the stages that can be queued, and give finished results their names.

    Args:
        pipeline: The pipeline.
        cluster: Its site.
        resume: A person asks for it: also take up stages that failed or were stopped.

    Returns:
        What was done, a line each.

    Raises:
        SlurmError: Slurm refused a stage for another reason than a full queue.
    """
    with one_at_a_time(pipeline.folder.root.parent):
        if resume:
            pipeline.folder.stop_request.unlink(missing_ok=True)
        step = _Advance(pipeline, cluster, resume)
        try:
            step.run()
        finally:
            _log(pipeline, step.told)
    return step.told


@dataclass
class _Advance:
    """One look at all stages, each after those that it waits for."""

    pipeline: Pipeline
    cluster: Cluster
    resume: bool
    told: list[str] = field(default_factory=list)
    jobs: dict[str, str] = field(default_factory=dict)
    """The jobs of stages that are queued or running."""
    handed_over: set[str] = field(default_factory=set)
    """Stages whose own jobs were cancelled, since another run does the same."""
    conditioned: set[str] = field(default_factory=set)
    """Stages whose jobs were just given what they wait for."""
    is_full: bool = False
    is_busy: bool = False
    """Whether a search is queued or running."""

    @cached_property
    def points(self) -> PointQueue:
        """Queues points of sweeps together."""
        return PointQueue(self.cluster, self.told, self.jobs)

    def run(self) -> None:
        before = forget_queued(self.pipeline)
        states, _ = read_stages(self.pipeline, self.cluster)
        choice = Choice(self.cluster, self.pipeline.folder.root.name)
        for one in states.values():
            self.points.begin(one.stage)
            if one.is_finished and one.run:
                self._settle(one.stage, one.run)
                choice.note_finished(one.stage, one.run)
            elif one.is_alive and one.run:
                self._keep_alive(one, one.run, choice)
            elif self.pipeline.is_stopped:
                continue
            elif one.search:
                self._search(one, one.search, choice)
            elif one.stage.select:
                self._select(one, choice)
            elif one.may_advance or (self.resume and one.may_resume):
                self._take_up(one, choice)
        self.points.flush()
        note_queued(self.pipeline, before, choice.finished, self.jobs, self.conditioned)

    def _select(self, one: StageState, choice: Choice) -> None:
        """Let the best point be what a stage came to, once all of its points have ended."""
        verdict = one.verdict
        if one.stage.select and not (verdict.run or one.stage.search) and (found := choice.select(one.stage)):
            # Runs from elsewhere have just taken over the last points.
            verdict = recall(one.stage.select, found, {name: choice.finished[name] for name in one.stage.awaits})
        run = verdict.run
        if run is None:
            line, log = f"{one.stage.name}: nothing is selected: {verdict.why}", self.pipeline.folder.log
            if not verdict.is_open and not (log.exists() and line in log.read_text(encoding="utf-8")):
                self.told.append(line)
            return
        self.pipeline.link_artifact(one.stage, run)
        self.pipeline.link_stage(one.stage.name, run)
        self.told.append(f"{one.stage.name}: selected {verdict.why}")
        self._settle(one.stage, run)
        choice.note_finished(one.stage, run)

    def _search(self, one: StageState, search: SearchState, choice: Choice) -> None:
        """Queue a search whose inputs are there, and select its best trial once all of them are over."""
        self._select(one, choice)
        is_to_do = one.may_advance or (self.resume and one.may_resume)
        if one.verdict.run or not is_to_do or any(name not in choice.finished for name in one.stage.awaits):
            self.is_busy |= one.is_alive
            return
        if self.is_full or (self.cluster.executor == "local" and (self.is_busy or self.jobs)):
            return
        adopt_search(search.folder, self.pipeline)
        forget_failures(search.folder)
        try:
            queued = queue_missing(search.folder, self.cluster)
        except RunError as error:  # its jobs are still ending
            self.told.append(str(error))
            return
        except SlurmError as error:
            self._wait_for_room(one, error)
            return
        if queued.left == 0:  # the last trial ended while the search was stopped
            self._select(read_stages(self.pipeline, self.cluster)[0][one.stage.name], choice)
            return
        self.is_busy = True
        self.told += [f"{one.stage.name}: {queued}"] if queued.jobs else []

    def _take_up(self, one: StageState, choice: Choice) -> None:
        """Queue a stage whose inputs are there or on their way; nothing if a run elsewhere does its work."""
        stage, run = one.stage, one.run
        assert run is not None
        other = None
        if not self.pipeline.record.rerun:
            other = choice.choose(stage, *recipe_of(run), stage.awaits)
        if other and other != run:
            self._take_over(stage, other, choice)
            one = read_stages(self.pipeline, self.cluster)[0][stage.name]
            run = other
            if stage.name in choice.finished or stage.name in self.jobs:
                return
        waiting = [name for name in stage.awaits if name not in choice.finished]
        if self.is_full or self.points.is_full or any(name not in self.jobs for name in waiting):
            return
        if self.cluster.executor == "local" and (waiting or self.jobs or self.is_busy):
            return
        if not waiting and (missing := missing_inputs(RunRecord.read(run.record))):
            self.told.append(f"{stage.name}: {'; '.join(missing)}")
            return
        conditions = [f"afterok:{self.jobs[name]}" for name in waiting]
        if stage.sweep and self.cluster.executor == "slurm" and not list_shares(run):
            self.points.add(stage, run, conditions)
        else:
            self._queue(one, run, conditions)

    def _take_over(self, stage: StageRecord, other: RunDir, choice: Choice) -> None:
        """Let a run from elsewhere carry a stage out, which has finished, or is queued or running or about to be."""
        self.pipeline.link_artifact(stage, other)
        self.pipeline.link_stage(stage.name, other)
        if stage.name in choice.finished:
            self.told.append(f"{stage.name}: `{other.root.name}` has finished with the same recipe and inputs")
            self._settle(stage, other)
        elif read_stages(self.pipeline, self.cluster)[0][stage.name].is_alive:
            self.jobs[stage.name] = job_of(other)
            self.told.append(f"{stage.name}: is carried out by `{other.root.name}` of another pipeline")

    def _queue(self, one: StageState, run: RunDir, conditions: Sequence[str]) -> None:
        try:
            self._resubmit(one, run, conditions)
            self.conditioned.add(one.stage.name)
        except RunError as error:  # a process that was killed, or that had no lock, has queued it
            self.told.append(str(error))
        except SlurmError as error:
            self._wait_for_room(one, error)
            return
        if RunRecord.read(run.record).submissions:
            self.jobs[one.stage.name] = job_of(run)
            after = f" {','.join(conditions)}" if conditions else ""
            self.told.append(f"{one.stage.name}: queued as job {self.jobs[one.stage.name]}{after}")

    def _wait_for_room(self, one: StageState, error: SlurmError) -> None:
        """Queue the stage, and those after it, another time; raises the error if the queue is not full."""
        if not QUEUE_IS_FULL.search(str(error)):
            raise error
        self.is_full = True
        self.told.append(f"{one.stage.name}: is queued later: {error}")

    def _resubmit(self, one: StageState, run: RunDir, conditions: Sequence[str]) -> None:
        if not list_shares(run):
            resubmit(run, self.cluster, conditions=conditions)
            return
        missing = [member for member in one.members if member.is_over and member.state != "finished"]
        resubmit_group(run, self.cluster, [_folder(run, member.id) for member in missing], conditions)

    def _keep_alive(self, one: StageState, run: RunDir, choice: Choice) -> None:
        """Let a job that waits for a failed one wait for the job that took its place, or go if it is not needed."""
        choice.alive[one.stage.name] = run
        if self.resume:
            StopRequest.withdraw(run.stop_request)
        has_lost = any(name in self.handed_over for name in one.stage.awaits)
        if not (one.is_stuck or (one.is_waiting and (has_lost or self.resume))):
            self.jobs[one.stage.name] = job_of(run)
            return
        other = None
        if not self.pipeline.record.rerun and not self.pipeline.is_stopped:
            other = choice.choose(one.stage, *recipe_of(run), one.stage.awaits)
        if other and other != run:
            self._hand_over(one.stage, run, other, choice)
            return
        self.jobs[one.stage.name] = job_of(run)
        if self.cluster.executor == "slurm":
            self._repair(one, choice)

    def _hand_over(self, stage: StageRecord, run: RunDir, other: RunDir, choice: Choice) -> None:
        """Give a stage that never started to the run that does the same, for all pipelines that have it."""
        # First of all: while Slurm does not answer, the run stays what it is.
        for member in (*list_shares(run), run):
            job = RunRecord.read(member.record).submissions[-1]
            if stage.sweep:  # its submission is that of all points
                end_jobs([job.job_id], self.cluster, {job.job_id: job.folder})
            else:
                queue_of(self.cluster).cancel(SubmissionDir(Path(job.folder)))
        for pipeline in pipelines_with(run):
            for its in pipeline.record.stages:
                if pipeline.run_of(its.name) == run:
                    pipeline.link_artifact(its, other)
                    pipeline.link_stage(its.name, other)
        self.handed_over.add(stage.name)
        self.told.append(f"{stage.name}: is carried out by `{other.root.name}`, so its own job is cancelled")
        if stage.name in choice.finished:
            self._settle(stage, other)
        else:
            self.jobs[stage.name] = job_of(other)

    def _repair(self, one: StageState, choice: Choice) -> None:
        waiting = [name for name in one.stage.awaits if name not in choice.finished]
        if any(name not in self.jobs for name in waiting):
            return
        conditions = [f"afterok:{self.jobs[name]}" for name in waiting]
        for job, further in jobs_waiting(one):
            queue_of(self.cluster).set_conditions(job, [*conditions, *further])
            self.told.append(f"{one.stage.name}: job {job} waits for {', '.join(waiting) or 'nothing'} now")
        self.conditioned.add(one.stage.name)

    def _settle(self, stage: StageRecord, run: RunDir) -> None:
        """Give a finished result its names."""
        self.pipeline.link_artifact(stage, run)
        if stage.makes is None or self.pipeline.record.rehearsal:
            return
        artifact, made = stage.makes
        for name in (name for name, of in self.pipeline.record.publish.items() if of == stage.name):
            place = Locations(self.cluster.roots.model_dump(), "").folder(artifact, name)
            target = os.path.realpath(Locations({}, "", self.pipeline.folder.artifacts).folder(artifact, made))
            if not os.path.lexists(place):
                replace_link(place, target)
                self.told.append(f"{stage.name}: published as `{name}`")


def job_of(run: RunDir) -> str:
    """The job that carries a run out, or of several the one that ends last."""
    return RunRecord.read(run.record).submissions[-1].job_id


def _folder(run: RunDir, member: str) -> RunDir:
    index = member.rpartition("_")[2] if "_" in member else None
    return run if index is None else run.share(int(index))


def _log(pipeline: Pipeline, told: Sequence[str]) -> None:
    if told:
        with pipeline.folder.log.open("a", encoding="utf-8") as file:
            file.writelines(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n" for line in told)
