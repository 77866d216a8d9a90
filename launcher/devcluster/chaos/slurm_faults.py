"""What Slurm and its administrators do to a run: take its nodes, end its time, requeue it, hold it, fall silent."""

import signal
import time
from contextlib import suppress
from random import Random

from typing_extensions import override

from launcher.devcluster.chaos.controller import Controller
from launcher.devcluster.chaos.fault import ChaosFault
from launcher.devcluster.chaos.process_faults import LONGEST_HANG, choose_rank
from launcher.devcluster.chaos.target import ChaosTarget
from launcher.devcluster.processes import wait_until
from launcher.recipe.quantities import Duration

SECONDS_A_STEP = 5
SECONDS_TO_SAVE = 30
"""That a run gets after Slurm has told it that its time is nearly over."""


class Preempt(ChaosFault):
    """A job with a higher priority takes the nodes."""

    name = "preempt"

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Queue such a job."""
        return f"preempted by job {target.cluster.preempt(target.job)}"


class ReachTimeLimit(ChaosFault):
    """The time limit of the attempt comes: Slurm warns, and the attempt has to save."""

    name = "time-limit"
    phases = ("training",)

    def __init__(self) -> None:
        self._job, self._minutes = "", 0

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Shorten the job's time limit to what leaves it the time to save."""
        self._job = target.job
        self._minutes = -(-Duration(target.recipe["resources"]["time"]).seconds // 60)
        minutes = 1 + int((time.time() - target.attempts[-1].started + SECONDS_TO_SAVE) // 60)
        self._set(target, minutes)
        self._await_warning(target)
        return f"time limit of {minutes} min"

    @override
    def undo(self, target: ChaosTarget) -> None:
        """Give the next attempt the whole time again."""
        self._set(target, self._minutes)

    def _await_warning(self, target: ChaosTarget) -> None:
        """Wait until the run has heard of it: Slurm looks at time limits every 30 s only (PERIODIC_TIMEOUT).

        A run with few steps could have finished by then, so it does a step now and then, lest this be a hang.
        """
        deadline = time.monotonic() + LONGEST_HANG
        while not target.run.stop_request.exists() and time.monotonic() < deadline:
            with suppress(TimeoutError):
                wait_until(target.run.stop_request.exists, SECONDS_A_STEP, "Slurm says that the time is nearly over")
                return
            target.do_a_step()

    def _set(self, target: ChaosTarget, minutes: int) -> None:
        target.cluster.slurm("scontrol", "update", f"JobId={self._job}", f"TimeLimit={minutes}")


class Requeue(ChaosFault):
    """An administrator requeues the job."""

    name = "requeue"

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Requeue it."""
        target.cluster.slurm("scontrol", "requeue", target.job)
        return f"scontrol requeue {target.job}"


class Hold(ChaosFault):
    """An administrator requeues the job, holds it, and releases it when the attempt is over."""

    name = "hold"

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Requeue and hold it."""
        target.cluster.slurm("scontrol", "requeuehold", target.job)
        return f"scontrol requeuehold {target.job}"

    @override
    def undo(self, target: ChaosTarget) -> None:
        """Release it."""
        target.cluster.slurm("scontrol", "release", target.job)


class RestartController(ChaosFault):
    """slurmctld is restarted, as for a new configuration."""

    name = "restart-slurmctld"
    until = 0.0

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Restart it."""
        Controller(target.cluster).restart()
        return "slurmctld restarted"


class FreezeController(ChaosFault):
    """slurmctld answers nobody for some seconds."""

    name = "freeze-slurmctld"
    until = 5.0

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Stop it."""
        Controller(target.cluster).freeze()
        return f"slurmctld stands still for {self.until:g} s"

    @override
    def undo(self, target: ChaosTarget) -> None:
        """Let it go on."""
        Controller(target.cluster).thaw()


class KillRankUnheard(FreezeController):
    """A rank dies while slurmctld answers nobody."""

    name = "kill-rank-unheard"

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Stop slurmctld, then kill a rank."""
        frozen = super().inject(target, rng)
        number, process = choose_rank(target, rng)
        process.send(signal.SIGKILL)
        return f"kill -9 of rank {number} while {frozen}"
