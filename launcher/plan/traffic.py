"""What ranks send each other in a step, by collective and by level: inside a node, and between nodes.

A ring moves (n - 1) / n of the data for an all-gather or a reduce-scatter and twice that for an all-reduce
(https://arxiv.org/abs/1910.02054, section 7).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.plan.activations import wide_bytes
from launcher.plan.memory import frozen_bytes, trained_parameters
from launcher.plan.model_shape import ModelShape

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe

LEVELS = ("inside a node", "between nodes")


@dataclass(frozen=True)
class Collective:
    """One kind of message of a step."""

    name: str
    """all-gather, reduce-scatter or all-reduce, and of what."""
    level: str
    """The slowest link that it crosses: one of `LEVELS`."""
    bytes: int
    """What each rank sends in a step, in all micro batches together."""
    rings: int = 1
    """How many of them leave a node side by side. In one ring over all ranks of some nodes only one rank of a node
    sends to another node; of rings that each have one rank of a node, all do."""


def estimate_traffic(recipe: "TrainingRecipe", shape: ModelShape) -> tuple[Collective, ...]:
    """Estimate what each rank sends in a step; empty for one rank, or an adapter that the shape does not know."""
    number = trained_parameters(recipe, shape)
    if number is None or recipe.resources.world_size == 1:
        return ()
    return tuple(one for one in _collectives(recipe, shape, number) if one.bytes)


def _collectives(recipe: "TrainingRecipe", shape: ModelShape, number: int) -> Iterator[Collective]:
    strategy, micro_batches = recipe.parallel.strategy, recipe.accumulation_steps
    wide, world, shard = wide_bytes(recipe), recipe.resources.world_size, recipe.shard_size
    everywhere = LEVELS[recipe.resources.nodes > 1]
    weights = wide * number + frozen_bytes(recipe, shape)
    match strategy:
        case "ddp":
            yield Collective("all-reduce of gradients", everywhere, 2 * _ring(4 * number, world))
        case "zero2":
            # DeepSpeed reduces buckets that hold parts of several ranks by an all-reduce, and in fp32
            # (`communication_data_type`), after each micro batch.
            yield Collective("all-reduce of gradients", everywhere, micro_batches * 2 * _ring(4 * number, world))
            yield Collective("all-gather of updated weights", everywhere, _ring(wide * number, world))
        case "zero3":
            gathers = 2 + _further_gathers(recipe)
            yield Collective("all-gather of weights", everywhere, gathers * micro_batches * _ring(weights, world))
            yield Collective("reduce-scatter of gradients", everywhere, micro_batches * _ring(4 * number, world))
        case _:
            # The last norm and the output embedding stay gathered between the passes; tied, they are one table with
            # the input's.
            again = weights - wide * (shape.table_parameters + shape.hidden)
            gathered = weights + (again if recipe.parallel.reshard_after_forward else 0)
            gathered += _further_gathers(recipe) * weights
            per_node = recipe.resources.ranks_per_node
            in_group = LEVELS[recipe.resources.nodes > 1 and per_node % shard > 0]
            rings = 1 if shard % per_node == 0 or per_node % shard == 0 else 2  # a node may have parts of two groups
            yield Collective("all-gather of weights", in_group, micro_batches * _ring(gathered, shard), rings)
            # In fp32, inside a group in each micro batch (`sync_each_batch`), between groups in the last one.
            yield Collective("reduce-scatter of gradients", in_group, micro_batches * _ring(4 * number, shard), rings)
            # As many groups as a shard has ranks: each of them has a ring of its own.
            sent = 2 * _ring(4 * number // shard, recipe.replicas)
            yield Collective("all-reduce of sharded gradients", everywhere, sent, min(shard, per_node))


def _further_gathers(recipe: "TrainingRecipe") -> int:
    """How often weights are gathered in a micro batch for a reference: its own, or those of the model if they go."""
    stays = not (recipe.has_frozen_copy or recipe.parallel.reshard_after_forward or recipe.parallel.strategy == "zero3")
    return 0 if stays or (recipe.has_frozen_copy and not recipe.shards_frozen_copy) else recipe.further_passes


def _ring(size: int, ranks: int) -> int:
    return size * (ranks - 1) // ranks
