"""Keys and values that are kept of completions while they are sampled: bytes, in closed form."""

from typing import TYPE_CHECKING

from launcher.plan.activations import casts_weights, wide_bytes
from launcher.plan.model_shape import ModelShape

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe


def cache_of_token(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Bytes of the keys and values of one token in all layers.

    They are in the compute format. Where autocast casts weights of fp32, positions are in fp32, and so are the keys
    that they are put into; transformers keeps the values in the format of the keys.
    """
    wide = 4 if casts_weights(recipe) else wide_bytes(recipe)
    return 2 * wide * shape.layers * shape.kv_heads * shape.head_size


def prompt_activations(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Bytes that a layer needs to read all prompts at once, beyond the room that their completions take later."""
    size = recipe.rollout_size
    if size is None:
        return 0
    prompt = recipe.batch.sequence_length - size.new_tokens
    token = wide_bytes(recipe) * (3 * shape.intermediate + 2 * shape.hidden)
    if recipe.model.attention == "eager":
        token += (4 + wide_bytes(recipe)) * shape.heads * prompt
    return size.at_once * max(0, prompt * token - size.new_tokens * cache_of_token(recipe, shape))


def rollout_cache(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Bytes of the cache of a rank when the completions that it samples side by side are as long as they may be."""
    size = recipe.rollout_size
    return 0 if size is None else size.at_once * recipe.batch.sequence_length * cache_of_token(recipe, shape)
