"""How many jobs a user may have queued, and how many more there is room for."""

import re
from dataclasses import dataclass

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.slurm.site_query import count_queued, default_account, list_associations, list_qos

_EXCEEDED = re.compile(r"(Max|Grp)SubmitJob")
"""In what sbatch says: AssocMaxSubmitJobLimit, QOSMaxSubmitJobPerUserLimit, AssocGrpSubmitJobsLimit and their like."""


@dataclass(frozen=True)
class SubmitLimit:
    """Limits count each element of an array, waiting or running."""

    most: int
    queued: int

    @property
    def room(self) -> int:
        """How many more may be queued."""
        return max(0, self.most - self.queued)


def is_exceeded(error: SlurmError) -> bool:
    """Tell whether sbatch refused a job because the user has too many."""
    return bool(_EXCEEDED.search(str(error)))


def read_submit_limit(cluster: Cluster) -> SubmitLimit | None:
    """Ask for the limit of a profile's jobs; None if accounting sets none, or does not tell."""
    from launcher.site.limits import parse_associations, parse_qos

    associations = parse_associations(list_associations(cluster) or "")
    account = cluster.slurm.account or default_account(cluster)
    mine = [
        one
        for one in associations
        if one.is_of(account) and (not one.partition or one.partition == cluster.slurm.partition)
    ]
    qos = cluster.slurm.qos or next((one.default_qos for one in mine if one.default_qos), "normal")
    limits = [one.max_submit for one in mine]
    limits += [one.max_submit for one in parse_qos(list_qos(cluster) or "") if one.name.casefold() == qos.casefold()]
    known = [limit for limit in limits if limit is not None]
    return SubmitLimit(min(known), count_queued(cluster)) if known else None
