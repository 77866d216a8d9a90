"""What it takes to start the ranks of an attempt, and how they end, whoever starts them."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobs.batch import rendezvous, slurm
from jobs.batch.allocation import BatchJob
from launcher.run import heartbeat
from launcher.run.paths import DOES_NOT_FIT, NEVER_RESTART, RunDir


@dataclass(frozen=True)
class Launch:
    """The ranks of one attempt."""

    run: RunDir
    attempt: int
    nodes: int
    ranks_per_node: int
    cpus_per_task: int
    master_addr: str
    master_port: int
    cluster: Mapping[str, Any]
    """The resolved cluster profile."""
    recipe_folder: str = ""
    hang_seconds: int = 0
    """How long the ranks may go without a heartbeat; 0: forever."""
    module: str = "jobs"
    """What each rank runs."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """That ranks get besides the usual ones."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.nodes * self.ranks_per_node

    @property
    def command(self) -> list[str]:
        """What each rank runs: the snapshot's code, by the interpreter of this process or of the image."""
        container = self.cluster.get("container")
        python = container["python"] if container else sys.executable
        return [python, "-u", "-m", self.module, str(self.run.root), "--attempt", str(self.attempt)]

    @property
    def exports(self) -> dict[str, str]:
        """Variables that the ranks get besides those of this process."""
        inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        exports = {
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
            "LAUNCHER_ATTEMPT": str(self.attempt),
            "OMP_NUM_THREADS": str(self.cpus_per_task),
            heartbeat.VARIABLE: str(self.hang_seconds),
            # What NCCL's flight recorder saw when a collective gives up; else it goes to a file that all runs share.
            "TORCH_FR_DUMP_TEMP_FILE": str(self.run.attempt_logs(self.attempt) / "nccl-rank-"),
            "PYTHONPATH": os.pathsep.join([str(self.run.code), *inherited]),
            # A folder `jobs` or `wandb` in the working directory must not be taken for ours.
            "PYTHONSAFEPATH": "1",
        }
        return {**exports, **self.cluster.get("environment", {}), **self.variables}


def prepare_launch(job: BatchJob, number: int, say: Callable[[str], None], hang_seconds: int = 0) -> Launch:
    """Find where the ranks of attempt `number` meet, and put together what it takes to start them.

    Raises:
        UnresolvableError: No address or no port was found.
    """
    address, why = _address(job)
    low, high = job.slurm_options["port_range"]
    start = rendezvous.first_port(job.number, number if job.local else job.restart_count, (low, high))
    port = rendezvous.choose_port(start, (low, high))
    say(f"ranks meet at {address}:{port} ({why}{'' if port == start else f'; port {start} was taken'})")
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
        hang_seconds=hang_seconds,
    )


def _address(job: BatchJob) -> tuple[str, str]:
    if job.local:
        return "127.0.0.1", "all ranks are on this machine"
    if not job.nodes:
        nodelist = job.environ["SLURM_JOB_NODELIST"]
        raise rendezvous.UnresolvableError(f"`scontrol show hostnames {nodelist}` did not name the job's nodes")
    return rendezvous.master_address(job.nodes, slurm.node_address)


@dataclass(frozen=True)
class Outcome:
    """How the ranks ended."""

    exit_code: int
    """The one that decides; see `deciding_outcome`."""
    detail: str = ""
    """Which rank failed first, on which node, and how."""


class RunningRanks(Protocol):
    """Ranks that were started."""

    def poll(self) -> Outcome | None:
        """Tell how the ranks ended; None while any of them runs."""

    def wait(self, seconds: float) -> None:
        """Wait for the ranks' end, but not for long."""

    def ask_to_stop(self) -> str:
        """Deliver USR2 to every rank; return what to say about it."""

    def kill(self, at_once: bool = False) -> None:
        """End the ranks; `at_once` gives them no time to save."""


@dataclass(frozen=True)
class RankEnd:
    """How one rank (or some ranks of one node) failed."""

    ranks: str
    node: str
    exit_code: int
    said: str
    """In srun's words: `Exited with exit code 1`, `Killed`."""


_BELIEVED = {NEVER_RESTART: 0, DOES_NOT_FIT: 1}


def deciding_outcome(ends: list[RankEnd], otherwise: Outcome) -> Outcome:
    """Find the failure that ended the attempt, among those that only followed from it.

    The first failure counts, since the end of one rank ends the others; but a rank that says "never restart" or
    "does not fit" is believed whenever it speaks: the others fail when they lose it, and may be heard first.

    Args:
        ends: Failed ranks, in the order they failed.
        otherwise: The outcome if no rank was reported.
    """
    if not ends:
        return otherwise
    first = min(ends, key=lambda end: _BELIEVED.get(end.exit_code, len(_BELIEVED)))
    return Outcome(first.exit_code, f"rank {first.ranks} on {first.node}: {first.said}")
