"""Which nodes can take a job that goes back into the queue, by what Slurm says of the job and of its partition."""

import re
from collections.abc import Mapping, Sequence

from jobs.batch import slurm
from launcher.run.able_nodes import NODE_LINES_FORMAT, UnknownNodesError, WantedNode, group_able, parse_nodes
from launcher.run.slurm_text import parse_gres

_MEBIBYTES = {"K": 2**-10, "M": 1, "G": 2**10, "T": 2**20, "P": 2**30}


def find_able(shown: Mapping[str, str], given: Sequence[str]) -> list[set[str]]:
    """Find the nodes that can take a job, for each partition that it may go to.

    Args:
        shown: Fields of `scontrol show job`.
        given: The nodes that Slurm gave the job, of all states; they have what it wants.

    Raises:
        UnknownNodesError: Slurm does not tell, or the job wants something that only Slurm understands.
    """
    if "Partition" not in shown:
        raise UnknownNodesError("Slurm does not say what the job wants")
    wanted = wanted_of(shown)
    reserved = _reserved(shown["Reservation"]) if wanted.is_reserved else None
    partition = f"--partition={shown['Partition']}"
    listed = slurm.ask("sinfo", "--noheader", "--Node", partition, f"--format={NODE_LINES_FORMAT}")
    nodes = parse_nodes(listed.text) if listed.ok else []
    if not nodes or not all(node.has(wanted) for node in nodes if node.name in given):
        raise UnknownNodesError("Slurm does not say what the nodes have, or not in the words of the job")
    able = group_able(nodes, wanted, only_default=False)
    return able if reserved is None else [its & reserved for its in able]


def wanted_of(shown: Mapping[str, str]) -> WantedNode:
    """Read what a job wants of each node from the fields of `scontrol show job`.

    Raises:
        UnknownNodesError: It wants GPUs of several types, or not by node.
    """
    gpus = _gpus(shown.get("TresPerNode", ""))
    elsewhere = [name for name in ("TresPerJob", "TresPerSocket", "TresPerTask") if _gpus(shown.get(name, ""))]
    if elsewhere or len(gpus) > 1:
        raise UnknownNodesError(f"`{elsewhere[0] if elsewhere else shown['TresPerNode']}`")
    gpu_type, count = gpus[0] if gpus else (None, 0)
    tasks, cpus_per_task = (_number(shown.get(name, "")) for name in ("NtasksPerN:B:S:C", "CPUs/Task"))
    cpus = max(1, _number(shown.get("MinCPUsNode", "")), tasks * cpus_per_task)
    units = {"MinMemoryNode": 1, "MinMemoryCPU": cpus, "MinMemoryTRES": count}
    mebibytes = sum(number * _mebibytes(shown[name]) for name, number in units.items() if name in shown)
    return WantedNode(count, cpus, mebibytes, gpu_type, shown.get("Features"), "Reservation" in shown)


def _gpus(tres: str) -> Sequence[tuple[str | None, int]]:
    """Parse the GPUs of `gres:gpu:a100:2,gres:nvme:1`; Slurm 24.11 writes `gres/gpu`, some versions only `gpu`."""
    return parse_gres(re.sub(r"\bgres[:/]", "", tres))


def _mebibytes(text: str) -> int:
    """Read `500M` or `1.50T`."""
    found = re.fullmatch(r"([\d.]+)([KMGTP]?)", text)
    return int(float(found[1]) * _MEBIBYTES[found[2] or "M"]) if found else 0


def _number(text: str) -> int:
    found = re.match(r"\d+", text)  # `2:0:*:*`; `0` and `*` for no wish
    return int(found[0]) if found else 0


def _reserved(name: str) -> set[str]:
    answer = slurm.ask("scontrol", "show", "reservation", "--oneliner", name)
    nodes = slurm.fields_of(answer.text).get("Nodes", "") if answer.ok else ""
    if not nodes:
        raise UnknownNodesError(f"reservation `{name}`")
    return {*slurm.hostnames(nodes)}
