"""How runs are doing: what the run directory says and what Slurm says, put together."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.cluster import Cluster
from launcher.monitor.ends import with_ends
from launcher.monitor.observed_state import State, decide_state
from launcher.monitor.run_state import RunState, ask_about, read_state, read_states
from launcher.monitor.summaries import Summaries
from launcher.recipe.quantities import Duration
from launcher.run.ledger import Attempt
from launcher.run.paths import RunDir, list_shares
from launcher.slurm.parse import Job
from launcher.slurm.query import QueryResult

_FORMAT = 1
"""Of the summaries; to be raised when a field of `RunStatus` or `Attempt` changes its meaning or goes."""


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
    """Where the state comes from: squeue, sacct, scontrol, process, or the run directory."""
    start_estimate: float | None
    """Unix time, while it is queued and Slurm has an estimate."""
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
    time_limit: float | None = None
    """Unix time at which its job reaches its time limit; None if it does not run, or Slurm does not tell."""
    saves_at: float | None = None
    """Unix time at which it is asked to save, for that reason."""
    sweep: str | None = None
    """Name of the sweep that it is a point of."""
    group: "GroupStatus | None" = None
    """The runs of a `prepare` in several tasks; the other fields then describe all of them together."""

    @property
    def is_over(self) -> bool:
        """Whether the run ended and will not restart by itself."""
        return self.state in ("not submitted", "stopped", "finished", "pruned", "failed", "lost")


@dataclass(frozen=True)
class GroupStatus:
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
        finished_tasks: Whether to read the tasks of finished runs, too.

    Returns:
        The statuses in the order of the runs, and notes about runs that cannot be read and sources that did not answer.

    Raises:
        RunError: None of the runs can be read.
    """
    summaries = None if finished_tasks or not runs else Summaries(runs[0].root.parent, "status", _FORMAT)
    kept = {run.root: found for run in runs if summaries and (found := _recall(summaries, run)) is not None}
    states, damage = read_states([run for run in runs if run.root not in kept], is_enough=bool(kept))
    tasks = [
        [] if one.is_finished and not finished_tasks else [read_state(share) for share in list_shares(one.folder)]
        for one in states
    ]
    everyone = [*states, *(share for shares in tasks for share in shares)]
    answer, now = ask_about(cluster, everyone)
    for first, shares in zip(states, tasks, strict=True):
        run, *others = [now[one.folder.root] for one in (first, *shares)]
        kept[run.folder.root] = status = _compose_group(run, others, answer)
        if summaries and run.is_terminal and first.is_terminal and (run.is_finished or not shares):
            summaries.keep(run.folder.root.name, _without_group(status))
    if summaries:
        summaries.save()
    return [kept[run.root] for run in runs if run.root in kept], (*damage, *answer.notes)


def _recall(summaries: Summaries, run: RunDir) -> RunStatus | None:
    """Return the status of a run that is over, as it was composed once."""
    found = summaries.find(run.root.name, run)
    if found is None or found["folder"] != str(run.root):
        return None
    try:
        lists = {"nodes": tuple(found["nodes"]), "attempts": tuple(Attempt(**one) for one in found["attempts"])}
        return RunStatus(**{**found, **lists})
    except TypeError:  # a later version has other fields
        return None


def _without_group(status: RunStatus) -> dict[str, Any]:
    return {**vars(status), "attempts": [vars(one) for one in status.attempts]}


def _compose_group(run: RunState, shares: Sequence[RunState], answer: QueryResult) -> RunStatus:
    finalise = compose(run, answer)
    if not shares:
        return finalise
    tasks = [compose(share, answer) for share in shares]
    return join(finalise, tasks, _planned(run.folder, [finalise.total_steps, *(task.total_steps for task in tasks)]))


def _planned(run: RunDir, totals: Sequence[int | None]) -> tuple[int, int | None] | None:
    """Number and bytes of the source files of a group, once its first task has found them; else number of items.

    Args:
        run: The group's.
        totals: Items of the run that completes the work, which are all of them, and of each of its tasks.
    """
    if not run.plan.exists():
        whole, *tasks = totals
        known = [total for total in tasks if total is not None]
        return (whole, None) if whole else (sum(known), None) if tasks and len(known) == len(tasks) else None
    sizes = [size for _, size in json.loads(run.plan.read_text(encoding="utf-8"))["files"]]
    return len(sizes), sum(sizes)


