"""Other ways to run the same training: which fit, and what each costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from launcher.cluster import Cluster
from launcher.errors import LauncherError
from launcher.load import LoadedRecipe
from launcher.plan.cost import uses_gpus
from launcher.plan.forecast import usable_memory
from launcher.plan.memory import estimate_memory
from launcher.plan.model_shape import ModelShape, find_shape, scoring_shapes
from launcher.plan.recipe_at_site import at_site
from launcher.plan.step_time import estimate_step

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe

_STRATEGIES = ("ddp", "full_shard", "hybrid_shard", "zero2", "zero3")
_RECOMPUTES = ("none", "selective", "full")
_MOST_MICRO_BATCHES = 6
"""Powers of two that are tried: 1 to 32 sequences."""


@dataclass(frozen=True)
class Alternative:
    """One way to run a training."""

    nodes: int
    strategy: str
    recomputes: str
    """What is recomputed: `model.activation_checkpointing`."""
    micro_batch: int
    memory: int
    """Bytes of one rank."""
    step_seconds: float
    gpu_hours_per_step: float


def find_alternatives(
    recipe: "TrainingRecipe", shape: ModelShape, cluster: Cluster, gpu_memory: int, scoring: Sequence[ModelShape] = ()
) -> list[Alternative]:
    """Find the ways that fit: all on the recipe's nodes, and the cheapest on other numbers of nodes; cheapest first.

    All strategies and ways to recompute activations, and the largest micro batch that fits; the global batch stays. Of
    ways that cost the same, the quicker one comes first, then the one with more room.

    Args:
        recipe: The training.
        shape: Its model.
        cluster: Where it is to run.
        gpu_memory: Bytes of a GPU.
        scoring: The models that score what it writes.
    """
    found = (_largest_that_fits(one, shape, cluster, gpu_memory, scoring) for one in _variants(recipe))
    ordered = sorted((one for one in found if one), key=_cost)
    best = {one.nodes: one for one in reversed(ordered)}
    return [one for one in ordered if one.nodes == recipe.resources.nodes or one is best[one.nodes]]


def _cost(one: Alternative) -> tuple[float, float, int]:
    return round(one.gpu_hours_per_step, 3), one.step_seconds, one.memory


def _variants(recipe: "TrainingRecipe") -> Iterator["TrainingRecipe"]:
    least = recipe.sized(1)
    for nodes in sorted({max(1, recipe.resources.nodes * times // 4) for times in (1, 2, 4, 8, 16)}):
        for strategy in _STRATEGIES:
            for recomputes in _RECOMPUTES:
                one = _changed(least, nodes, strategy, recomputes)
                if one is not None:
                    yield one


def _changed(recipe: "TrainingRecipe", nodes: int, strategy: str, recomputes: str) -> "TrainingRecipe | None":
    """Change the recipe; None if that is no recipe: a strategy that its adapter refuses, one node to shard over."""
    sections = recipe.model_dump()
    sections["resources"]["nodes"] = nodes
    if strategy != recipe.parallel.strategy:
        sections["parallel"] = {"strategy": strategy}
    sections["model"]["activation_checkpointing"] = recomputes
    return _read(recipe, sections)


def _read(recipe: "TrainingRecipe", sections: dict[str, Any]) -> "TrainingRecipe | None":
    try:
        return type(recipe).model_validate(sections)
    except (ValidationError, LauncherError):
        return None


def _largest_that_fits(
    recipe: "TrainingRecipe", shape: ModelShape, cluster: Cluster, gpu_memory: int, scoring: Sequence[ModelShape]
) -> Alternative | None:
    share = recipe.batch.sequences // recipe.resources.world_size
    for power in reversed(range(_MOST_MICRO_BATCHES)):
        sized = recipe.sized(1 << power)
        estimate = estimate_memory(sized, shape, scoring) if share % (1 << power) == 0 else None
        if estimate is not None and estimate.total <= gpu_memory:
            return _timed(sized, shape, cluster, estimate.total, scoring)
    return None


def _timed(
    recipe: "TrainingRecipe", shape: ModelShape, cluster: Cluster, memory: int, scoring: Sequence[ModelShape]
) -> Alternative | None:
    step = estimate_step(recipe, shape, cluster, scoring)
    if step is None:
        return None
    return Alternative(
        nodes=recipe.resources.nodes,
        strategy=recipe.parallel.strategy,
        recomputes=recipe.model.activation_checkpointing,
        micro_batch=recipe.batch.least_micro_batch,
        memory=memory,
        step_seconds=step.seconds,
        gpu_hours_per_step=step.seconds * recipe.resources.world_size / 3600,
    )


def alternatives_of(loaded: LoadedRecipe, cluster: Cluster) -> list[Alternative]:
    """Find the ways for a recipe at a site; none for what trains nothing, on CPUs, or with sizes that are not known."""
    recipe = loaded.recipe
    if not recipe.trains or not uses_gpus(recipe, cluster):
        return []
    here = at_site(loaded, cluster)
    shape, limit = find_shape(recipe, here), cluster.gpus.memory or recipe.resources.gpu_memory
    if shape is None or limit is None:
        return []
    scoring = scoring_shapes(recipe, shape, here)
    return find_alternatives(recipe, shape, cluster, usable_memory(limit), scoring)
