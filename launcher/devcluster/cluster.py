"""A real Slurm on this machine: virtual nodes with fake GPUs for demos and tests, in one folder.

It runs as root or as an ordinary user and beside other dev clusters: every daemon has its own port or socket, and every
file lies in the cluster's folder. Only processes that the cluster itself started are ever signalled.
"""

import contextlib
import fcntl
import json
import os
import pwd
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from launcher.devcluster import config, daemons
from launcher.devcluster.config import Layout, Settings, Shape
from launcher.devcluster.daemons import Daemons
from launcher.devcluster.nodes import cut_power
from launcher.devcluster.processes import Process, stop, wait_until
from launcher.errors import LauncherError

READY_STATES = frozenset({"idle", "mixed", "allocated", "completing"})


def _say_nothing(_: str) -> None:
    return None


@dataclass(frozen=True)
class DaemonStatus:
    """One daemon of the cluster; `pid` is None when it does not run."""

    name: str
    pid: int | None


@dataclass(frozen=True)
class ClusterStatus:
    """What `launcher devcluster status` shows."""

    folder: Path
    running: bool
    settings: Settings | None
    daemons: tuple[DaemonStatus, ...]
    node_states: dict[str, str]


class DevCluster:
    """One dev cluster, living in one folder.

    Args:
        folder: where all its files are kept.
        tell: called with one line about each step.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] = _say_nothing) -> None:
        self.layout = Layout(folder.expanduser().absolute())
        self.tell = tell
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
            LauncherError: if the command fails.
        """
        done = subprocess.run(argv, env=self.environment(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LauncherError(f"devcluster: `{' '.join(argv)}` failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def up(self, shape: Shape) -> None:
        """Start the cluster, or do nothing when it runs already in this shape.

        Raises:
            LauncherError: if programs are missing, the folder does not fit, or the cluster runs in another shape.
        """
        shape.check()
        self.layout.check_socket_paths()
        daemons.check_programs(shape.accounting)
        self._check_folder()
        with self._locked():
            running = self._running_settings()
            if running is None:
                self._start(shape)
            elif running.shape == shape:
                self.tell(f"already running: {shape}")
            else:
                raise LauncherError(
                    f"devcluster: `{self.layout.folder}` runs with {running.shape}; to get {shape},"
                    " first run `launcher devcluster down`"
                )

    def down(self, purge: bool = False) -> None:
        """End all daemons and jobs of this cluster; with `purge` remove its folder as well, runs included."""
        if not self.layout.settings.exists():
            self.tell(f"no dev cluster in {self.layout.folder}")
            return
        with self._locked():
            self._stop()
            if purge:
                shutil.rmtree(self.layout.folder)
                self.tell(f"removed {self.layout.folder}")

    def status(self) -> ClusterStatus:
        """Return which daemons run and in which state the nodes are."""
        settings = self._settings()
        if settings is None:
            return ClusterStatus(self.layout.folder, False, None, (), {})
        alive = self._daemons.all()
        found = tuple(DaemonStatus(name, alive[name].pid if name in alive else None) for name in _names(settings))
        running = self._running_settings() is not None
        return ClusterStatus(self.layout.folder, running, settings, found, self._node_states() if running else {})

    def preempt(self, job: str | None = None, nodes: int | None = None, seconds: float = 3) -> str:
        """Take nodes away from running jobs for a few seconds and return the id of the job that does it.

        Args:
            job: whose nodes to take; by default those of all running jobs of the low partition.
            nodes: how many of them to take; by default all.
            seconds: how long the preemptor keeps them.

        Raises:
            LauncherError: if nothing runs that could be preempted.
        """
        self._running_or_fail()
        chosen = self._nodes_held(job)[:nodes]
        if not chosen:
            where = f"job {job}" if job else f"partition `{config.LOW_PARTITION}`"
            raise LauncherError(f"devcluster: {where} runs on no node; submit a job first and wait until it runs")
        return self.slurm(
            *("sbatch", "--parsable", f"--partition={config.HIGH_PARTITION}", "--exclusive", "--no-requeue"),
            *("--job-name=preemptor", f"--nodes={len(chosen)}", f"--nodelist={','.join(chosen)}"),
            *("--output=/dev/null", "--chdir=/", f"--wrap=sleep {seconds:g}"),
        )

    def kill_node(self, name: str) -> int:
        """Cut the power of one virtual node: kill its slurmd, steps and tasks; return how many processes died."""
        self._check_node(name)
        killed = cut_power(name, self._daemons.find(f"slurmd-{name}"), self.layout)
        self._daemons.forget(f"slurmd-{name}")
        return killed

    def revive_node(self, name: str) -> None:
        """Switch a virtual node on again and wait until Slurm uses it."""
        self._check_node(name)
        if self._daemons.find(f"slurmd-{name}") is None:
            self._launch_node(name)
        try:
            wait_until(lambda: self._is_ready(name), 10, f"{name} registers")
        except TimeoutError:
            self.slurm("scontrol", "update", f"nodename={name}", "state=resume")
            self._daemons.wait_for(f"slurmd-{name}", lambda: self._is_ready(name))

    def _start(self, shape: Shape) -> None:
        self._stop()
        settings = _new_settings(shape)
        self._write_files(settings)
        try:
            self._start_munged()
            if shape.accounting:
                self._start_accounting(settings)
            self._start_controller()
            self._start_nodes(settings)
        except BaseException:
            self._stop()
            raise

    def _start_munged(self) -> None:
        self.layout.munge_socket.unlink(missing_ok=True)
        self._daemons.launch("munged", daemons.munged_argv(self.layout))
        self._daemons.wait_for("munged", self.layout.munge_socket.exists)
        self.tell("munged answers")

    def _start_accounting(self, settings: Settings) -> None:
        if not (self.layout.database_socket.parent / "data").exists():
            subprocess.run(
                daemons.install_database_argv(settings, self.layout),
                capture_output=True,
                text=True,
                check=True,
            )
        self.layout.database_socket.unlink(missing_ok=True)
        self._daemons.launch("mariadbd", daemons.mariadbd_argv(settings, self.layout))
        self._daemons.wait_for("mariadbd", self.layout.database_socket.exists)
        # libmariadb takes the path of its default socket from this variable.
        socket_variable = {"MYSQL_UNIX_PORT": str(self.layout.database_socket)}
        self._daemons.launch("slurmdbd", ["slurmdbd", "-D"], socket_variable)
        self._daemons.wait_for("slurmdbd", lambda: self._succeeds("sacctmgr", "-n", "list", "cluster"), 60)
        if not self.slurm("sacctmgr", "-n", "-P", "list", "cluster", "format=cluster"):
            self.slurm("sacctmgr", "-i", "add", "cluster", "dev")
        self.tell("MariaDB and slurmdbd answer")

    def _start_controller(self) -> None:
        self._daemons.launch("slurmctld", ["slurmctld", "-D"])
        self._daemons.wait_for("slurmctld", lambda: self._succeeds("scontrol", "ping"), 60)
        self.tell("slurmctld answers")

    def _start_nodes(self, settings: Settings) -> None:
        for name in settings.node_names:
            self._launch_node(name)
        for name in settings.node_names:
            self._daemons.wait_for(f"slurmd-{name}", partial(self._is_ready, name), 60)
        self.tell(f"{settings.shape.nodes} nodes are ready, each with {settings.shape.gpus} fake A100 GPUs")

    def _launch_node(self, name: str) -> Process:
        return self._daemons.launch(f"slurmd-{name}", ["slurmd", "-D", "-N", name])

    def _stop(self) -> None:
        alive = self._daemons.all()
        settings = self._settings()
        if "slurmctld" in alive:
            stop([alive["slurmctld"]], patience=20)
        stop([process for name, process in alive.items() if name.startswith("slurmd-")], patience=10)
        for node in settings.node_names if settings else ():
            cut_power(node, None, self.layout)
        for name in ("slurmdbd", "mariadbd", "munged"):
            if name in alive:
                stop([alive[name]], patience=20)
        for name in alive:
            self._daemons.forget(name)
        if alive:
            self.tell(f"ended {len(alive)} daemons")

    def _write_files(self, settings: Settings) -> None:
        layout = self.layout
        folders = [
            layout.munge_key.parent,
            layout.database_socket.parent,
            layout.logs,
            layout.processes,
            layout.spool,
        ]
        folders += [layout.folder / "state", layout.folder / "dev", *layout.user_folders]
        folders += [layout.spool / name for name in settings.node_names]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        if not layout.munge_key.exists():
            _write_private(layout.munge_key, os.urandom(128))
        for number in range(settings.shape.gpus):
            _point(layout.folder / "dev" / f"gpu{number}", Path(os.devnull))
        layout.slurm_conf.write_text(config.slurm_conf(settings, layout))
        (layout.folder / "gres.conf").write_text(config.gres_conf(settings, layout))
        (layout.folder / "cgroup.conf").write_text(config.cgroup_conf(settings))
        _write_private(layout.folder / "slurmdbd.conf", config.slurmdbd_conf(settings, layout).encode())
        layout.profile.write_text(config.cluster_profile(settings, layout))
        layout.settings.write_text(json.dumps(settings.to_dict(), indent=2) + "\n")

    def _settings(self) -> Settings | None:
        try:
            return Settings.from_dict(json.loads(self.layout.settings.read_text()))
        except FileNotFoundError:
            return None

    def _running_settings(self) -> Settings | None:
        settings = self._settings()
        if settings is None or not set(_central_daemons(settings)) <= self._daemons.all().keys():
            return None
        return settings

    def _running_or_fail(self) -> Settings:
        settings = self._running_settings()
        if settings is None:
            raise LauncherError(
                f"devcluster: no cluster runs in `{self.layout.folder}`; start one with `launcher devcluster up`"
            )
        return settings

    def _check_node(self, name: str) -> None:
        names = self._running_or_fail().node_names
        if name not in names:
            raise LauncherError(f"devcluster: no node `{name}`; write one of {', '.join(names)}")

    def _check_folder(self) -> None:
        folder = self.layout.folder
        if self.layout.settings.exists() or not folder.exists():
            return
        if any(path.name != "lock" for path in folder.iterdir()):
            raise LauncherError(
                f"--dir: `{folder}` holds other files; give an empty folder or one that does not exist yet"
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.layout.folder.mkdir(parents=True, exist_ok=True)
        with open(self.layout.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _succeeds(self, *argv: str) -> bool:
        return subprocess.run(argv, env=self.environment(), capture_output=True, check=False).returncode == 0

    def _node_states(self) -> dict[str, str]:
        rows = self.slurm("sinfo", "--noheader", "--Node", f"--partition={config.LOW_PARTITION}", "--format=%N %T")
        return dict(row.split() for row in rows.splitlines())

    def _is_ready(self, name: str) -> bool:
        return self._node_states().get(name) in READY_STATES

    def _nodes_held(self, job: str | None) -> list[str]:
        chosen = [f"--jobs={job}"] if job else [f"--partition={config.LOW_PARTITION}"]
        held = self.slurm("squeue", "--noheader", "--states=RUNNING", "--format=%N", *chosen).split()
        if not held:
            return []
        return sorted(set(self.slurm("scontrol", "show", "hostnames", ",".join(held)).split()))


def _central_daemons(settings: Settings) -> list[str]:
    accounting = ["mariadbd", "slurmdbd"] if settings.shape.accounting else []
    return ["munged", *accounting, "slurmctld"]


def _names(settings: Settings) -> list[str]:
    return _central_daemons(settings) + [f"slurmd-{name}" for name in settings.node_names]


def _new_settings(shape: Shape) -> Settings:
    hostname = socket.gethostname().split(".")[0]
    address, is_own = _loopback_address(hostname)
    ports = _free_ports(shape.nodes + 2, address)
    return Settings(
        shape=shape,
        version=daemons.slurm_version(),
        user=pwd.getpwuid(os.geteuid()).pw_name,
        hostname=hostname,
        address=address,
        binds_to_address=is_own,
        controller_port=ports[0],
        database_port=ports[1],
        node_ports=tuple(ports[2:]),
    )


def _loopback_address(hostname: str) -> tuple[str, bool]:
    # Debian gives a machine's own name 127.0.1.1. A name that means an outside address must not become ours.
    with contextlib.suppress(OSError):
        address = socket.gethostbyname(hostname)
        if address.startswith("127."):
            return address, True
    return "127.0.0.1", False


def _free_ports(count: int, address: str) -> list[int]:
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for port in random.sample(config.DAEMON_PORTS, len(config.DAEMON_PORTS)):
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((address, port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise LauncherError(
        f"devcluster: fewer than {count} free ports in {config.DAEMON_PORTS.start}..{config.DAEMON_PORTS.stop}"
    )


def _write_private(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


def _point(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
