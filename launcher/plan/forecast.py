"""What a recipe will need and cost, before it runs; None where it cannot be estimated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.cluster import Cluster
from launcher.load import LoadedRecipe
from launcher.plan.cost import RunCost, attempt_gpu_hours, corpus_sizes, estimate_run, uses_gpus
from launcher.plan.feasibility import hub_ids
from launcher.plan.memory import (
    MemoryEstimate,
    estimate_checkpoint,
    estimate_loading,
    estimate_memory,
    estimate_offloaded,
)
from launcher.plan.model_shape import find_shape, scoring_shapes
from launcher.plan.recipe_at_site import at_site
from launcher.recipe.quantities import Size

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe

_USUAL_DEFAULT = 32_000_000_000
"""RAM that a partition may give to a job that asks for none, in bytes; an assumption: 4 GB for each of 8 cores."""
_UNKNOWN_START = 16
_BYTES_PER_BYTE_SOLD = 1.06


@dataclass(frozen=True)
class Forecast:
    """A recipe's size, memory and cost."""

    world_size: int
    attempt_gpu_hours: float
    """If it runs up to its time limit, on all array elements that share the work."""
    memory: MemoryEstimate | None = None
    """None on CPUs, and without config.json of a model of a known type."""
    gpu_memory: int | None = None
    """Bytes that a GPU has, by the profile or the recipe."""
    loading: int | None = None
    """Bytes of RAM that a node needs while the model is loaded."""
    offloaded: int | None = None
    """Bytes of RAM that a node needs for what DeepSpeed keeps there."""
    node_memory: int | None = None
    """Bytes of RAM that the recipe asks for; None: the partition's default."""
    micro_batch: int | None = None
    """What `micro_batch: auto` starts with; None for a micro batch that the recipe says."""
    run: RunCost | None = None
    hub_ids: Sequence[str] = ()
    """Models and tokenizers that the nodes will ask the Hugging Face Hub for."""

    @property
    def is_too_large(self) -> bool:
        """The estimate is more than a GPU has; a warning, since estimates can be wrong."""
        return bool(self.memory and self.gpu_memory and self.memory.total > self.gpu_memory)

    @property
    def may_not_load(self) -> bool:
        """The estimate for loading is more than the recipe asks for."""
        return bool(self.loading and self.node_memory and self.loading > self.node_memory)

    @property
    def may_exceed_default(self) -> bool:
        """Loading takes more than a partition's default may give, and the recipe asks for nothing."""
        return bool(self.loading and self.node_memory is None and self.loading > _USUAL_DEFAULT)

    @property
    def may_not_offload(self) -> bool:
        """The estimate for what is offloaded is more than the recipe asks for."""
        return bool(self.offloaded and self.node_memory and self.offloaded > self.node_memory)


def forecast(loaded: LoadedRecipe, cluster: Cluster) -> Forecast:
    """Estimate size, memory and cost of a recipe on a cluster."""
    recipe, here = loaded.recipe, at_site(loaded, cluster)
    hours = attempt_gpu_hours(recipe, cluster)
    world_size = recipe.resources.world_size
    missing = hub_ids(recipe, cluster, loaded.folder)
    if not recipe.trains:
        return Forecast(world_size, hours, hub_ids=missing)
    shape, start = find_shape(recipe, here), starting_micro_batch(loaded, cluster)
    recipe = recipe if start is None else recipe.sized(start)
    if shape is None or not uses_gpus(recipe, cluster):
        return Forecast(world_size, hours, micro_batch=start, hub_ids=missing)
    wanted, scoring = recipe.resources.memory, scoring_shapes(recipe, shape, here)
    return Forecast(
        world_size,
        hours,
        memory=estimate_memory(recipe, shape, scoring),
        gpu_memory=_gpu_memory(recipe, cluster),
        loading=estimate_loading(recipe, shape, scoring),
        offloaded=estimate_offloaded(recipe, shape),
        node_memory=wanted.bytes if wanted else None,
        micro_batch=start,
        run=estimate_run(recipe, shape, cluster.gpus.type, corpus_sizes(recipe, here), scoring),
        hub_ids=missing,
    )


def starting_micro_batch(loaded: LoadedRecipe, cluster: Cluster) -> int | None:
    """Choose what `micro_batch: auto` starts with; None for a micro batch that the recipe says.

    It is the largest power of two that divides a rank's sequences of a step and is estimated to fit. Without an
    estimate (an encoder, a model that is on the hub only, a GPU of unknown size) it is at most 16, and is halved if it
    does not fit; on CPUs it is 1, since the kernel kills a process that does not fit.
    """
    recipe = loaded.recipe
    if not recipe.trains or recipe.batch.micro_batch != "auto":
        return None
    if not uses_gpus(recipe, cluster):
        return 1
    share = recipe.batch.sequences // recipe.resources.world_size
    powers = [1 << place for place in range((share & -share).bit_length())]  # those that divide it
    here = at_site(loaded, cluster)
    shape, limit = find_shape(recipe, here), _gpu_memory(recipe, cluster)
    scoring = scoring_shapes(recipe, shape, here) if shape else []
    estimates = [estimate_memory(recipe.sized(number), shape, scoring) if shape else None for number in powers]
    if limit is None or None in estimates:
        return max(number for number in powers if number <= _UNKNOWN_START)
    fitting = [number for number, one in zip(powers, estimates, strict=True) if one and one.total <= limit]
    return max(fitting, default=1)


def checkpoint_bytes(loaded: LoadedRecipe, cluster: Cluster) -> int | None:
    """Estimate the size of a checkpoint; None for a recipe that trains nothing or a model that is not known here."""
    recipe = loaded.recipe
    if not recipe.trains:
        return None
    shape = find_shape(recipe, at_site(loaded, cluster))
    return estimate_checkpoint(recipe, shape) if shape else None


def _gpu_memory(recipe: "TrainingRecipe", cluster: Cluster) -> int | None:
    size = cluster.gpus.memory or recipe.resources.gpu_memory
    return usable_memory(size) if size else None


def usable_memory(size: Size) -> int:
    """Return the bytes that CUDA has of a GPU sold with so much memory.

    Its maker counts 2^30 bytes a GB, and the driver keeps some: an A100-80GB has 79.1 GiB, that is 85.0e9 bytes, an
    H200 of 141 GB 139.8 GiB.
    """
    return round(size.bytes * _BYTES_PER_BYTE_SOLD)
