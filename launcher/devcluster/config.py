"""The configuration files of a dev cluster as text: a pure function of one frozen dataclass.

Nothing here touches the disk, the network or Slurm, so every line of the configuration can be tested without a cluster.
The reasons for single settings stand beside them; the options themselves are described in
https://slurm.schedmd.com/slurm.conf.html.
"""

from dataclasses import dataclass
from typing import Any

import yaml

from launcher.devcluster.layout import Layout
from launcher.errors import LauncherError

CPUS_PER_NODE = 16
MEGABYTES_PER_NODE = 16000
GRACE_SECONDS = 10
SLURMD_TIMEOUT_SECONDS = 10
LOW_PARTITION = "preempt"
HIGH_PARTITION = "high"
MAX_NODES = 64
MAX_GPUS = 16

# Both lie below the ephemeral range of Linux (32768..60999), where any outgoing connection may take a port; apart from
# each other, so that no job takes the port of a daemon that is just being restarted.
RENDEZVOUS_PORTS = range(10000, 20000)
DAEMON_PORTS = range(20000, 32000)


@dataclass(frozen=True)
class Shape:
    """What a user chooses about a dev cluster."""

    nodes: int = 4
    gpus: int = 4
    accounting: bool = False

    def check(self) -> None:
        """Refuse sizes that are out of range.

        Raises:
            LauncherError: if the number of nodes or GPUs is out of range.
        """
        if not 1 <= self.nodes <= MAX_NODES:
            raise LauncherError(f"--nodes: {self.nodes} is out of range; write a number from 1 to {MAX_NODES}")
        if not 1 <= self.gpus <= MAX_GPUS:
            raise LauncherError(f"--gpus: {self.gpus} is out of range; write a number from 1 to {MAX_GPUS}")

    def __str__(self) -> str:
        accounting = "with accounting" if self.accounting else "no accounting"
        return f"{self.nodes} nodes x {self.gpus} GPUs, {accounting}"


@dataclass(frozen=True)
class Settings:
    """Everything that the configuration files of one dev cluster depend on."""

    shape: Shape
    version: tuple[int, int]
    user: str
    hostname: str
    address: str
    binds_to_address: bool
    controller_port: int
    node_ports: tuple[int, ...]
    database_port: int

    @property
    def node_names(self) -> tuple[str, ...]:
        """The names of the virtual nodes: a100-01, a100-02, ..."""
        return tuple(f"a100-{number:02d}" for number in range(1, self.shape.nodes + 1))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Settings":
        """Rebuild the settings from `asdict`'s data after a trip through JSON."""
        major, minor = data["version"]
        parsed = {"shape": Shape(**data["shape"]), "version": (major, minor), "node_ports": tuple(data["node_ports"])}
        return cls(**data | parsed)


def slurm_conf(settings: Settings, layout: Layout) -> str:
    """Return the text of slurm.conf."""
    sections = (
        _controller_lines(settings, layout),
        _scheduling_lines(),
        _accounting_lines(settings, layout),
        _node_lines(settings),
        _partition_lines(),
    )
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _controller_lines(settings: Settings, layout: Layout) -> list[str]:
    # cred_expire also sets how long a requeued job waits: cred_expire + 1 s instead of 120 s.
    # MailProg: a dev cluster must not send real mail for jobs that ask for `--mail-type`.
    lines = [
        "ClusterName=dev",
        f"SlurmctldHost={settings.hostname}({settings.address})",
        f"SlurmctldPort={settings.controller_port}",
        f"SlurmUser={settings.user}",
        f"SlurmdUser={settings.user}",
        f"AuthInfo=socket={layout.munge_socket},cred_expire=5",
        f"StateSaveLocation={layout.state}",
        f"SlurmdSpoolDir={layout.spool}/%n",
        f"SlurmctldPidFile={layout.processes}/slurmctld.pid",
        f"SlurmdPidFile={layout.processes}/slurmd-%n.pid",
        f"SlurmctldLogFile={layout.logs}/slurmctld.log",
        f"SlurmdLogFile={layout.logs}/slurmd-%n.log",
        "MailProg=/bin/true",
        f"TaskProlog={layout.task_prolog}",
        f"SlurmdTimeout={SLURMD_TIMEOUT_SECONDS}",
        "KillWait=5",
        "ReturnToService=2",
    ]
    if settings.binds_to_address:
        # Slurm binds to what the host name means, or to every address of the machine: there is no third choice.
        lines.append("CommunicationParameters=NoCtldInAddrAny,NoInAddrAny")
    return lines


def _scheduling_lines() -> list[str]:
    return [
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0,defer_batch",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "GresTypes=gpu",
        "JobRequeue=1",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "MaxArraySize=1001",
        "MaxJobCount=20000",
        "MinJobAge=3600",  # without accounting there is nobody else to ask how a job ended
    ]


