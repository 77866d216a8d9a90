"""Recipes that were named together: several that would make different things of one name, and copies of one recipe.

Of the former all but the first to finish would fail at their end.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from launcher.errors import Fault
from launcher.load import LoadedRecipe
from launcher.recipe import Recipe
from launcher.recipe.base import Artifact, ArtifactType
from launcher.recipe.identity import decisive_keys
from launcher.run.locations import root_of

_DECISIVE: dict[ArtifactType, set[str]] = {
    "corpus": {"data_use", "tokenizer", "sources", "clean", "validation"},
    "tables": {"data_use", "source", "rules", "patients", "split_seed"},
}
"""The keys that decide what is made, where not all decisive ones of the recipe do."""
_ONE_NAME = "all points would make `{}`; sweep `output` as well, in a `zip` with another key, or leave it out"


def find_conflicts(loaded: Sequence[LoadedRecipe]) -> Iterator[Fault]:
    """Name recipes whose result has the name of what one before them makes."""
    makers: dict[tuple[str, str], LoadedRecipe] = {}
    for item in loaded:
        recipe, made = item.recipe, item.recipe.makes
        if made is None:
            continue
        first = makers.setdefault((root_of(made.type), made.name), item)
        if first is not item and (message := _conflict(first, item, made)):
            yield item.place(Fault(recipe.name, None, key_of(made), message, "conflict"))


def _conflict(first: LoadedRecipe, item: LoadedRecipe, made: Artifact) -> str | None:
    is_same_sweep = item.point and first.point and item.point.sweep == first.point.sweep
    if is_same_sweep and item.recipe.search:  # a corner of its space
        return None
    if is_same_sweep and made.type not in _DECISIVE:
        return _ONE_NAME.format(made.name)
    if not would_clash(first.recipe, item.recipe, (first.folder, item.folder)):
        return None
    how = " from other files or settings" if made.type in _DECISIVE else ", too"
    return f"`{first.recipe.name}` makes `{made.name}`{how}; write another name"


def would_clash(first: Recipe, other: Recipe, folders: tuple[str, str]) -> bool:
    """Tell whether one of two recipes that make something of one name would find that the other has taken it.

    Args:
        first: One recipe.
        other: The other one.
        folders: Those of their files, for `./` values.
    """
    if first.trains or other.trains:
        return True
    keys = _DECISIVE.get(other.makes.type) if other.makes else None
    if keys and first.makes and other.makes and first.makes.type == other.makes.type:
        settings = [one.model_dump(include=keys) for one in (first, other)]
    else:
        settings = [decisive_keys(one) for one in (first, other)]
    if len(set(folders)) > 1 or settings[0] != settings[1]:
        settings = [_located(values, folder) for values, folder in zip(settings, folders, strict=True)]
    return bool(settings[0] != settings[1])


def _located(value: Any, folder: str) -> Any:
    """Replace all `./` values by the paths that they stand for; bases in other folders say them in another way."""
    if isinstance(value, dict):
        return {key: _located(its, folder) for key, its in value.items()}
    if isinstance(value, (tuple, list)):
        return [_located(its, folder) for its in value]
    if isinstance(value, str) and value.startswith(("./", "../")):
        return os.path.realpath(os.path.normpath(os.path.join(folder, value)))
    return value


def key_of(made: Artifact) -> str:
    """The key of a recipe that names what it makes."""
    return "corpus" if made.type == "corpus" else "output"


def find_copies(loaded: Sequence[LoadedRecipe]) -> dict[int, int]:
    """Find the recipes that are there twice, to the letter: their places, and those of the first ones."""
    alike: dict[tuple[str, str], list[int]] = {}
    found = {}
    for place, item in enumerate(loaded):
        before = alike.setdefault((item.fingerprint, item.point.sweep if item.point else ""), [])
        if same := [other for other in before if loaded[other].folder == item.folder or not _looks_beside(item)]:
            found[place] = same[0]
        else:
            before.append(place)
    return found


def _looks_beside(item: LoadedRecipe) -> bool:
    """Tell whether a recipe reads something that lies beside its file, so that another folder is another recipe."""
    return any(one.name.startswith(".") for one in (*item.recipe.inputs(), *item.recipe.optional_inputs()))
