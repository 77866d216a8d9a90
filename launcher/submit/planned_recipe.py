"""Recipes with what they are expected to need: the part of a plan that `launcher validate` shows as well."""

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.cluster import Cluster
from launcher.load import LoadedRecipe
from launcher.plan import Forecast, checkpoint_bytes, forecast
from launcher.recipe import Recipe


@dataclass(frozen=True)
class PlannedRecipe:
    """A recipe with the text of its recipe.json and what it is expected to need."""

    loaded: LoadedRecipe
    text: str
    fingerprint: str
    forecast: Forecast
    checkpoint_bytes: int | None

    @property
    def recipe(self) -> Recipe:
        """The recipe itself."""
        return self.loaded.recipe

    @property
    def folder_mode(self) -> int:
        """0700 for credentialed data; otherwise the umask decides."""
        return 0o700 if self.recipe.data_use == "credentialed" else 0o777


def estimate_recipes(loaded: Sequence[LoadedRecipe], cluster: Cluster) -> tuple[PlannedRecipe, ...]:
    """Fix the text and the fingerprint of recipes, and estimate what each needs."""
    return tuple(_estimate(item, cluster) for item in loaded)


def _estimate(loaded: LoadedRecipe, cluster: Cluster) -> PlannedRecipe:
    text = loaded.recipe.model_dump_json(indent=1)
    expected = forecast(loaded, cluster)
    return PlannedRecipe(loaded, text, loaded.fingerprint, expected, checkpoint_bytes(loaded, cluster))
