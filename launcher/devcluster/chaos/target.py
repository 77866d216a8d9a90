"""The run that is broken: where it stands, which processes carry it out, and what Slurm knows of it."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from launcher.devcluster.cluster import DevCluster
from launcher.devcluster.processes import Process, all_pids, wait_until
from launcher.run.batch_process import is_batch_process
from launcher.run.ledger import Attempt, has_finished, read_attempts, read_json_lines
from launcher.run.metrics import Row
from launcher.run.paths import RunDir, published_steps
from launcher.run.record import RunRecord

STAGING = ".staging"
"""In which rank 0 writes a checkpoint before it is published (`jobs.train.checkpoint`)."""
_STEP_PATIENCE = 5


class ChaosTarget:
    """One run on a dev cluster.

    Args:
        run: Its directory.
        cluster: Where it runs.
    """

    def __init__(self, run: RunDir, cluster: DevCluster) -> None:
        self.run = run
        self.cluster = cluster
        self._frozen: set[Process] = set()

    @property
    def attempts(self) -> list[Attempt]:
        """All attempts of the ledger."""
        return read_attempts(self.run.ledger)

    @property
    def rows(self) -> list[Row]:
        """What was logged of steps, in the order in which it was logged."""
        return [row for row in read_json_lines(self.run.metrics) if "step" in row]

    @property
    def last_step(self) -> int:
        """The furthest step that any attempt logged."""
        return max((int(row["step"]) for row in self.rows), default=0)

    @property
    def has_finished(self) -> bool:
        """Whether the run reached its end and its batch process has noted that."""
        attempts = self.attempts
        return has_finished(attempts) and attempts[-1].ended is not None

    @property
    def newest_checkpoint(self) -> Path | None:
        """The newest published checkpoint."""
        steps = published_steps(self.run)
        return self.run.checkpoint(steps[-1]) if steps else None

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint is being written."""
        try:
            return bool(os.listdir(self.run.checkpoints / STAGING))
        except OSError:
            return False

    @property
    def job(self) -> str:
        """The job that carries the run, or is to."""
        return RunRecord.read(self.run.record).submissions[-1].job_id

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe."""
        found: dict[str, Any] = json.loads(self.run.recipe.read_text(encoding="utf-8"))
        return found

    @property
    def profile(self) -> dict[str, Any]:
        """The resolved cluster profile that the run was frozen with."""
        return RunRecord.read(self.run.record).cluster

    def batch_process(self) -> Process | None:
        """Return the batch process of the run; None while there is none."""
        found = (pid for pid in all_pids() if self._is_batch_process(pid))
        return next((process for pid in found if (process := Process.of(pid)) is not None), None)

    def ranks(self) -> dict[int, Process]:
        """Return the processes of the ranks that live."""
        found, root = {}, os.path.realpath(self.run.root)
        for pid in all_pids():
            words = _words(pid, "cmdline")
            if "jobs" not in words or "python" not in words[0]:
                continue
            if root not in (os.path.realpath(word) for word in words if word.startswith("/")):
                continue
            number, process = _variable(pid, "SLURM_PROCID"), Process.of(pid)
            if number.isdecimal() and process is not None:
                found[int(number)] = process
        return found

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the ranks at their step while something is done to them."""
        ranks = set(self.ranks().values())
        for rank in ranks:
            rank.send(signal.SIGSTOP)
        try:
            yield
        finally:
            for rank in ranks - self._frozen:
                rank.send(signal.SIGCONT)

    def do_a_step(self) -> None:
        """Let ranks that are held go on until they have logged a step."""
        before, ranks = self.last_step, set(self.ranks().values())
        for rank in ranks:
            rank.send(signal.SIGCONT)
        with suppress(TimeoutError):
            wait_until(lambda: self.last_step > before, _STEP_PATIENCE, "a step is done")
        for rank in ranks:
            rank.send(signal.SIGSTOP)

    def freeze(self, rank: Process) -> None:
        """Let a rank stand still, also when the others go on."""
        self._frozen.add(rank)
        rank.send(signal.SIGSTOP)

    def thaw(self, rank: Process) -> None:
        """Let a rank go on that was frozen."""
        self._frozen.discard(rank)
        rank.send(signal.SIGCONT)

    def is_queued(self) -> bool:
        """Ask Slurm whether a job of the run is running or will run, a guardian's included."""
        guardian = f"guardian-{RunRecord.read(self.run.record).id}"
        return any(guardian == name or self.job == job for job, name, _ in self._queue())

    def is_on_hold(self) -> bool:
        """Ask Slurm whether the run's job waits for somebody to release it."""
        return any(job == self.job and "held" in reason.lower() for job, _, reason in self._queue())

    def _queue(self) -> list[list[str]]:
        """Return id, name and reason of every job that waits or runs; `%i` writes an array's as `12_3`."""
        rows = self.cluster.slurm("squeue", "--noheader", "--array", "--format=%i|%j|%r").splitlines()
        return [row.split("|", 2) for row in rows]

    def _is_batch_process(self, pid: int) -> bool:
        if not is_batch_process(word.encode() for word in _words(pid, "cmdline")):
            return False
        array, index = _variable(pid, "SLURM_ARRAY_JOB_ID"), _variable(pid, "SLURM_ARRAY_TASK_ID")
        own = f"{array}_{index}" if array else _variable(pid, "SLURM_JOB_ID")
        return own == self.job and _variable(pid, "SLURM_CONF") == str(self.cluster.slurm_conf)


def _words(pid: int, name: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]


def _variable(pid: int, name: str) -> str:
    """Read a variable of a process's environment; empty where it has none."""
    marked = f"{name}="
    return next((word.removeprefix(marked) for word in _words(pid, "environ") if word.startswith(marked)), "")
