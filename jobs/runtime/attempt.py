"""One attempt from its first line in the ledger to its last. Standard library only."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from jobs.runtime import rendezvous, slurm
from jobs.runtime.cause import cause_now
from jobs.runtime.job import Job, StartRefusedError, seconds_of
from jobs.runtime.local import LocalTasks
from jobs.runtime.srun import ContainerError, SrunTasks
from jobs.runtime.tasks import Launch, Outcome, Tasks
from jobs.runtime.verdict import Cause, Ending, Verdict, judge
from launcher.ledger import Attempt, StopRequest, append_event, read_attempts
from launcher.paths import CONTINUE, NEVER_RESTART, RunDir, published_steps

POLL_SECONDS = 0.2


@dataclass
class Signals:
    """Signals that ask the batch process for a stop. The handler only notes them."""

    seen: list[str] = field(default_factory=list)
    """All that came in this process's life."""
    _arrived: threading.Event = field(default_factory=threading.Event)

    def install(self) -> None:
        """Listen for USR1 (the time limit comes), TERM (the job is being ended) and INT (Ctrl-C)."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def wait(self, seconds: float) -> bool:
        """Wait for a signal; tell whether one came."""
        arrived = self._arrived.wait(seconds)
        self._arrived.clear()
        return arrived

    @property
    def wants_end(self) -> bool:
        """Whether the process itself was told to go."""
        return any(name in ("SIGTERM", "SIGINT") for name in self.seen)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.seen.append(signal.Signals(number).name)
        self._arrived.set()


@dataclass(frozen=True)
class Journal:
    """The batch process's own log: a line with the time each, in the attempt's folder and on stdout."""

    path: Path

    def __call__(self, message: str) -> None:
        """Say something."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}"
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as log:
            log.write(line + "\n")


def run_attempt(job: Job, signals: Signals) -> tuple[Verdict, Attempt, int | None, Journal]:
    """Start the tasks, wait until all have ended, and judge.

    Returns:
        The verdict, which is in the ledger already; the attempt; the deciding exit code; where to say more.
    """
    attempt = open_attempt(job)
    say = Journal(job.run.batch_log(attempt.number))
    say(f"attempt {attempt.number} of {job.run.root.name}: job {job.id} on {', '.join(job.nodes)}")
    ending = _carry_out(job, attempt, signals, say)
    verdict = close_attempt(job, attempt.number, ending)
    say(f"{verdict.reason} ({verdict.source}): {verdict.message} -> {verdict.action}")
    return verdict, attempt, ending.exit_code, say


def open_attempt(job: Job) -> Attempt:
    """Make the attempt's log folder and write its first line into the ledger.

    Raises:
        StartRefusedError: Another process has just opened the same attempt.
    """
    number = _next_number(job.run)
    try:
        job.run.attempt_logs(number).mkdir(parents=True)
    except FileExistsError:
        raise StartRefusedError(f"{job.run.root}: another job has just started attempt {number}", 1) from None
    attempt = Attempt(number, job.id, job.restart_count, job.nodes, job.world_size, time.time())
    append_event(
        job.run.ledger,
        number,
        job_id=attempt.job_id,
        restart_count=attempt.restart_count,
        nodes=attempt.nodes,
        world_size=attempt.world_size,
        started=attempt.started,
    )
    return attempt


def _next_number(run: RunDir) -> int:
    # A process that died between its folder and its first line has used the number up.
    folders = [int(folder.name.removeprefix("attempt-")) for folder in run.logs.glob("attempt-*")]
    return max([*folders, *(attempt.number for attempt in read_attempts(run.ledger))], default=-1) + 1


def close_attempt(job: Job, number: int, ending: Ending, ended: float | None = None) -> Verdict:
    """Judge an attempt that has ended and write its last line into the ledger."""
    attempts = [attempt for attempt in read_attempts(job.run.ledger) if attempt.number <= number]
    attempts[-1].last_step = max([attempts[-1].last_step or 0, *published_steps(job.run)]) or None
    verdict = judge(attempts, ending, job.policy)
    append_event(
        job.run.ledger,
        number,
        last_step=attempts[-1].last_step,
        ended=ended or time.time(),
        reason=verdict.reason,
        source=verdict.source,
        exit_code=ending.exit_code,
        action=verdict.action,
        message=verdict.message,
    )
    return verdict


