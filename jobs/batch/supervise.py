"""Supervising the ranks of one attempt: start them, pass on who wants them to stop, gather how they ended."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from jobs.batch.allocation import BatchJob, seconds_of
from jobs.batch.attempt import read_history
from jobs.batch.evidence import END_SIGNALS, EndReason, Evidence
from jobs.batch.hang_monitor import HangMonitor
from jobs.batch.launch import Outcome, RunningRanks, prepare_launch
from jobs.batch.local_ranks import LocalRanks
from jobs.batch.pruning import PruningMonitor
from jobs.batch.rendezvous import UnresolvableError
from jobs.batch.slurm_traces import search_logs
from jobs.batch.srun import ContainerError, SrunRanks
from launcher.run.ledger import Attempt, StopRequest
from launcher.run.paths import CONTINUE, FINISHED, NEVER_RESTART

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
        """Name of the oldest signal that this has not returned yet; None if there is none."""
        if self._told == len(self.seen):
            return None
        self._told += 1
        return self.seen[self._told - 1]

    @property
    def wants_end(self) -> bool:
        """Whether the process itself was told to go."""
        return any(name in END_SIGNALS for name in self.seen)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.seen.append(signal.Signals(number).name)


def supervise(job: BatchJob, attempt: Attempt, signals: Signals, say: Callable[[str], None]) -> Evidence:
    """Start the ranks of an attempt and wait until all have ended.

    Args:
        job: This start of the batch process.
        attempt: The attempt, open in the ledger.
        signals: What the batch process was told.
        say: Called with one line about what happens.

    Returns:
        What is known of the end.
    """
    supervisor = _Supervisor(job, attempt, signals, say)
    try:
        launch = prepare_launch(job, attempt.number, say, seconds_of(job.hang_limit) if job.hang_limit else 0)
        ranks: RunningRanks = LocalRanks(launch, say) if job.local else SrunRanks(launch, say)
    except UnresolvableError as error:
        return supervisor.gather(Outcome(1), EndReason("node_failure", "rendezvous", str(error)))
    except ContainerError as error:
        return supervisor.gather(Outcome(NEVER_RESTART, str(error)))
    except OSError as error:
        why = EndReason("node_failure", "batch process", f"the ranks cannot be started: {error}")
        return supervisor.gather(Outcome(1), why)
    return supervisor.watch(ranks)


class _Supervisor:
    def __init__(self, job: BatchJob, attempt: Attempt, signals: Signals, say: Callable[[str], None]) -> None:
        self._job = job
        self._attempt = attempt
        self._signals = signals
        self._say = say
        self._logs = (job.slurm_log(job.id), job.run.batch_log(attempt.number))
        self._limits = self._local_limits() if job.local else []
        self._prunes = PruningMonitor(job.run, metric, say) if (metric := job.pruned_by) else None
        self._hang = HangMonitor(job, attempt, job.hang_limit) if job.hang_limit else None

    def watch(self, ranks: RunningRanks) -> Evidence:
        """Wait until all ranks have ended, and pass on what asks them to."""
        while (outcome := ranks.poll()) is None:
            name = self._signals.next()
            if name is not None:
                self._ask_to_stop(ranks, name)
                if self._is_out_of_time(name):
                    why = "the time limit came before the tasks had saved"
                    return self.gather(Outcome(128 + signal.SIGKILL), EndReason("killed", "Slurm's log", why))
            if self._limits and time.monotonic() >= self._limits[0][0]:
                self._limits.pop(0)[1](ranks)
            if self._prunes is not None and self._prunes.decides():
                self._prune(ranks)
            if self._hang is not None and self._is_given_up(ranks, self._hang):
                return self.gather(Outcome(128 + signal.SIGKILL))
            ranks.wait(POLL_SECONDS)
        return self.gather(outcome)

    def _ask_to_stop(self, ranks: RunningRanks, why: str) -> None:
        """Ask in two ways at once: a STOP file for rank 0, a signal for every rank. A person's STOP is left alone."""
        stop_file = self._job.run.stop_request
        try:
            if StopRequest.read(stop_file) is None:
                StopRequest("time_limit", self._attempt.number).write(stop_file)
            self._say(f"{why}: STOP asks the tasks to save and leave")
        except OSError as error:
            self._say(f"{why}: STOP cannot be written ({error.strerror}); the ranks get only the signal")
        self._say(ranks.ask_to_stop())

    def _prune(self, ranks: RunningRanks) -> None:
        """Ask a trial to stop for good, unless somebody has asked for something else."""
        try:
            if StopRequest.read(self._job.run.stop_request) is None:
                StopRequest("pruned", self._attempt.number).write(self._job.run.stop_request)
                self._say(ranks.ask_to_stop())
        except OSError as error:
            self._say(f"STOP cannot be written ({error.strerror}); the trial goes on")

    def _is_out_of_time(self, name: str) -> bool:
        """Tell whether Slurm is killing the ranks because of the time limit.

        It also kills this process, so there is no time to wait for them: Slurm requeues no job that was out of time.
        """
        if self._job.local or name != "SIGTERM":
            return False
        found = search_logs(self._logs, self._attempt)
        return found is not None and found.reason == "killed"

    def _local_limits(self) -> list[tuple[float, Callable[[RunningRanks], None]]]:
        """Watch the time limit where no scheduler does: at which times to do what."""

        def end(ranks: RunningRanks) -> None:
            self._say("the time limit is over: ending the ranks")
            ranks.kill()

        seconds = seconds_of(self._job.recipe["resources"]["time"])
        over = time.monotonic() + seconds
        near = over - min(seconds_of(self._job.slurm_options["lead"]), seconds / 2)
        return [(near, lambda ranks: self._ask_to_stop(ranks, "the time limit is near")), (over, end)]

    def _is_given_up(self, ranks: RunningRanks, hang: HangMonitor) -> bool:
        """End ranks that hang; tell whether not even that helps. Slurm takes care of their node then."""
        if hang.notices():
            for line in hang.stacks():
                self._say(line)
            self._say(f"{hang.evidence}: ending the ranks")
            ranks.kill(at_once=True)
        if hang.is_unkillable:
            self._say("the ranks cannot be killed; leaving them to Slurm")
        return hang.is_unkillable

    def gather(self, outcome: Outcome, seen: EndReason | None = None) -> Evidence:
        """Put together what is known of the end.

        Args:
            outcome: How the ranks ended.
            seen: Why, if the batch process knows that first-hand.
        """
        run, attempts, stop, preflight = self._job.run, [self._attempt], None, None
        try:
            attempts = read_history(run, self._attempt)
            stop, preflight = StopRequest.read(run.stop_request), read_preflight(run.preflight(self._attempt.number))
        except OSError as error:
            self._say(f"the run directory cannot be read: {error}; the ranks' own words about their end are unknown")
        code = outcome.exit_code
        return Evidence(
            attempts=attempts,
            # srun may report another rank's exit code before that of the rank that announced why it cannot go on.
            exit_code=code if code in (FINISHED, CONTINUE) else attempts[-1].announced or code,
            failed_rank="" if self._hang is not None and self._hang.has_noticed else outcome.detail,
            stop=stop,
            preflight=preflight,
            logs=self._logs,
            seen=seen,
            signals=tuple(self._signals.seen),
            hang=self._hang.finding() if self._hang is not None else "",
            hung=self._hang.suspects() if self._hang is not None and self._hang.has_noticed else (),
        )


def read_preflight(path: Path) -> dict[str, Any] | None:
    """Read what the ranks found wrong with a node; None if nothing, or if a full disk kept the words."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found
