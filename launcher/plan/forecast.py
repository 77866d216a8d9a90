"""Everything that can be said of a recipe before it runs, as plain values; what cannot be told is None."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import Cluster
from launcher.load import LoadedRecipe
from launcher.paths import locate
from launcher.plan.cost import RunCost, attempt_gpu_hours, estimate_run
from launcher.plan.feasibility import hub_ids, model_config
from launcher.plan.memory import MemoryEstimate, estimate_loading, estimate_memory
from launcher.plan.shape import read_json, read_shape
from launcher.recipe import CptRecipe
from launcher.recipe.training import TrainingRecipe


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
    node_memory: int | None = None
    """Bytes of RAM that the recipe asks for; None: the partition's default."""
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


def forecast(loaded: LoadedRecipe, cluster: Cluster) -> Forecast:
    """Say what can be told of a recipe on a cluster."""
    recipe, folder = loaded.recipe, str(loaded.path.parent.absolute())
    hours = attempt_gpu_hours(recipe) if cluster.gpus.device == "cuda" else 0.0
    world_size = recipe.resources.world_size
    missing = hub_ids(recipe, cluster, folder)
    if not isinstance(recipe, TrainingRecipe):
        return Forecast(world_size, hours, hub_ids=missing)
    shape = read_shape(model_config(recipe, cluster, folder) or {})
    if shape is None or cluster.gpus.device == "cpu" or not recipe.resources.gpus_per_node:
        return Forecast(world_size, hours, hub_ids=missing)
    size, wanted = cluster.gpus.memory or recipe.resources.gpu_memory, recipe.resources.memory
    return Forecast(
        world_size,
        hours,
        memory=estimate_memory(recipe, shape),
        gpu_memory=size.bytes if size else None,
        loading=estimate_loading(recipe, shape),
        node_memory=wanted.bytes if wanted else None,
        run=estimate_run(recipe, shape, cluster.gpus.type, _corpus_sizes(recipe, cluster, folder)),
        hub_ids=missing,
    )


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
