"""The daemons of a dev cluster: their command lines, and how to tell that each one is ready."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from launcher.devcluster.config import Settings
from launcher.devcluster.layout import Layout
from launcher.devcluster.machine import program
from launcher.devcluster.processes import Process, start, wait_until
from launcher.errors import LauncherError
from launcher.run.slurm_text import without_overrides

CONTROLLER = "slurmctld"

START_SECONDS = 180
"""How long a daemon may take to answer while it lives; on an idle machine each takes a second or two."""


def slurm_environment(layout: Layout) -> dict[str, str]:
    """Return this process's environment, aimed at one dev cluster and free of other Slurm variables."""
    kept = {name: value for name, value in without_overrides(os.environ).items() if not name.startswith("SLURM")}
    return {**kept, "SLURM_CONF": str(layout.slurm_conf)}


class Daemons:
    """Starts and finds the daemons of one dev cluster through their records in `processes/`."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def find(self, name: str) -> Process | None:
        """Return the running daemon of this name, or None."""
        return Process.read(self._record(name))

    def all(self) -> dict[str, Process]:
        """Return all daemons of this cluster that run, by name."""
        names = sorted(path.stem for path in self.layout.processes.glob("*.json"))
        return {name: process for name in names if (process := self.find(name)) is not None}

    def forget(self, name: str) -> None:
        """Drop the record of a daemon that was ended on purpose."""
        self._record(name).unlink(missing_ok=True)

    def launch(self, name: str, argv: list[str], extra_environment: Mapping[str, str] | None = None) -> Process:
        """Start a daemon in the foreground of a session of its own and record it."""
        environment = {**slurm_environment(self.layout), **(extra_environment or {})}
        path = program(argv[0])
        if path is None:
            raise LauncherError(f"devcluster: `{argv[0]}` not found; install it first")
        process = start([path, *argv[1:]], environment, self._output(name))
        process.write(self._record(name))
        return process

    def wait_for(self, name: str, is_ready: Callable[[], bool]) -> None:
        """Wait until a daemon answers.

        Raises:
            LauncherError: with the end of the daemon's output, if it ended or never answered.
        """
        try:
            wait_until(lambda: is_ready() or self.find(name) is None, START_SECONDS, f"{name} answers")
        except TimeoutError as late:
            raise LauncherError(f"{late}; its output ends with:\n{self.tail(name)}") from late
        if self.find(name) is None:
            raise LauncherError(f"devcluster: {name} ended while it started; its output ends with:\n{self.tail(name)}")

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines that a daemon wrote."""
        try:
            text = self._output(name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "(nothing)"
        return "\n".join(text.splitlines()[-lines:])

    def _record(self, name: str) -> Path:
        return self.layout.processes / f"{name}.json"

    def _output(self, name: str) -> Path:
        return self.layout.logs / f"{name}.out"


def controller_argv() -> list[str]:
    """Return the command line of slurmctld."""
    return [CONTROLLER, "-D"]


def slurmd_name(node: str) -> str:
    """Return what the slurmd of a node is called among the daemons."""
    return f"slurmd-{node}"


def slurmd_argv(node: str) -> list[str]:
    """Return the command line of the slurmd of a node."""
    return ["slurmd", "-D", "-N", node]


def central_daemons(settings: Settings) -> list[str]:
    """Return the names of the daemons that must live for the cluster to count as running."""
    accounting = ["mariadbd", "slurmdbd"] if settings.shape.accounting else []
    return ["munged", *accounting, "slurmctld"]


def munged_argv(layout: Layout) -> list[str]:
    """Return the command line of munged; --force since homes closed to others (0700) are fine for a private socket."""
    folder = layout.munge_socket.parent
    return [
        "munged",
        "--foreground",
        "--force",
        f"--key-file={layout.munge_key}",
        f"--socket={layout.munge_socket}",
        f"--seed-file={folder}/seed",
        f"--pid-file={folder}/pid",
        f"--log-file={layout.logs}/munged.log",
    ]


def mariadbd_argv(settings: Settings, layout: Layout) -> list[str]:
    """Return the command line of a small MariaDB without any port: its socket knows its user, so no password exists."""
    folder = layout.database_socket.parent
    return [
        "mariadbd",
        "--no-defaults",
        f"--user={settings.user}",
        f"--datadir={layout.database}",
        f"--socket={layout.database_socket}",
        f"--pid-file={folder}/pid",
        "--skip-networking",
        "--innodb-buffer-pool-size=64M",
        "--innodb-lock-wait-timeout=900",
    ]


def install_database(settings: Settings, layout: Layout) -> None:
    """Create an empty MariaDB whose administrator is the cluster's user, known by the socket.

    Raises:
        LauncherError: With what the installer printed.
    """
    argv = [
        program("mariadb-install-db") or "mariadb-install-db",
        "--no-defaults",
        f"--user={settings.user}",
        f"--datadir={layout.database}",
        "--auth-root-authentication-method=socket",
        f"--auth-root-socket-user={settings.user}",
        "--skip-test-db",
    ]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(layout.database, ignore_errors=True)
        raise LauncherError(f"devcluster: `{' '.join(argv)}` failed:\n{done.stdout.strip()}")
