"""kind: outcomes, with tables that have faults: rows that are counted, refused or left out, and what nobody may see."""

import stat

import pytest

from jobs.kinds.outcomes import main
from jobs.rank.stop_flag import STOP
from launcher.artifacts.outcomes_manifest import read_outcomes
from launcher.errors import LauncherError
from launcher.run.ledger import read_attempts, read_json_lines
from tests.support.outcome_runs import make_outcomes, outcomes_of, rows_of, shipped, write_csv
from tests.support.prepare_runs import files_of, write_source
from tests.support.stops import stopped_after

ADMISSIONS = ["SUBJECT_ID", "HADM_ID", "ADMITTIME", "DISCHTIME", "ADMISSION_TYPE", "HOSPITAL_EXPIRE_FLAG"]
NOTES = ["ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CATEGORY", "DESCRIPTION", "TEXT"]
CODES = ["SUBJECT_ID", "HADM_ID", "ICD9_CODE"]
PLANTED = "Zaphodia"


def admission(number, start="2120-01-01 00:00:00", end="2120-01-02 00:00:00", kind="URGENT", died=0, patient=None):
    return [patient or number - 100, number, start, end, kind, died]


def note(number, text=None, date="2120-01-02", patient=None, row=1, **what):
    text = f"Chief Complaint:\n{number}\n\nSex: F" if text is None else text
    fields = {"category": "Discharge summary", "description": "Report", **what}
    return [row, patient or int(number) - 100, number, date, fields["category"], fields["description"], text]


def make_tables(folder, admissions, notes, *, diagnoses=(), procedures=(), labels=None, suffix=".csv"):
    """Small tables; diagnoses and procedures are pairs of an admission and a code."""
    tables = {
        "admissions": write_csv(folder / f"ADMISSIONS{suffix}", ADMISSIONS, admissions),
        "notes": write_csv(folder / f"NOTEEVENTS{suffix}", NOTES, notes),
    }
    for key, rows in (("diagnoses", diagnoses), ("procedures", procedures)):
        if rows:
            codes = [[number - 100, number, code] for number, code in rows]
            tables[key] = write_csv(folder / f"{key}{suffix}", CODES, codes)
    if labels:
        tables["ventilation"] = write_csv(folder / f"labels{suffix}", ["HADM_ID", "label"], labels)
    return tables


def labels_of(folder, outcome):
    """Label of each admission, over all splits."""
    return {int(row[0]): row[2] for rows in rows_of(folder / "core", outcome).values() for row in rows[1:]}


def texts_of(folder):
    return {int(row[0]): row[1] for rows in rows_of(folder / "core", "mor").values() for row in rows[1:]}


def test_columns_that_are_missing_are_named_all_at_once(tmp_path):
    tables = make_tables(tmp_path, [admission(201)], [note(201)])
    write_csv(tmp_path / "ADMISSIONS.csv", ADMISSIONS[:-1], [admission(201)[:-1]])
    write_csv(tmp_path / "NOTEEVENTS.csv", NOTES[2:], [note(201)[2:]])

    with pytest.raises(LauncherError) as caught:
        outcomes_of(tmp_path, "mimic_iii", tables, max_bad_fraction=1)

    names = [line.partition(" names ")[2] for line in str(caught.value).splitlines()]
    missing = ("SUBJECT_ID", "ROW_ID", "HOSPITAL_EXPIRE_FLAG")
    assert names == [f"no column `{name}`; name the table that has it" for name in missing]


def test_columns_may_be_in_any_order_and_case_and_others_beside_them(tmp_path):
    tables = make_tables(tmp_path, [admission(201)], [note(201)])
    columns = ["other", *(name.lower() for name in reversed(ADMISSIONS))]
    write_csv(tables["admissions"], columns, [["x", *reversed(admission(201))]])

    outcomes_of(tmp_path, "mimic_iii", tables)

    assert texts_of(tmp_path).keys() == {201}


