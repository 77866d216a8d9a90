"""What to ask a site's Slurm about itself. Returns what its commands print; `launcher.site` reads it."""

import shutil
from collections.abc import Sequence

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.run.able_nodes import NODE_LINES_FORMAT
from launcher.run.home import user_name
from launcher.slurm.command import TIMEOUT_SECONDS, complaint, run_slurm

GPU_NODES_FORMAT = "%R|%G|%D"
NODES_FORMAT = "%R|%f|%o"
PARTITION_LIMITS_FORMAT = "%P|%l|%s|%D|%G"
QOS_FIELDS = "name,gracetime,preemptmode,preempt,maxsubmitjobsperuser"
ASSOCIATION_FIELDS = "account,partition,qos,defaultqos,maxsubmitjobs"

_SACCTMGR = ("sacctmgr", "--noheader", "--parsable2", "show")


def has_slurm() -> bool:
    """Tell whether Slurm's commands are on PATH."""
    return shutil.which("scontrol") is not None


def show_config(cluster: Cluster) -> str:
    """Print the site's configuration."""
    return run_slurm(["scontrol", "show", "config"], cluster)


def show_partitions(cluster: Cluster) -> str:
    """Print all partitions, a line each, hidden ones as well."""
    return run_slurm(["scontrol", "show", "partition", "--oneliner", "--all"], cluster)


def list_gpu_nodes(cluster: Cluster) -> str:
    """Print how many nodes of a partition have which GPUs, in GPU_NODES_FORMAT."""
    return run_slurm(["sinfo", "--noheader", "--all", f"--format={GPU_NODES_FORMAT}"], cluster)


def list_partition_limits(cluster: Cluster, partitions: str | None) -> str:
    """Print the limits and the nodes of partitions, of all if none are named, in PARTITION_LIMITS_FORMAT."""
    chosen = f"--partition={partitions}" if partitions else "--all"
    return run_slurm(["sinfo", "--noheader", chosen, f"--format={PARTITION_LIMITS_FORMAT}"], cluster, TIMEOUT_SECONDS)


def list_nodes(cluster: Cluster) -> str:
    """Print the features and the address of each node, in NODES_FORMAT."""
    return run_slurm(["sinfo", "--noheader", "--Node", "--all", f"--format={NODES_FORMAT}"], cluster)


def list_nodes_of(cluster: Cluster, partitions: str | None) -> str:
    """Print the nodes of partitions, of all if none are named, in NODE_LINES_FORMAT: a line for each partition."""
    chosen = f"--partition={partitions}" if partitions else "--all"
    argv = ["sinfo", "--noheader", "--Node", chosen, f"--format={NODE_LINES_FORMAT}"]
    return run_slurm(argv, cluster, TIMEOUT_SECONDS)


def expand_nodes(cluster: Cluster, nodes: str) -> list[str]:
    """Name the nodes of a list such as `gpu[03,07]`."""
    return run_slurm(["scontrol", "show", "hostnames", nodes], cluster, TIMEOUT_SECONDS).split()


def default_account(cluster: Cluster) -> str | None:
    """Name the user's default account; None when accounting does not tell."""
    return _ask([*_SACCTMGR, "user", user_name(), "format=defaultaccount"], cluster)


def list_qos(cluster: Cluster) -> str | None:
    """Print QOS_FIELDS of all qualities of service; None when accounting does not tell."""
    return _ask([*_SACCTMGR, "qos", f"format={QOS_FIELDS}"], cluster)


def list_qos_flags(cluster: Cluster) -> str | None:
    """Print `NAME|FLAGS` of all qualities of service; None when accounting does not tell."""
    return _ask([*_SACCTMGR, "qos", "format=name,flags"], cluster)


def list_associations(cluster: Cluster) -> str | None:
    """Print ASSOCIATION_FIELDS of the user; None when accounting does not tell."""
    return _ask([*_SACCTMGR, "associations", f"user={user_name()}", f"format={ASSOCIATION_FIELDS}"], cluster)


def count_queued(cluster: Cluster) -> int:
    """Count the user's jobs that wait or run, each element of an array."""
    argv = ["squeue", "--me", "--all", "--array", "--noheader", "--format=%i"]
    return len(run_slurm(argv, cluster, TIMEOUT_SECONDS).split())


def show_reservation(cluster: Cluster, name: str) -> str | None:
    """Print a reservation; None if there is no such."""
    return _ask(["scontrol", "show", "reservation", "--oneliner", name], cluster)


def sacct_complaint(cluster: Cluster) -> str | None:
    """Say why sacct does not answer; None if it does."""
    try:
        run_slurm(["sacct", "--allocations", "--noheader", "--starttime=now"], cluster, TIMEOUT_SECONDS)
    except SlurmError as error:
        return complaint(error)
    return None


def _ask(argv: Sequence[str], cluster: Cluster) -> str | None:
    try:
        return run_slurm(argv, cluster, TIMEOUT_SECONDS)
    except SlurmError:
        return None
