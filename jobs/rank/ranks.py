"""A rank's place among all ranks of the attempt. Standard library only."""

import re
from collections.abc import Mapping
from typing import NamedTuple


class Ranks(NamedTuple):
    """This rank's place among all ranks of the attempt, in torch.distributed's words."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int

    @property
    def is_main(self) -> bool:
        """Rank 0 writes what is written once."""
        return self.rank == 0


def ranks_from(environ: Mapping[str, str]) -> Ranks:
    """Read this rank's place from what srun, our local executor or torchrun exported.

    RANK wins over SLURM_PROCID: where both are set, torchrun was started inside a Slurm task. A process without either
    is alone.
    """
    if "RANK" in environ:
        world = int(environ["WORLD_SIZE"])
        local_world = int(environ.get("LOCAL_WORLD_SIZE", world))
        rank = int(environ["RANK"])
        node = int(environ.get("NODE_RANK", environ.get("GROUP_RANK", rank // local_world)))
        return Ranks(rank, world, int(environ["LOCAL_RANK"]), local_world, node)
    if "SLURM_PROCID" in environ and "SLURM_STEP_ID" in environ:
        node = int(environ["SLURM_NODEID"])
        per_node = tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"])
        rank, world = int(environ["SLURM_PROCID"]), int(environ["SLURM_NTASKS"])
        return Ranks(rank, world, int(environ["SLURM_LOCALID"]), per_node[node], node)
    return Ranks(0, 1, 0, 1, 0)


def tasks_per_node(text: str) -> list[int]:
    """Expand Slurm's `4(x3),2`."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts
