"""A Slurm in this process, with what was measured of dependencies in Slurm 22.05.8, and ranks that only write a file.

1. What waits for a job that requeues itself goes on waiting.
2. What waits for a failed job (`afterok`) never starts, also if that job is requeued and succeeds, until it is given
   other conditions.
3. A condition on a job that slurmctld does not know any more counts as fulfilled.
4. Ended jobs are forgotten after some minutes, and when slurmctld starts again.
5. With `--kill-on-invalid-dep=no` what can never start stays in the queue.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.trials import SearchDir
from launcher.slurm.parse import Job
from launcher.slurm.query import QueryResult

FULL = "sbatch: error: AssocMaxSubmitJobLimit"
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


@dataclass
class FakeJob:
    """One job."""

    id: str
    submission: SubmissionDir
    conditions: list[str]
    index: int = 0
    """Its place in the submission's array."""
    state: str = "PENDING"
    never: bool = False
    """Whether one of its conditions can never be fulfilled."""

    @property
    def is_over(self) -> bool:
        """Whether it will not run again by itself."""
        return self.state in ("COMPLETED", "FAILED", "CANCELLED")

    trial: RunDir | None = None
    """Of an element of a search: what it carries out now."""

    @property
    def search(self) -> SearchDir | None:
        """The search that it is an element of."""
        row = read_json_lines(self.submission.manifest)[0]
        return SearchDir(Path(row["search"])) if "search" in row else None

    @property
    def run(self) -> RunDir:
        """The run that it carries out."""
        return self.trial or RunDir(Path(read_json_lines(self.submission.manifest)[self.index]["run"]))


@dataclass
class FakeScheduler:
    """slurmctld, and the queue as the launcher sees it."""

    jobs: dict[str, FakeJob] = field(default_factory=dict)
    limit: int | None = None
    """How many jobs may be queued or running."""
    is_down: bool = False
    accident: Callable[[], None] | None = None
    """What happens next while somebody queues a job, after they looked and before sbatch."""
    has_arrays = True
    cluster: Cluster | None = None
    count: int = 0

    def max_elements(self, _wanted: int) -> int:
        return 1000

    def element(self, job: str, index: int, size: int) -> str:
        return f"{job}_{index}" if size > 1 else job

    def add(self, submission: SubmissionDir, options: Sequence[str] = ()) -> str:
        """What sbatch does."""
        self._answer()
        accident, self.accident = self.accident, None
        if accident:
            accident()
        told = dict(option.removeprefix("--").partition("=")[::2] for option in options)
        assert told.keys() <= {"array", "dependency", "kill-on-invalid-dep"}
        indices, size = (
            parse_indices(told.get("array") or array_of(submission)),
            len(read_json_lines(submission.manifest)),
        )
        if self.limit is not None and sum(not job.is_over for job in self.jobs.values()) + len(indices) > self.limit:
            raise SlurmError(FULL)
        assert told.get("kill-on-invalid-dep", "no") == "no"
        self.count += 1
        job = str(self.count)
        for index in indices:
            name, conditions = self.element(job, index, size), [*filter(None, told.get("dependency", "").split(","))]
            self.jobs[name] = FakeJob(name, submission, conditions, index)
        self.look_at_conditions()
        return job

    def jobs_of(self, submission: SubmissionDir) -> list[str]:
        self._answer()
        return [job.id for job in self.jobs.values() if job.submission == submission and not job.is_over]

    def set_conditions(self, job: str, conditions: Sequence[str]) -> None:
        """What `scontrol update Dependency=` does."""
        self._answer()
        self.jobs[job].conditions, self.jobs[job].never = list(conditions), False
        self.look_at_conditions()

    def cancel(self, submission: SubmissionDir) -> None:
        self.end(self.jobs_of(submission), None, {})

    def end(self, jobs: Sequence[str], cluster: Cluster | None, _submissions: Mapping[str, str]) -> QueryResult:
        """What scancel does."""
        self._answer()
        known = self.find(cluster, jobs)
        for job in jobs:
            if job in self.jobs and not self.jobs[job].is_over:
                self.jobs[job].state = "CANCELLED"
        self.look_at_conditions()
        return known

    def find(self, _cluster: Cluster | None, job_ids: Iterable[str]) -> QueryResult:
        """What squeue says."""
        if self.is_down:
            return QueryResult({}, frozenset(), (DOWN,))
        found = {}
        for job in (self.jobs[one] for one in job_ids if one in self.jobs):
            reason = "DependencyNeverSatisfied" if job.never else "Dependency" if job.conditions else "Priority"
            found[job.id] = Job(job.id, job.state, "squeue", reason if job.state == "PENDING" else "")
        return QueryResult(found, frozenset({"squeue"}))

    def look_at_conditions(self) -> None:
        """Fulfil conditions, or find that they never can be."""
        for job in self.jobs.values():
            if job.state != "PENDING" or job.never:
                continue
            rest = []
            for condition in job.conditions:
                awaited = self.jobs.get(condition.removeprefix("afterok:"))
                if awaited is None or awaited.state == "COMPLETED":
                    continue
                job.never |= awaited.is_over
                rest.append(condition)
            job.conditions = rest

    def startable(self) -> list[FakeJob]:
        """Jobs that may start now."""
        return [job for job in self.jobs.values() if job.state == "PENDING" and not job.conditions and not job.never]

    def running(self) -> list[FakeJob]:
        """Jobs that run."""
        return [job for job in self.jobs.values() if job.state == "RUNNING"]

    def forget(self) -> None:
        """Forget the jobs that have ended, as slurmctld does after MinJobAge, and when it starts again."""
        self.jobs = {name: job for name, job in self.jobs.items() if not job.is_over}
        self.look_at_conditions()

    def restart(self) -> None:
        """Start again with the jobs that are not over, and look at all conditions anew."""
        self.is_down = False
        for job in self.jobs.values():
            job.never = False
        self.forget()

    def _answer(self) -> None:
        if self.is_down:
            raise SlurmError(DOWN)


def array_of(submission: SubmissionDir) -> str:
    """Read the indices that a script asks for; a script without an array is one job."""
    found = re.search(r"^#SBATCH --array=([\d,-]+)", submission.script.read_text(), re.MULTILINE)
    return found[1] if found else "0"


def parse_indices(text: str) -> list[int]:
    """Read the indices that sbatch is given: `0-2,5`."""
    parts = [part.partition("-") for part in text.split(",")]
    return [index for first, _, last in parts for index in range(int(first), int(last or first) + 1)]


def write_made(folder: Path, content: str) -> None:
    """Make what counts as a complete model with this content."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"inputs": content}), encoding="utf-8")


def read_made(folder: Path) -> str | None:
    """Read the content of a model; None if it is not there."""
    path = folder / "manifest.json"
    return str(json.loads(path.read_text())["inputs"]) if path.is_file() else None
