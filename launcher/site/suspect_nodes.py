"""Nodes that gave trouble lately, and which of them a job is not to be given."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.recipe.sections.common import Resources
from launcher.run.able_nodes import UnknownNodesError
from launcher.run.paths import RunDir, expand
from launcher.run.suspects import SuspectNode, find_suspects
from launcher.site.able_nodes import find_able
from launcher.slurm.site_query import expand_nodes


@dataclass(frozen=True)
class Avoided:
    """Nodes that a job does not ask for, and what sbatch is told."""

    nodes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """Of sbatch."""
    kept: tuple[str, ...] = ()
    """Suspect nodes that it may get nevertheless, since too few others could take it."""


def known_suspects(cluster: Cluster) -> list[SuspectNode]:
    """Find the nodes that something was reported of lately; none where the profile remembers nothing."""
    if cluster.slurm.remember is None:
        return []
    return find_suspects(expand(cluster.roots.runs), cluster.slurm.remember.seconds)


def avoid_suspects(cluster: Cluster, run: RunDir, nodes: int | None = None) -> Avoided:
    """Choose the nodes that the job of a run is not to be given.

    Args:
        cluster: Where the job goes.
        run: One of the runs that it carries out; all want the same of Slurm.
        nodes: How many it needs; as many as the recipe says if left out.
    """
    wanted = json.loads(run.recipe.read_bytes())["resources"]
    # Another version may have had further keys.
    known = {key: value for key, value in wanted.items() if key in Resources.model_fields}
    return choose_avoided(cluster, Resources.model_validate_json(json.dumps(known)), nodes)


def choose_avoided(cluster: Cluster, wanted: Resources, nodes: int | None = None) -> Avoided:
    """Choose the nodes that a job is not to be given; asks Slurm only if there are suspect ones.

    Args:
        cluster: Where the job goes.
        wanted: What it asks for.
        nodes: How many nodes it needs, if not as many as it asks for there.
    """
    suspects = [one.node for one in known_suspects(cluster) if one.is_avoided]
    if not suspects or cluster.executor != "slurm":
        return Avoided()
    try:
        excluded = expand_nodes(cluster, cluster.slurm.exclude) if cluster.slurm.exclude else []
        able = [its - {*excluded} for its in find_able(cluster, wanted)]
    except (SlurmError, UnknownNodesError):  # without knowing what is left, nothing is excluded
        return Avoided(kept=tuple(suspects))
    return choose(suspects, able, nodes or wanted.nodes, excluded)


def choose(suspects: Sequence[str], able: Sequence[set[str]], needed: int, excluded: Sequence[str]) -> Avoided:
    """Choose among suspect nodes, the worst first, so that enough others are left in one partition.

    Args:
        suspects: The suspect nodes.
        able: Nodes that could take the job, for each partition that it may go to.
        needed: How many it needs.
        excluded: What the profile excludes anyway.
    """
    largest = max(able, key=len, default=set[str]())
    spare = len(largest) - needed
    avoided: list[str] = []
    kept: list[str] = []
    for node in (one for one in suspects if any(one in its for its in able)):
        is_spare = spare > 0 if node in largest else spare >= 0
        spare -= is_spare and node in largest
        (avoided if is_spare else kept).append(node)
    if not avoided:
        return Avoided(kept=tuple(kept))
    every = ",".join(dict.fromkeys([*excluded, *avoided]))
    return Avoided(tuple(avoided), (f"--exclude={every}",), tuple(kept))