def _accounting_lines(settings: Settings, layout: Layout) -> list[str]:
    if not settings.shape.accounting:
        return ["AccountingStorageType=accounting_storage/none"]
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        f"AccountingStorageHost={settings.address}",
        f"AccountingStoragePort={settings.database_port}",
        # Slurm's name for the munge socket towards slurmdbd; AuthInfo does not reach that connection.
        f"AccountingStoragePass={layout.munge_socket}",
        "AccountingStorageTRES=gres/gpu",
        "JobAcctGatherType=jobacct_gather/linux",
    ]


def _node_lines(settings: Settings) -> list[str]:
    # config_overrides lets a node claim more CPUs, memory and GPUs than the machine has.
    return ["SlurmdParameters=config_overrides"] + [
        f"NodeName={name} NodeHostname={settings.hostname} NodeAddr={settings.address} Port={port}"
        f" CPUs={CPUS_PER_NODE} RealMemory={MEGABYTES_PER_NODE} Gres=gpu:a100:{settings.shape.gpus} State=UNKNOWN"
        for name, port in zip(settings.node_names, settings.node_ports, strict=True)
    ]


def _partition_lines() -> list[str]:
    common = "Nodes=ALL MaxTime=INFINITE State=UP"
    return [
        f"PartitionName={LOW_PARTITION} {common} Default=YES PriorityTier=1 PreemptMode=REQUEUE"
        f" GraceTime={GRACE_SECONDS}",
        f"PartitionName={HIGH_PARTITION} {common} PriorityTier=10 PreemptMode=OFF",
    ]


def task_prolog(layout: Layout) -> str:
    """Return the script that slurmd runs before each task: `export NAME=VALUE` lines of the node that it is on.

    srun passes its environment on: what is preloaded on the node of a batch script must not reach ranks on other nodes.
    """
    return f"""\
#!/bin/sh
if [ -n "$WRONG_CLOCK" ]; then
    echo "unset LD_PRELOAD"
    echo "unset WRONG_CLOCK"
fi
lines={layout.node_environments}/$SLURMD_NODENAME
[ ! -e "$lines" ] || cat "$lines"
"""


def gres_conf(settings: Settings, layout: Layout) -> str:
    """Return the text of gres.conf: fake GPUs are links to /dev/null."""
    last = settings.shape.gpus - 1
    files = f"{layout.devices}/gpu" + (f"[0-{last}]" if last else "0")
    return f"NodeName={','.join(settings.node_names)} Name=gpu Type=a100 File={files}\n"


def cgroup_conf(settings: Settings) -> str:
    """Return the text of cgroup.conf, which keeps slurmd away from cgroups and systemd.

    `disabled` is known from 24.05 on (https://slurm.schedmd.com/cgroup.conf.html). Before that the cgroup/v1 plugin
    does the same, since it touches nothing until another plugin asks for a controller. Before 22.05 there was no key.
    """
    if settings.version < (22, 5):
        return ""
    return f"CgroupPlugin={'cgroup/v1' if settings.version < (24, 5) else 'disabled'}\n"


def slurmdbd_conf(settings: Settings, layout: Layout) -> str:
    """Return the text of slurmdbd.conf; `localhost` makes it use MariaDB's socket, where no password is needed."""
    lines = [
        f"AuthInfo=socket={layout.munge_socket}",
        f"DbdHost={settings.hostname}",
        f"DbdAddr={settings.address}",
        f"DbdPort={settings.database_port}",
        f"SlurmUser={settings.user}",
        f"LogFile={layout.logs}/slurmdbd.log",
        f"PidFile={layout.processes}/slurmdbd.pid",
        "StorageType=accounting_storage/mysql",
        "StorageHost=localhost",
        f"StorageUser={settings.user}",
        "StorageLoc=slurm_acct_db",
        "CommunicationParameters=NoInAddrAny",
    ]
    return "\n".join(lines) + "\n"


def cluster_profile(settings: Settings, layout: Layout) -> str:
    """Return the text of the cluster profile: tasks train on CPUs, since the GPUs are only Slurm's idea."""
    slurm = {"conf": str(layout.slurm_conf), "partition": LOW_PARTITION, "lead": "60s"}
    profile = {
        "name": "dev",
        "slurm": {**slurm, "port_range": [RENDEZVOUS_PORTS.start, RENDEZVOUS_PORTS.stop - 1]},
        "roots": {folder.name: str(folder) for folder in layout.user_folders},
        "gpus": {"style": "gres", "type": "a100", "per_node": settings.shape.gpus, "memory": "80GB", "device": "cpu"},
    }
    return yaml.safe_dump(profile, sort_keys=False)
