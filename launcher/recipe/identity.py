"""The identity of a recipe: what it comes to, whatever machines carry it out and however fast."""

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from launcher.recipe import Recipe
from launcher.recipe.base import Input
from launcher.run.contents import Content, look_at, look_at_files
from launcher.run.identity import MadeArtifact, RunIdentity
from launcher.run.locations import Locations
from launcher.run.record import fingerprint


def recipe_checksum(recipe: BaseModel) -> str:
    """Checksum of a resolved recipe without the keys that its sections name as `incidental`."""
    return fingerprint(decisive_keys(recipe))


_NO_METHOD = ("seed", "output")
"""Keys that are decisive, and the same method whatever they say."""


def method_checksum(recipe: BaseModel) -> str:
    """Checksum of a resolved recipe that is equal for recipes that differ in their seeds only.

    What they make may have another name, too.
    """
    return fingerprint({key: value for key, value in decisive_keys(recipe).items() if key not in _NO_METHOD})


def decisive_keys(recipe: BaseModel) -> dict[str, Any]:
    """Return what of a recipe decides its result, as JSON."""
    dumped: dict[str, Any] = json.loads(recipe.model_dump_json())
    return _decisive(recipe, dumped)


def _decisive(section: BaseModel, dumped: dict[str, Any]) -> dict[str, Any]:
    left_out: frozenset[str] = getattr(section, "incidental", frozenset())
    return {name: _walk(getattr(section, name), value) for name, value in dumped.items() if name not in left_out}


def _walk(value: object, dumped: Any) -> Any:
    if isinstance(value, BaseModel):
        return _decisive(value, dumped)
    if isinstance(value, (tuple, list)):
        return [_walk(one, its) for one, its in zip(value, dumped, strict=True)]
    return dumped


def identify(recipe: Recipe, places: Locations) -> RunIdentity | None:
    """Look at what a recipe reads; None as long as something of it is not there.

    Args:
        recipe: The recipe, as resolved.
        places: Where its names lead.
    """
    inputs = []
    for one in recipe.inputs():
        content = look_at_input(one, places)
        if content is None:
            return None
        inputs.append((one.key, content))
    for one in recipe.optional_inputs():
        inputs.append((one.key, look_at_input(one, places) or Content("not there")))
    made = recipe.makes
    makes = MadeArtifact(made.type, str(places.folder(made.type, made.name))) if made else None
    return RunIdentity(recipe_checksum(recipe), tuple(inputs), makes)


def look_at_input(one: Input, places: Locations) -> Content | None:
    """Look at one input; None if it is not there, or not complete. A name on a model hub stands for itself."""
    if one.type in ("files", "preferences"):
        return look_at_files(places.data_glob(one.name))
    if one.type == "tables":
        folder = Path(places.data_glob(one.name))
        published = Content("tables that others made") if folder.is_dir() else None  # their files are inputs, too
        return look_at(one.type, folder) or published
    if one.type == "corpus":
        return look_at(one.type, places.corpus(one.name))
    path = places.model(one.name)
    return look_at(one.type, Path(path)) if os.path.isabs(path) else Content(f"hub {one.name}")
