"""WHAT to run: frozen pydantic models, one file per kind, shared sections beside them. Pure data.

A kind's module is imported when it is asked for: building the models of all kinds takes longer than anything else that
`launcher submit` does.
"""

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from typing_extensions import override

from launcher.errors import LauncherError
from launcher.recipe.base import nearest_first

if TYPE_CHECKING:
    from launcher.recipe.kinds.classify import ClassifyRecipe
    from launcher.recipe.kinds.cpt import CptRecipe
    from launcher.recipe.kinds.dpo import DpoRecipe
    from launcher.recipe.kinds.evaluate import EvaluateRecipe
    from launcher.recipe.kinds.export import ExportRecipe
    from launcher.recipe.kinds.generate import GenerateRecipe
    from launcher.recipe.kinds.merge import MergeRecipe
    from launcher.recipe.kinds.outcomes import OutcomesRecipe
    from launcher.recipe.kinds.prepare import PrepareRecipe
    from launcher.recipe.kinds.reward import RewardRecipe
    from launcher.recipe.kinds.rl import RlRecipe
    from launcher.recipe.kinds.sft import SftRecipe
    from launcher.recipe.kinds.site_check import SiteCheckRecipe
    from launcher.recipe.kinds.terminology import TerminologyRecipe
    from launcher.recipe.kinds.vocabulary import VocabularyRecipe

    Recipe: TypeAlias = (
        ClassifyRecipe
        | CptRecipe
        | DpoRecipe
        | EvaluateRecipe
        | ExportRecipe
        | GenerateRecipe
        | MergeRecipe
        | OutcomesRecipe
        | PrepareRecipe
        | RewardRecipe
        | RlRecipe
        | SftRecipe
        | SiteCheckRecipe
        | TerminologyRecipe
        | VocabularyRecipe
    )
else:
    from launcher.recipe.kinds.recipe_base import RecipeBase as Recipe

_CLASSES = {
    "classify": "ClassifyRecipe",
    "cpt": "CptRecipe",
    "dpo": "DpoRecipe",
    "evaluate": "EvaluateRecipe",
    "export": "ExportRecipe",
    "generate": "GenerateRecipe",
    "merge": "MergeRecipe",
    "outcomes": "OutcomesRecipe",
    "prepare": "PrepareRecipe",
    "reward": "RewardRecipe",
    "rl": "RlRecipe",
    "sft": "SftRecipe",
    "site_check": "SiteCheckRecipe",
    "terminology": "TerminologyRecipe",
    "vocabulary": "VocabularyRecipe",
}
"""Class of each kind, in the module `launcher.recipe.kinds.KIND`."""


class _Kinds(Mapping[str, "type[Recipe]"]):
    """The model of every kind of recipe."""

    @override
    def __getitem__(self, kind: str) -> "type[Recipe]":
        model: type[Recipe] = getattr(import_module(f"launcher.recipe.kinds.{kind}"), _CLASSES[kind])
        return model

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    @override
    def __len__(self) -> int:
        return len(_CLASSES)

    @override
    def __contains__(self, kind: object) -> bool:
        return kind in _CLASSES


KINDS: Mapping[str, "type[Recipe]"] = _Kinds()


def read_recipe(text: str) -> "Recipe":
    """Validate a resolved recipe of any kind.

    Args:
        text: JSON.

    Raises:
        LauncherError: the kind is not known, or the text is no JSON object.
        pydantic.ValidationError: the recipe is not valid.
    """
    try:
        kind = json.loads(text)["kind"]
    except (ValueError, LookupError, TypeError):
        raise LauncherError("kind: is missing; the recipe is no JSON object with a `kind`") from None
    if kind not in KINDS:
        raise LauncherError(f"kind: `{kind}` is not known; it is one of {nearest_first(str(kind), KINDS)}")
    return KINDS[kind].model_validate_json(text)


def __getattr__(name: str) -> Any:
    """Import the class of a kind when it is asked for, e.g. `launcher.recipe.CptRecipe`."""
    for kind, known in _CLASSES.items():
        if known == name:
            return KINDS[kind]
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")


__all__ = [
    "KINDS",
    "ClassifyRecipe",
    "CptRecipe",
    "DpoRecipe",
    "EvaluateRecipe",
    "ExportRecipe",
    "GenerateRecipe",
    "MergeRecipe",
    "OutcomesRecipe",
    "PrepareRecipe",
    "Recipe",
    "RewardRecipe",
    "RlRecipe",
    "SftRecipe",
    "SiteCheckRecipe",
    "TerminologyRecipe",
    "VocabularyRecipe",
    "read_recipe",
]
