"""What the batch process knows of its own start: which run, which job, which nodes."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs.batch import slurm
from jobs.batch.restart_policy import Policy, Unit
from launcher.run.ledger import read_json_lines
from launcher.run.paths import NEVER_RESTART, RunDir, SubmissionDir
from launcher.run.record import RunRecord, fingerprint
from launcher.run.trials import search_of

COUNTED: Mapping[str, Unit] = {
    **dict.fromkeys(("prepare", "vocabulary", "terminology"), "file"),
    **dict.fromkeys(("evaluate", "generate", "site_check"), "item"),
}
"""What progress is counted in, by kind of recipe where that is not steps: as the recipe classes say, which need
pydantic."""
STARTS_AGAIN = frozenset(("export", "merge", "outcomes"))
"""Kinds that count in steps and do not train: they take minutes, and an attempt that was ended starts again."""


class StartRefusedError(Exception):
    """The batch process does not start the run; says why and with which exit code it ends."""

    def __init__(self, message: str, exit_code: int = NEVER_RESTART) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class BatchJob:
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
        return f"local-{os.getpid()}" if self.local else slurm.own_id(self.environ)

    @property
    def number(self) -> int:
        """A number unique to this job or element of an array. Slurm's commands want `id` instead."""
        return os.getpid() if self.local else int(self.environ["SLURM_JOB_ID"])

    @property
    def restart_count(self) -> int:
        """How many times Slurm has put this job back into the queue."""
        return 0 if self.local else int(self.environ.get("SLURM_RESTART_COUNT", 0))

    @cached_property
    def nodes(self) -> list[str]:
        """Names of the job's nodes; this process runs on the first."""
        return [os.uname().nodename] if self.local else slurm.hostnames(self.environ["SLURM_JOB_NODELIST"])

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each node: one per GPU, or one on a node without."""
        return max(1, int(self.recipe["resources"]["gpus_per_node"]))

    @property
    def node_count(self) -> int:
        """Nodes; without Slurm, one machine stands for all of them."""
        if self.local:
            return int(self.recipe["resources"]["nodes"])
        return int(self.environ.get("SLURM_JOB_NUM_NODES") or len(self.nodes))

    def slurm_log(self, job_id: str) -> Path:
        """Slurm's log of this job, or of an earlier job of the run."""
        folders = [entry.folder for entry in self.record.submissions if entry.job_id == job_id]
        return (SubmissionDir(Path(folders[-1])) if folders else self.submission).slurm_log(job_id)

    @property
    def is_trial(self) -> bool:
        """Whether the run is a trial of a search."""
        return search_of(self.run, self.record.sweep) is not None

    @property
    def pruned_by(self) -> str | None:
        """The metric by which the run, a trial, ends early if others leave it behind; None for all other runs."""
        folder = search_of(self.run, self.record.sweep)
        section = json.loads(folder.record.read_bytes())["section"] if folder else {"pruner": None}
        return str(section["metric"]) if section["pruner"] else None

    @property
    def policy(self) -> Policy:
        """What the recipe and the cluster profile say about restarts."""
        kind, most = self.recipe["kind"], int(self.recipe["limits"]["max_failures"])
        return Policy(self.slurm_options["requeue"], most, COUNTED.get(kind, "step"), kind in STARTS_AGAIN)

    @property
    def hang_limit(self) -> str | None:
        """How long the ranks may go without a heartbeat, as the recipe says it."""
        limit: str | None = self.recipe["limits"]["hang"]
        return limit

    @property
    def slurm_options(self) -> Mapping[str, Any]:
        """The `slurm` section of the cluster profile."""
        options: Mapping[str, Any] = self.record.cluster["slurm"]
        return options


def find_job(submission: SubmissionDir, environ: Mapping[str, str], local: bool, index: int = 0) -> BatchJob:
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
        raise StartRefusedError("not inside a Slurm job; submit the run, or add `--local`")
    index = int(environ.get("SLURM_ARRAY_TASK_ID", index))
    try:
        entries = read_json_lines(submission.manifest)
    except OSError as error:
        raise StartRefusedError(f"the submission cannot be read: {error}", os.EX_IOERR) from error
    if index >= len(entries):
        raise StartRefusedError(f"{submission.manifest}: no line for array index {index}")
    return read_job(submission, RunDir(Path(entries[index]["run"])), entries[index]["fingerprint"], environ, local)


def read_job(submission: SubmissionDir, run: RunDir, queued: str, environ: Mapping[str, str], local: bool) -> BatchJob:
    """Read a run that this process is to carry out, and check that its recipe is the one that was queued.

    Args:
        submission: What this process was started from.
        run: The run.
        queued: Fingerprint of its recipe.
        environ: The environment of the process.
        local: Whether there is no Slurm.

    Raises:
        StartRefusedError: There is no such run, or its recipe.json was changed since; exit code 78.
    """
    try:
        recipe = json.loads(run.recipe.read_text(encoding="utf-8"))
        record = RunRecord.read(run.record)
    except (OSError, ValueError) as error:
        raise StartRefusedError(f"{run.root}: the run directory cannot be read: {error}") from error
    if fingerprint(recipe) != queued:
        raise StartRefusedError(
            f"{run.recipe}: was changed after it was queued (fingerprint {fingerprint(recipe)[:12]}, queued "
            f"{queued[:12]}); submit the changed recipe as a new run"
        )
    return BatchJob(submission, run, recipe, record, environ, local)


def seconds_of(duration: str) -> int:
    """Seconds of a duration as recipes and profiles write it; see `launcher.recipe.quantities.Duration`."""
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(d|h|min|s)", duration))