def join(finalise: RunStatus, tasks: Sequence[RunStatus], planned: tuple[int, int | None] | None) -> RunStatus:
    """Combine the statuses of a group's runs into one.

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
        bytes_done=max(finalise.bytes_done or 0, sum(task.bytes_done or 0 for task in tasks)) if size else None,
        bytes_total=size,
        group=GroupStatus(tuple(tasks), finalise),
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
        eta_seconds=((size or 0) - (joined.bytes_done or 0)) / speed if speed else _longest(running),
        start_estimate=min((task.start_estimate for task in working if task.start_estimate), default=None),
    )


def _longest(running: Sequence[RunStatus]) -> float | None:
    return max((task.eta_seconds for task in running if task.eta_seconds is not None), default=None)


def _count_states(tasks: Sequence[RunStatus]) -> str:
    """Say `12 of 16 tasks running, 3 finished, 1 failed`."""
    counts = Counter(task.state for task in tasks)
    first, *others = [(state, counts[state]) for state in _STATES_IN_ORDER if counts[state]]
    counted = [f"{first[1]} of {len(tasks)} tasks {first[0]}", *(f"{count} {state}" for state, count in others)]
    return ", ".join(counted)


_STATES_IN_ORDER: tuple[State, ...] = (
    "running", "requeued", "queued", "failed", "lost", "stopped", "not submitted", "pruned", "finished",
)  # fmt: skip


def compose(run: RunState, answer: QueryResult) -> RunStatus:
    """Put together what the run directory and Slurm say."""
    observed = decide_state(run, answer)
    job = answer.find(run.job_id, run.submission)
    row = run.newest[-1] if run.newest else {}
    last_step = run.last.last_step if run.last else None
    running, finished = observed.state == "running", observed.state == "finished"
    limit = job.end if job and running and job.phase == "running" else None
    return RunStatus(
        id=run.record.id,
        name=run.record.name,
        kind=run.record.kind,
        folder=str(run.folder.root),
        state=observed.state,
        why=observed.why,
        source=observed.source,
        start_estimate=job.start if job and job.phase == "queued" else None,
        job_id=run.job_id,
        nodes=_nodes(run, job),
        # Another run may have done its work, so that it has no rows.
        step=run.total_steps if finished and run.total_steps else row.get("step", last_step),
        total_steps=run.total_steps,
        loss=row.get("loss"),
        tokens_per_second=row.get("tokens_per_second") if running else None,
        eta_seconds=run.eta_seconds if running else None,
        stop_requested=run.stop_requested,
        rehearsal=run.record.rehearsal,
        created=run.record.created,
        wandb_id=run.record.wandb_id,
        sweep=run.record.sweep,
        attempts=run.attempts,
        time_limit=limit,
        saves_at=limit - _lead(run) if limit else None,
        bytes_done=row.get("bytes_total" if finished else "bytes"),
        bytes_total=row.get("bytes_total"),
        bytes_per_second=run.speed if running and "bytes" in row and "phase" not in row else None,
        phase=row.get("phase") if running else None,
        phase_done=row.get("phase_done") if running else None,
        phase_total=row.get("phase_total") if running else None,
    )


def _lead(run: RunState) -> int:
    """Seconds from the request to save to the time limit."""
    lead = run.record.cluster.get("slurm", {}).get("lead")
    return Duration(lead).seconds if lead else 0


def _nodes(run: RunState, job: Job | None) -> tuple[str, ...]:
    if job and job.nodes:
        return (job.nodes,)
    return tuple(run.last.nodes) if run.last else ()


def attempts_with_ends(status: RunStatus) -> tuple[Attempt, ...]:
    """Give the attempts of a run, each with its end, except one that runs now."""
    last = status.attempts[-1] if status.attempts else None
    is_running = last is not None and status.state == "running" and last.job_id == status.job_id
    return with_ends(RunDir(Path(status.folder)), status.attempts, is_running)
