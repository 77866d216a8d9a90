"""Which nodes of a site can take a job that is about to be queued."""

from launcher.cluster import Cluster
from launcher.recipe.sections.common import Resources
from launcher.run.able_nodes import UnknownNodesError, WantedNode, group_able, parse_nodes
from launcher.run.slurm_text import parse_fields
from launcher.slurm.site_query import expand_nodes, list_nodes_of, show_reservation

_PLACING = ("nodelist", "nodefile")
"""Options of sbatch that name nodes; how many are left of those cannot be told here."""


def find_able(cluster: Cluster, resources: Resources) -> list[set[str]]:
    """Find the nodes that can take a job, for each partition that it may go to.

    Args:
        cluster: Where it goes.
        resources: What it wants.

    Raises:
        SlurmError: Slurm does not tell.
        UnknownNodesError: What it tells does not say it all.
    """
    slurm = cluster.slurm
    if placed := [name for name in _PLACING if name in slurm.options]:
        raise UnknownNodesError(f"the profile has `slurm.options.{placed[0]}`")
    reserved = _reserved(cluster, slurm.reservation) if slurm.reservation else None
    wanted = WantedNode(
        resources.gpus_per_node,
        resources.cpus_per_task * resources.ranks_per_node,
        -(-resources.memory.bytes // 2**20) if resources.memory else 0,
        cluster.gpus.type,
        slurm.constraint,
        reserved is not None,
    )
    nodes = parse_nodes(list_nodes_of(cluster, slurm.partition))
    able = group_able(nodes, wanted, only_default=slurm.partition is None)
    return able if reserved is None else [its & reserved for its in able]


def _reserved(cluster: Cluster, name: str) -> set[str]:
    nodes = parse_fields(show_reservation(cluster, name) or "").get("Nodes", "(null)")
    if nodes == "(null)":
        raise UnknownNodesError(f"reservation `{name}`")
    return {*expand_nodes(cluster, nodes)}
