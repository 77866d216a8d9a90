"""Supervising the tasks of one attempt: start them, pass on who wants them to stop, say how they ended.

Standard library only.
"""

import json
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

from jobs.runtime import rendezvous, slurm
from jobs.runtime.cause import cause_in_logs, cause_now
from jobs.runtime.hang import HangWatch
from jobs.runtime.job import Job, seconds_of
from jobs.runtime.local import LocalTasks
from jobs.runtime.srun import ContainerError, SrunTasks
from jobs.runtime.tasks import Launch, Outcome, Tasks
from jobs.runtime.verdict import Cause, Ending
from launcher.ledger import Attempt, StopRequest, read_attempts
from launcher.paths import CONTINUE, DOES_NOT_FIT, FINISHED, NEVER_RESTART

POLL_SECONDS = 0.2


class Signals:
    """Signals that ask the batch process for a stop.

    The handler appends to a list and does nothing else: it may interrupt any line of this process, one
    that holds a lock included, and a second signal may interrupt the handler.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._told = 0

    def install(self) -> None:
        """Listen for USR1 (the time limit comes), TERM (the job is being ended) and INT (Ctrl-C)."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def next(self) -> str | None:
        """Name of the oldest signal that was not told yet; None if there is none."""
        if self._told == len(self.seen):
            return None
        self._told += 1
        return self.seen[self._told - 1]

    @property
    def wants_end(self) -> bool:
        """Whether the process itself was told to go."""
        return any(name in ("SIGTERM", "SIGINT") for name in self.seen)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.seen.append(signal.Signals(number).name)


def supervise(job: Job, attempt: Attempt, signals: Signals, say: Callable[[str], None]) -> Ending:
    """Start the tasks of an attempt and wait until all have ended.

    Args:
        job: This start of the batch process.
        attempt: The attempt, open in the ledger.
        signals: What the batch process was told.
        say: Called with one line about what happens.
    """
    try:
        limit = seconds_of(job.hang_limit) if job.hang_limit else 0
        launch = replace(prepare_launch(job, attempt.number, say), hang_seconds=limit)
        tasks: Tasks = LocalTasks(launch, say) if job.local else SrunTasks(launch, say)
    except rendezvous.UnresolvableError as error:
        return Ending(1, cause=Cause("node_failure", "rendezvous", str(error)))
    except ContainerError as error:
        return Ending(NEVER_RESTART, detail=str(error))
    except OSError as error:
        return Ending(1, cause=Cause("node_failure", "batch process", f"the tasks cannot be started: {error}"))
    return _Supervisor(job, attempt, tasks, signals, say).run()


def prepare_launch(job: Job, number: int, say: Callable[[str], None]) -> Launch:
    """Find where the tasks of attempt `number` meet, and put together what it takes to start them.

    Raises:
        UnresolvableError: No address or no port was found.
    """
    address, why = _address(job)
    start = rendezvous.first_port(job.number, number if job.local else job.restart_count, job.port_range)
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


def _address(job: Job) -> tuple[str, str]:
    if job.local:
        return "127.0.0.1", "all tasks are on this machine"
    if not job.nodes:
        nodelist = job.environ["SLURM_JOB_NODELIST"]
        raise rendezvous.UnresolvableError(f"`scontrol show hostnames {nodelist}` did not tell the job's nodes")
    return rendezvous.master_address(job.nodes, slurm.node_address)


