"""The pipelines of `fake_stages` on a real Slurm: their jobs start by themselves, and end as a test tells them."""

import json
import os
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from launcher.cluster import Cluster
from launcher.devcluster import DevCluster
from launcher.devcluster.chaos.controller import Controller
from launcher.devcluster.daemons import CONTROLLER, Daemons
from launcher.devcluster.processes import stop
from launcher.load import load_cluster
from launcher.run.files import replace_text
from launcher.run.ledger import has_finished, read_attempts
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.trials import SearchDir, find_search
from launcher.submit.snapshot import read_code
from tests.support.checkouts import copy_checkout
from tests.support.fake_scheduler import write_made
from tests.support.fake_stages import World
from tests.support.waiting import wait_for

STAND_IN = '''
"""A rank of a merge that waits until a test tells it what to make."""

import json
import os
import sys
import time
from pathlib import Path

from jobs.rank.stacks import answer_requests
from jobs.rank.stop_flag import STOP
from launcher.recipe import read_recipe
from launcher.recipe.identity import identify
from launcher.run.ledger import append_event
from launcher.run.paths import CONTINUE, FINISHED, NEVER_RESTART, RunDir
from launcher.run.record import RunRecord

STOP.install()
answer_requests()
run, attempt = RunDir(Path(sys.argv[1])), int(sys.argv[3])
record, recipe = RunRecord.read(run.record), read_recipe(run.recipe.read_text())
identify(recipe, record.locations).write(run.identity)
append_event(run.ledger, attempt, first_step=0, total_steps=1)
(run.root / f"waits-{attempt}").touch()
told = run.root / f"told-{attempt}"
while not told.exists():
    if STOP.is_requested() or run.stop_request.exists():
        sys.exit(CONTINUE)
    time.sleep(0.05)
content = json.loads(told.read_text())["content"]
if content is None:
    append_event(run.ledger, attempt, announced=NEVER_RESTART, fault="planted")
    sys.exit(NEVER_RESTART)
folder = record.locations.folder("model", recipe.output) if recipe.output else run.outputs / "model"
folder.mkdir(parents=True, exist_ok=True)
(folder / ".manifest.json").write_text(json.dumps({"inputs": content}))
os.replace(folder / ".manifest.json", folder / "manifest.json")
run.metrics.write_text(json.dumps({"step": 1, "loss": recipe.seed}) + "\\n")
append_event(run.ledger, attempt, last_step=1, reason="finished", source="merge")
sys.exit(FINISHED)
'''
WAITS_FOR_ROOM = ("Resources", "Priority")
"""Reasons of a job that starts once another one has ended."""
PATIENCE = 180


class QueuedJob(NamedTuple):
    """A job as squeue shows it."""

    id: str
    state: str
    reason: str
    awaited: str
    """`afterok:7(unfulfilled),afterok:9(unfulfilled)`."""

    def waits(self, numbers: Set[str], has_running: bool) -> bool:
        """Tell whether it does not start soon by itself.

        Args:
            numbers: Those of all jobs in the queue. What waits for others alone is looked at by slurmctld soon.
            has_running: Whether any job is running.
        """
        if self.reason in WAITS_FOR_ROOM:
            return has_running
        if self.reason == "Dependency":
            return not numbers.isdisjoint(re.findall(r":(\d+)", self.awaited))
        return self.reason == "DependencyNeverSatisfied"


@dataclass
class RealJob:
    """A job whose rank waits to be told how it ends."""

    run: RunDir
    attempt: int
    id: str
    search: SearchDir | None
    state: str = "RUNNING"


@dataclass
class RealScheduler:
    """slurmctld as the rules of the machine see it."""

    site: "RealWorld"
    is_down: bool = False
    limit: int | None = None
    accident: object = None

    def startable(self) -> list[RealJob]:
        """Nothing: what can start does so by itself."""
        return []

    def running(self) -> list[RealJob]:
        """What waits to be told, once all has started that can."""
        return self.site.settle()

    def forget(self) -> None:
        """Let slurmctld forget the jobs that ended: it does when it starts again."""
        if not self.is_down:
            self.site.controller.restart()

    def restart(self) -> None:
        """Start slurmctld again."""
        self.is_down = False
        self.site.controller.restart()


