"""Reading clinical notes: the rows of MIMIC's tables, and the cleaning of their text."""

import csv
import gzip
import hashlib
import io
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data.readers import read
from jobs.data.readers.notes import clean_note
from jobs.data.readers.source_stream import SourceStream
from jobs.data.sampling.corpus_reader import open_corpus
from jobs.kinds.prepare import main
from launcher.recipe.sections.text_sources import MimicIIISource, MimicIVSource
from tests.support.prepare_runs import make_context, write_source
from tests.support.shared_data import shared_data

PLANTED = "Zaphodia"
MIMIC_III = (
    *("ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CHARTTIME", "STORETIME"),
    *("CATEGORY", "DESCRIPTION", "CGID", "ISERROR", "TEXT"),
)
MIMIC_IV = ("note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime", "storetime", "text")


def mimic_iii(**options):
    return MimicIIISource(format="mimic_iii", files="NOTEEVENTS.csv", **options)


def mimic_iv(**options):
    return MimicIVSource(format="mimic_iv", files="*.csv.gz", **options)


def read_notes(path, source):
    stream = SourceStream(path)
    return stream, list(read(stream, source))


def write_table(path, columns, *rows):
    buffer = io.StringIO()
    csv.DictWriter(buffer, columns, restval="", lineterminator="\n").writeheader()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows(rows)
    return write_source(path, buffer.getvalue().encode())


def write_noteevents(path, *rows):
    return write_table(path, MIMIC_III, *({"ROW_ID": number, **row} for number, row in enumerate(rows)))


def slowly_published(text):
    """The published cleaning, said another way: a character at a time."""
    for marker in ("[**", "**]", "\n"):
        pieces = []
        while text:
            found = text.startswith(marker)
            pieces.append(" " if found else text[0])
            text = text[len(marker) if found else 1 :]
        text = "".join(pieces)
    return "".join(
        character for at, character in enumerate(text) if not (character == " " and text[at : at + 2] == "  ")
    )


def test_the_published_cleaning_gives_one_line_and_keeps_the_words_of_markers():
    text = " \nName: [**Known lastname 801**],[**Known firstname 801**]   Unit No:\t___\r\n\n[**]x**] "

    assert clean_note(text, "published") == (" Name: Known lastname 801 , Known firstname 801 Unit No:\t___\r ]x ")


@given(text=st.text("[*] \nab", max_size=40) | st.text(max_size=40))
def test_the_published_cleaning_equals_a_slow_reference(text):
    assert clean_note(text, "published") == slowly_published(text)


def test_keeping_the_structure_keeps_lines_lists_and_columns():
    text = (
        "\n \nAdmission Date:  [**2119-6-21**]       Discharge Date:  [** 2119-6-22 **]  \n \n \n \t\n\r\n"
        "Medications on Admission:\r\n  1. Aspirin 81 mg daily. \r\n  2. Lasix   40 mg\r\n\n\nDr.[**Last Name 5**]"
        "[**First Name (un) **]saw him ([**Hospital1\n 18**]).\n___ 07:00AM   WBC-4.2  \nFollowup:\n___\n \n"
    )

    assert clean_note(text, "keep_structure") == (
        "Admission Date:  2119-6-21       Discharge Date:  2119-6-22\n\n\n"
        "Medications on Admission:\n  1. Aspirin 81 mg daily.\n  2. Lasix   40 mg\n\n\nDr.Last Name 5 "
        "First Name (un) saw him (Hospital1\n 18).\n___ 07:00AM   WBC-4.2\nFollowup:\n___"
    )


@settings(max_examples=300)
@given(text=st.text("[*] \t\n\rab_1.", max_size=60))
def test_keeping_the_structure_loses_nothing_but_brackets_and_space(text):
    cleaned = clean_note(text, "keep_structure")

    assert "".join(cleaned.split()) == "".join(text.replace("[**", " ").replace("**]", " ").split())
    assert not any(line.endswith((" ", "\t", "\r")) for line in cleaned.split("\n"))
    assert "\n\n\n\n" not in cleaned


@pytest.mark.parametrize("how", ["published", "keep_structure"])
@pytest.mark.parametrize("unit", [" ", "\t", "\n", "[**", "**]", " \n", "[** ", " **]", "*", "a [** "])
def test_cleaning_takes_time_in_proportion_to_the_text(how, unit):
    # A pattern that looks at a run of spaces once a space would take hours here.
    assert len(clean_note(unit * 1_000_000 + "x", how)) <= 5 * 1_000_000


