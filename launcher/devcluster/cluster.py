"""A real Slurm on this machine: virtual nodes with fake GPUs for demos and tests, in one folder.

It runs as root or as an ordinary user and beside other dev clusters: every daemon has its own port or socket, and every
file lies in the cluster's folder. Only processes that the cluster itself started are ever signalled.
"""

import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from launcher.devcluster import daemons, machine
from launcher.devcluster.config import HIGH_PARTITION, LOW_PARTITION, Settings, Shape
from launcher.devcluster.daemons import Daemons
from launcher.devcluster.files import check_folder, locked, read_settings, write_files
from launcher.devcluster.layout import Layout
from launcher.devcluster.nodes import cut_power
from launcher.devcluster.processes import stop, wait_until
from launcher.errors import LauncherError, SlurmError
from launcher.run.home import expand_home

# What `sinfo` says of a node that works; `*` after a state means that the node does not answer.
READY_STATES = frozenset({"idle", "mixed", "allocated", "completing"})


@dataclass(frozen=True)
class DaemonStatus:
    """One daemon of the cluster; `pid` is None when it does not run."""

    name: str
    pid: int | None


@dataclass(frozen=True)
class ClusterStatus:
    """What `launcher devcluster status` shows."""

    folder: Path
    is_running: bool
    settings: Settings | None
    daemons: tuple[DaemonStatus, ...] = ()
    node_states: dict[str, str] | None = None