class _Supervisor:
    """Watches over running tasks."""

    def __init__(self, job: Job, attempt: Attempt, tasks: Tasks, signals: Signals, say: Callable[[str], None]) -> None:
        self._job = job
        self._attempt = attempt
        self._tasks = tasks
        self._signals = signals
        self._say = say
        self._limit = LocalLimit(job) if job.local else None
        self._hang = HangWatch(job, attempt, job.hang_limit) if job.hang_limit else None
        self._logs = [job.slurm_log(job.id), job.run.batch_log(attempt.number)]
        self._is_out_of_time = False

    def run(self) -> Ending:
        """Wait until all tasks have ended, and pass on what asks them to."""
        while (outcome := self._tasks.poll()) is None:
            name = self._signals.next()
            if name is not None:
                self._ask_to_stop(name)
                self._is_out_of_time = self._is_out_of_time or self._ends_for_good(name)
            if self._limit is not None:
                self._keep(self._limit)
            if self._is_out_of_time or (self._hang is not None and self._is_given_up(self._hang)):
                outcome = Outcome(128 + signal.SIGKILL)
                break
            time.sleep(POLL_SECONDS)
        return self._ending(outcome)

    def _ask_to_stop(self, why: str) -> None:
        """Ask in two ways at once: a file for rank 0, a signal for every task. A person's STOP stays theirs."""
        stop_file = self._job.run.stop_request
        try:
            if StopRequest.read(stop_file) is None:
                StopRequest("time_limit", self._attempt.number).write(stop_file)
            self._say(f"{why}: STOP asks the tasks to save and leave")
        except OSError as error:
            self._say(f"{why}: STOP cannot be written ({error.strerror}); the signal alone must do")
        self._say(self._tasks.ask_to_stop())

    def _ends_for_good(self, name: str) -> bool:
        """Tell whether Slurm is ending the tasks for good because of the time limit.

        It ends this process with them, so there is no time to wait for their end: the run would be lost,
        since Slurm itself brings no job back that was out of time.
        """
        if self._job.local or name != "SIGTERM":
            return False
        cause = cause_in_logs(self._logs, self._attempt)
        return cause is not None and cause.reason == "killed"

    def _keep(self, limit: "LocalLimit") -> None:
        if limit.is_near():
            self._ask_to_stop("the time limit is near")
        if limit.is_over():
            self._say("the time limit is over: ending the tasks")
            self._tasks.kill()

    def _is_given_up(self, hang: HangWatch) -> bool:
        """End tasks that hang; tell whether not even that helps. Slurm takes care of their node then."""
        if hang.notices():
            self._say(f"{hang.evidence}: ending the tasks")
            self._tasks.kill(at_once=True)
        if hang.is_undying:
            self._say("the tasks do not end; left to Slurm")
        return hang.is_undying

    def _ending(self, outcome: Outcome) -> Ending:
        try:
            return self._full_ending(outcome)
        except OSError as error:
            self._say(f"the run directory cannot be read: {error}; only the exit code tells how the tasks ended")
            return Ending(outcome.exit_code, detail=outcome.detail)

    def _full_ending(self, outcome: Outcome) -> Ending:
        ledger = read_attempts(self._job.run.ledger)
        told = next((entry for entry in ledger if entry.number == self._attempt.number), self._attempt)
        code = outcome.exit_code if outcome.exit_code in (FINISHED, CONTINUE) else told.announced or outcome.exit_code
        return Ending(
            exit_code=code,
            finished=told.reason == "finished",
            stop=StopRequest.read(self._job.run.stop_request),
            cause=self._cause(code),
            detail="" if self._hang is not None and self._hang.has_noticed else outcome.detail,
        )

    def _cause(self, exit_code: int) -> Cause | None:
        if self._is_out_of_time:
            return Cause("killed", "Slurm's log", "the time limit came before the tasks had saved")
        cause = preflight_failure(self._job.run.preflight(self._attempt.number))
        if exit_code in (FINISHED, NEVER_RESTART) or cause is not None:
            return cause
        if not self._job.local:
            cause = cause_now(self._attempt, self._job.id, self._logs)
        if cause is None and self._signals.wants_end:
            cause = self._who_ended_this_process()
        if cause is None and self._hang is not None and exit_code != DOES_NOT_FIT:
            cause = self._hang.cause()
        return cause

    def _who_ended_this_process(self) -> Cause:
        """Explain a signal when there was no preemption, no lost node, and the job is not back in the queue."""
        name = self._signals.seen[-1]
        if not self._job.local and slurm.show_job(self._job.id).get("JobState") == "RUNNING":
            # Cloud machines that are taken back, and nodes that somebody reboots, end their processes like this.
            return Cause("preempted", name, "the node ends its processes, and Slurm knows of nothing")
        return Cause("stopped", name)  # by a person


class LocalLimit:
    """The time limit of an attempt where no scheduler watches it. Each question is answered with yes once."""

    def __init__(self, job: Job) -> None:
        seconds = seconds_of(job.recipe["resources"]["time"])
        lead = seconds_of(job.slurm_options["lead"])
        self._over = time.monotonic() + seconds
        self._near = self._over - min(lead, seconds / 2)

    def is_near(self) -> bool:
        """Tell that it is time to save and stop."""
        due = time.monotonic() >= self._near
        self._near = float("inf") if due else self._near
        return due

    def is_over(self) -> bool:
        """Tell that the time is up."""
        due = time.monotonic() >= self._over
        self._over = float("inf") if due else self._over
        return due


def preflight_failure(found: Path) -> Cause | None:
    """Read what the preflight of the tasks found wrong with a node; a full disk may have kept the words."""
    try:
        said = json.loads(found.read_text(encoding="utf-8"))
        return Cause("node_failure", "preflight", said["message"], tuple(said["unfit"]))
    except (FileNotFoundError, ValueError):
        return None