def test_a_table_that_names_a_column_twice_is_refused(tmp_path):
    tables = make_tables(tmp_path, [admission(201)], [note(201)])
    write_csv(tables["admissions"], [*ADMISSIONS, "hadm_id"], [[*admission(201), 9]])

    with pytest.raises(LauncherError, match=r"schema mismatch: its first row names several columns `HADM_ID`"):
        outcomes_of(tmp_path, "mimic_iii", tables)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (admission(202, end="soon"), "its `DISCHTIME` is not a time"),
        (admission(202, start=""), "its `ADMITTIME` is not a time"),
        (admission(202, died=""), "its `HOSPITAL_EXPIRE_FLAG` is not a whole number"),
        (admission(202, died=2), "its `HOSPITAL_EXPIRE_FLAG` is neither 0 nor 1"),
        ([1, "x", *admission(202)[2:]], "its `HADM_ID` is not a whole number"),
        (admission(201, died=1), "its `HADM_ID` is that of an earlier row, which says otherwise"),
        (admission(203)[:-1], "has 5 columns instead of 6"),
    ],
)
def test_an_admission_that_cannot_be_read_is_counted_or_refused(tmp_path, capsys, row, complaint):
    tables = make_tables(tmp_path, [admission(201), admission(300), row], [note(201), note(300), note(202)])

    with pytest.raises(LauncherError, match=rf"1 of 3 records cannot be read.* one: \S+ADMISSIONS\.csv:4: {complaint}"):
        outcomes_of(tmp_path, "mimic_iii", tables)
    manifest = outcomes_of(tmp_path, "mimic_iii", tables, max_bad_fraction=0.5)

    assert manifest.tables["source.admissions"].bad_records == 1
    assert sum(manifest.tables["source.admissions"].bad_reasons.values()) == 1
    assert f"ADMISSIONS.csv:4: {complaint}" in capsys.readouterr().out
    assert texts_of(tmp_path).keys() == ({300} if row[1] == 201 else {201, 300})


def test_the_same_admission_twice_is_one(tmp_path):
    tables = make_tables(tmp_path, [admission(201), admission(201)], [note(201)])

    manifest = outcomes_of(tmp_path, "mimic_iii", tables)

    assert manifest.tables["source.admissions"].left_out == {"copy": 1}
    assert texts_of(tmp_path).keys() == {201}


def test_notes_that_are_left_out_are_counted_by_the_reason(tmp_path):
    kept = "Chief Complaint:\nKept.\n\nSex: F"
    notes = [
        note(201, kept),
        note(201, "Nursing", category="Nursing"),
        note(201, "Other", category="Discharge summary "),
        ["9", 101, "", "2120-01-02", "Discharge summary", "Report", kept + " a"],
        note(299, kept + " b"),
        note(202, kept + " c"),
        note(201, ""),
        note(201, "Addendum: x", "2120-01-03", description="Addendum"),
        note(201, "Addendum: x", "2120-01-04", description="Addendum"),
        note(203, "Addendum: y", description="Addendum"),
        note(204, "Nothing to see"),
        note(205, kept + " d", patient=999),
    ]
    admissions = [admission(201), admission(202, kind="NEWBORN"), *map(admission, (203, 204, 205))]
    tables = make_tables(tmp_path, admissions, notes)

    manifest = outcomes_of(tmp_path, "mimic_iii", tables, max_bad_fraction=0.1)

    read = manifest.tables["source.notes"]
    assert read.left_out == {
        "other_category": 2,
        "no_admission": 1,
        "unknown_admission": 1,
        "newborn": 1,
        "no_text": 1,
        "copy": 1,
    }
    assert read.bad_reasons == {"its `SUBJECT_ID` is not that of its admission": 1}
    assert manifest.left_out["admissions"] == {"no_report": 1, "no_main_section": 1}
    assert texts_of(tmp_path).keys() == {201}


