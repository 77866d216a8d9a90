"""YAML to recipes and cluster profiles: every fault at once, each with its line and the fix."""

from launcher.load.profile import find_profile, load_cluster
from launcher.load.recipes import LoadedRecipe, load_all, load_recipes

__all__ = ["LoadedRecipe", "find_profile", "load_all", "load_cluster", "load_recipes"]
