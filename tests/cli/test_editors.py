"""What docs/editors.md says about recipes in an editor: the schema finds typos, and the settings work."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from launcher.load.translate import plain
from launcher.load.yaml_tree import parse_yaml
from tests.support.checkouts import ROOT
from tests.support.command_line import launcher
from tests.support.language_server import LanguageServer, language_server

RECIPES = ROOT / "recipes"
CPT = (RECIPES / "biomed_llama_cpt.yaml").read_text(encoding="utf-8")
TYPOS = {
    "a misspelt key": ("\noptim:", "\noptmi:"),
    "a misspelt key of a section": ("  lr: 3e-5", "  learning_rate: 3e-5"),
    "a misspelt kind": ("kind: cpt", "kind: ctp"),
    "no name": ("\nname: biomed-llama-cpt", ""),
    "no unit": ("length: 1 epoch", "length: 1"),
    "an unknown unit": ("interval: 1h ", "interval: 1 hours"),
    "a word in the place of a number": ("micro_batch: 1", "micro_batch: one"),
    "an unknown choice": ("strategy: hybrid_shard", "strategy: hybrid_sharding"),
    "a number below the least": ("keep: 3", "keep: 0"),
    "a key in the wrong section": ("  lr: 3e-5", "  sequence_length: 2048\n  lr: 3e-5"),
    "a mapping in the place of a list": ("    - name: pile-pubmed", "      name: pile-pubmed"),
    "a misspelt key of the rehearsal": ("  optim:\n    lr: 2e-3", "  optim:\n    lrr: 2e-3"),
}


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(launcher("schema")[0]))


@pytest.mark.parametrize("typo", TYPOS)
def test_the_schema_that_is_printed_finds_typical_typos(typo: str, schema: jsonschema.Draft202012Validator) -> None:
    right, wrong = TYPOS[typo]
    assert CPT.count(right) >= 1

    def is_valid(text: str) -> bool:
        (document,) = parse_yaml(text, "recipe.yaml").documents
        return bool(schema.is_valid(plain(document.root)))

    assert is_valid(CPT)
    assert not is_valid(CPT.replace(right, wrong, 1))


def settings_of_the_handbook() -> dict[str, Any]:
    """Read the settings that the handbook gives for VS Code, by section as editors keep them."""
    text = (ROOT / "docs" / "editors.md").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])
    assert {key.partition(".")[0] for key in found} == {"yaml"}
    return {"yaml": {key.removeprefix("yaml."): value for key, value in found.items()}}


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
    """An editor with the settings of the handbook, in a folder as the handbook has it."""
    program = os.environ.get("YAML_LANGUAGE_SERVER") or shutil.which("yaml-language-server")
    if program is None:
        pytest.skip("yaml-language-server is not on PATH: `npm install yaml-language-server`")
    folder = tmp_path_factory.mktemp("editor")
    for name, words in (("recipe", ()), ("cluster", ("cluster",))):
        (folder / f"{name}.schema.json").write_text(launcher("schema", *words)[0], encoding="utf-8")
    with language_server(program, folder, settings_of_the_handbook()) as server:
        yield server


@pytest.mark.slow
def test_an_editor_underlines_nothing_in_what_is_shipped(editor: LanguageServer) -> None:
    files = sorted(RECIPES.rglob("*.yaml"))
    assert len(files) > 40

    underlined = {path.name: editor.open(f"recipes/{path.relative_to(RECIPES)}", path.read_text()) for path in files}

    assert {name: found for name, found in underlined.items() if found} == {}


@pytest.mark.slow
def test_an_editor_underlines_a_typo_where_it_is_and_offers_and_explains_keys(editor: LanguageServer) -> None:
    line = CPT.splitlines().index("optim:")

    assert "optmi" in editor.open("recipes/typo.yaml", CPT.replace("\noptim:", "\noptmi:"))[line + 1]
    profile = editor.open("cluster.yaml", "name: here\nroot: {}\n")
    assert "root" in " ".join(profile.values())

    first = "# yaml-language-server: $schema=../recipe.schema.json\n"  # as seen from the recipe
    assert "optmi" in editor.open("elsewhere/typo.yaml", first + CPT.replace("\noptim:", "\noptmi:"))[line + 2]
    assert editor.open("elsewhere/right.yaml", first + CPT) == {}

    editor.open("recipes/more.yaml", CPT.replace("\noptim:\n", "\noptim:\n  \n"))
    assert "eps" in editor.complete("recipes/more.yaml", line + 1, 2)
    assert "The optimizer" in editor.explain("recipes/more.yaml", line, 2)
