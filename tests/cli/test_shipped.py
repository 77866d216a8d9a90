"""The recipes that are shipped."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from launcher.cli import app
from launcher.errors import LauncherError
from tests.support.command_line import launcher

RECIPES = Path(__file__).parents[2] / "recipes"


def test_each_shipped_recipe_is_listed_with_its_kind_and_purpose() -> None:
    listed = json.loads(launcher("recipes", "--json")[0])["recipes"]

    assert {one["recipe"] for one in listed} == {
        path.relative_to(RECIPES).as_posix()
        for folder in (RECIPES, RECIPES / "pipelines")
        for path in folder.glob("*.yaml")
    }
    assert all(one["kind"] and one["description"] for one in listed)
    assert "medcare_stage1.yaml" in CliRunner().invoke(app, ["recipes"]).stdout


def test_a_copy_is_whole_and_replaces_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "recipes"

    assert CliRunner().invoke(app, ["recipes", "--copy", str(copy)]).exit_code == 0

    files = sorted(path.relative_to(RECIPES) for path in RECIPES.rglob("*") if path.is_file())
    assert sorted(path.relative_to(copy) for path in copy.rglob("*") if path.is_file()) == files
    assert yaml.safe_load((copy / "biomed_llama_cpt.yaml").read_text())["kind"] == "cpt"
    with pytest.raises(LauncherError, match="exists already"):
        CliRunner().invoke(app, ["recipes", "--copy", str(copy)], catch_exceptions=False)
