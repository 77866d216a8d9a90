"""WHAT to run: frozen pydantic models, one file per kind, shared sections beside them. Pure data."""

from typing import Annotated, TypeAlias

from pydantic import Field, TypeAdapter

from launcher.recipe.cpt import CptRecipe
from launcher.recipe.prepare import PrepareRecipe

Recipe: TypeAlias = CptRecipe | PrepareRecipe

recipe_adapter: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="kind")])
"""Validates and dumps any recipe; `kind` chooses the model."""

__all__ = ["CptRecipe", "PrepareRecipe", "Recipe", "recipe_adapter"]
