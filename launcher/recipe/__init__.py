"""WHAT to run: frozen pydantic models, one file per kind, shared sections beside them. Pure data."""

from typing import Annotated, TypeAlias, get_args

from pydantic import Field, TypeAdapter

from launcher.recipe.classify import ClassifyRecipe
from launcher.recipe.cpt import CptRecipe
from launcher.recipe.merge import MergeRecipe
from launcher.recipe.prepare import PrepareRecipe
from launcher.recipe.sft import SftRecipe
from launcher.recipe.vocabulary import VocabularyRecipe

Recipe: TypeAlias = ClassifyRecipe | CptRecipe | MergeRecipe | PrepareRecipe | SftRecipe | VocabularyRecipe

recipe_adapter: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="kind")])
"""Validates and dumps any recipe; `kind` chooses the model."""

KINDS: dict[str, type[Recipe]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(Recipe)
}
"""The model of every kind of recipe."""

__all__ = [
    "KINDS",
    "ClassifyRecipe",
    "CptRecipe",
    "MergeRecipe",
    "PrepareRecipe",
    "Recipe",
    "SftRecipe",
    "VocabularyRecipe",
    "recipe_adapter",
]
