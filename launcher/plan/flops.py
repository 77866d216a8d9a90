"""What a token costs to compute: in a step, and where a model only reads or writes it."""

from typing import TYPE_CHECKING

from launcher.gpus import flops_per_token
from launcher.plan.model_shape import ModelShape

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe


def tokens_of_step(recipe: "TrainingRecipe") -> int:
    """Tokens of a global batch."""
    return recipe.batch.sequences * recipe.sequences_per_sample * recipe.batch.sequence_length


def flops_of_token(recipe: "TrainingRecipe", shape: ModelShape) -> float:
    """FLOPs of forward and backward for one token, and of what else reads it in each step, such as a reference.

    Recomputed activations do not count. A reference of its own is taken to be as large as the model.
    """
    trained = _flops(recipe, shape, _computing(recipe, shape) if recipe.adapter else 0)
    return trained + recipe.further_passes * forward_flops(recipe, shape)


def forward_flops(recipe: "TrainingRecipe", shape: ModelShape) -> float:
    """FLOPs of the forward pass alone for one token: a third of both."""
    return _flops(recipe, shape, 0) / 3


def scoring_flops(recipe: "TrainingRecipe", shape: ModelShape) -> float:
    """FLOPs of the forward pass for one token of a model that scores completions: it has a head and no output table."""
    computing = shape.parameters - shape.tables * shape.table_parameters
    return flops_per_token(computing, shape.layers, _width(shape), recipe.batch.sequence_length) / 3


def _flops(recipe: "TrainingRecipe", shape: ModelShape, frozen: int) -> float:
    return flops_per_token(_computing(recipe, shape), shape.layers, _width(shape), recipe.batch.sequence_length, frozen)


def _computing(recipe: "TrainingRecipe", shape: ModelShape) -> int:
    """Parameters that take part in matrix products."""
    output_tables = 0 if recipe.predicts == "labels" else 1  # a head takes the place of the output embedding
    return shape.parameters - (shape.tables - output_tables) * shape.table_parameters


def _width(shape: ModelShape) -> int:
    return shape.heads * shape.head_size
