"""Vocabulary recipes: what contradicts itself, and what cannot work on a site, is said before it is queued."""

import json
from pathlib import Path

import pytest

from launcher.load import load_recipes
from launcher.plan import check_all
from tests.loading import faults, profile, write

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
    ("line", "said"),
    [
        ("output: org/model", "output: `org/model` cannot name a folder"),
        ("new_tokens: 0", "new_tokens: "),
        ("heldout: 0.0", "heldout: "),
        ("share: 1.5", "share: "),
        ("clean: {phi_check: true}", "clean.phi_check: only `prepare` does that"),
        ("clean: {exact_duplicates: drop}", "clean.exact_duplicates: only `prepare` does that"),
        ("clean: {near_duplicates: {}}", "clean.near_duplicates: only `prepare` does that"),
        ("resources: {time: 1h, nodes: 2}", "resources.nodes: `vocabulary` uses the CPUs of one node; write 1"),
        ("resources: {time: 1h, gpus_per_node: 2}", "resources.gpus_per_node: `vocabulary` uses the CPUs of one node"),
        ("sources: [{format: mimic_iv, files: x}]", "sources.0.format: MIMIC is under a data use agreement"),
        ("data_use: credentialed", "min_documents: tokens of 5 documents could tell who is in credentialed text"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, line: str, said: str) -> None:
    key = line.partition(":")[0]
    others = [other for other in RECIPE.splitlines() if not other.startswith(f"{key}:")]

    (fault,) = faults(tmp_path, "\n".join([*others, line]))

    assert said in fault


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
    assert maker.recipe.makes == "medical"
    assert not complaints(tmp_path, corpus, ("medical",))


def test_a_tokenizer_made_of_credentialed_text_is_not_for_open_recipes(tmp_path: Path) -> None:
    site(tmp_path)
    write(tmp_path, json.dumps({"data_use": "credentialed"}), "models/org/model/expansion.json")

    (said,) = complaints(tmp_path, RECIPE)

    assert said == (
        "recipe.yaml:3: tokenizer: `org/model` was made of credentialed text; write `data_use: credentialed`"
    )
    assert not complaints(tmp_path, f"{RECIPE}data_use: credentialed\nmin_documents: 11\n")
