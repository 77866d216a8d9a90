"""The text under each field of a model, read from the source when somebody asks for it.

pydantic can read it while a class is made (`use_attribute_docstrings`), but then each start of the launcher and of each
rank takes 20 ms longer for texts that only `launcher schema` and the message about a missing key need.
"""

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel


def field_texts(model: type[BaseModel]) -> dict[str, str]:
    """Read what is written under the fields of a model, inherited ones included."""
    texts = texts_of(model)
    return {name: text for name, text in texts.items() if name in model.model_fields}  # not of ClassVars


def texts_of(owner: type) -> dict[str, str]:
    """Read what is written under the attributes of a class, inherited ones included."""
    texts: dict[str, str] = {}
    for one in reversed(owner.__mro__):
        if one not in (object, BaseModel):
            texts |= _own_texts(one)
    return texts


@cache
def describe_fields(base: type[BaseModel]) -> None:
    """Make JSON schemas of all models below `base` carry the texts of their fields."""
    made: set[type[BaseModel]] = set()
    for model in _below(base):
        _describe(model, made)


def _describe(model: type[BaseModel], made: set[type[BaseModel]]) -> None:
    """Make a model anew, after those that it holds: it has copies of their schemas."""
    if model in made:
        return
    made.add(model)
    for name, text in field_texts(model).items():
        field = model.model_fields[name]
        field.description = text
        for held in _models_in(field.annotation):
            _describe(held, made)
    model.model_rebuild(force=True)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


@cache
def _own_texts(owner: type) -> dict[str, str]:
    definition = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, text in itertools.pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text_below))):
                texts[name] = inspect.cleandoc(text_below)
    return texts


def _below(base: type[BaseModel]) -> list[type[BaseModel]]:
    """All subclasses, at any depth."""
    direct = base.__subclasses__()
    return [*direct, *(model for subclass in direct for model in _below(subclass))]
