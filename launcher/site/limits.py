"""What `launcher doctor` asks Slurm beyond `launcher init`: qualities of service, associations, features, sacct.

Many sites answer only some of it, so a question without an answer is None, not an error.
"""

from dataclasses import dataclass, field

from launcher.cluster import Cluster
from launcher.site.partitions import Site, ask_site
from launcher.slurm import site_query
from launcher.slurm.parse import parse_seconds


@dataclass(frozen=True)
class Qos:
    """A quality of service."""

    name: str
    grace_seconds: int
    preempt_mode: str
    """`cluster`: the site's."""
    preempts: tuple[str, ...]
    """Qualities of service whose jobs may be preempted for this one's."""
    max_submit: int | None
    """Jobs that one user may have queued and running."""


@dataclass(frozen=True)
class Association:
    """One way in which the user may charge jobs."""

    account: str
    partition: str
    """Empty: all."""
    qos: tuple[str, ...]
    default_qos: str
    max_submit: int | None

    def is_of(self, account: str | None) -> bool:
        """Tell whether it charges an account, which Slurm takes in capitals, too; all do if none is named."""
        return account is None or self.account.casefold() == account.casefold()


@dataclass(frozen=True)
class SlurmReport:
    """What one site's Slurm reports and a profile depends on."""

    site: Site
    features: dict[str, frozenset[str]] = field(default_factory=dict)
    """Features of the nodes, by partition."""
    node_addresses: frozenset[str] = frozenset()
    qos: tuple[Qos, ...] | None = None
    """None: accounting does not tell."""
    associations: tuple[Association, ...] | None = None
    """The user's; None: accounting does not tell."""
    reservation: str | None = None
    """What Slurm says of the profile's reservation; None: there is no such."""
    sacct_complaint: str | None = None
    """Why sacct does not answer; None: it does."""

    def associations_of(self, cluster: Cluster) -> list[Association]:
        """List the associations that a profile's jobs can fall under."""
        account = cluster.slurm.account or self.site.account
        return [one for one in self.associations or () if one.is_of(account)]

    def qos_of(self, cluster: Cluster) -> str:
        """Name the QOS of a profile's jobs, as the site writes it: its own, else the user's default, else Slurm's."""
        defaults = [one.default_qos for one in self.associations_of(cluster) if one.default_qos]
        name = cluster.slurm.qos or (defaults[0] if defaults else "normal")
        return next((qos.name for qos in self.qos or () if qos.name.casefold() == name.casefold()), name)


def ask_slurm(cluster: Cluster) -> SlurmReport:
    """Ask a site's Slurm all that can be known without queueing anything.

    Raises:
        SlurmError: Slurm's commands are not installed, or it does not answer.
    """
    site = ask_site(cluster)
    nodes = site_query.list_nodes(cluster)
    qos = site_query.list_qos(cluster) if site.has_accounting else None
    associations = site_query.list_associations(cluster) if site.has_accounting else None
    reservation = cluster.slurm.reservation
    return SlurmReport(
        site=site,
        features=parse_features(nodes),
        node_addresses=frozenset(line.split("|")[2].strip() for line in nodes.splitlines() if line.count("|") == 2),
        qos=None if qos is None else parse_qos(qos),
        associations=None if associations is None else parse_associations(associations),
        reservation=site_query.show_reservation(cluster, reservation) if reservation else None,
        sacct_complaint=site_query.sacct_complaint(cluster),
    )


def parse_features(text: str) -> dict[str, frozenset[str]]:
    """Parse sinfo's lines in NODES_FORMAT: the features of each partition's nodes."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        partition, mark, rest = line.partition("|")
        names = rest.partition("|")[0].strip()
        if mark:
            found.setdefault(partition.strip(), set()).update(names.split(",") if names != "(null)" else ())
    return {partition: frozenset(names) for partition, names in found.items()}


def parse_qos(text: str) -> tuple[Qos, ...]:
    """Parse sacctmgr's lines of QOS_FIELDS."""
    rows = (line.split("|") for line in text.splitlines() if line.count("|") == 4)
    return tuple(
        Qos(name, parse_seconds(grace), mode or "cluster", _words(preempts), int(limit) if limit else None)
        for name, grace, mode, preempts, limit in rows
    )


def parse_associations(text: str) -> tuple[Association, ...]:
    """Parse sacctmgr's lines of ASSOCIATION_FIELDS."""
    rows = (line.split("|") for line in text.splitlines() if line.count("|") == 4)
    return tuple(
        Association(account, partition, _words(qos), default, int(limit) if limit else None)
        for account, partition, qos, default, limit in rows
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.strip().split(",") if word)
