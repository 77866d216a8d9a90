"""JSON schemas for editors: completion, descriptions and red lines while a recipe is being written.

Put `# yaml-language-server: $schema=FILE` on the first line of a recipe. Keys that `base:` may supply are not required
in a file that has one, nor in a `rehearsal`.
"""

import copy
from typing import Any

from pydantic import BaseModel

from launcher.recipe import KINDS
from launcher.recipe.base import Section
from launcher.recipe.field_docs import describe_fields
from launcher.recipe.pipeline import PipelineRecipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BASE = {"type": "string", "description": "File that this one is laid over; relative to this file."}


def recipe_schema(kind: str | None = None) -> dict[str, Any]:
    """Make the JSON schema of recipes of one kind, or of any kind."""
    models: dict[str, type[BaseModel]] = {**KINDS, "pipeline": PipelineRecipe}
    if kind is not None:
        return {"$schema": DIALECT, **document_schema(models[kind])}
    definitions: dict[str, Any] = {}
    choices = []
    for name, model in models.items():
        schema = document_schema(model)
        definitions |= schema.pop("$defs")
        condition = {"properties": {"kind": {"const": name}}, "required": ["kind"]}
        choices.append({"if": condition, "then": schema})
    kinds = {"kind": {"enum": list(models), "description": "What kind of recipe this is."}, "base": _BASE}
    one_of_them = [{"required": ["kind"]}, {"required": ["base"]}]
    return {
        "$schema": DIALECT,
        "type": "object",
        "properties": kinds,
        "anyOf": one_of_them,
        "allOf": choices,
        "$defs": definitions,
    }


def document_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Make the JSON schema of a file that holds a recipe or a cluster profile: whole, or laid over a `base:`."""
    describe_fields(Section)
    whole = model.model_json_schema()
    definitions = whole.pop("$defs")
    partial_definitions = {f"Partial{name}": _partial(schema) for name, schema in definitions.items()}
    partial = _partial(whole)
    if "rehearsal" in whole["properties"]:
        overlay = copy.deepcopy(partial)
        del overlay["properties"]["rehearsal"]
        partial_definitions[f"Rehearsal{model.__name__}"] = overlay
        rehearsal = {
            "anyOf": [{"$ref": f"#/$defs/Rehearsal{model.__name__}"}, {"type": "null"}],
            "description": whole["properties"]["rehearsal"]["description"],
        }
        whole["properties"]["rehearsal"] = partial["properties"]["rehearsal"] = rehearsal
    partial["properties"] = {"base": _BASE, **partial["properties"]}
    return {
        "if": {"required": ["base"]},
        "then": partial,
        "else": whole,
        "$defs": definitions | partial_definitions,
    }


def _partial(schema: Any) -> Any:
    """Copy a schema so that no key is required, at any depth."""
    if isinstance(schema, dict):
        return {key: _partial(value) for key, value in schema.items() if key != "required" or isinstance(value, dict)}
    if isinstance(schema, list):
        return [_partial(item) for item in schema]
    return schema.replace("#/$defs/", "#/$defs/Partial") if isinstance(schema, str) else schema
