"""JSON schemas of what `--json` prints, made from the types that the commands print.

A key that is documented here stays what it is until `SCHEMA_VERSION` is raised; new keys may come.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_type_hints

from pydantic import BaseModel, Field, TypeAdapter, create_model

from launcher.cli.json_output import SCHEMA_VERSION
from launcher.recipe.field_docs import texts_of
from launcher.recipe.schema import DIALECT

Fields: TypeAlias = dict[str, Any]


def output_schema(command: str) -> dict[str, Any]:
    """Make the JSON schema of what a command prints with `--json`.

    Args:
        command: As one types it, without `launcher`: `status`, `corpus show`.
    """
    from launcher.cli.json_forms import OUTPUTS

    forms = [_form(command, name, fields) for name, fields in OUTPUTS[command]().items()]
    whole: Any = forms[0]
    for form in forms[1:]:
        whole = whole | form
    schema = TypeAdapter(whole).json_schema(mode="serialization")
    texts = {one.__name__: texts_of(one) for one in _classes_in(whole, set()) if one.__module__ != __name__}
    for name, part in {**schema.get("$defs", {}), "": schema}.items():
        _finish(part, texts.get(name, {}))
    return {"$schema": DIALECT, **schema, "title": f"launcher {command} --json"}


def _form(command: str, name: str, fields: Fields) -> type[BaseModel]:
    head: Fields = {"schema_version": Literal[SCHEMA_VERSION]} | ({"type": Literal[name]} if name else {})
    return object_of("".join(word.title() for word in f"{command} {name}".split()) + "Output", **head, **fields)


def object_of(title: str, /, *parts: type, **fields: Any) -> type[BaseModel]:
    """Make the type of an object that has the fields of some dataclasses, and others besides."""
    taken = {key: hint for part in parts for key, hint in fields_of(part).items()}
    keys: Any = {key: (hint, ...) for key, hint in (taken | fields).items()}
    model: type[BaseModel] = create_model(title, __module__=__name__, **keys)
    return model


def fields_of(part: type) -> Fields:
    """Read the fields of a dataclass, with what is written under them."""
    hints, texts = get_type_hints(part), texts_of(part)
    names = [one.name for one in dataclasses.fields(part)]
    return {name: Annotated[hints[name], Field(description=texts.get(name))] for name in names}


def _classes_in(annotation: Any, seen: set[type]) -> Iterator[type]:
    """Find the classes with fields that a type is made of."""
    for part in get_args(annotation):
        yield from _classes_in(part, seen)
    if not isinstance(annotation, type) or annotation in seen:
        return
    if dataclasses.is_dataclass(annotation) or issubclass(annotation, BaseModel):
        seen.add(annotation)
        yield annotation
        for hint in get_type_hints(annotation).values():
            yield from _classes_in(hint, seen)


def _finish(part: dict[str, Any], texts: Mapping[str, str]) -> None:
    """Describe keys, require all of them, and allow for numbers that are none."""
    for key, schema in part.get("properties", {}).items():
        schema.pop("title", None)
        schema.pop("default", None)
        if key in texts:
            schema.setdefault("description", texts[key])
    if "properties" in part:
        part["required"] = list(part["properties"])
    _allow_null(part)


def _allow_null(schema: Any) -> None:
    """Let each number be null: NaN and infinity are printed like this."""
    if isinstance(schema, list):
        for one in schema:
            _allow_null(one)
    elif isinstance(schema, dict):
        if schema.get("type") == "number":
            schema["type"] = ["number", "null"]
        for key, one in schema.items():
            if key != "const":
                _allow_null(one)
