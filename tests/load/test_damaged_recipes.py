"""Recipes and profiles with anything in them: faults with a place and a fix, or a recipe; never a traceback."""

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from launcher.errors import LauncherError, RecipeError
from launcher.load import load_cluster, load_recipes
from tests.support.command_line import launcher_with_any_code
from tests.support.fuzz import as_json, damaged, files_beside, fuzzed

RECIPES = Path(__file__).parents[2] / "recipes"
WHOLE = [
    found
    for path in sorted(RECIPES.glob("*.yaml"))
    for found in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    if isinstance(found, dict) and "base" not in found
]
PROFILES = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((RECIPES / "clusters").glob("*.yaml"))]
STAGES = {
    "kind": "pipeline",
    "name": "two",
    "stages": {"one": {"recipe": WHOLE[0]}, "two": {"recipe": WHOLE[1], "needs": ["one"], "set": {"seed": 1}}},
}


@fuzzed(st.sampled_from(WHOLE).flatmap(damaged), gate=50)
def test_a_damaged_recipe_loads_or_is_explained(folder: Path, damage: Any) -> None:
    path = folder / "recipe.yaml"
    path.write_bytes(as_json(damage))
    before = set(files_beside(folder, folder / "none"))

    for rehearse in (False, True):
        try:
            load_recipes(path, (), rehearse)
        except RecipeError as error:
            assert error.faults and all(fault.message and fault.code for fault in error.faults)

    assert set(files_beside(folder, folder / "none")) == before


@fuzzed(st.sampled_from(WHOLE).flatmap(damaged), gate=10)
def test_a_damaged_recipe_is_checked_for_a_site(folder: Path, damage: Any) -> None:
    path, profile = folder / "recipe.yaml", folder / "cluster.yaml"
    path.write_bytes(as_json(damage))
    roots = ", ".join(f"{name}: {folder / name}" for name in ("runs", "data", "corpora", "models"))
    profile.write_text(f"name: here\nroots: {{{roots}}}\n")
    before = set(files_beside(folder, folder / "none"))

    for command in ("validate", "plan"):
        assert launcher_with_any_code(command, str(path), "--json", "--cluster", str(profile)) in (0, 2)

    assert set(files_beside(folder, folder / "none")) == before


@fuzzed(damaged(STAGES), gate=10)
def test_a_damaged_pipeline_is_checked(folder: Path, damage: Any) -> None:
    path = folder / "pipeline.yaml"
    path.write_bytes(as_json(damage))

    assert launcher_with_any_code("validate", str(path), "--json") in (0, 2)


@fuzzed(st.sampled_from(PROFILES).flatmap(damaged), gate=50)
def test_a_damaged_profile_loads_or_is_explained(folder: Path, damage: Any) -> None:
    path = folder / "cluster.yaml"
    path.write_bytes(as_json(damage))

    try:
        load_cluster(str(path))
    except LauncherError as error:
        assert str(error)


def test_the_profiles_and_recipes_that_are_damaged_are_whole() -> None:
    assert len(WHOLE) > 10 and len(PROFILES) > 1
    assert json.dumps(PROFILES[0])
