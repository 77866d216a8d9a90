"""What a dev cluster takes from the machine: installed programs, their version, a user, addresses and free ports."""

import contextlib
import os
import pwd
import random
import re
import shutil
import socket
import subprocess

from launcher.devcluster.config import DAEMON_PORTS, Settings, Shape
from launcher.errors import LauncherError

# Where daemons live on systems whose ordinary users do not have these folders in PATH.
SBIN_FOLDERS = "/usr/sbin:/sbin:/usr/local/sbin"

# program -> (Debian and Ubuntu package, Fedora and EPEL package)
PACKAGES = {
    "munged": ("munge", "munge"),
    "slurmctld": ("slurmctld", "slurm-slurmctld"),
    "slurmd": ("slurmd", "slurm-slurmd"),
    "sbatch": ("slurm-client", "slurm"),
    "slurmdbd": ("slurmdbd", "slurm-slurmdbd"),
    "mariadbd": ("mariadb-server", "mariadb-server"),
    "mariadb-install-db": ("mariadb-server", "mariadb-server"),
}
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db")


def program(name: str) -> str | None:
    """Return the path of a program, looked up in PATH and in the folders of system daemons."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN_FOLDERS}")


def missing_programs(accounting: bool) -> list[str]:
    """Return the programs that a dev cluster needs and this machine lacks."""
    needed = [name for name in PACKAGES if accounting or name not in ACCOUNTING_PROGRAMS]
    return [name for name in needed if program(name) is None]


def check_programs(accounting: bool) -> None:
    """Refuse to start when programs are missing.

    Raises:
        LauncherError: naming the packages to install.
    """
    missing = missing_programs(accounting)
    if missing:
        debian = " ".join(dict.fromkeys(PACKAGES[name][0] for name in missing))
        fedora = " ".join(dict.fromkeys(PACKAGES[name][1] for name in missing))
        raise LauncherError(
            f"devcluster: {', '.join(f'`{name}`' for name in missing)} not found; install it with"
            f" `apt-get install {debian}` (Debian, Ubuntu) or `dnf install {fedora}` (Fedora, EPEL)"
        )


def slurm_version() -> tuple[int, int]:
    """Return the release of the installed Slurm, such as (22, 5)."""
    argv = [program("slurmctld") or "slurmctld", "-V"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    match = re.search(r"(\d+)\.(\d+)", done.stdout)
    if done.returncode or match is None:
        printed = f"{done.stdout}{done.stderr}".strip()
        raise LauncherError(f"devcluster: `slurmctld -V` printed no version: `{printed}`")
    return int(match[1]), int(match[2])


def new_settings(shape: Shape) -> Settings:
    """Choose the settings of a cluster of this shape: whose it is, its addresses, and ports that are free now."""
    hostname = socket.gethostname().split(".")[0]
    address, is_own = _loopback_address(hostname)
    ports = _free_ports(shape.nodes + 2, address)
    return Settings(
        shape=shape,
        version=slurm_version(),
        user=_user_name(),
        hostname=hostname,
        address=address,
        binds_to_address=is_own,
        controller_port=ports[0],
        database_port=ports[1],
        node_ports=tuple(ports[2:]),
    )


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise LauncherError(f"devcluster: user {os.geteuid()} has no name here, which Slurm needs; add one") from None


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
        for port in random.SystemRandom().sample(DAEMON_PORTS, len(DAEMON_PORTS)):  # whatever was seeded
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((address, port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise LauncherError(f"devcluster: fewer than {count} free ports in {DAEMON_PORTS.start}..{DAEMON_PORTS.stop}")