@dataclass
class RealWorld(World):
    """A site on a dev cluster."""

    devcluster: DevCluster | None = None
    told: set[tuple[str, int]] = field(default_factory=set)
    """Attempts that know how they end."""

    def __post_init__(self) -> None:
        assert self.devcluster is not None
        copy_checkout(self.folder / "code", STAND_IN)
        for name in ("runs", "models", "corpora", "data"):
            (self.folder / name).mkdir()
        write_made(self.folder / "models" / "base", "base")
        write_made(self.folder / "models" / "adapter", "adapter")
        write_made(self.folder / "models" / "made-0", "of an earlier pipeline, with a name that stages use, too")
        profile: Any = load_cluster(str(self.devcluster.profile)).model_dump(mode="json")
        profile["roots"] |= {name: str(self.folder / name) for name in ("runs", "models", "corpora", "data")}
        self.cluster = Cluster.model_validate_json(json.dumps(profile))
        self.controller = Controller(self.devcluster)
        self.scheduler: Any = RealScheduler(self)
        self._patches = [
            patch("launcher.recipe.kinds.merge.MergeRecipe.reports", {"loss": "minimize"}),
            patch("launcher.pipeline.faults.check_all", lambda *_: []),
            patch("launcher.pipeline.faults.find_unstartable", lambda *_: []),
            patch("launcher.pipeline.plan.read_code", partial(read_code, source=self.folder / "code")),
        ]
        for one in self._patches:
            one.start()

    def close(self) -> None:
        """Remove all jobs."""
        assert self.devcluster is not None
        if self.scheduler.is_down:
            self.scheduler.restart()
        self.devcluster.slurm("scancel", f"--user={os.getuid()}")
        wait_for(lambda: not self._jobs(), "the end of all jobs", PATIENCE)
        super().close()

    def take_down(self) -> None:
        """Stop slurmctld."""
        assert self.devcluster is not None
        found = Daemons(self.devcluster.layout).find(CONTROLLER)
        assert found
        stop([found], PATIENCE)
        self.scheduler.is_down = True

    def settle(self) -> list[RealJob]:
        """Wait until every job that can start has, and those that were told to end have ended."""
        if self.scheduler.is_down:
            return []
        wait_for(self._is_settled, "Slurm to settle", PATIENCE)
        return [*self._waiting()]

    def _is_settled(self) -> bool:
        jobs, waiting = self._jobs(), [*self._waiting()]
        running = [job for job in jobs if job.state == "RUNNING"]
        numbers = {job.id.partition("_")[0] for job in jobs}
        return len(running) == len(waiting) and all(
            job.state == "RUNNING" or (job.state == "PENDING" and job.waits(numbers, bool(running))) for job in jobs
        )

    def _jobs(self) -> "list[QueuedJob]":
        assert self.devcluster is not None
        lines = self.devcluster.slurm("squeue", "--noheader", "--array", "--format=%i|%T|%r|%E").splitlines()
        return [QueuedJob(*line.strip().split("|")) for line in lines]

    def _waiting(self) -> Iterator[RealJob]:
        for folder in sorted(Path(self.cluster.roots.runs).iterdir()):
            run = RunDir(folder)
            attempts = read_attempts(run.ledger) if run.record.is_file() else []
            if not attempts or attempts[-1].action:
                continue
            number = attempts[-1].number
            if (folder / f"waits-{number}").exists() and (str(folder), number) not in self.told:
                search = find_search(run.root.parent, str(RunRecord.read(run.record).sweep))
                yield RealJob(run, number, str(attempts[-1].job_id), search)

    def finish(self, job: Any) -> None:
        """Tell a job to succeed, and wait until it has."""
        self.count(job)
        self._tell(job, self.content(job.run))
        assert has_finished(read_attempts(job.run.ledger)), f"{job.run.root} did not finish"

    def fail(self, job: Any) -> None:
        """Tell a job to fail for good, and wait until it has."""
        self._tell(job, None)

    def _tell(self, job: RealJob, content: str | None) -> None:
        self.told.add((str(job.run.root), job.attempt))
        replace_text(job.run.root / f"told-{job.attempt}", json.dumps({"content": content}))
        wait_for(lambda: read_attempts(job.run.ledger)[job.attempt].action, f"the end of {job.run.root}", PATIENCE)

    def preempt(self, job: Any) -> None:
        """Let Slurm requeue a job."""
        assert self.devcluster is not None
        if not self.scheduler.is_down:
            self.devcluster.slurm("scontrol", "requeue", job.id)
            wait_for(lambda: read_attempts(job.run.ledger)[job.attempt].action, f"the end of {job.run.root}", PATIENCE)

    def advance_after(self, job: Any, is_checked: bool = False) -> None:
        """Nothing: the batch process does it."""

    def run_to_the_end(self) -> None:
        """Let everything happen that happens by itself, without further accidents."""
        if self.scheduler.is_down:
            self.scheduler.restart()
        for _ in range(100):
            for pipeline in self.pipelines:
                self.advance(pipeline)
            ready = self.settle()
            for job in ready:
                self.finish(job)
            if not ready:
                return
        raise AssertionError("it never ends")
