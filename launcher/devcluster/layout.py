"""Where a dev cluster keeps its files."""

from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError

# The longest socket path that Linux takes: sizeof(sockaddr_un.sun_path) less the final NUL (man 7 unix).
SOCKET_PATH_BYTES = 107
SHORT_FOLDER = "/tmp/$USER-devcluster"  # noqa: S108 - what messages propose; only its user can enter it


@dataclass(frozen=True)
class Layout:
    """Where a dev cluster keeps its files: the one place that spells their names."""

    folder: Path

    @property
    def settings(self) -> Path:
        """The chosen shape, addresses and ports."""
        return self.folder / "settings.json"

    @property
    def slurm_conf(self) -> Path:
        """What every Slurm command of this cluster reads."""
        return self.folder / "slurm.conf"

    @property
    def profile(self) -> Path:
        """The cluster profile that `launcher submit` reads."""
        return self.folder / "cluster.yaml"

    @property
    def munge_key(self) -> Path:
        """The shared secret of the cluster's own munge."""
        return self.folder / "munge" / "key"

    @property
    def munge_socket(self) -> Path:
        """Where Slurm's commands and daemons meet munged."""
        return self.folder / "munge" / "socket"

    @property
    def database_socket(self) -> Path:
        """Where slurmdbd meets MariaDB, which has no port at all."""
        return self.folder / "database" / "socket"

    @property
    def database(self) -> Path:
        """MariaDB's data."""
        return self.folder / "database" / "data"

    @property
    def state(self) -> Path:
        """What slurmctld remembers from one start to the next."""
        return self.folder / "state"

    @property
    def devices(self) -> Path:
        """The fake GPUs."""
        return self.folder / "dev"

    @property
    def lock(self) -> Path:
        """Held by the command that starts or ends the cluster."""
        return self.folder / "lock"

    @property
    def logs(self) -> Path:
        """Logs of all daemons."""
        return self.folder / "logs"

    @property
    def processes(self) -> Path:
        """Who was started: one record a daemon."""
        return self.folder / "processes"

    @property
    def task_prolog(self) -> Path:
        """The script whose output changes the environment of what starts on a node."""
        return self.folder / "task-prolog"

    @property
    def node_environments(self) -> Path:
        """What that script prints: a file for each node that is to be different."""
        return self.folder / "node-environments"

    @property
    def spool(self) -> Path:
        """One folder a node, for its slurmd and job steps."""
        return self.folder / "spool"

    @property
    def user_folders(self) -> tuple[Path, ...]:
        """The folders that the cluster profile points to."""
        return tuple(self.folder / name for name in ("runs", "data", "corpora", "models"))

    def check_socket_paths(self) -> None:
        """Refuse a folder so deep that a socket inside it could not be opened.

        slurmstepd opens `spool/NODE/NODE_JOB.STEP`, with ten digits for the step of a batch script.

        Raises:
            LauncherError: if the longest socket path does not fit.
        """
        step_socket = self.spool / "a100-01" / "a100-01_10000000.4294967291"
        longest = max((self.munge_socket, self.database_socket, step_socket), key=lambda path: len(bytes(path)))
        surplus = len(bytes(longest)) - SOCKET_PATH_BYTES
        if surplus > 0:
            raise LauncherError(
                f"--dir: `{self.folder}` is {surplus} bytes too long: the socket `{longest}` would exceed the"
                f" {SOCKET_PATH_BYTES} bytes that Linux allows; give a shorter --dir, such as {SHORT_FOLDER}"
            )
