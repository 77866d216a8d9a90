"""Terminology recipes, and sections that use an index: contradictions, and what cannot work on a site."""

from pathlib import Path

import pytest

from launcher.load import load_recipes
from launcher.plan import check_all
from launcher.recipe import TerminologyRecipe
from launcher.recipe.base import Artifact
from tests.support.recipe_files import find_faults, profile, write

RECIPE = """\
kind: terminology
name: t
data_use: credentialed
output: terms
terms:
  - {format: obo, files: terms/doid.obo}
  - {format: umls, files: terms/MRCONSO.RRF, types: terms/MRSTY.RRF}
resources: {time: 1h}
"""
PREPARE = """\
kind: prepare
name: p
corpus: words
tokenizer: org/model
sources: [{format: pile, files: terms/x.jsonl}]
clean: {terminology: {index: terms}}
resources: {time: 1h}
"""
PROFILE = """\
name: site
roots: {runs: runs, data: data, corpora: corpora, models: models}
"""


def complaints(folder: Path, text: str, pending: dict[str, str] | None = None) -> list[str]:
    for name in ("doid.obo", "MRCONSO.RRF", "MRSTY.RRF", "x.jsonl"):
        write(folder, "", f"data/terms/{name}")
    loaded = load_recipes(write(folder, text))
    return [
        str(fault).replace(f"{folder}/", "") for fault in check_all(loaded, profile(folder, PROFILE), pending or {})
    ]


def index_at(folder: Path, manifest: str) -> None:
    write(folder, manifest, "models/terms/manifest.json")


def test_a_recipe_says_what_it_reads_and_makes(tmp_path: Path) -> None:
    (loaded,) = load_recipes(write(tmp_path, RECIPE + "count_in: [{format: pile, files: a.jsonl}]\n"))

    assert isinstance(loaded.recipe, TerminologyRecipe)
    assert loaded.recipe.makes == Artifact("terminology", "terms")
    keys = ["terms.0.files", "terms.1.files", "terms.1.types", "count_in.0.files"]
    assert [one.key for one in loaded.recipe.inputs()] == keys


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("data_use: credentialed\n", "", "terms.1.format"),
        ("types: terms/MRSTY.RRF", "types: terms/MRSTY.RRF, languages: [en]", "terms.1.languages.0"),
        ("{time: 1h}", "{time: 1h, nodes: 2}", "resources.nodes"),
        ("{time: 1h}", "{time: 1h, gpus_per_node: 1}", "resources.gpus_per_node"),
        ("format: obo, files: terms/doid.obo", "format: mesh, files: x.tsv, trees: [C]", "terms.0.tree_numbers"),
        ("format: obo, files: terms/doid.obo", "format: obo, files: x, scopes: [LOOSE]", "terms.0.scopes.0"),
        ("output: terms", "output: a/b", "output"),
        ("resources:", "max_bad_fraction: 2\nresources:", "max_bad_fraction"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, before: str, after: str, key: str) -> None:
    assert [fault.key for fault in find_faults(tmp_path, RECIPE.replace(before, after))] == [key]


def test_notes_that_are_counted_make_the_index_credentialed(tmp_path: Path) -> None:
    obo = "terms:\n  - {format: obo, files: x}\ncount_in: [{format: mimic_iv, files: y}]\n"
    text = RECIPE.partition("terms:")[0].replace("data_use: credentialed\n", "") + obo + "resources: {time: 1h}\n"

    [fault] = find_faults(tmp_path, text)

    assert fault.key == "count_in.0.format"
    assert "data_use: credentialed" in fault.message


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("{index: terms, normalise: false}", "clean.terminology.normalise"),
        ("{index: terms, masking: {base: 2}}", "clean.terminology.masking.base"),
        ("{index: terms, synonyms: {probability: 0}}", "clean.terminology.synonyms.probability"),
        ("{index: terms, abbreviations: all}", "clean.terminology.abbreviations"),
        ("{}", "clean.terminology.index"),
    ],
)
def test_a_section_that_does_nothing_or_cannot_be_is_refused(tmp_path: Path, section: str, key: str) -> None:
    assert [fault.key for fault in find_faults(tmp_path, PREPARE.replace("{index: terms}", section))] == [key]


def test_vocabularies_leave_terms_alone(tmp_path: Path) -> None:
    text = PREPARE.replace("kind: prepare", "kind: vocabulary").replace("corpus: words", "output: v")

    assert [fault.key for fault in find_faults(tmp_path, text)] == ["clean.terminology"]


def test_options_that_an_answer_repeats_are_not_changed(tmp_path: Path) -> None:
    text = (
        "kind: sft\nname: s\nmodel: {path: org/model}\ndata:\n  sources: [{name: q, files: q.jsonl, format: medqa}]\n"
        "  terminology: {index: terms}\nbatch: {global_batch: 8 sequences}\noptim: {lr: 1e-5}\n"
        "schedule: {length: 10 steps}\nresources: {time: 1h}\n"
    )

    [fault] = find_faults(tmp_path, text)
    letters = load_recipes(write(tmp_path, text.replace("format: medqa", "format: medqa, answer: letter")))

    assert fault.key == "data.sources.0.answer"
    assert [one.key for one in letters[0].recipe.inputs() if one.type == "terminology"] == ["data.terminology.index"]


def test_files_are_looked_for(tmp_path: Path) -> None:
    assert complaints(tmp_path, RECIPE) == []
    [said] = complaints(tmp_path, RECIPE.replace("terms/MRSTY.RRF", "terms/MRSTI.RRF"))
    assert "terms.1.types: no file matches `data/terms/MRSTI.RRF`" in said


@pytest.mark.parametrize(
    ("manifest", "section", "said"),
    [
        (
            None,
            "{index: terms}",
            "no index of terms `terms` in `models`; first submit the `terminology` recipe",
        ),
        ("{}", "{index: terms}", "`terms` holds no index of terms"),
        ('{"kind": "terminology", "data_use": "credentialed"}', "{index: terms}", "was made of credentialed data"),
        ('{"kind": "terminology", "data_use": "open"}', "{index: terms, masking: {}}", "has counted no mentions"),
        ('{"kind": "terminology", "data_use": "open"}', "{index: terms}", None),
        ('{"kind": "terminology", "counted": {"documents": 1}}', "{index: terms, masking: {}}", None),
    ],
)
def test_the_index_must_be_there_and_fit(tmp_path: Path, manifest: str | None, section: str, said: str | None) -> None:
    if manifest is not None:
        index_at(tmp_path, manifest)

    found = complaints(tmp_path, PREPARE.replace("{index: terms}", section))

    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_an_index_that_is_still_to_come_counts(tmp_path: Path) -> None:
    assert complaints(tmp_path, PREPARE, {"terms": "open"}) == []
    [said] = complaints(tmp_path, PREPARE, {"terms": "credentialed"})
    assert "write `data_use: credentialed`" in said


def test_a_similar_name_is_suggested(tmp_path: Path) -> None:
    index_at(tmp_path, '{"kind": "terminology", "data_use": "open"}')

    [said] = complaints(tmp_path, PREPARE.replace("index: terms", "index: term"))

    assert "did you mean `terms`?" in said
