"""slurmctld as a process that can be restarted, or stand still."""

import signal
from functools import partial

from launcher.devcluster.cluster import DevCluster
from launcher.devcluster.daemons import CONTROLLER, Daemons, controller_argv
from launcher.devcluster.processes import stop
from launcher.errors import LauncherError, SlurmError

_PATIENCE = 20


class Controller:
    """The slurmctld of a dev cluster.

    Args:
        cluster: Which one.
    """

    def __init__(self, cluster: DevCluster) -> None:
        self._cluster = cluster
        self._daemons = Daemons(cluster.layout)

    def restart(self) -> None:
        """End it in order, start it again, and wait until it answers."""
        found = self._daemons.find(CONTROLLER)
        stop([found] if found else [], _PATIENCE)
        self._daemons.launch(CONTROLLER, controller_argv())
        self._daemons.wait_for(CONTROLLER, partial(_answers, self._cluster))

    def freeze(self) -> None:
        """Let it stand still."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        process = self._daemons.find(CONTROLLER)
        if process is None:
            raise LauncherError("chaos: slurmctld does not run")
        process.send(number)


def _answers(cluster: DevCluster) -> bool:
    try:
        cluster.slurm("scontrol", "ping")
    except SlurmError:
        return False
    return True
