"""The tutorial's files: valid, rehearsed on what comes with the launcher, and a pipeline in the order that it shows."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launcher.cli import app
from launcher.load import load_recipes
from tests.support.tutorial import PAGE, write_files

RECIPES = ("pubmed.yaml", "adapt.yaml", "measure.yaml", "merge.yaml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the files of the page, beside the copied recipes."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_files_are_those_that_its_commands_name(folder: Path) -> None:
    named = set(re.findall(r"^\$ launcher [^#\n]*?\b(\w+\.yaml)", PAGE, re.MULTILINE))

    assert {path.name for path in folder.glob("*.yaml")} == {*RECIPES, "pipeline.yaml"} == named


@pytest.mark.parametrize("name", RECIPES)
def test_its_recipes_work_as_they_are_and_rehearsed(folder: Path, name: str) -> None:
    [real], [rehearsal] = load_recipes(folder / name), load_recipes(folder / name, rehearse=True)

    assert real.recipe.name + "-rehearsal" == rehearsal.recipe.name
    files = [one for one in rehearsal.recipe.inputs() if one.name.startswith("./")]
    assert [one.name for one in files if not (folder / one.name).exists()] == []


def test_its_pipeline_has_the_order_that_the_page_shows(folder: Path) -> None:
    shown = re.findall(r"\$ launcher graph pipeline.yaml\n(.*?)\$", PAGE, re.DOTALL)
    profile = folder / "here.yaml"
    roots = ", ".join(f"{name}: {folder}/{name}" for name in ("runs", "data", "corpora", "models"))
    profile.write_text(f"name: here\nexecutor: local\nroots: {{{roots}}}\ngpus: {{device: cpu}}\n", encoding="utf-8")

    done = CliRunner().invoke(app, ["graph", "pipeline.yaml", "--cluster", str(profile)])

    assert done.output == shown[0]