def test_errors_and_other_categories_are_marked_and_all_else_is_a_document(tmp_path):
    discharge = {"SUBJECT_ID": 7, "CATEGORY": "Discharge summary", "DESCRIPTION": "Report"}
    path = write_noteevents(
        tmp_path / "NOTEEVENTS.csv",
        discharge | {"TEXT": "first\nline"},
        discharge | {"DESCRIPTION": "Addendum", "TEXT": "addendum"},
        discharge | {"TEXT": "first\nline"},
        discharge | {"ISERROR": "1", "TEXT": "an error"},
        {"SUBJECT_ID": 8, "CATEGORY": "Physician ", "TEXT": "progress"},
        {"SUBJECT_ID": 8, "CATEGORY": "Nursing", "TEXT": "other"},
        {"SUBJECT_ID": 8, "CATEGORY": "Nursing", "ISERROR": "1", "TEXT": "both"},
        {"SUBJECT_ID": 9, "CATEGORY": "Discharge summary", "TEXT": ""},
    )

    stream, documents = read_notes(path, mimic_iii(categories=("Discharge summary", "Physician")))

    assert [(document.text, document.metadata.get("drop")) for document in documents] == [
        ("first line", None),
        ("addendum", None),
        ("first line", None),
        ("an error", "error"),
        ("progress", None),
        ("other", "other_category"),
        ("both", "error"),
        ("", None),
    ]
    assert [document.metadata["split_key"] for document in documents] == ["mimic_iii/7"] * 4 + ["mimic_iii/8"] * 3 + [
        "mimic_iii/9"
    ]
    assert [document.id for document in documents[:2]] == ["NOTEEVENTS.csv:2", "NOTEEVENTS.csv:4"]
    assert (stream.count, stream.bad) == (8, 0)


def test_marks_of_removal_are_counted_though_cleaning_takes_them_out(tmp_path):
    notes = ("[**Hospital 18**] saw [**Name**] ___", "nothing", "[** open [**", "___")
    write_noteevents(tmp_path / "NOTEEVENTS.csv", *({"SUBJECT_ID": 7, "TEXT": note} for note in notes))
    source = {"format": "mimic_iii", "files": "./*.csv"}

    counts = prepare_notes(tmp_path, source, clean={"phi_check": True}, validation=0).manifest.counts

    assert counts.phi["removal_mark"] == 2 + 1 + 2 + 1


def test_mimic_iv_notes_are_kept_together_by_patient_and_apart_from_mimic_iii(tmp_path):
    row = {"note_id": "7-RR-5", "subject_id": 7, "note_type": "AR", "note_seq": 5, "text": "An addendum: ___\n"}
    path = write_table(tmp_path / "radiology.csv.gz", MIMIC_IV, row, row | {"subject_id": 70, "hadm_id": 1})

    _, documents = read_notes(path, mimic_iv(clean="keep_structure"))

    assert [document.text for document in documents] == ["An addendum: ___"] * 2
    assert [document.metadata for document in documents] == [{"split_key": "mimic_iv/7"}, {"split_key": "mimic_iv/70"}]


@pytest.mark.parametrize(("said", "drop"), [("1", "error"), ("1.0", "error"), ("", None), ("0", None), ("0.0", None)])
def test_an_error_is_one_however_a_table_was_written_again(tmp_path, said, drop):
    path = write_noteevents(tmp_path / "NOTEEVENTS.csv", {"SUBJECT_ID": 7, "ISERROR": said, "TEXT": "a note"})

    _, (document,) = read_notes(path, mimic_iii())

    assert document.metadata.get("drop") == drop


@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_the_names_of_columns_may_have_either_case(tmp_path, case):
    path = write_table(tmp_path / "a.csv", [case(name) for name in MIMIC_III], {case(name): 1 for name in MIMIC_III})

    _, (document,) = read_notes(path, mimic_iii())

    assert (document.text, document.metadata) == ("1", {"split_key": "mimic_iii/1", "drop": "error"})


def test_a_table_that_is_another_one_is_damaged(tmp_path):
    path = write_table(tmp_path / "discharge.csv", MIMIC_IV, {"subject_id": 7, "note_seq": 5, "text": PLANTED})

    stream, documents = read_notes(path, mimic_iii())

    assert documents == []
    assert (stream.count, stream.bad) == (1, 1)
    assert stream.first_bad == [f"{path}:1: schema mismatch: its first row names no column `CATEGORY`"]


def shared_notes(name):
    """A shared table, and its rows as the csv module reads them."""
    path = shared_data(f"clinical/{name}")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return path, list(csv.DictReader(file))


@pytest.mark.slow
def test_the_mimic_iii_sample_holds_what_another_reader_finds():
    path, table = shared_notes("mimic_iii_like/NOTEEVENTS.csv.gz")
    stream, documents = read_notes(path, mimic_iii())

    assert (stream.count, stream.bad) == (633, 0)
    assert [document.text for document in documents] == [slowly_published(row["TEXT"]) for row in table]
    assert [document.metadata["split_key"] for document in documents] == [
        f"mimic_iii/{row['SUBJECT_ID']}" for row in table
    ]
    assert Counter(document.metadata.get("drop") for document in documents) == {None: 630, "error": 3}
    assert [document.metadata.get("drop") for document in documents] == [
        "error" if row["ISERROR"] == "1" else None for row in table
    ]
    # Not a row is lost for being an addendum, a duplicate, or without an admission.
    assert sum(row["DESCRIPTION"] == "Addendum" for row in table) == 43
    assert len(table) - len({row["TEXT"] for row in table}) == 23
    assert sum(row["HADM_ID"] == "" for row in table) == 8


