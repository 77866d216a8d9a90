"""Compare the settings of a corpus with those of a recipe."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from launcher.artifacts.corpus_manifest import Manifest

if TYPE_CHECKING:
    from launcher.recipe import PrepareRecipe


def differing_settings(manifest: Manifest, recipe: "PrepareRecipe") -> list[str]:
    """Name the settings in which a corpus differs from a recipe; files and tokenizer are not compared."""
    made = {"data_use": manifest.data_use, "validation": manifest.split.validation} | flat({"clean": manifest.clean})
    wanted = flat(recipe.model_dump(mode="json", include={"data_use", "validation", "clean"}))
    said = [
        f"`{key}` {json.dumps(made.get(key))} there, {json.dumps(wanted.get(key))} here"
        for key in dict.fromkeys((*made, *wanted))
        if made.get(key) != wanted.get(key)
    ]
    options = [source.model_dump(mode="json", exclude={"files"}) for source in recipe.sources]
    if any({**file.options, "license": file.license} not in options for file in manifest.sources):
        said.append("`sources` with other options or licences")
    return said


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give every value a dotted key; lists are values."""
    keyed: dict[str, Any] = {}
    for key, inner in value.items():
        keyed |= flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return keyed
