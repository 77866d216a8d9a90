"""What a site's Slurm says of itself, as `launcher init` and `doctor` need it. Parsing is pure; one function asks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from launcher.cluster import Cluster, Roots
from launcher.run.slurm_text import parse_fields, parse_gres
from launcher.slurm import site_query


@dataclass(frozen=True)
class GpuNodes:
    """Nodes of one partition that are alike in GPUs."""

    partition: str
    type: str | None
    per_node: int
    nodes: int

    def __str__(self) -> str:
        return f"{self.nodes} node{'s' * (self.nodes != 1)} of {self.per_node} {self.type or 'GPUs'}"


@dataclass(frozen=True)
class Partition:
    """A partition, as far as a profile depends on it."""

    name: str
    is_default: bool
    max_time: str
    preempt_mode: str
    grace_seconds: int
    priority_tier: int = 1
    """Jobs of a partition may be preempted for those of one with a higher tier."""
    accounts: tuple[str, ...] = ()
    """Accounts that may use it; empty: all."""
    qos: tuple[str, ...] = ()
    """Qualities of service that may be used in it; empty: all."""
    is_hidden: bool = False
    """Whether the site shows it only to those who ask for all: it may not be for everybody."""


@dataclass(frozen=True)
class Site:
    """One site's Slurm."""

    name: str
    version: str
    max_array_size: int
    job_requeue: bool
    kill_wait_seconds: int
    has_accounting: bool
    partitions: tuple[Partition, ...]
    gpu_nodes: tuple[GpuNodes, ...]
    account: str | None = None
    """The user's default account."""
    closed_partitions: tuple[str, ...] = ()
    """Partitions that take no jobs or start none now."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """All of `scontrol show config`."""

    def gpus_of(self, partition: str) -> list[GpuNodes]:
        """The GPU nodes of a partition, the most numerous first."""
        return sorted((gpus for gpus in self.gpu_nodes if gpus.partition == partition), key=lambda gpus: -gpus.nodes)

    @property
    def best_partition(self) -> Partition | None:
        """The default partition if it has GPUs, else the one with most GPU nodes, else the default; no hidden one."""

        def rank(partition: Partition) -> tuple[bool, bool, int]:
            nodes = sum(gpus.nodes for gpus in self.gpus_of(partition.name))
            return nodes > 0, partition.is_default, nodes

        return max(self.shown_partitions, key=rank, default=None)

    @property
    def shown_partitions(self) -> list[Partition]:
        """The partitions that the site shows to everybody."""
        return [partition for partition in self.partitions if not partition.is_hidden]


def ask_site(cluster: Cluster | None = None) -> Site:
    """Ask a site's Slurm.

    Args:
        cluster: The site's profile; without one, the Slurm that this shell's commands talk to.

    Raises:
        SlurmError: Its commands are not installed, or it does not answer.
    """
    cluster = cluster or Cluster(name="unknown", roots=Roots(runs=".", corpora=".", models="."))
    config, partitions = site_query.show_config(cluster), site_query.show_partitions(cluster)
    has_accounting = parse_config(config).get("AccountingStorageType", "").endswith("slurmdbd")
    account = site_query.default_account(cluster) if has_accounting else None
    return parse_site(config, partitions, site_query.list_gpu_nodes(cluster), (account or "").strip() or None)


def parse_site(config: str, partitions: str, nodes: str, account: str | None = None) -> Site:
    """Put together what Slurm's commands printed.

    Args:
        config: `scontrol show config`
        partitions: `scontrol show partition --oneliner --all`
        nodes: `sinfo --noheader --all --format=GPU_NODES_FORMAT`
        account: The user's default account.
    """
    settings = parse_config(config)
    return Site(
        name=settings.get("ClusterName", "cluster"),
        version=settings.get("SLURM_VERSION", "unknown"),
        max_array_size=_leading_number(settings.get("MaxArraySize", "1001")),
        job_requeue=settings.get("JobRequeue", "1") == "1",
        kill_wait_seconds=_leading_number(settings.get("KillWait", "30")),
        has_accounting=settings.get("AccountingStorageType", "").endswith("slurmdbd"),
        partitions=parse_partitions(partitions, settings.get("PreemptMode", "OFF")),
        gpu_nodes=parse_gpu_nodes(nodes),
        account=account,
        closed_partitions=tuple(
            fields["PartitionName"] for fields in _partition_fields(partitions) if not _is_up(fields)
        ),
        settings=settings,
    )


def parse_config(text: str) -> dict[str, str]:
    """Parse the `Key = value` lines of `scontrol show config`."""
    return {key: value.strip() for key, value in re.findall(r"^(\w+)\s*=\s*(.*)$", text, re.MULTILINE)}


def parse_partitions(text: str, site_preempt_mode: str = "OFF") -> tuple[Partition, ...]:
    """Parse `scontrol show partition --oneliner --all`; partitions that are not up are left out."""
    return tuple(
        Partition(
            name=fields["PartitionName"],
            is_default=fields.get("Default") == "YES",
            max_time=fields.get("MaxTime", "UNLIMITED"),
            preempt_mode=fields.get("PreemptMode", site_preempt_mode),
            grace_seconds=_leading_number(fields.get("GraceTime", "0")),
            priority_tier=_leading_number(fields.get("PriorityTier", "1")),
            accounts=_allowed(fields.get("AllowAccounts", "ALL")),
            qos=_allowed(fields.get("AllowQos", "ALL")),
            is_hidden=fields.get("Hidden") == "YES",
        )
        for fields in _partition_fields(text)
        if _is_up(fields)
    )


def _partition_fields(text: str) -> list[dict[str, str]]:
    return [parse_fields(line) for line in text.splitlines() if "PartitionName=" in line]


def _is_up(fields: Mapping[str, str]) -> bool:
    return fields.get("State", "UP") == "UP"


def _allowed(names: str) -> tuple[str, ...]:
    return () if names in ("ALL", "(null)", "") else tuple(names.split(","))


def parse_gpu_nodes(text: str) -> tuple[GpuNodes, ...]:
    """Parse sinfo's lines in GPU_NODES_FORMAT; nodes without GPUs are left out."""
    rows = (line.split("|") for line in text.splitlines() if line.count("|") == 2)
    return tuple(
        GpuNodes(partition.strip(), kind, count, int(nodes))
        for partition, gres, nodes in rows
        for kind, count in parse_gres(gres)
    )


def _leading_number(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0
