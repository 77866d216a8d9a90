"""Everything that can be said of a recipe before it runs, as plain values; what cannot be told is None."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import Cluster
from launcher.load import LoadedRecipe
from launcher.paths import locate
from launcher.plan.cost import RunCost, attempt_gpu_hours, estimate_run
from launcher.plan.feasibility import hub_ids
from launcher.plan.memory import (
    MemoryEstimate,
    estimate_checkpoint,
    estimate_loading,
    estimate_memory,
    estimate_offloaded,
)
from launcher.plan.shape import ModelShape, model_config, read_json, read_shape
from launcher.recipe import CptRecipe
from launcher.recipe.training import TrainingRecipe

_USUAL_DEFAULT = 32_000_000_000
"""Bytes of RAM that a partition may give to a job that asks for none; an assumption: 4 GB for each of 8 cores."""


@dataclass(frozen=True)
class Forecast:
    """A recipe's size, memory and cost."""

    world_size: int
    attempt_gpu_hours: float
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
        """The estimate is more than a GPU has; estimates can be wrong, so this is no fault."""
        return bool(self.memory and self.gpu_memory and self.memory.total > self.gpu_memory)

    @property
    def may_not_load(self) -> bool:
        """The estimate for loading is more than the recipe asks for."""
        return bool(self.loading and self.node_memory and self.loading > self.node_memory)

    @property
    def loads_by_luck(self) -> bool:
        """Loading takes more than a partition's default may give, and the recipe asks for nothing."""
        return bool(self.loading and self.node_memory is None and self.loading > _USUAL_DEFAULT)

    @property
    def may_not_hold(self) -> bool:
        """The estimate for what is offloaded is more than the recipe asks for."""
        return bool(self.offloaded and self.node_memory and self.offloaded > self.node_memory)


def forecast(loaded: LoadedRecipe, cluster: Cluster) -> Forecast:
    """Say what can be told of a recipe on a cluster."""
    recipe, folder = loaded.recipe, str(loaded.path.parent.absolute())
    hours = attempt_gpu_hours(recipe) if cluster.gpus.device == "cuda" else 0.0
    world_size = recipe.resources.world_size
    missing = hub_ids(recipe, cluster, folder)
    if not isinstance(recipe, TrainingRecipe):
        return Forecast(world_size, hours, hub_ids=missing)
    shape, start = read_shape(model_config(recipe, cluster, folder) or {}), starting_micro_batch(loaded, cluster)
    recipe = recipe if start is None else recipe.sized(start)
    if shape is None or not _uses_gpus(recipe, cluster):
        return Forecast(world_size, hours, micro_batch=start, hub_ids=missing)
    wanted = recipe.resources.memory
    return Forecast(
        world_size,
        hours,
        memory=estimate_memory(recipe, shape),
        gpu_memory=_gpu_memory(recipe, cluster),
        loading=estimate_loading(recipe, shape),
        offloaded=estimate_offloaded(recipe, shape),
        node_memory=wanted.bytes if wanted else None,
        micro_batch=start,
        run=estimate_run(recipe, shape, cluster.gpus.type, _corpus_sizes(recipe, cluster, folder)),
        hub_ids=missing,
    )


def starting_micro_batch(loaded: LoadedRecipe, cluster: Cluster) -> int | None:
    """Choose what `micro_batch: auto` starts with; None for a micro batch that the recipe says.

    It is the largest power of two that divides what a rank has to do in a step and, by the estimate, fits. Where there
    is no estimate (an encoder, a model that is on the hub only, a GPU of unknown size) it is 16 at most, and what does
    not fit is halved; on CPUs 1, since there the kernel would kill what does not fit.
    """
    recipe = loaded.recipe
    if not isinstance(recipe, TrainingRecipe) or recipe.batch.micro_batch != "auto":
        return None
    if not _uses_gpus(recipe, cluster):
        return 1
    share = recipe.batch.sequences // recipe.resources.world_size
    powers = [1 << place for place in range(share.bit_length()) if share % (1 << place) == 0]
    shape = read_shape(model_config(recipe, cluster, str(loaded.path.parent.absolute())) or {})
    limit = _gpu_memory(recipe, cluster)
    if shape is None or limit is None or estimate_memory(recipe, shape) is None:
        return max(number for number in powers if number <= _UNKNOWN_START)
    fitting = [number for number in powers if _needs(recipe.sized(number), shape) <= limit]
    return max(fitting, default=1)


def checkpoint_bytes(loaded: LoadedRecipe, cluster: Cluster) -> int | None:
    """Say how large a checkpoint will be; None for what trains nothing, and for a model that is not known here."""
    recipe = loaded.recipe
    if not isinstance(recipe, TrainingRecipe):
        return None
    shape = read_shape(model_config(recipe, cluster, str(loaded.path.parent.absolute())) or {})
    return estimate_checkpoint(recipe, shape) if shape else None


_UNKNOWN_START = 16


def _needs(recipe: TrainingRecipe, shape: ModelShape) -> int:
    estimate = estimate_memory(recipe, shape)
    return estimate.total if estimate else 0


def _uses_gpus(recipe: TrainingRecipe, cluster: Cluster) -> bool:
    return cluster.gpus.device == "cuda" and recipe.resources.gpus_per_node > 0


def _gpu_memory(recipe: TrainingRecipe, cluster: Cluster) -> int | None:
    size = cluster.gpus.memory or recipe.resources.gpu_memory
    return size.bytes if size else None


def _corpus_sizes(recipe: TrainingRecipe, cluster: Cluster, folder: str) -> list[int] | None:
    """Training sequences of each corpus, from its manifest; None unless all are known."""
    if not isinstance(recipe, CptRecipe):
        return None
    folders = (Path(locate(corpus.name, cluster.roots.corpora, folder)) for corpus in recipe.data.corpora)
    counts = [(read_json(path / "manifest.json") or {}).get("counts") or {} for path in folders]
    if recipe.data.packing == "pad":  # takes the length of every document
        return None
    unit = "documents" if recipe.data.packing == "truncate" else "tokens"
    known = [count for count in (each.get(unit, {}).get("train") for each in counts) if isinstance(count, int)]
    if len(known) < len(counts):
        return None
    return known if unit == "documents" else [math.ceil(tokens / recipe.batch.sequence_length) for tokens in known]
