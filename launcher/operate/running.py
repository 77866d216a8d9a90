"""The attempt of a run that is running now: in which job, on which nodes."""

import os
from dataclasses import dataclass

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.monitor.run_state import read_state
from launcher.monitor.status import compose
from launcher.run.paths import RunDir, list_shares
from launcher.slurm.query import find_jobs


@dataclass(frozen=True)
class RunningAttempt:
    """An attempt whose ranks are at work."""

    run: RunDir
    number: int
    job_id: str
    nodes: tuple[str, ...]
    world_size: int

    @property
    def is_local(self) -> bool:
        """Whether its ranks are processes of one machine, without Slurm."""
        return self.job_id.startswith("local-")

    @property
    def process(self) -> str:
        """Id of the batch process of a local run."""
        return self.job_id.removeprefix("local-")

    def node_of(self, rank: int) -> str:
        """The node that a rank is on.

        Raises:
            RunError: There is no such rank.
        """
        if rank >= self.world_size:
            ranks = f"ranks 0 to {self.world_size - 1}" if self.world_size > 1 else "rank 0 alone"
            raise RunError(f"--rank {rank}: attempt {self.number} of `{self.run.root.name}` has {ranks}")
        return self.nodes[rank * len(self.nodes) // self.world_size]

    def require_this_machine(self) -> None:
        """Check that a local run's ranks are processes of this machine.

        Raises:
            RunError: They are not.
        """
        if self.nodes[0] != os.uname().nodename:
            raise RunError(f"`{self.run.root.name}`: runs on `{self.nodes[0]}`; type this there")


def find_running(run: RunDir, cluster: Cluster) -> RunningAttempt:
    """Find the attempt of a run that is running.

    Raises:
        RunError: None is.
    """
    state = read_state(run)
    status = compose(state, find_jobs(cluster, [state.job_id] if not state.is_terminal else []))
    last = state.last
    if status.state == "running" and last is not None and last.ended is None and not state.waits_for_first_start:
        return RunningAttempt(run, last.number, last.job_id, tuple(last.nodes), last.world_size)
    is_starting = status.state == "running"
    words = "is starting; try again in a moment" if is_starting else f"is {status.state}, so nothing of it runs"
    hint = ""
    if tasks := list_shares(run):
        hint = f"; its tasks are runs of their own: `{tasks[0].root.name}` and so on"
    raise RunError(f"`{run.root.name}`: {words}{hint}")
