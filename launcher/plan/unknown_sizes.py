"""Why nothing can be said of a training's model, and what helps."""

from typing import TYPE_CHECKING

from launcher.artifacts.model_config import LAYER_KEYS, count_layers
from launcher.plan.model_shape import wrong_size

if TYPE_CHECKING:
    from launcher.plan.recipe_at_site import RecipeAtSite


def why_not_traced(model: str, here: "RecipeAtSite") -> str | None:
    """Say why a model's layers are not known; None if they are.

    Args:
        model: Its name, or its Hugging Face id.
        here: The recipe that names it.
    """
    config, path = here.config(model), here.model(model) / "config.json"
    if config is None:
        there = here.root(here.cluster.roots.models)
        return f"config.json of `{model}` is not on this machine, or cannot be read; put the model below {there}"
    if wrong := wrong_size(config):
        return f"{path}: {wrong}; copy it again"
    if count_layers(config) is None:
        return f"{path}: does not say how many layers there are, as {', '.join(f'`{key}`' for key in LAYER_KEYS)}"
    return None


def why_not_planned(model: str, here: "RecipeAtSite", is_traceable: bool) -> str:
    """Say why the formulas know nothing of a model.

    Args:
        model: Its name, or its Hugging Face id.
        here: The recipe that names it.
        is_traceable: Whether `--trace` works for the recipe.
    """
    if reason := why_not_traced(model, here):
        return reason
    kind = (here.config(model) or {}).get("model_type")
    said = f"`{model}` is of the type `{kind}`, which the formulas do not know"
    return f"{said}; `--trace` can measure it" if is_traceable else said
