"""Nodes that gave trouble lately, and which of them a job is not to be given."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.run.paths import RunDir, expand
from launcher.run.suspects import SuspectNode, find_suspects
from launcher.slurm.parse import parse_gres
from launcher.slurm.site_query import expand_nodes, list_nodes_of


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
    wanted: dict[str, int] = json.loads(run.recipe.read_bytes())["resources"]
    return choose_avoided(cluster, nodes or int(wanted["nodes"]), int(wanted["gpus_per_node"]))


def choose_avoided(cluster: Cluster, nodes: int, gpus: int) -> Avoided:
    """Choose the nodes that a job is not to be given; asks Slurm only if there are suspect ones.

    Args:
        cluster: Where the job goes.
        nodes: How many it needs.
        gpus: How many of each node.
    """
    suspects = [one.node for one in known_suspects(cluster) if one.is_avoided]
    if not suspects or cluster.executor != "slurm":
        return Avoided()
    try:
        excluded = expand_nodes(cluster, cluster.slurm.exclude) if cluster.slurm.exclude else []
        able = nodes_able(list_nodes_of(cluster, cluster.slurm.partition), gpus)
    except SlurmError:  # without knowing what is left, nothing is excluded
        return Avoided(kept=tuple(suspects))
    return choose(suspects, able - {*excluded}, nodes, excluded)


def choose(suspects: Sequence[str], able: set[str], needed: int, excluded: Sequence[str]) -> Avoided:
    """Choose among suspect nodes, the worst first, so that enough others are left.

    Args:
        suspects: The suspect nodes.
        able: Nodes that could take the job.
        needed: How many it needs.
        excluded: What the profile excludes anyway.
    """
    candidates = [node for node in suspects if node in able]
    avoided = candidates[: max(0, len(able) - needed)]
    if not avoided:
        return Avoided(kept=tuple(candidates))
    every = ",".join(dict.fromkeys([*excluded, *avoided]))
    return Avoided(tuple(avoided), (f"--exclude={every}",), tuple(candidates[len(avoided) :]))


def nodes_able(listed: str, gpus: int) -> set[str]:
    """Parse sinfo's lines in NODE_GPUS_FORMAT: which nodes have so many GPUs."""
    rows = [line.strip().split("|") for line in listed.splitlines() if line.count("|") == 1]
    return {name for name, gres in rows if sum(count for _, count in parse_gres(gres)) >= gpus}
