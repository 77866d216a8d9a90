"""What a partition can never start, said before it waits there forever. Asks Slurm once; silent if it cannot tell."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from launcher.cluster import Cluster
from launcher.errors import Fault, SlurmError
from launcher.load import LoadedRecipe
from launcher.recipe.sections.common import Resources
from launcher.run.slurm_text import parse_fields, parse_gres
from launcher.slurm.parse import parse_seconds
from launcher.slurm.site_query import list_partition_limits, list_qos_flags, show_partitions


@dataclass
class PartitionLimits:
    """What a partition allows one job, and the nodes it has."""

    name: str
    is_default: bool
    max_seconds: int | None
    """None: no limit."""
    max_nodes: int | None
    """None: no limit."""
    nodes: list[tuple[int, str]] = field(default_factory=list)
    """How many nodes have which gres."""

    def count_nodes(self, gpus: int = 0, kind: str | None = None) -> int:
        """Count the nodes with at least so many GPUs of a type."""
        return sum(count for count, gres in self.nodes if self._most(gres, kind) >= gpus)

    def most_gpus(self, kind: str | None = None) -> int:
        """Say how many GPUs of a type the best node has."""
        return max((self._most(gres, kind) for _, gres in self.nodes), default=0)

    @staticmethod
    def _most(gres: str, kind: str | None) -> int:
        return sum(count for name, count in parse_gres(gres) if kind in (None, name))


def find_unstartable(loaded: Sequence[LoadedRecipe], cluster: Cluster) -> list[tuple[LoadedRecipe, Fault]]:
    """Find recipes that want more than any of the profile's partitions can ever give; empty if Slurm does not tell.

    Returns:
        The faults, each with the recipe.
    """
    if cluster.executor != "slurm":
        return []
    try:
        known = parse_partition_limits(list_partition_limits(cluster, cluster.slurm.partition))
    except SlurmError:
        return []
    partitions = [one for one in known if cluster.slurm.partition or one.is_default]
    return [
        (item, item.place(Fault(item.recipe.name, None, key, message, "site-limit")))
        for item in loaded
        for key, message in _judge(item.recipe.resources, partitions, cluster)
    ]


def parse_partition_limits(text: str) -> list[PartitionLimits]:
    """Parse sinfo's lines in PARTITION_LIMITS_FORMAT."""
    found: dict[str, PartitionLimits] = {}
    for row in (line.split("|") for line in text.splitlines() if line.count("|") == 4):
        name, time, sizes, count, gres = (word.strip() for word in row)
        seconds = None if time in ("infinite", "n/a") else parse_seconds(time)
        most = re.search(r"(\d+)$", sizes)
        limits = PartitionLimits(name.rstrip("*"), name.endswith("*"), seconds, int(most[1]) if most else None)
        found.setdefault(limits.name, limits).nodes.append((int(count), gres))
    return [*found.values()]


_Judge = Callable[[Resources, PartitionLimits, Cluster], str | None]


def _judge(wanted: Resources, partitions: Sequence[PartitionLimits], cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Give the key and what is wrong with it; a job for several partitions needs one that takes it."""
    checks: tuple[tuple[str, _Judge], ...] = (
        ("resources.time", _too_long),
        ("resources.gpus_per_node", _too_many_gpus),
        ("resources.nodes", _too_many_nodes),
    )
    for key, check in checks:
        complaints = [check(wanted, partition, cluster) for partition in partitions]
        if complaints and complaints[0] and all(complaints):
            yield key, complaints[0]


def _too_long(wanted: Resources, partition: PartitionLimits, cluster: Cluster) -> str | None:
    limit = partition.max_seconds
    if limit is None or wanted.time.seconds <= limit or _is_lifted("PartitionTimeLimit", cluster):
        return None
    longer = "" if cluster.slurm.requeue == "never" else " (a run that takes longer is requeued and continues)"
    return (
        f"`{wanted.time}` is more than partition `{partition.name}` allows; write at most `{_duration(limit)}`{longer} "
        "or another `slurm.partition` in the profile"
    )


def _too_many_gpus(wanted: Resources, partition: PartitionLimits, cluster: Cluster) -> str | None:
    kind = cluster.gpus.type
    has = partition.most_gpus(kind)
    if wanted.gpus_per_node <= has or _has_hidden_nodes(partition, cluster):
        return None
    name = f"`{kind}` GPUs" if kind else "GPUs"
    best = f"at most {has} {name}" if has else f"no {name}"
    fix = f"write at most {has}, and more `nodes`, or" if has else "write"
    return (
        f"{wanted.gpus_per_node} are more than a node of partition `{partition.name}` has ({best}); {fix} another "
        "`slurm.partition` or `gpus.type` in the profile"
    )


def _too_many_nodes(wanted: Resources, partition: PartitionLimits, cluster: Cluster) -> str | None:
    # More GPUs than any node has are a fault of their own.
    gpus = min(wanted.gpus_per_node, partition.most_gpus(cluster.gpus.type))
    has = partition.count_nodes(gpus, cluster.gpus.type)
    allowed = partition.max_nodes
    fix = "or another `slurm.partition` in the profile"
    if wanted.nodes > has and not _has_hidden_nodes(partition, cluster):
        such = f" with {gpus} GPUs" if gpus else ""
        return f"partition `{partition.name}` has {has} nodes{such}, not {wanted.nodes}; write at most {has}, {fix}"
    if allowed is None or wanted.nodes <= allowed or _is_lifted("PartitionMaxNodes", cluster):
        return None
    return f"partition `{partition.name}` allows {allowed} nodes a job, not {wanted.nodes}; write at most that, {fix}"


def _duration(seconds: int) -> str:
    """Write a limit as recipes do: `1d12h`."""
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    counted = ((days, "d"), (hours, "h"), (rest // 60, "min"), (rest % 60, "s"))
    return "".join(f"{count}{unit}" for count, unit in counted if count)


def _has_hidden_nodes(partition: PartitionLimits, cluster: Cluster) -> bool:
    """Tell whether sinfo left nodes out, as it does with those of a cloud that are switched off."""
    try:
        rows = [parse_fields(line) for line in show_partitions(cluster).splitlines()]
    except SlurmError:
        return True
    totals = [int(row["TotalNodes"]) for row in rows if row.get("PartitionName") == partition.name]
    return totals != [partition.count_nodes()]


def _is_lifted(flag: str, cluster: Cluster) -> bool:
    """Tell whether a quality of service may lift a partition's limit; asked only before a recipe is refused."""
    said = list_qos_flags(cluster)
    if said is None:
        return cluster.slurm.qos is not None
    rows = [line.split("|") for line in said.splitlines() if line.count("|") == 1]
    qos = (cluster.slurm.qos or "").casefold()
    return any(flag in flags.split(",") for name, flags in rows if qos in ("", name.casefold()))
