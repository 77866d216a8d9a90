"""What the batch process knows of its own start: which run, which job, which nodes. Standard library only."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs.runtime import slurm
from jobs.runtime.verdict import Policy
from launcher.ledger import read_json_lines
from launcher.paths import NEVER_RESTART, RunDir, SubmissionDir
from launcher.record import RunRecord, fingerprint


class StartRefusedError(Exception):
    """The batch process does not start the run; says why and with which exit code it ends."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Job:
    """One start of the batch process."""

    submission: SubmissionDir
    run: RunDir
    recipe: Mapping[str, Any]
    """The content of recipe.json; this process must not need pydantic."""
    record: RunRecord
    environ: Mapping[str, str]
    local: bool

    @property
    def id(self) -> str:
        """The job's id as people write it: `123`, `123_4` or `local-PID`."""
        if self.local:
            return f"local-{os.getpid()}"
        return slurm.own_id(self.environ)

    @property
    def number(self) -> int:
        """A number that no other job of this machine has; elements of an array have one each. Not for commands."""
        return os.getpid() if self.local else int(self.environ["SLURM_JOB_ID"])

    @property
    def array_index(self) -> str | None:
        """This element's index, if the job is an array."""
        return self.environ.get("SLURM_ARRAY_TASK_ID")

    @property
    def resubmitted_by(self) -> str | None:
        """The job whose batch process queued this one; None if a person did."""
        return self.environ.get(slurm.RESUBMITTED_BY)

    @property
    def restart_count(self) -> int:
        """How many times Slurm has put this job back into the queue."""
        return 0 if self.local else int(self.environ.get("SLURM_RESTART_COUNT", 0))

    @cached_property
    def nodes(self) -> list[str]:
        """Names of the job's nodes; this process runs on the first."""
        if self.local:
            return [os.uname().nodename]
        return slurm.hostnames(self.environ["SLURM_JOB_NODELIST"])

    @property
    def ranks_per_node(self) -> int:
        """Tasks on each node: one per GPU, or one on a node without."""
        return max(1, int(self.recipe["resources"]["gpus_per_node"]))

    @property
    def node_count(self) -> int:
        """Nodes, of which a machine without Slurm plays several."""
        return int(self.recipe["resources"]["nodes"]) if self.local else len(self.nodes)

    @property
    def world_size(self) -> int:
        """Tasks of an attempt."""
        return self.node_count * self.ranks_per_node

    def slurm_log(self, job_id: str) -> Path:
        """Where Slurm wrote for this job, or for one that carried the run out before it."""
        folders = [entry.folder for entry in self.record.submissions if entry.job_id == job_id]
        return (SubmissionDir(Path(folders[-1])) if folders else self.submission).slurm_log(job_id)

    @property
    def policy(self) -> Policy:
        """When to come back."""
        counts_files = self.recipe["kind"] in ("prepare", "vocabulary")
        return Policy(self.slurm_options["requeue"], int(self.recipe["limits"]["max_failures"]), counts_files)

    @property
    def hang_limit(self) -> str | None:
        """How long the tasks may go without a sign of life, as the recipe says it."""
        limit: str | None = self.recipe["limits"]["hang"]
        return limit

    @property
    def slurm_options(self) -> Mapping[str, Any]:
        """The `slurm` section of the cluster profile."""
        options: Mapping[str, Any] = self.record.cluster["slurm"]
        return options

    @property
    def port_range(self) -> tuple[int, int]:
        """Ports that rendezvous may use."""
        low, high = self.slurm_options["port_range"]
        return int(low), int(high)


def count_runs(submission: SubmissionDir) -> int:
    """Number of runs that a submission is for; at least one, so that its absence is noticed."""
    return max(1, len(read_json_lines(submission.manifest)))


def find_job(submission: SubmissionDir, environ: Mapping[str, str], local: bool, index: int = 0) -> Job:
    """Find the run that this process is to carry out, and check that its recipe is the one that was queued.

    Args:
        submission: What was queued.
        environ: Tells the run's line in the submission's manifest, if it is an element of an array.
        local: Whether there is no Slurm.
        index: The run's line otherwise.

    Raises:
        StartRefusedError: There is no such run, or its recipe.json was changed since; exit code 78.
    """
    if not local and "SLURM_JOB_ID" not in environ:
        raise StartRefusedError("not inside a Slurm job; submit the run, or add `--local`", NEVER_RESTART)
    index = int(environ.get("SLURM_ARRAY_TASK_ID", index))
    entries = _manifest(submission)
    if index >= len(entries):
        raise StartRefusedError(f"{submission.manifest}: no line for array index {index}", NEVER_RESTART)
    run = RunDir(Path(entries[index]["run"]))
    try:
        recipe = json.loads(run.recipe.read_text(encoding="utf-8"))
        record = RunRecord.read(run.record)
    except (OSError, ValueError) as error:
        raise StartRefusedError(f"{run.root}: the run directory cannot be read: {error}", NEVER_RESTART) from error
    if fingerprint(recipe) != entries[index]["fingerprint"]:
        raise StartRefusedError(
            f"{run.recipe}: was changed after it was queued (fingerprint {fingerprint(recipe)[:12]}, queued "
            f"{entries[index]['fingerprint'][:12]}); submit the changed recipe as a new run",
            NEVER_RESTART,
        )
    return Job(submission, run, recipe, record, environ, local)


def _manifest(submission: SubmissionDir) -> list[dict[str, Any]]:
    try:
        return read_json_lines(submission.manifest)
    except OSError as error:
        raise StartRefusedError(f"the submission cannot be read: {error}", os.EX_IOERR) from error


def seconds_of(duration: str) -> int:
    """Seconds of a duration as recipes and profiles write it; see `launcher.recipe.units.Duration`."""
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(d|h|min|s)", duration))
