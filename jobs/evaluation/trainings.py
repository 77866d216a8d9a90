"""How the evaluated model was trained, by the manifests of the model, its adapters, and what they were merged of."""

from collections.abc import Iterator
from pathlib import Path

from jobs.rank.context import Context
from launcher.artifacts.adapter_folder import read_object
from launcher.artifacts.corpus_manifest import MANIFEST
from launcher.artifacts.scores import Training
from launcher.recipe.sections.evaluated_model import EvaluatedModel

_MERGES = 20
"""So many merged models, each made of the next, are followed."""


def trainings_of(context: Context, section: EvaluatedModel | None) -> list[Training]:
    """Return the trainings of a model and its adapters, in the order of the recipe.

    Args:
        context: Knows where models are.
        section: The recipe's; None: no model.
    """
    names = [section.path, *(one.path for one in section.adapters)] if section else []
    return [training for name in names for training in _trainings(context, name, _MERGES)]


def _trainings(context: Context, name: str, left: int) -> Iterator[Training]:
    manifest = read_object(Path(context.model_path(name)) / MANIFEST) or {}
    if manifest.get("kind") == "merge" and left:
        parts = [manifest.get("base_model"), *(one.get("path") for one in manifest.get("adapters") or ())]
        for part in parts:
            yield from _trainings(context, str(part), left - 1)
    elif isinstance(manifest.get("method"), str) and isinstance(manifest.get("seed"), int):
        yield Training(name=name, method=manifest["method"], seed=manifest["seed"])
    else:
        yield Training(name=name)
