"""Whether a rank sees the GPUs that it was promised, and whether its own one works."""

import os
import re
import sys
from typing import NamedTuple

from jobs.rank.context import Context
from jobs.rank.node_checks import leftover_faults

_OLD_DRIVER = re.compile(r"driver.* too old|driver version is insufficient", re.IGNORECASE)
"""What torch and CUDA say if the driver of a node knows no such new CUDA."""


class GpuFaults(NamedTuple):
    """What is wrong with the GPUs of one rank."""

    of_node: list[str]
    of_software: list[str]
    """Of the user's packages, or of what the job asked for: if all ranks say so, other nodes would not help."""


def gpu_faults(context: Context) -> GpuFaults:
    """Check that this rank sees all GPUs it was promised, and that its own one works."""
    expected = context.recipe.resources.gpus_per_node
    if not expected or context.record.cluster["gpus"]["device"] != "cuda":
        return GpuFaults([], [])
    if wrong := [*_torch_without_gpus(), *_slices(expected)]:
        return GpuFaults([], wrong)
    return _try_gpus(expected, context.ranks.local_rank)


def _torch_without_gpus() -> list[str]:
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return []
    return [
        f"torch {torch.__version__} of {sys.executable} has no CUDA, and the run asks for GPUs: install a torch that "
        "has it, or write `gpus.device: cpu` in the cluster profile"
    ]


def _slices(expected: int) -> list[str]:
    """Refuse several MIG slices: CUDA shows a process only the first of them, so ranks cannot have one each."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if expected == 1 or not any(one.strip().startswith("MIG-") for one in visible):
        return []
    return [
        f"the job has {expected} MIG slices on a node, and a process can only use one; write "
        "`resources.gpus_per_node: 1`, or ask for whole GPUs with `gpus.type` of the cluster profile"
    ]


def _try_gpus(expected: int, own: int) -> GpuFaults:
    import torch

    found = torch.cuda.device_count()
    try:
        if found < expected:
            torch.cuda.current_device()  # if there is none, the error tells why
            return GpuFaults([f"{found} of {expected} GPUs are visible"], [])
        torch.ones(1, device=f"cuda:{own}").item()
        free, total = torch.cuda.mem_get_info(own)
    except (RuntimeError, AssertionError) as error:
        if _OLD_DRIVER.search(str(error)):
            return GpuFaults([], [_old_driver(torch.__version__, torch.version.cuda)])
        said = str(error).partition("\n")[0]
        dead = f"{found} of {expected} GPUs are visible" if found < expected else f"GPU {own} does not work: {said}"
        return GpuFaults([dead], [])
    return GpuFaults(leftover_faults(own, free, total), [])


def _old_driver(version: str, cuda: str | None) -> str:
    return (
        f"torch {version} is built for CUDA {cuda}, and the GPU driver is too old for that: install a torch that is "
        "built for an older CUDA"
    )