class DevCluster:
    """One dev cluster, living in one folder.

    Args:
        folder: Where all its files are kept.
        on_progress: Called with one line about each step.
    """

    def __init__(self, folder: Path, on_progress: Callable[[str], None] = lambda _: None) -> None:
        self.layout = Layout(expand_home(folder).absolute())
        self._on_progress = on_progress
        self._daemons = Daemons(self.layout)

    @property
    def slurm_conf(self) -> Path:
        """The slurm.conf of this cluster."""
        return self.layout.slurm_conf

    @property
    def profile(self) -> Path:
        """The cluster profile of this cluster."""
        return self.layout.profile

    def environment(self) -> dict[str, str]:
        """Return the environment in which Slurm's commands talk to this cluster."""
        return daemons.slurm_environment(self.layout)

    def slurm(self, *argv: str) -> str:
        """Run one Slurm command against this cluster and return what it printed.

        Raises:
            SlurmError: The command failed.
        """
        done = subprocess.run(argv, env=self.environment(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SlurmError(f"devcluster: `{' '.join(argv)}` failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    def up(self, shape: Shape) -> None:
        """Start the cluster, or do nothing when it runs already in this shape.

        Raises:
            LauncherError: Programs are missing, the folder does not fit, or the cluster runs in another shape.
        """
        shape.check()
        self.layout.check_socket_paths()
        machine.check_programs(shape.accounting)
        check_folder(self.layout)
        with locked(self.layout):
            running = self._running_settings()
            if running is None:
                self._start(shape)
            elif running.shape == shape:
                self._on_progress(f"already running: {shape}{self._dead_nodes(running)}")
            else:
                raise LauncherError(
                    f"devcluster: `{self.layout.folder}` runs with {running.shape}; to get {shape},"
                    f" first run `launcher devcluster down --dir {self.layout.folder}`"
                )

    def down(self, purge: bool = False) -> None:
        """End all daemons and jobs of this cluster; with `purge` remove its folder as well, runs included."""
        settings = read_settings(self.layout)
        if settings is None:
            self._on_progress(f"no dev cluster in {self.layout.folder}")
            return
        with locked(self.layout):
            self._stop(settings)
            if purge:
                shutil.rmtree(self.layout.folder)
                self._on_progress(f"removed {self.layout.folder}")

    def status(self) -> ClusterStatus:
        """Return which daemons run and in which state the nodes are."""
        settings = read_settings(self.layout)
        if settings is None:
            return ClusterStatus(self.layout.folder, is_running=False, settings=None)
        names = [*daemons.central_daemons(settings), *map(daemons.slurmd_name, settings.node_names)]
        alive = self._daemons.all()
        found = tuple(DaemonStatus(name, alive[name].pid if name in alive else None) for name in names)
        is_running = self._running_settings() is not None
        states = self._node_states() if is_running else None
        return ClusterStatus(self.layout.folder, is_running, settings, found, states)

    def preempt(self, job: str | None = None, nodes: int | None = None, seconds: float = 3) -> str:
        """Take nodes away from running jobs for a few seconds and return the id of the job that does it.

        Args:
            job: Whose nodes to take; by default those of all running jobs of the low partition.
            nodes: How many of them to take; by default all.
            seconds: How long the preemptor keeps them.

        Raises:
            LauncherError: Nothing runs that could be preempted.
        """
        self._running_or_fail()
        chosen = self._nodes_held(job)[:nodes]
        if not chosen:
            where = f"job {job}" if job else f"partition `{LOW_PARTITION}`"
            raise LauncherError(f"devcluster: {where} runs on no node; submit a job and wait until it runs")
        return self.slurm(
            *("sbatch", "--parsable", f"--partition={HIGH_PARTITION}", "--exclusive", "--no-requeue"),
            *(f"--nodes={len(chosen)}", f"--nodelist={','.join(chosen)}", "--job-name=preemptor"),
            *("--export=NONE", "--output=/dev/null", "--chdir=/", f"--wrap=sleep {seconds:g}"),
        )

    def kill_node(self, name: str, announce: bool = False) -> int:
        """Cut the power of one virtual node: kill its slurmd, steps and tasks; return how many processes died.

        Args:
            name: The node.
            announce: Tell slurmctld at once; else it finds out by itself, as on a real cluster, in about 30 s.

        Raises:
            LauncherError: No cluster runs, or it has no such node.
        """
        self._node_port(name)
        killed = cut_power(name, self._daemons.find(daemons.slurmd_name(name)), self.layout)
        self._daemons.forget(daemons.slurmd_name(name))
        if announce:
            self.slurm("scontrol", "update", f"nodename={name}", "state=down", "reason=power cut")
        return killed

    def revive_node(self, name: str) -> None:
        """Switch a virtual node on again and wait until Slurm uses it.

        Raises:
            LauncherError: No cluster runs, it has no such node, or slurmd does not start.
        """
        settings = self._running_or_fail()
        port = self._node_port(name)
        slurmd = daemons.slurmd_name(name)
        if self._daemons.find(slurmd) is None:
            self._daemons.launch(slurmd, daemons.slurmd_argv(name))
        self._daemons.wait_for(slurmd, partial(_listens, settings.address, port))
        try:
            wait_until(partial(self._is_ready, name), 5, f"{name} registers")
        except TimeoutError:
            # A node that was set down by hand stays down until somebody says otherwise.
            self.slurm("scontrol", "update", f"nodename={name}", "state=resume")
            self._daemons.wait_for(slurmd, partial(self._is_ready, name))

    def _start(self, shape: Shape) -> None:
        earlier = read_settings(self.layout)
        if earlier is not None:
            self._stop(earlier)
        settings = machine.new_settings(shape)
        write_files(settings, self.layout)
        try:
            self._start_munged()
            if shape.accounting:
                self._start_accounting(settings)
            self._start_controller()
            self._start_nodes(settings)
        except BaseException:
            self._stop(settings)
            raise

    def _start_munged(self) -> None:
        self.layout.munge_socket.unlink(missing_ok=True)
        self._daemons.launch("munged", daemons.munged_argv(self.layout))
        self._daemons.wait_for("munged", self.layout.munge_socket.exists)
        self._on_progress("munged answers")

    def _start_accounting(self, settings: Settings) -> None:
        if not self.layout.database.exists():
            daemons.install_database(settings, self.layout)
        self.layout.database_socket.unlink(missing_ok=True)
        self._daemons.launch("mariadbd", daemons.mariadbd_argv(settings, self.layout))
        self._daemons.wait_for("mariadbd", self.layout.database_socket.exists)
        # MariaDB's client library takes the path of its default socket from this variable.
        socket_variable = {"MYSQL_UNIX_PORT": str(self.layout.database_socket)}
        self._daemons.launch("slurmdbd", ["slurmdbd", "-D"], socket_variable)
        self._daemons.wait_for("slurmdbd", partial(self._succeeds, "sacctmgr", "-n", "list", "cluster"))
        if not self.slurm("sacctmgr", "-n", "-P", "list", "cluster", "format=cluster"):
            self.slurm("sacctmgr", "-i", "add", "cluster", "dev")
        self._on_progress("MariaDB and slurmdbd answer")

    def _start_controller(self) -> None:
        self._daemons.launch("slurmctld", daemons.controller_argv())
        self._daemons.wait_for("slurmctld", partial(self._succeeds, "scontrol", "ping"))
        self._on_progress("slurmctld answers")

    def _start_nodes(self, settings: Settings) -> None:
        for name in settings.node_names:
            self._daemons.launch(daemons.slurmd_name(name), daemons.slurmd_argv(name))
        for name in settings.node_names:
            self._daemons.wait_for(daemons.slurmd_name(name), partial(self._is_ready, name))
        self._on_progress(f"{settings.shape.nodes} nodes are ready, each with {settings.shape.gpus} fake A100 GPUs")

    def _stop(self, settings: Settings) -> None:
        alive = self._daemons.all()
        nodes = [daemons.slurmd_name(name) for name in settings.node_names]
        # slurmctld first, so that it saves the jobs as they are; munged last, since all others need it.
        for names, patience in ((["slurmctld"], 20), (nodes, 10)):
            stop([alive[name] for name in names if name in alive], patience)
        for name in settings.node_names:
            cut_power(name, None, self.layout)
        for daemon in ("slurmdbd", "mariadbd", "munged"):
            stop([alive[daemon]] if daemon in alive else [], patience=20)
        for name in alive:
            self._daemons.forget(name)
        if alive:
            self._on_progress(f"ended {len(alive)} daemons")

    def _dead_nodes(self, settings: Settings) -> str:
        where = f" --dir {self.layout.folder}"
        dead = [name for name in settings.node_names if self._daemons.find(daemons.slurmd_name(name)) is None]
        hints = (f"{name} is dead; start it with `launcher devcluster revive-node {name}{where}`" for name in dead)
        return "".join(f"\n{hint}" for hint in hints)

    def _running_settings(self) -> Settings | None:
        settings = read_settings(self.layout)
        if settings is None or not set(daemons.central_daemons(settings)) <= self._daemons.all().keys():
            return None
        return settings

    def _running_or_fail(self) -> Settings:
        settings = self._running_settings()
        if settings is None:
            folder, how = self.layout.folder, "start one with `launcher devcluster up --dir"
            raise LauncherError(f"devcluster: no cluster runs in `{folder}`; {how} {folder}`")
        return settings

    def _node_port(self, name: str) -> int:
        settings = self._running_or_fail()
        ports = dict(zip(settings.node_names, settings.node_ports, strict=True))
        if name not in ports:
            raise LauncherError(f"devcluster: no node `{name}`; write one of {', '.join(ports)}")
        return ports[name]

    def _succeeds(self, *argv: str) -> bool:
        return subprocess.run(argv, env=self.environment(), capture_output=True, check=False).returncode == 0

    def _node_states(self) -> dict[str, str]:
        rows = self.slurm("sinfo", "--noheader", "--Node", f"--partition={LOW_PARTITION}", "--format=%N %T")
        return {name: state for name, state in (row.split() for row in rows.splitlines())}

    def _is_ready(self, name: str) -> bool:
        return self._node_states().get(name) in READY_STATES

    def _nodes_held(self, job: str | None) -> list[str]:
        whose = f"--jobs={job}" if job else f"--partition={LOW_PARTITION}"
        held = self.slurm("squeue", "--noheader", "--states=RUNNING", "--format=%N", whose).split()
        return sorted(set(self.slurm("scontrol", "show", "hostnames", ",".join(held)).split())) if held else []


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True
