"""How runs are doing: what the run directory says and what Slurm says, put together."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from launcher.cluster import Cluster
from launcher.facts import RunFacts, read_all_facts, read_facts
from launcher.ledger import Attempt
from launcher.paths import RunDir, list_shares
from launcher.slurm.parse import Job
from launcher.slurm.query import Answer, ask_about

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
    "out_of_memory": "out of RAM",
    "does_not_fit": "micro batch too large",
    "hang": "hung",
    "bad_recipe": "bad recipe or data",
    "error": "error",
    "finished": "",
    None: "no reason noted",
}

_BLAMELESS = ("stopped", "preempted", "time_limit")
"""Ends that leave a run stopped, not failed, if it does not come back."""


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
    bytes_done: int | None = None
    """Of the source files of a `prepare`."""
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    phase: str | None = None
    """What a running `prepare` or `vocabulary` does when all files have been read."""
    phase_done: int | None = None
    """Of its steps."""
    phase_total: int | None = None
    group: "Group | None" = None
    """The runs of a `prepare` in several tasks; the other fields then tell of all of them together."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in ("not submitted", "stopped", "finished", "failed", "lost")


@dataclass(frozen=True)
class Group:
    """How the runs are doing that make one corpus together."""

    tasks: tuple[RunStatus, ...]
    finalise: RunStatus
    """The run that completes the corpus."""


def read_statuses(
    cluster: Cluster, runs: Sequence[RunDir], finished_tasks: bool = False
) -> tuple[list[RunStatus], tuple[str, ...]]:
    """Read how runs are doing; Slurm is asked once for all that are not over for good.

    Args:
        cluster: Where they are.
        runs: The runs.
        finished_tasks: Whether to read also the tasks of what is finished.

    Returns:
        The statuses in the order of the runs, and notes about runs that cannot be read and sources that did not answer.

    Raises:
        RunError: None of the runs can be read.
    """
    facts, damage = read_all_facts(runs)
    tasks = [
        [] if one.is_finished and not finished_tasks else [read_facts(share) for share in list_shares(one.run)]
        for one in facts
    ]
    everyone = [*facts, *(share for shares in tasks for share in shares)]
    answer, now = ask_about(cluster, everyone)
    groups = [[now[one.run.root] for one in (first, *shares)] for first, shares in zip(facts, tasks, strict=True)]
    statuses = [_compose_group(first, shares, answer) for first, *shares in groups]
    return statuses, (*damage, *answer.notes)


def _compose_group(facts: RunFacts, shares: Sequence[RunFacts], answer: Answer) -> RunStatus:
    finalise = compose(facts, answer)
    if not shares:
        return finalise
    return join(finalise, [compose(share, answer) for share in shares], _planned(facts.run))


def _planned(run: RunDir) -> tuple[int, int] | None:
    """Number and bytes of the source files of a group, once its first task has found them."""
    if not run.plan.exists():
        return None
    sizes = [size for _, size in json.loads(run.plan.read_text(encoding="utf-8"))["files"]]
    return len(sizes), sum(sizes)


def join(finalise: RunStatus, tasks: Sequence[RunStatus], planned: tuple[int, int] | None) -> RunStatus:
    """Tell of the runs of a group as of one.

    Args:
        finalise: The run that completes the corpus.
        tasks: The runs that work for it.
        planned: Number and bytes of all source files, if they are known yet.
    """
    files, size = planned or (None, None)
    joined = replace(
        finalise,
        # Once the last run has started, it counts what all of them have done.
        step=max(finalise.step or 0, sum(task.step or 0 for task in tasks)) if planned else None,
        total_steps=files,
        bytes_done=max(finalise.bytes_done or 0, sum(task.bytes_done or 0 for task in tasks)) if planned else None,
        bytes_total=size,
        group=Group(tuple(tasks), finalise),
    )
    working = [task for task in tasks if not task.is_over]
    if not working or finalise.state in ("running", "requeued", "finished"):
        return joined
    running = [task for task in working if task.state == "running"]
    speed = sum(task.bytes_per_second or 0 for task in running)
    return replace(
        joined,
        state="running" if running else working[0].state,
        why=_count_states(tasks),
        source=working[0].source,
        job_id=", ".join(dict.fromkeys(task.job_id.partition("_")[0] for task in working)),
        nodes=tuple(dict.fromkeys(node for task in running for node in task.nodes)),
        bytes_per_second=speed or None,
        eta_seconds=((size or 0) - (joined.bytes_done or 0)) / speed if speed else None,
        start_estimate=min((task.start_estimate for task in working if task.start_estimate), default=None),
    )


def _count_states(tasks: Sequence[RunStatus]) -> str:
    """Say `12 of 16 tasks running, 3 finished, 1 failed`."""
    counts = Counter(task.state for task in tasks)
    first, *others = [(state, counts[state]) for state in _TOLD_FIRST if counts[state]]
    told = [f"{first[1]} of {len(tasks)} tasks {first[0]}", *(f"{count} {state}" for state, count in others)]
    return ", ".join(told)


_TOLD_FIRST: tuple[State, ...] = (
    "running", "requeued", "queued", "failed", "lost", "stopped", "not submitted", "finished",
)  # fmt: skip


def compose(facts: RunFacts, answer: Answer) -> RunStatus:
    """Put together what the run directory and Slurm say."""
    verdict = judge(facts, answer)
    job = answer.jobs.get(facts.job_id)
    row = facts.newest[-1] if facts.newest else {}
    running, finished = verdict.state == "running", verdict.state == "finished"
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
        # What it had to do may have been done by another run: no rows tell of it.
        step=facts.total_steps if finished and facts.total_steps else row.get("step", _last_step(facts)),
        total_steps=facts.total_steps,
        loss=row.get("loss"),
        tokens_per_second=row.get("tokens_per_second") if running else None,
        eta_seconds=facts.eta_seconds if running else None,
        stop_requested=facts.stop_requested,
        rehearsal=facts.record.rehearsal,
        created=facts.record.created,
        wandb_id=facts.record.wandb_id,
        attempts=facts.attempts,
        bytes_done=row.get("bytes_total" if finished else "bytes"),
        bytes_total=row.get("bytes_total"),
        bytes_per_second=facts.speed if running and "bytes" in row and "phase" not in row else None,
        phase=row.get("phase") if running else None,
        phase_done=row.get("phase_done") if running else None,
        phase_total=row.get("phase_total") if running else None,
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
    if facts.is_finished:
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
        if facts.record.group and job.source == "process":  # one process carries out all runs of the group
            return Verdict("queued", "waits for its turn", job.source)
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


def _last_step(facts: RunFacts) -> int | None:
    return facts.last.last_step if facts.last else None


def _nodes(facts: RunFacts, job: Job | None) -> tuple[str, ...]:
    if job and job.nodes:
        return (job.nodes,)
    return tuple(facts.last.nodes) if facts.last else ()