def test_texts_of_an_admission_are_joined_by_date_and_equal_ones_stay_where_they_are_last(tmp_path):
    notes = [
        note(201, "Undated: x\n\nChief Complaint: undated", "", description="Addendum"),
        note(201, "Late: x\n\nChief Complaint: late\n\nSocial History: late", "2120-01-05"),
        note(201, "Early: x\n\nMedical History: early\n\nSocial History: early", "2120-01-01"),
        note(201, "Again: x\n\nAllergies: again", "2120-01-02", description="Addendum"),
        note(201, "Once: x\n\nAllergies: once", "2120-01-03", description="Addendum"),
        note(201, "Again: x\n\nAllergies: again", "2120-01-04", description="Addendum"),
        note(202, "Chief Complaint: same", "2120-01-01"),
        note(203, "Chief Complaint: same", "2120-01-02"),
    ]
    tables = make_tables(tmp_path, [*map(admission, (201, 202, 203))], notes)

    outcomes_of(tmp_path, "mimic_iii", tables, rules="strict")

    text = "CHIEF COMPLAINT: late\n\nMEDICAL HISTORY: early\n\nALLERGIES: once\n\nSOCIAL HISTORY: early"
    assert texts_of(tmp_path) == {201: text, 203: "CHIEF COMPLAINT: same"}


@pytest.mark.parametrize(
    ("rules", "stays", "left_out"),
    [("published", {201: "0", 202: "1"}, {"died": 1}), ("strict", {202: "1"}, {"died": 1, "negative_stay": 1})],
)
def test_negative_stays_and_deaths(tmp_path, rules, stays, left_out):
    admissions = [
        admission(201, end="2119-12-31 00:00:00"),
        admission(202, end="2120-01-05 00:00:00"),
        admission(203, died=1),
    ]
    notes = [*map(note, (201, 202, 203))]

    manifest = outcomes_of(tmp_path, "mimic_iii", make_tables(tmp_path, admissions, notes), rules=rules)

    assert labels_of(tmp_path, "los") == stays
    assert manifest.left_out["los"] == left_out
    assert labels_of(tmp_path, "mor") == {201: "0", 202: "0", 203: "1"}


def test_codes_with_dots_without_and_none(tmp_path):
    diagnoses = [(201, "401.9"), (201, "4010"), (201, ""), (201, " V10.05"), (202, ""), (999, "E888.9"), (201, "4,5")]
    notes = [note(201), note(202, "Chief Complaint: b\n\nX:")]
    procedures = [(201, "36.06"), (202, "0066"), (202, "00.66")]
    tables = make_tables(tmp_path, [admission(201), admission(202)], notes, diagnoses=diagnoses, procedures=procedures)

    manifest = outcomes_of(tmp_path, "mimic_iii", tables, max_bad_fraction=0.2)

    assert labels_of(tmp_path, "diag") == {201: "401,V100"}
    assert labels_of(tmp_path, "proc") == {201: "360", 202: "66"}
    assert (tmp_path / "core" / "ALL_3_DIGIT_DIA_CODES.txt").read_text() == "401 V100 E888"
    assert manifest.tables["source.diagnoses"].bad_reasons == {"its `ICD9_CODE` is not a code": 1}
    assert manifest.tables["source.diagnoses"].left_out == {"no_code": 2}
    assert manifest.left_out["diag"] == {"no_code": 1}


def test_an_unknown_version_of_icd_is_refused(tmp_path):
    tables = shipped("mimic_iv") | {"diagnoses": tmp_path / "diagnoses.csv"}
    columns = ["subject_id", "hadm_id", "icd_code", "icd_version"]
    write_csv(tables["diagnoses"], columns, [[1, 2, "I10", 10], [1, 2, "8A00", 11]])

    with pytest.raises(LauncherError, match=r"diagnoses\.csv:3: its `icd_version` is neither 9 nor 10"):
        outcomes_of(tmp_path, "mimic_iv", tables)


def test_labels_of_ventilation_are_split_by_patient_unless_they_say_how(tmp_path):
    numbers = range(201, 241)
    notes = [*map(note, numbers)]
    labels = [[number, number % 2] for number in numbers] + [[999, 1]]
    tables = make_tables(tmp_path, [*map(admission, numbers)], notes, labels=labels)

    manifest = outcomes_of(tmp_path, "mimic_iii", tables)

    assert labels_of(tmp_path, "pmv") == {number: str(number % 2) for number in numbers}
    assert manifest.sizes["pmv"] == manifest.sizes["mor"]
    assert manifest.left_out["pmv"] == {"no_note": 1}


