"""kind: outcomes, from MIMIC's tables to those that `classify` reads, compared with a slow program."""

import pytest

from jobs.data.labelled.tables import class_counts, read_classes, read_table
from launcher.artifacts.outcomes_manifest import read_outcomes
from launcher.recipe.sections.labelled_notes import CORE_TASKS, CoreNotes
from tests.support.outcome_reference import reference
from tests.support.outcome_runs import make_outcomes, outcomes_of, rows_of, shipped
from tests.support.shared_data import shared_data

LIKE = {
    "mimic_iii": {
        "notes": "mimic_iii_like/NOTEEVENTS.csv.gz",
        "admissions": "mimic_iii_like/ADMISSIONS.csv.gz",
        "diagnoses": "mimic_iii_like/DIAGNOSES_ICD.csv.gz",
        "procedures": "mimic_iii_like/PROCEDURES_ICD.csv.gz",
    },
    "mimic_iv": {
        "notes": "mimic_iv_note_like/discharge.csv.gz",
        "admissions": "mimic_iv_hosp_like/admissions.csv.gz",
        "diagnoses": "mimic_iv_hosp_like/diagnoses_icd.csv.gz",
        "procedures": "mimic_iv_hosp_like/procedures_icd.csv.gz",
    },
}


def compare(folder, tables, database, rules):
    """Compare all rows of all tables with those of the slow program; return how many there are of each outcome."""
    expected, classes = reference(tables, database, rules)
    manifest = read_outcomes(folder)
    for outcome in manifest.sizes:
        found = {row[0]: (split, *row[1:3]) for split, rows in rows_of(folder, outcome).items() for row in rows[1:]}
        assert found == expected[outcome]
        name = CORE_TASKS[outcome].class_file
        assert not name or (folder / name).read_text() == classes[outcome]
    return {outcome: sum(sizes.values()) for outcome, sizes in manifest.sizes.items()}


@pytest.mark.parametrize("rules", ["published", "strict"])
@pytest.mark.parametrize("database", ["mimic_iii", "mimic_iv"])
def test_the_rows_are_those_of_a_slow_program(tmp_path, database, rules):
    tables = shipped(database)

    outcomes_of(tmp_path, database, tables, rules=rules)

    promised = make_outcomes(tmp_path, database, tables).recipe.makes.files
    assert {path.name for path in (tmp_path / "core").iterdir()} == {*promised, "manifest.json"}
    sizes = compare(tmp_path / "core", tables, database, rules)
    assert sizes.keys() == {"los", "mor", "diag", "proc", *(["pmv"] if database == "mimic_iii" else [])}
    assert min(sizes.values()) > 25


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["published", "strict"])
@pytest.mark.parametrize("database", ["mimic_iii", "mimic_iv"])
def test_so_they_are_of_more_notes(tmp_path, database, rules):
    tables = {key: shared_data(f"clinical/{name}") for key, name in LIKE[database].items()}

    outcomes_of(tmp_path, database, tables, rules=rules, max_bad_fraction=0.01)

    sizes = compare(tmp_path / "core", tables, database, rules)
    assert sizes["mor"] > 350


def test_the_tables_are_those_that_classify_reads(tmp_path):
    outcomes_of(tmp_path, "mimic_iii", shipped("mimic_iii"))

    for task in CORE_TASKS:
        data = CoreNotes(format="core", task=task, folder="core")
        classes = read_classes(data, lambda name: str(tmp_path / name))
        tables = {split: read_table(str(tmp_path / name), data, classes) for split, name in data.files.items()}
        counts = sum(class_counts(table.labels, len(classes)) for table in tables.values())
        assert {table.unit_column for table in tables.values()} == {"SUBJECT_ID"}
        assert all(count > 0 for count in counts), task
        if task != "pmv":  # its split is BEEP's
            patients = [set(table.units) for table in tables.values()]
            assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]


def test_the_first_row_and_the_quotes_are_those_of_core(tmp_path):
    outcomes_of(tmp_path, "mimic_iii", shipped("mimic_iii"))

    first = (tmp_path / "core" / "LOS_WEEKS_adm_train.csv").read_bytes().split(b"\n")
    assert first[0] == b'"id","text","los_label","SUBJECT_ID"'
    assert first[1].startswith(b'"8131","CHIEF COMPLAINT: Follow-up of chronic problems.')
    assert (tmp_path / "core" / "pmv_dev.csv").exists()
