"""How runs are doing: what the run directory says and what Slurm says, put together."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from launcher.cluster import Cluster
from launcher.ledger import Attempt, read_attempts
from launcher.metrics import Row, read_newest_rows
from launcher.paths import RunDir
from launcher.recipe.units import BatchSize, Length
from launcher.record import RunRecord
from launcher.slurm.parse import Job
from launcher.slurm.query import Answer, find_jobs

State: TypeAlias = Literal[
    "not submitted", "queued", "running", "requeued", "stopped", "finished", "failed", "lost"
]  # fmt: skip
"""`requeued` = interrupted and waiting to go on; `lost` = it ended, and nobody noted why."""

REASONS: dict[str | None, str] = {
    "preempted": "preempted",
    "time_limit": "time limit",
    "stopped": "a person asked",
    "node_failure": "node failure",
    "killed": "killed without a word",
    "out_of_memory": "out of memory",
    "hang": "hung",
    "bad_recipe": "bad recipe or data",
    "error": "error",
    "finished": "",
    None: "no reason noted",
}

_BLAMELESS = ("stopped", "preempted", "time_limit")
"""Ends that leave a run stopped, not failed, if it does not come back."""


@dataclass(frozen=True)
class RunFacts:
    """What a run directory says."""

    run: RunDir
    record: RunRecord
    attempts: tuple[Attempt, ...]
    newest: tuple[Row, ...]
    """The newest rows of metrics.jsonl, oldest first."""
    total_steps: int | None
    stop_requested: bool

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def waits_for_first_start(self) -> bool:
        """Whether nothing has started since the run was last put into the queue."""
        submissions = self.record.submissions
        return bool(submissions) and (self.last is None or self.last.started < submissions[-1].time)

    @property
    def job_id(self) -> str:
        """The job that carries the run now, or did so last."""
        if self.last and not self.waits_for_first_start:
            return self.last.job_id
        return self.record.submissions[-1].job_id if self.record.submissions else ""

    @property
    def is_settled(self) -> bool:
        """Whether the ledger alone tells the state: the run is over for good."""
        if any(attempt.reason == "finished" for attempt in self.attempts):
            return True
        return self.last is not None and self.last.action == "stop" and not self.waits_for_first_start


@dataclass(frozen=True)
class Verdict:
    """A state, the reason for it, and who said so."""

    state: State
    why: str = ""
    source: str = "run directory"


@dataclass(frozen=True)
class RunStatus:
    """How one run is doing."""

    id: str
    name: str
    kind: str
    folder: str
    state: State
    why: str
    source: str
    """Who told the state: squeue, sacct, scontrol, process, or the run directory."""
    start_estimate: float | None
    """Unix time, while it is queued and Slurm has an idea."""
    job_id: str
    nodes: tuple[str, ...]
    step: int | None
    total_steps: int | None
    loss: float | None
    tokens_per_second: float | None
    eta_seconds: float | None
    stop_requested: bool
    rehearsal: bool
    created: float
    wandb_id: str
    attempts: tuple[Attempt, ...]

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in ("not submitted", "stopped", "finished", "failed", "lost")


def read_statuses(cluster: Cluster, runs: Sequence[RunDir]) -> tuple[list[RunStatus], tuple[str, ...]]:
    """Read how runs are doing; Slurm is asked once for all that are not over for good.

    Returns:
        The statuses in the order of the runs, and notes about sources that did not answer.
    """
    facts = [read_facts(run) for run in runs]
    answer = find_jobs(cluster, (one.job_id for one in facts if not one.is_settled))
    return [compose(one, answer) for one in facts], answer.notes


def read_facts(run: RunDir) -> RunFacts:
    """Read what a run directory says."""
    attempts = tuple(read_attempts(run.ledger))
    return RunFacts(
        run,
        RunRecord.read(run.record),
        attempts,
        tuple(read_newest_rows(run.metrics)),
        _total_steps(run, attempts),
        run.stop_request.exists(),
    )


def compose(facts: RunFacts, answer: Answer) -> RunStatus:
    """Put together what the run directory and Slurm say."""
    verdict = judge(facts, answer)
    job = answer.jobs.get(facts.job_id)
    row = facts.newest[-1] if facts.newest else {}
    running = verdict.state == "running"
    return RunStatus(
        id=facts.record.id,
        name=facts.record.name,
        kind=facts.record.kind,
        folder=str(facts.run.root),
        state=verdict.state,
        why=verdict.why,
        source=verdict.source,
        start_estimate=job.start if job and job.phase == "queued" else None,
        job_id=facts.job_id,
        nodes=_nodes(facts, job),
        step=row.get("step", facts.last.last_step if facts.last else None),
        total_steps=facts.total_steps,
        loss=row.get("loss"),
        tokens_per_second=row.get("tokens_per_second") if running else None,
        eta_seconds=_eta(facts) if running else None,
        stop_requested=facts.stop_requested,
        rehearsal=facts.record.rehearsal,
        created=facts.record.created,
        wandb_id=facts.record.wandb_id,
        attempts=facts.attempts,
    )


def judge(facts: RunFacts, answer: Answer) -> Verdict:
    """Decide on the state of a run."""
    job_id = facts.job_id
    if facts.is_settled:
        return _from_ledger(facts)
    if not job_id:
        return Verdict("not submitted", "`launcher resume` queues it")
    if job := answer.jobs.get(job_id):
        return _from_job(facts, job)
    if not answer.is_gone(job_id):
        return Verdict(_presumed(facts), "Slurm did not answer; as the run directory has it")
    if facts.stop_requested and facts.waits_for_first_start:
        return Verdict("stopped", "taken out of the queue")
    return Verdict("lost", f"job {job_id} is gone and nobody noted why; `launcher resume` goes on")


def explain(attempt: Attempt) -> str:
    """Say why an attempt ended."""
    words = REASONS.get(attempt.reason, str(attempt.reason))
    return f"{words}: {attempt.message}" if attempt.message and words else words or attempt.message


def _from_ledger(facts: RunFacts) -> Verdict:
    last = facts.last
    assert last is not None  # without an attempt nothing is settled
    if any(attempt.reason == "finished" for attempt in facts.attempts):
        return Verdict("finished")
    return Verdict("stopped" if last.reason in _BLAMELESS else "failed", explain(last))


def _from_job(facts: RunFacts, job: Job) -> Verdict:
    if job.phase == "queued":
        fresh = facts.last is None or facts.waits_for_first_start
        return Verdict("queued" if fresh else "requeued", job.explanation, job.source)
    if job.phase != "over":
        return _running(facts, job)
    if job.state == "CANCELLED" or facts.stop_requested:
        return Verdict("stopped", f"job {job.id} {job.explanation}", job.source)
    ended = f"job {job.id} {job.explanation}"
    code = f" (exit code {job.exit_code})" if job.exit_code not in ("", "0:0") else ""
    return Verdict("failed", f"{ended}{code}; `launcher logs` may tell more, `launcher resume` goes on", job.source)


def _running(facts: RunFacts, job: Job) -> Verdict:
    if facts.waits_for_first_start:
        return Verdict("running", "is starting", job.source)
    if facts.last and facts.last.action in ("requeue", "resubmit"):
        return Verdict("requeued", explain(facts.last), job.source)
    if facts.stop_requested:
        return Verdict("running", "asked to stop", job.source)
    return Verdict("running", "" if job.state == "RUNNING" else job.explanation, job.source)


def _presumed(facts: RunFacts) -> State:
    if facts.waits_for_first_start or facts.last is None:
        return "queued"
    return "requeued" if facts.last.action in ("requeue", "resubmit") else "running"


def _nodes(facts: RunFacts, job: Job | None) -> tuple[str, ...]:
    if job and job.nodes:
        return (job.nodes,)
    return tuple(facts.last.nodes) if facts.last else ()


def _eta(facts: RunFacts) -> float | None:
    """Extrapolate from the newest steps of this attempt, pauses for checkpoints included."""
    rows = [row for row in facts.newest if row.get("attempt") == facts.newest[-1].get("attempt")]
    if facts.total_steps is None or len(rows) < 2 or rows[-1]["step"] <= rows[0]["step"]:
        return None
    seconds_per_step = (rows[-1]["time"] - rows[0]["time"]) / (rows[-1]["step"] - rows[0]["step"])
    return float(max(0, facts.total_steps - rows[-1]["step"]) * seconds_per_step)


def _total_steps(run: RunDir, attempts: Sequence[Attempt]) -> int | None:
    """What rank 0 worked out; before the first start, what the recipe says of steps or tokens."""
    noted = [attempt.total_steps for attempt in attempts if attempt.total_steps is not None]
    if noted:
        return noted[-1]
    recipe = json.loads(run.recipe.read_text(encoding="utf-8")) if run.recipe.is_file() else {}
    if "schedule" not in recipe:
        return None
    length, batch = Length(recipe["schedule"]["length"]), recipe["batch"]
    if length.unit == "step":
        return length.value
    if length.unit == "epoch":
        return None
    size = BatchSize(batch["global_batch"])
    tokens = size.value if size.unit == "token" else size.value * batch["sequence_length"]
    return max(1, length.value // tokens)
