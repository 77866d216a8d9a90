"""Vocabulary recipes: what contradicts itself, and what cannot work on a site, is said before it is queued."""

import json
from pathlib import Path

import pytest

from launcher.load import load_recipes
from launcher.plan import check_all
from launcher.recipe.base import Artifact
from tests.support.recipe_files import faults, find_faults, profile, write

RECIPE = """\
kind: vocabulary
name: v
tokenizer: org/model
output: medical
sources: [{format: pile, files: pile/*.zst}]
resources: {time: 1h}
"""
PROFILE = """\
name: site
roots: {runs: runs, data: data, corpora: corpora, models: models}
"""


def site(folder: Path) -> None:
    """Put source text below the roots of PROFILE."""
    write(folder, "", "data/pile/0.zst")


def complaints(folder: Path, text: str, pending: tuple[str, ...] = ()) -> list[str]:
    loaded = load_recipes(write(folder, text))
    awaited = dict.fromkeys(pending, "open")
    return [str(fault).replace(f"{folder}/", "") for fault in check_all(loaded, profile(folder, PROFILE), awaited)]


@pytest.mark.parametrize(
    ("line", "code", "key"),
    [
        ("output: org/model", "invalid-value", "output"),
        ("new_tokens: 0", "out-of-range", "new_tokens"),
        ("heldout: 0.0", "out-of-range", "heldout"),
        ("share: 1.5", "out-of-range", "share"),
        ("clean: {phi_check: true}", "conflict", "clean.phi_check"),
        ("clean: {exact_duplicates: drop}", "conflict", "clean.exact_duplicates"),
        ("clean: {near_duplicates: {}}", "conflict", "clean.near_duplicates"),
        ("resources: {time: 1h, nodes: 2}", "conflict", "resources.nodes"),
        ("resources: {time: 1h, gpus_per_node: 2}", "conflict", "resources.gpus_per_node"),
        ("sources: [{format: mimic_iv, files: x}]", "conflict", "sources.0.format"),
        ("data_use: credentialed", "conflict", "min_documents"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, line: str, code: str, key: str) -> None:
    replaced = line.partition(":")[0]
    others = [other for other in RECIPE.splitlines() if not other.startswith(f"{replaced}:")]

    (fault,) = find_faults(tmp_path, "\n".join([*others, line]))

    assert (fault.code, fault.key) == (code, key)


def test_the_base_is_never_overwritten(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, RECIPE.replace("org/model", "medical"))

    assert "output: the tokenizer itself is never changed; write another name" in fault


def test_source_files_and_the_base_must_be_there(tmp_path: Path) -> None:
    said = complaints(tmp_path, RECIPE.replace("org/model", "./base"))

    assert said == [
        "recipe.yaml:3: tokenizer: there is no folder `base`; check the name",
        "recipe.yaml:5: sources.0.files: no file matches `data/pile/*.zst`; check the pattern",
    ]
    site(tmp_path)
    assert not complaints(tmp_path, RECIPE)


def test_a_corpus_may_wait_for_its_tokenizer(tmp_path: Path) -> None:
    site(tmp_path)
    corpus = (
        RECIPE.replace("output", "corpus").replace("kind: vocabulary", "kind: prepare").replace("org/model", "medical")
    )
    (maker,) = load_recipes(write(tmp_path, RECIPE, "maker.yaml"))

    (missing,) = complaints(tmp_path, corpus)

    assert "tokenizer: `medical` is not below `models`" in missing
    assert maker.recipe.makes == Artifact("tokenizer", "medical")
    assert not complaints(tmp_path, corpus, ("medical",))


def test_a_tokenizer_made_of_credentialed_text_is_not_for_open_recipes(tmp_path: Path) -> None:
    site(tmp_path)
    write(tmp_path, json.dumps({"data_use": "credentialed"}), "models/org/model/expansion.json")
    write(tmp_path, "{}", "models/org/model/tokenizer_config.json")

    (said,) = complaints(tmp_path, RECIPE)

    assert said.startswith("recipe.yaml:3: tokenizer: `org/model`")
    assert said.endswith("write `data_use: credentialed`")
    assert not complaints(tmp_path, f"{RECIPE}data_use: credentialed\nmin_documents: 11\n")