def _carry_out(job: Job, attempt: Attempt, signals: Signals, say: Callable[[str], None]) -> Ending:
    try:
        launch = _prepare(job, attempt.number, say)
    except rendezvous.UnresolvableError as error:
        return Ending(1, cause=Cause("node_failure", "rendezvous", str(error)))
    except ContainerError as error:
        return Ending(NEVER_RESTART, detail=str(error))
    try:
        tasks: Tasks = LocalTasks(launch, say) if job.local else SrunTasks(launch, say)
    except OSError as error:
        return Ending(1, cause=Cause("node_failure", "batch process", f"the tasks cannot be started: {error}"))
    outcome = _wait(job, attempt, tasks, signals, say)
    return _ending(job, attempt, outcome, signals)


def _prepare(job: Job, number: int, say: Callable[[str], None]) -> Launch:
    if job.local:
        address, why = "127.0.0.1", "all tasks are on this machine"
    else:
        address, why = rendezvous.master_address(job.nodes, lambda node: slurm.show_node(node).get("NodeAddr"))
    restart = number if job.local else job.restart_count
    start = rendezvous.first_port(job.number, restart, job.port_range)
    port = rendezvous.choose_port(start, job.port_range)
    say(f"tasks meet at {address}:{port} ({why}{'' if port == start else f'; port {start} was taken'})")
    return Launch(
        run=job.run,
        attempt=number,
        nodes=job.node_count,
        ranks_per_node=job.ranks_per_node,
        cpus_per_task=int(job.recipe["resources"]["cpus_per_task"]),
        master_addr=address,
        master_port=port,
        cluster=job.record.cluster,
        recipe_folder=job.record.recipe_folder,
    )


def _wait(job: Job, attempt: Attempt, tasks: Tasks, signals: Signals, say: Callable[[str], None]) -> Outcome:
    """Wait until all tasks have ended, and pass on what asks them to."""
    limit = _LocalLimit(job) if job.local else None
    while (outcome := tasks.poll()) is None:
        if signals.wait(POLL_SECONDS):
            say(f"{signals.seen[-1]}: {_ask_to_stop(job.run, attempt.number, tasks)}")
        if limit is not None and limit.is_near():
            say(f"the time limit is near: {_ask_to_stop(job.run, attempt.number, tasks)}")
        if limit is not None and limit.is_over():
            say("the time limit is over: ending the tasks")
            tasks.kill()
    return outcome


class _LocalLimit:
    """The time limit of an attempt where no scheduler watches it. Each question is answered with yes once."""

    def __init__(self, job: Job) -> None:
        seconds = seconds_of(job.recipe["resources"]["time"])
        lead = seconds_of(job.slurm_options["lead"])
        self._over = time.monotonic() + seconds
        self._near = self._over - min(lead, seconds / 2)

    def is_near(self) -> bool:
        """Tell that it is time to save and stop."""
        due, self._near = time.monotonic() >= self._near, self._near
        if due:
            self._near = float("inf")
        return due

    def is_over(self) -> bool:
        """Tell that the time is up."""
        due = time.monotonic() >= self._over
        if due:
            self._over = float("inf")
        return due


def _ask_to_stop(run: RunDir, attempt: int, tasks: Tasks) -> str:
    """Ask in two ways at once: a file for rank 0, a signal for every task. A person's STOP stays theirs."""
    if StopRequest.read(run.stop_request) is None:
        StopRequest("time_limit", attempt).write(run.stop_request)
    return f"asked the tasks to save and stop: STOP written, {tasks.ask_to_stop()}"


def _ending(job: Job, attempt: Attempt, outcome: Outcome, signals: Signals) -> Ending:
    written = next(entry for entry in read_attempts(job.run.ledger) if entry.number == attempt.number)
    cause = _preflight_failure(job.run.preflight(attempt.number))
    if cause is None and outcome.exit_code not in (0, NEVER_RESTART) and not job.local:
        logs = [job.submission.slurm_log(job.id), job.run.batch_log(attempt.number)]
        cause = cause_now(attempt, os.environ["SLURM_JOB_ID"], logs)
    if cause is None and outcome.exit_code == CONTINUE and signals.wants_end:
        cause = Cause("stopped" if job.local else "preempted", signals.seen[-1])
    return Ending(
        exit_code=outcome.exit_code,
        finished=written.reason == "finished",
        stop=StopRequest.read(job.run.stop_request),
        cause=cause,
        detail=outcome.detail,
    )


def _preflight_failure(found: Path) -> Cause | None:
    try:
        return Cause("node_failure", "preflight", json.loads(found.read_text(encoding="utf-8"))["message"])
    except FileNotFoundError:
        return None
