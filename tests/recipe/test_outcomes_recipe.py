"""Recipes of outcomes: what contradicts itself, and what cannot work on a site, is said before they are queued."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.kinds.outcomes import main
from launcher.load import LoadedRecipe, load_recipes
from launcher.plan import check_all
from launcher.recipe.base import Artifact
from tests.support.outcome_runs import make_outcomes, shipped, write_csv
from tests.support.recipe_files import faults, find_faults, profile, write

RECIPE = """\
kind: outcomes
name: o
data_use: credentialed
output: core
source:
  format: mimic_iii
  notes: NOTEEVENTS_discharge.csv.gz
  admissions: ADMISSIONS.csv.gz
  diagnoses: DIAGNOSES_ICD.csv.gz
  procedures: PROCEDURES_ICD.csv.gz
  ventilation: pmv_labels.csv
resources: {time: 1h}
"""
CLASSIFY = """\
kind: classify
name: c
data_use: credentialed
model: {path: org/model}
data: {format: core, task: pmv, folder: core}
batch: {global_batch: 8 sequences, micro_batch: 8, sequence_length: 128}
optim: {lr: 1e-4}
schedule: {length: 1 epoch}
tracking: {mode: disabled}
resources: {time: 1h, gpus_per_node: 1}
"""
PROFILE = """\
name: site
roots: {runs: runs, data: data, corpora: corpora, models: models}
"""


def put_tables(folder: Path) -> dict[str, Path]:
    """Put the shipped tables below the roots of PROFILE."""
    (folder / "data").mkdir()
    return {key: Path(shutil.copy(path, folder / "data")) for key, path in shipped("mimic_iii").items()}


def complaints(folder: Path, text: str, **pending: str) -> list[str]:
    loaded: list[LoadedRecipe] = load_recipes(write(folder, text))
    return [str(fault).replace(f"{folder}/", "") for fault in check_all(loaded, profile(folder, PROFILE), pending)]


@pytest.mark.parametrize(
    ("line", "code", "key"),
    [
        ("output: a/b", "invalid-value", "output"),
        ("rules: loose", "unknown-name", "rules"),
        ("data_use: open", "conflict", "source.format"),
        ("resources: {time: 1h, nodes: 2}", "conflict", "resources.nodes"),
        ("resources: {time: 1h, gpus_per_node: 1}", "conflict", "resources.gpus_per_node"),
        ("patients: {train: a.csv, validation: b.csv, test: a.csv}", "conflict", "patients.test"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, line: str, code: str, key: str) -> None:
    replaced = line.partition(":")[0]
    others = [other for other in RECIPE.splitlines() if not other.startswith(f"{replaced}:")]

    (fault,) = find_faults(tmp_path, "\n".join([*others, line]))

    assert (fault.code, fault.key) == (code, key)


def test_lists_of_patients_leave_nothing_to_a_hash(tmp_path: Path) -> None:
    lists = "patients: {train: a.csv, validation: b.csv, test: c.csv}\nsplit_seed: 1\n"

    (fault,) = find_faults(tmp_path, RECIPE + lists)

    assert (fault.code, fault.key) == ("conflict", "split_seed")


def test_a_pickle_is_refused_with_what_converts_it(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, RECIPE.replace("pmv_labels.csv", "pmv_labels.pkl"))

    assert "recipe.yaml:11: source.ventilation: `pmv_labels.pkl` is a pickle, which runs code when it is read" in fault
    assert "pickle.load(open('pmv_labels.pkl','rb'))" in fault


def test_a_recipe_makes_tables(tmp_path: Path) -> None:
    (loaded,) = load_recipes(write(tmp_path, RECIPE))

    assert loaded.recipe.makes == Artifact("tables", "core")


def test_tables_and_their_columns_must_be_there(tmp_path: Path) -> None:
    tables = put_tables(tmp_path)
    assert not complaints(tmp_path, RECIPE)
    tables["procedures"].unlink()
    write_csv(tables["ventilation"], ["HADM_ID", "value"], [[1, 1]])
    write_csv(tables["notes"], ["ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CATEGORY", "DESCRIPTION"], [])

    said = complaints(tmp_path, RECIPE)

    assert said == [
        "recipe.yaml:10: source.procedures: no file matches `data/PROCEDURES_ICD.csv.gz`; check the pattern",
        "recipe.yaml:7: source.notes: the first row of `data/NOTEEVENTS_discharge.csv.gz` names no column `TEXT`; "
        "name the table that has it",
        "recipe.yaml:11: source.ventilation: the first row of `data/pmv_labels.csv` names no column `label`; "
        "name the table that has it",
    ]


def test_columns_of_mimic_iv_are_not_those_of_mimic_iii(tmp_path: Path) -> None:
    put_tables(tmp_path)

    said = complaints(tmp_path, RECIPE.replace("mimic_iii", "mimic_iv"))

    assert [line.partition(" names")[2] for line in said] == [
        " no column `charttime`; name the table that has it".replace("charttime", name)
        for name in ("note_type", "icd_code", "icd_code")
    ]


def test_a_classifier_may_wait_for_its_tables(tmp_path: Path) -> None:
    alone = complaints(tmp_path, CLASSIFY)

    assert [line.partition("; ")[0] for line in alone] == [
        f"recipe.yaml:5: data.folder: no file matches `data/core/pmv_{split}.csv`" for split in ("train", "dev", "test")
    ]
    assert not complaints(tmp_path, CLASSIFY, core="credentialed")
    assert len(complaints(tmp_path, CLASSIFY, other="credentialed")) == 3
    in_a_slash = CLASSIFY.replace("folder: core", "folder: core/")
    assert not complaints(tmp_path, in_a_slash, core="credentialed")


@pytest.mark.parametrize(
    ("there", "complaint"),
    [
        ({}, None),
        (
            {"rules": "strict"},
            "`core` exists already, made with other settings (`rules`); write another name, or",
        ),
        ({"split_seed": 1}, "`core` exists already, made with other settings (`split_seed`); write another name, or"),
        (None, "`core` exists already, but does not hold complete outcome tables; write another name, or remove"),
    ],
)
def test_tables_of_that_name_are_compared_with_the_recipe(
    tmp_path: Path, there: dict[str, Any] | None, complaint: str | None
) -> None:
    put_tables(tmp_path)
    if there is None:
        (tmp_path / "data" / "core").mkdir()
    else:
        main(make_outcomes(tmp_path, "mimic_iii", shipped("mimic_iii"), **there))
        shutil.move(tmp_path / "core", tmp_path / "data")

    said = complaints(tmp_path, RECIPE)

    assert len(said) == bool(complaint)
    assert not complaint or said[0].startswith(f"recipe.yaml:4: output: {complaint}")


def test_a_damaged_manifest_is_no_complete_table(tmp_path: Path) -> None:
    put_tables(tmp_path)
    (tmp_path / "data" / "core").mkdir()
    (tmp_path / "data" / "core" / "manifest.json").write_text(json.dumps({"format": 2}))

    (said,) = complaints(tmp_path, RECIPE)

    assert "does not hold complete outcome tables" in said


def test_what_was_made_of_mimic_is_read_by_credentialed_recipes_alone(tmp_path: Path) -> None:
    columns = "train: core/pmv_train.csv, validation: core/pmv_dev.csv, labels: binary, classes: ['0', '1']"
    of_csv = CLASSIFY.replace("format: core, task: pmv, folder: core", f"format: csv, {columns}")
    open_one = of_csv.replace("data_use: credentialed\n", "")
    assert len(complaints(tmp_path, open_one, core="credentialed")) == 2, "nor before they are made"
    main(make_outcomes(tmp_path, "mimic_iii", shipped("mimic_iii")))
    (tmp_path / "data").mkdir()
    shutil.move(tmp_path / "core", tmp_path / "data")

    said = complaints(tmp_path, open_one)

    assert [line.partition("; ")[0] for line in said] == [
        f"recipe.yaml:4: data.{split}: `core/pmv_{name}.csv` was made of credentialed data, "
        "as `data/core/manifest.json` says"
        for split, name in (("train", "train"), ("validation", "dev"))
    ]
    assert not complaints(tmp_path, of_csv)


def test_two_recipes_that_make_different_tables_of_one_name_are_refused(tmp_path: Path) -> None:
    again = RECIPE.replace("name: o\n", "name: p\ndescription: the same\n")
    other = RECIPE.replace("name: o\n", "name: q\nrules: strict\n")

    put_tables(tmp_path)
    (said,) = complaints(tmp_path, f"{RECIPE}---\n{again}---\n{other}")

    assert "output: `o` makes `core` from other files or settings; write another name" in said