def test_lists_of_patients_decide_and_others_go(tmp_path):
    lists = {"train": [101, 102], "validation": [103], "test": [104, 999]}
    for split, patients in lists.items():
        write_csv(tmp_path / f"{split}.csv", ["SUBJECT_ID"], [[patient] for patient in patients])
    numbers = range(201, 206)
    notes = [*map(note, numbers)]
    tables = make_tables(tmp_path, [*map(admission, numbers)], notes)
    patients = {split: f"./{split}.csv" for split in lists}

    manifest = outcomes_of(tmp_path, "mimic_iii", tables, patients=patients)

    assert manifest.sizes["mor"] == {"train": 2, "validation": 1, "test": 1}
    assert manifest.left_out["mor"] == manifest.left_out["los"] == {"patient_in_no_list": 1}
    write_csv(tmp_path / "test.csv", ["SUBJECT_ID"], [[101]])
    with pytest.raises(
        LauncherError, match=r"patients\.test: 1 of 1 .*test\.csv:2: its `SUBJECT_ID` is in the list of"
    ):
        outcomes_of(tmp_path, "mimic_iii", tables, patients=patients, output="other")


def test_quoted_line_breaks_and_compression_change_nothing(tmp_path):
    text = 'Chief Complaint:\n"Pain", he said,\nand left.\r\n\nSex: F'
    made = {}
    for suffix in (".csv", ".csv.gz", ".csv.zst"):
        folder = tmp_path / suffix
        folder.mkdir()
        outcomes_of(folder, "mimic_iii", make_tables(folder, [admission(201)], [note(201, text)], suffix=suffix))
        made[suffix] = {name: content for name, content in files_of(folder / "core").items() if name != "manifest.json"}

    assert made[".csv"] == made[".csv.gz"] == made[".csv.zst"]


def test_a_lost_quote_costs_a_row(tmp_path):
    notes = [note(number, f"Chief Complaint: {number}\n\nX:", row=number) for number in range(201, 211)]
    tables = make_tables(tmp_path, [*map(admission, range(201, 211))], notes)
    content = tables["notes"].read_text()
    tables["notes"].write_text(content.replace('"Chief Complaint: 205', "Chief Complaint: 205"))

    manifest = outcomes_of(tmp_path, "mimic_iii", tables, max_bad_fraction=0.2)

    assert manifest.tables["source.notes"].bad_records == 1
    assert texts_of(tmp_path).keys() == {*range(201, 211)} - {205}


def test_a_truncated_table_is_refused(tmp_path):
    tables = shipped("mimic_iii") | {"notes": tmp_path / "NOTEEVENTS.csv.gz"}
    tables["notes"].write_bytes(shipped("mimic_iii")["notes"].read_bytes()[:-1000])

    with pytest.raises(LauncherError, match=r"source\.notes: .* one: \S+NOTEEVENTS\.csv\.gz:\d+: the file is corrupt"):
        outcomes_of(tmp_path, "mimic_iii", tables, max_bad_fraction=0.5)


def test_tables_of_two_databases_have_no_admission_in_common(tmp_path):
    tables = make_tables(tmp_path, [admission(201)], [note(8201)])

    with pytest.raises(LauncherError, match=r"outcome `los`: no admission is left .*are all tables of one database"):
        outcomes_of(tmp_path, "mimic_iii", tables)
    assert not list(tmp_path.glob("*core*"))


def test_a_table_without_rows_and_a_pattern_of_two_files_are_refused(tmp_path):
    tables = make_tables(tmp_path, [admission(201)], [note(201)], diagnoses=[(201, "4019")])
    write_csv(tables["diagnoses"], CODES, [])

    with pytest.raises(LauncherError, match=r"source\.diagnoses: `\S+diagnoses\.csv` has no row; fetch it again"):
        outcomes_of(tmp_path, "mimic_iii", tables)
    write_source(tmp_path / "NOTEEVENTS.csv.gz", b"")
    source = {"format": "mimic_iii", "notes": "./NOTEEVENTS.csv*", "admissions": "./ADMISSIONS.csv"}
    with pytest.raises(LauncherError, match=r"source\.notes: `\./NOTEEVENTS\.csv\*` matches 2 files, such as"):
        outcomes_of(tmp_path, "mimic_iii", {}, source=source)