def test_categories_of_the_mimic_iii_sample_can_be_chosen():
    path, table = shared_notes("mimic_iii_like/NOTEEVENTS.csv.gz")
    _, documents = read_notes(path, mimic_iii(categories=("Radiology",)))

    others = sum(row["CATEGORY"] != "Radiology" for row in table)
    assert others == 573
    assert Counter(document.metadata.get("drop") for document in documents) == {
        None: 57,
        "error": 3,
        "other_category": others,
    }


@pytest.mark.parametrize(("name", "rows", "patients"), [("discharge", 509, 304), ("radiology", 190, 136)])
def test_the_mimic_iv_sample_holds_what_another_reader_finds(name, rows, patients):
    path, table = shared_notes(f"mimic_iv_note_like/{name}.csv.gz")
    stream, documents = read_notes(path, mimic_iv())

    assert (stream.count, stream.bad, len(documents)) == (rows, 0, rows)
    assert [document.text for document in documents] == [slowly_published(row["text"]) for row in table]
    assert len({document.metadata["split_key"] for document in documents}) == patients
    assert len({row["subject_id"] for row in table}) == patients


def test_the_lines_of_documents_are_those_where_their_rows_begin():
    path = shared_data("clinical/mimic_iii_like/NOTEEVENTS.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        begins = [number for number, line in enumerate(file, 1) if line.split(",", 1)[0].isdigit()]
    _, documents = read_notes(path, mimic_iii())

    assert [document.id for document in documents] == [f"NOTEEVENTS.csv.gz:{number}" for number in begins]


def test_structure_is_kept_in_the_samples():
    path, table = shared_notes("mimic_iii_like/NOTEEVENTS.csv.gz")
    _, documents = read_notes(path, mimic_iii(clean="keep_structure"))

    for document, text in zip(documents, (row["TEXT"] for row in table), strict=True):
        assert "[**" not in document.text
        assert "**]" not in document.text
        assert len(document.text.split("\n")) <= len(text.strip().split("\n"))
        kept = [line for line in document.text.split("\n") if line]
        assert len(kept) == sum(1 for line in text.split("\n") if line.strip())


def prepare_notes(folder, *sources, **changes):
    changes = {"data_use": "credentialed", "tokenizer": "stories260k"} | changes
    context = make_context(folder, sources=list(sources), **changes)
    main(context)
    return open_corpus(folder / "corpora" / "corpus")


def test_all_notes_of_a_patient_are_in_one_split(tmp_path):
    rows = [
        {"SUBJECT_ID": patient, "CATEGORY": "Nursing", "TEXT": f"{patient} note {number}"}
        for number in range(5)
        for patient in range(60)
    ]
    write_noteevents(tmp_path / "NOTEEVENTS.csv", *rows)

    manifest = prepare_notes(tmp_path, {"format": "mimic_iii", "files": "./*.csv"}, validation=0.2).manifest

    # as the manifest says, whoever reads it
    assert "`mimic_iii/` and the SUBJECT_ID" in manifest.split.rule
    digests = [hashlib.blake2b(f"mimic_iii/{patient}".encode(), digest_size=8).digest() for patient in range(60)]
    held_out = sum(int.from_bytes(digest, "big") < 0.2 * 2**64 for digest in digests)
    assert manifest.counts.documents == {"train": 5 * (60 - held_out), "validation": 5 * held_out}
    assert 0 < held_out < 30


def test_nothing_of_a_note_is_told(tmp_path, capfd):
    write_noteevents(tmp_path / "NOTEEVENTS.csv", {"SUBJECT_ID": 7, "CATEGORY": PLANTED, "TEXT": f"{PLANTED} came"})
    with (tmp_path / "NOTEEVENTS.csv").open("ab") as file:
        file.write(f'9,{PLANTED}\n9,9,"{PLANTED}"{PLANTED}\n9,9{"," * 9}\0{PLANTED}\n9,9,"{PLANTED}'.encode())

    corpus = prepare_notes(tmp_path, {"format": "mimic_iii", "files": "./*.csv"}, max_bad_fraction=0.9, validation=0)

    said = "".join(capfd.readouterr()) + (corpus.folder / "manifest.json").read_text()
    assert "NOTEEVENTS.csv:3: has 2 columns instead of 11" in said
    assert corpus.manifest.counts.bad_records == 4
    assert PLANTED not in said
