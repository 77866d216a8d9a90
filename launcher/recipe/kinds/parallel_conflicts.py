"""What of a training does not go together with how its model is shared out."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from launcher.recipe.sections.common import Parallel

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe


def parallel_conflicts(recipe: "TrainingRecipe") -> Iterator[str]:
    """Name what does not go with the strategy, its groups, its offload and its checkpoints."""
    yield from _shard_conflicts(recipe)
    yield from _offload_conflicts(recipe)
    yield from _checkpoint_conflicts(recipe)


def _shard_conflicts(recipe: "TrainingRecipe") -> Iterator[str]:
    world, shard, replicate = recipe.resources.world_size, recipe.shard_size, recipe.parallel.replicate
    if recipe.parallel.strategy != "hybrid_shard":
        for name in ("shard", "replicate"):
            if getattr(recipe.parallel, name) != Parallel.model_fields[name].default:
                yield f"parallel.{name}: belongs to `hybrid_shard`, not to `{recipe.parallel.strategy}`; leave it out"
        if not recipe.parallel.reshard_after_forward and recipe.parallel.strategy != "full_shard":
            yield f"parallel.reshard_after_forward: has no effect with `{recipe.parallel.strategy}`; leave it out"
    elif world % shard:
        yield (
            f"parallel.shard: {shard} ranks do not divide the world size ({world}); "
            f"write `node` or a divisor of {world}"
        )
    elif shard == 1 < world:
        yield "parallel.shard: groups of 1 rank shard nothing; write `strategy: full_shard` or `ddp`"
    elif replicate not in ("auto", recipe.replicas):
        yield (
            f"parallel.replicate: {replicate} x shard ({shard}) is not the world size ({world}); "
            f"write `auto` or `{recipe.replicas}`"
        )


def _offload_conflicts(recipe: "TrainingRecipe") -> Iterator[str]:
    strategy, offload = recipe.parallel.strategy, recipe.parallel.offload
    if offload != "none" and strategy not in ("zero2", "zero3"):
        yield f"parallel.offload: needs DeepSpeed, not `{strategy}`; write `strategy: zero3`, or leave it out"
    if offload == "all" and strategy == "zero2":
        yield (
            "parallel.offload: `zero2` keeps all parameters on each GPU; write `offload: optimizer`, or "
            "`strategy: zero3`"
        )


def _checkpoint_conflicts(recipe: "TrainingRecipe") -> Iterator[str]:
    if recipe.checkpoint.in_background and recipe.parallel.strategy.startswith("zero"):
        yield (
            f"checkpoint.async: with `{recipe.parallel.strategy}` DeepSpeed writes checkpoints itself, and training "
            "waits for it; leave it out, or write `strategy: full_shard`"
        )