def test_nothing_of_the_text_is_told_and_nobody_else_may_look(tmp_path, capfd):
    text = f"Chief Complaint:\n{PLANTED}.\n\nSex: F"
    rows = [note(201, text), note(202, text, date=PLANTED, patient=999), [PLANTED, *note(202, text)[1:]]]
    tables = make_tables(tmp_path, [admission(201), admission(202)], rows)
    admissions = [admission(201), admission(202), admission(203, end=PLANTED), admission(204, died=PLANTED)]
    write_csv(tables["admissions"], ADMISSIONS, admissions)

    with pytest.raises(LauncherError) as caught:
        outcomes_of(tmp_path, "mimic_iii", tables)
    outcomes_of(tmp_path, "mimic_iii", tables, max_bad_fraction=0.9)

    said = "".join(capfd.readouterr()) + str(caught.value) + (tmp_path / "core" / "manifest.json").read_text()
    assert "NOTEEVENTS.csv:6: its `SUBJECT_ID` is not that of its admission" in said
    assert PLANTED not in said
    assert stat.S_IMODE((tmp_path / "core").stat().st_mode) == 0o700
    assert {path.name for path in tmp_path.iterdir()} == {"ADMISSIONS.csv", "NOTEEVENTS.csv", "core", "run"}


def test_a_stop_leaves_no_text_behind_and_the_next_attempt_starts_again(tmp_path):
    context = make_outcomes(tmp_path, "mimic_iii", shipped("mimic_iii"))

    (tmp_path / ".core.abc123").mkdir()  # of an attempt that was killed
    (tmp_path / ".core.abc123" / "MP_IN_adm_train.csv").write_text("half")

    with stopped_after(5):  # when all tables are read
        main(context)
    (attempt,) = read_attempts(context.run.ledger)
    assert (attempt.reason, attempt.first_step, attempt.last_step) == ("stopped", 0, None)
    assert [row["step"] for row in read_json_lines(context.run.metrics)] == [2, 3, 4, 5]
    assert not list(tmp_path.glob("*core*"))
    main(context)

    (attempt,) = read_attempts(context.run.ledger)
    assert (attempt.last_step, attempt.total_steps, attempt.reason) == (6, 6, "finished")
    assert not list(tmp_path.glob(".core*"))


def test_what_is_there_is_not_made_again_and_nothing_else_is_replaced(tmp_path, capsys):
    folder, tables = tmp_path / "core", shipped("mimic_iii")
    outcomes_of(tmp_path, "mimic_iii", tables)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    with STOP.heeding(lambda: True):
        outcomes_of(tmp_path, "mimic_iii", tables, max_bad_fraction=0.5)
    assert "exists already, made from files of the same names and sizes" in capsys.readouterr().out
    for changes in ({"rules": "strict"}, {"split_seed": 1}):
        with pytest.raises(LauncherError, match="holds tables made from other files or settings; write another name"):
            outcomes_of(tmp_path, "mimic_iii", tables, **changes)
    (folder / "manifest.json").unlink()
    with pytest.raises(LauncherError, match="core: holds no complete outcome tables; write another name as `output`"):
        outcomes_of(tmp_path, "mimic_iii", tables)

    del before[folder / "manifest.json"]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_result_is_the_same_every_time(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        outcomes_of(tmp_path / name, "mimic_iv", shipped("mimic_iv"))

    one, other = (read_outcomes(tmp_path / name / "core") for name in ("one", "other"))
    assert one.checksums == other.checksums
    assert len(one.checksums) == 14


def test_a_folder_that_this_user_may_not_write_to_is_named(stranger):
    tables = {key: shipped("mimic_iii")[key] for key in ("notes", "admissions")}
    context = make_outcomes(stranger, "mimic_iii", tables)
    stranger.chmod(0o555)

    with pytest.raises(LauncherError, match=r"core\.abc123: permission denied; ask its owner, or set a `roots\.data`"):
        main(context)
