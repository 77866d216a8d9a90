"""The rules of outcomes on single notes and admissions, with the results written out."""

from itertools import pairwise

import numpy as np
import pytest

from jobs.data.corpus.shard_writer import split_of, text_hash
from jobs.data.outcomes.rules import diagnosis_group, procedure_grouping, stay_class, without_mentions_of_death
from jobs.data.outcomes.sections import PARTS, admission_text
from jobs.data.outcomes.split import hashed_split

DAY = 86_400


def parts_of(note, rules):
    """The parts of a text that are not empty."""
    text = admission_text(note, rules)
    found = dict(part.split(": ", 1) for part in (text or "").split("\n\n") if part)
    return {name: body for name, body in found.items() if body}


def test_published_texts_have_all_parts_in_order():
    text = admission_text("Chief Complaint:\nPain.\n\nDischarge Condition:\nGood.", "published")

    assert text == "CHIEF COMPLAINT: Pain.\n\n" + "\n\n".join(f"{part}: " for part in [*PARTS][1:])


def test_strict_texts_have_only_what_is_there():
    text = admission_text("Chief Complaint:\nPain.\n\nAllergies:\n[]\n\nSex: F", "strict")

    assert text == "CHIEF COMPLAINT: Pain."


@pytest.mark.parametrize("rules", ["published", "strict"])
@pytest.mark.parametrize(
    ("note", "said"),
    [
        ("chief COMPLAINT: a\nb\n\nAllergies:\nnone\n\nX:", "a b"),
        ("Chief Complaint:\na\n\n1. b\n\nX:", "a  1. b"),
        ("Chief Complaint:\na\n\nb\n\nX:", "a  b"),
        ("Chief Complaint:\na\n\nOn 2 occasions: b\n\nX:", "a  On 2 occasions: b"),
        ("Chief Complaint:\na\n\nTime (hours): b\n\nX:", "a  Time (hours): b"),
        ("Chief Complaint:\na\n\n| x: b\n\nX:", "a  | x: b"),
        ("Chief Complaint:\na\n\nSome words: and more\n", "a"),
        ("Chief Complaint:\na\n\n\n\nX: b", "a"),
        ("Major Chief Complaint: a\n\nX: b\n\nChief Complaint: c\n\nX:", "a"),
    ],
)
def test_a_section_ends_at_a_blank_line_before_a_heading(note, said, rules):
    assert parts_of(note, rules)["CHIEF COMPLAINT"] == said


@pytest.mark.parametrize(
    ("note", "published", "strict"),
    [
        ("Allergies:\nnone\n\nChief Complaint:\nPain", {}, {"CHIEF COMPLAINT": "Pain", "ALLERGIES": "none"}),
        (
            "Chief Complaint:\n\nAllergies:\nnone\n\nX: y\n\nMedical History: b\n\nX:",
            {"CHIEF COMPLAINT": "Allergies: none", "MEDICAL HISTORY": "b", "ALLERGIES": "none"},
            {"MEDICAL HISTORY": "b", "ALLERGIES": "none"},
        ),
        ("Chief Complaint:\na\n \nX: b\n\nX:", {"CHIEF COMPLAINT": "a   X: b"}, {"CHIEF COMPLAINT": "a"}),
        ("Chief Complaint: []\n\nX:", {"CHIEF COMPLAINT": "[]"}, {}),
        ("Physical Exam: fine\n\nAllergies: no\n\nX:", {}, {}),
        ("", {}, {}),
    ],
)
def test_where_the_rules_differ(note, published, strict):
    assert parts_of(note, "published") == published
    assert parts_of(note, "strict") == strict


@pytest.mark.parametrize("rules", ["published", "strict"])
def test_a_long_note_may_have_no_heading_but_one(rules):
    note = "Chief Complaint:" + ("\n\n" + "word " * 20) * 2_000

    assert bool(admission_text(note, rules)) is (rules == "strict")


@pytest.mark.parametrize("edge", [3, 7, 14])
def test_stays_are_rounded_as_numpy_rounds(edge):
    seconds = [round((edge + tenths / 100) * DAY) + more for tenths in range(-20, 21) for more in (-1, 0, 1)]

    for one in seconds:
        days = np.round(one / DAY, 1)
        assert stay_class(one) == sum(bool(days > limit) for limit in (3, 7, 14)), one
    assert [stay_class(one) for one in (-DAY, 0, 100 * DAY)] == [0, 0, 3]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("PHYSICAL EXAM: Cold. The patient had expired at 5.", "PHYSICAL EXAM: Cold. The  at 5."),
        ("MEDICATION ON ADMISSION: none, died", "MEDICATION ON ADMISSION: none,"),
        ("PHYSICAL EXAM: expired\n\nFAMILY HISTORY: mother died", "PHYSICAL EXAM:\n\nFAMILY HISTORY: mother died"),
        ("PHYSICAL EXAM: pt died, pt died", None),
        ("PRESENT ILLNESS: The Patient  passed away", None),
        ("PRESENT ILLNESS: She expired", None),
        ("PRESENT ILLNESS: TIME OF DEATH 5", None),
        ("PRESENT ILLNESS: pronounced expired", None),
        ("PRESENT ILLNESS: husband died", "PRESENT ILLNESS: husband died"),
    ],
)
def test_mentions_of_death_are_cut_out_or_the_note_goes(text, left):
    assert without_mentions_of_death(text) == left


@pytest.mark.parametrize(
    ("code", "version", "diagnosis", "published", "strict"),
    [
        ("4019", "9", "401", "401", "401"),
        ("401.9", "9", "401", "401", "401"),
        ("0389", "9", "038", "389", "038"),
        ("V1005", "9", "V100", "V10", "V10"),
        ("V10.05", "9", "V100", "V10", "V10"),
        ("V08", "9", "V08", "V08", "V08"),
        ("E8889", "9", "E888", "E88", "E88"),
        ("0066", "9", "006", "66", "006"),
        ("00", "9", "00", "0", "00"),
        ("I10", "10", "10_I10", "10_I10", "10_I10"),
        ("E11.9", "10", "10_E11", "10_E11", "10_E11"),
        ("02703DZ", "10", "10_027", "10_027", "10_027"),
    ],
)
def test_codes_are_grouped(code, version, diagnosis, published, strict):
    assert diagnosis_group(code, version) == diagnosis
    assert procedure_grouping("published")(code, version) == published
    assert procedure_grouping("strict")(code, version) == strict


def test_patients_are_split_as_a_prepare_splits_them():
    split = {patient: hashed_split("mimic_iii", None)(patient) for patient in range(20_000)}

    for patient, one in split.items():
        key = text_hash(f"mimic_iii/{patient}")
        assert (split_of(key, 0.2) == "validation") is (one == "test")
        assert (split_of(key, 0.3) == "validation") is (one != "train")
    shares = [list(split.values()).count(one) / len(split) for one in ("train", "validation", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.01)


def test_a_seed_and_another_database_split_otherwise():
    splits = [
        [hashed_split(database, seed)(patient) for patient in range(1000)]
        for database, seed in (("mimic_iii", None), ("mimic_iii", 1), ("mimic_iii", 2), ("mimic_iv", None))
    ]

    assert all(one != other for one, other in pairwise(splits))
