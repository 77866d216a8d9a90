"""What a kind of recipe owes the rest of the program, and where its parts are."""

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest

from jobs.rank.required_packages import MODULES
from launcher.load import load_recipes
from launcher.recipe import KINDS, Recipe
from launcher.recipe.base import AdapterInput
from tests.support.import_scan import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))

READ_NOTHING = {"site_check"}


def value_at(recipe: Recipe, key: str) -> Any:
    """Follow a dotted key through the sections of a recipe."""
    value: Any = recipe
    for part in key.split("."):
        value = value[int(part)] if part.isdecimal() else getattr(value, part)
    return value


def recipes_of(kind: str) -> Iterator[Recipe]:
    for path in RECIPES:
        if f"kind: {kind}\n" in path.read_text(encoding="utf-8"):
            yield from (item.recipe for item in load_recipes(path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_says_what_it_is(kind: str) -> None:
    model = KINDS[kind]

    assert model.progress in ("steps", "files", "items")
    assert {*model.extras} <= {*MODULES}
    assert [type(getattr(model, name)) for name in ("reads_text", "trains", "is_tracked")] == [bool] * 3
    assert model.array is None or model.model_fields[model.array].annotation is int
    assert model.trains == ("optim" in model.model_fields)
    assert not model.is_tracked or "tracking" in model.model_fields


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_its_parts(kind: str) -> None:
    job = ast.parse((ROOT / "jobs" / "kinds" / f"{kind}.py").read_text(encoding="utf-8"))

    assert (ROOT / "launcher" / "recipe" / "kinds" / f"{kind}.py").is_file()
    assert "main" in {node.name for node in job.body if isinstance(node, ast.FunctionDef)}
    assert (ROOT / "tests" / "kinds" / f"test_{kind}.py").is_file()
    assert any(recipe.rehearsal for recipe in recipes_of(kind))
    assert any(f"kind: {kind}" in path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_names_that_stand_in_the_recipe(kind: str) -> None:
    for recipe in recipes_of(kind):
        found = list(recipe.inputs())

        assert found or kind in READ_NOTHING
        for one in found:
            assert one.name.startswith(value_at(recipe, one.key)), one
            assert not isinstance(one, AdapterInput) or one.base


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_is_named_by_the_recipe(kind: str) -> None:
    for recipe in recipes_of(kind):
        assert recipe.makes is None or recipe.makes.name in recipe.model_dump().values()
        assert recipe.shares == (getattr(recipe, recipe.array) if recipe.array else 1)


def test_nothing_else_asks_for_the_kind_of_a_recipe() -> None:
    asked = re.compile(r"isinstance\(.*Recipe\)|\.kind (==|!=|in|not in)")
    files = [path for package in ("launcher", "jobs") for path in (ROOT / package).rglob("*.py")]

    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        if path.parent not in (ROOT / "jobs" / "kinds", ROOT / "launcher" / "recipe" / "kinds")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if asked.search(line)
    ]

    assert len(files) > 100
    assert found == []
