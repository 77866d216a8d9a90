"""Steps between reading and tokenising: which documents stay, how they are changed, and what is counted."""

import csv
import gzip
import json
import unicodedata
from types import SimpleNamespace

import pytest
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from jobs.data.clean import Cleaner
from jobs.data.clean.language import LanguageFilter, sample
from jobs.data.clean.overlap import words_of
from jobs.data.clean.phi import PATTERNS, PhiCheck
from jobs.data.clean.text import Normaliser
from jobs.data.corpus import file_list
from launcher.artifacts.corpus_manifest import TokenizerRecord
from launcher.recipe.kinds.prepare import LANGUAGES, Clean
from tests.support.prepare_runs import abstracts, make_context
from tests.support.shared_data import shared_data

GERMAN = "Die Behandlung der chronischen Niereninsuffizienz bei älteren Patienten mit Diabetes mellitus."
FRENCH = "Le traitement de l'insuffisance rénale chronique chez les patients âgés atteints de diabète."
CHINESE = "慢性肾功能不全是指各种原因造成的慢性进行性肾实质损害。致使肾脏明显萎缩。不能维持其基本功能。"


def clean(texts, **section):
    """Texts that are left, and the cleaner."""
    cleaner = Cleaner(Clean.model_validate_json(json.dumps(section)), None)
    return [document.text for document in cleaner.run(Document(text, "") for text in texts)], cleaner


def test_nothing_is_done_that_is_not_asked_for():
    texts = [GERMAN, "Cafe\u0301 ﬁne", "Dr. Smith, 617-632-7000"]

    left, cleaner = clean(texts)

    assert left == texts
    assert (cleaner.dropped, cleaner.phi, cleaner.contaminated) == ({}, {}, {})


def test_steps_come_in_the_documented_order():
    marked = Document("short", "", metadata={"drop": "error"})
    # Ten characters before normalisation, nine after it: too short. The other way round it would stay.
    texts = [Document("cafe\u0301 abcd", ""), Document("abc", ""), Document(GERMAN, "")]
    cleaner = Cleaner(Clean(normalise="nfc", min_characters=10, languages=("de",), phi_check=True), None)

    assert [document.text for document in cleaner.run([marked, *texts])] == [GERMAN]
    assert cleaner.dropped == {"error": 1, "too_short": 2}


@pytest.mark.parametrize("least", [0, 1, 2])
def test_blank_documents_are_dropped_and_counted(least):
    texts = ["", " ", "\n\t \r\n", "\u00a0\u2003", "a b", " a\n"]

    left, cleaner = clean(texts, min_characters=least)

    assert (left, cleaner.dropped) == (["a b", " a\n"], {"too_short": 4})


def test_only_corpora_that_may_have_had_empty_documents_are_other_corpora_now(tmp_path, monkeypatch):
    record = TokenizerRecord(path="x", vocab_size=9, fingerprint="x", prefix=(), eos=1)
    encoder = SimpleNamespace(record=record)
    recipes = [make_context(tmp_path, clean={"min_characters": least}).recipe for least in (0, 1)]

    now = [file_list.settings_of(recipe, encoder, None, None) for recipe in recipes]
    monkeypatch.setattr(file_list, "_RULES_OF_ANY_LENGTH", 2)
    before = [file_list.settings_of(recipe, encoder, None, None) for recipe in recipes]

    assert [one == other for one, other in zip(now, before, strict=True)] == [False, True]


def test_texts_that_are_too_long_go_before_and_after_normalisation():
    texts = ["a" * 9, "a" * 8, "\ufdfa", "\ufdfa" * 9]  # one character that NFKC writes as 18

    assert clean(texts, max_characters=8)[0] == ["a" * 8, "\ufdfa"]
    left, cleaner = clean(texts, max_characters=8, normalise="nfkc")
    assert (left, cleaner.dropped) == (["a" * 8], {"too_long": 3})


@pytest.mark.parametrize(
    ("form", "expected"), [("none", "e\u0301 ﬁ ①"), ("nfc", "\u00e9 ﬁ ①"), ("nfkc", "\u00e9 fi 1")]
)
def test_text_is_normalised_as_the_recipe_says(form, expected):
    assert clean(["e\u0301 ﬁ ①"], normalise=form)[0] == [expected]


@given(st.text(), st.sampled_from(["nfc", "nfkc"]))
def test_the_quick_check_changes_no_result(text, form):
    assert Normaliser(form).format(text) == unicodedata.normalize(form.upper(), text)


@pytest.mark.parametrize("form", ["nfc", "nfkc"])
@pytest.mark.parametrize(
    "unit", ["\u0301\u0316", "\u0f73\u0f71", "\u0344\u0316", "e\u0316\u0301", "\uff9e\u0301", "\u0302"]
)
def test_marks_on_a_letter_are_sorted_in_linear_time(form, unit):
    text = f"a{unit * 500_000}"

    written = Normaliser(form).format(text)

    # Letters and marks are those of the text, and a joiner for 30 marks at most.
    assert len(written.replace("\u034f", "")) <= 2 * len(text)
    assert written.count("\u034f") <= 2 * len(text) // 30
    assert len(words_of(text)) <= len(text)


@given(
    st.text(st.sampled_from("ae\u0301\u0316\u0f73\uff9e \u304b\u3099\u1100\u1161\u11a8"), max_size=30),
    st.sampled_from(["nfc", "nfkc"]),
)
def test_as_many_marks_as_writing_needs_are_normalised_as_ever(text, form):
    assert Normaliser(form).format(text) == unicodedata.normalize(form.upper(), text)


def test_other_languages_go_and_are_counted():
    left, cleaner = clean([abstracts()[0], GERMAN, FRENCH, CHINESE], languages=["en"])

    assert left == [abstracts()[0]]
    assert cleaner.dropped == {"other_language_by_text": 3}
    assert clean([abstracts()[0], GERMAN, FRENCH, CHINESE], languages=["fr", "zh"])[0] == [FRENCH, CHINESE]


@pytest.mark.parametrize("change", [str, str.upper, lambda text: text.upper().replace("PATIENTS", "patients")])
def test_no_english_abstract_goes_whatever_its_case(change):
    texts = [change(text) for text in abstracts()]

    assert clean(texts, languages=["en"])[0] == texts


@pytest.mark.parametrize(
    "text",
    [
        "12 34 56 7.8 9",
        "___",
        "HR 88 BP 120/80 RR 16 SAT 98% RA",
        "WBC-7.2 RBC-4.31 Hgb-13.2 Hct-39.1 MCV-91",
        "PERRLA EOMI NC/AT",
        "NO ACUTE CARDIOPULMONARY PROCESS.",
        "pt c/o SOB x2d, denies CP/N/V",
    ],
)
def test_text_that_tells_nothing_of_its_language_stays(text):
    assert clean([text], languages=["en"], min_characters=0)[0] == [text]


def test_no_clinical_note_goes():
    with gzip.open(shared_data("clinical/mtsamples.visible.jsonl.gz"), "rt", encoding="utf-8") as file:
        notes = [json.loads(line)["text"] for line in file][::3]
    either = [*notes, *(note.upper() for note in notes), *(note[:120] for note in notes)]

    assert len(clean(either, languages=["en"])[0]) == len(either) > 1_000


def test_chinese_stays_where_it_is_wanted_and_goes_where_it_is_not():
    lines = shared_data("sft/medicalgpt/medical_sft_sharegpt.600.jsonl").read_bytes().splitlines()
    texts = [json.loads(line)["conversations"][1]["value"] for line in lines]

    assert len(clean(texts, languages=["zh"])[0]) == len(texts)
    assert len(clean(texts, languages=["en"])[0]) < 0.05 * len(texts)


@given(st.text(max_size=2_000))
def test_a_sample_is_a_bounded_part_of_the_text(text):
    taken = sample(text)

    assert taken == text if len(text) <= 400 else len(taken) == 403 and taken.endswith(text[-97:])


def test_any_text_has_a_probability():
    judge = LanguageFilter(["en"])

    assert all(0 <= judge.probability(text) <= 1.001 for text in ("", "\x00", "\U0010ffff" * 500, "a" * 10_000))


def test_recipes_may_name_the_languages_that_can_be_told():
    labels = LanguageIdentifier.from_model_file(MODEL_FILE).labels

    assert sorted(label for label in labels if len(label) == 2) == LANGUAGES


FOUND = {
    "removal_mark": ["[**Hospital 18**]", "Dr. ___"],
    "email": ["write to a.b@example.org"],
    "url": ["see https://example.org/x", "at www.example.org", "http://www.example.org"],
    "ip_address": ["from 192.168.1.17", "10.0.0.1."],
    "us_ssn": ["SSN 123-45-6789.", "SSN: 123456789", "social security number 123 45 6789"],
    "phone": ["(617) 632-7000", "call 617-632-7000", "617.632.7000", "cell 6176327000"],
    "record_number": [
        "MRN 12-34-567",
        "MRN: 1234567",
        "Medical Record Number: 99887766",
        "unit no. 1234567",
        "ACCOUNT #55512",
    ],
    "date": [
        *("01/02/2015", "on 1/2/15", "2015-01-02", "January 3, 2019", "Aug. 3rd 2004", "3-Jan-2015", "12-JUL-98"),
        *("03 January 2015", "the 3rd of July 2008", "2015/01/02", "1-2-2015", "31.12.2015", "3 Sept. 2015"),
    ],
    "titled_name": ["Mr. Smith came", "Mrs Jones", "DR. HOUSE"],
}
NOT_FOUND = [
    "BP 120/80, 2/6 murmur, 10/10 pain, ratio 3/4/2151",
    "1123-45-6789 and 123-45-67890 are too long, 1617-632-7000, too",
    "Dr. Last Name (STitle) and Mr. Known lastname 1234 saw the patient on 2151-7-16",
    "____________ fill in here",
    "@ noon, foo@bar",
    "TMS Score 12345, the unit 5 no 3, p < 0.05",
    "in the years 2015-2019, PMID 12345678",
    "proteases (EC 3.4.22.2), section 1.2.3.4, 10.12.13.14.15, 1-2-15 tablets, 3 days in 2015",
    "1234567890 cells, 61763270001, 123456789, 12-34-567, 2015/16/2017x, 5-7-2151, 2151/7/16, 16 July 2151",
]


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FOUND.items() for text in texts])
def test_what_looks_like_patients_data_is_counted(name, text):
    _, cleaner = clean([f"before {text} behind", text], phi_check=True)

    assert cleaner.phi == dict.fromkeys(PATTERNS, 0) | {name: 2}


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_is_ordinary_is_not_counted(text):
    assert not any(clean([text], phi_check=True)[1].phi.values())


def test_notes_that_were_de_identified_are_told_from_others():
    with gzip.open(shared_data("clinical/mimic_iv_note_like/discharge.csv.gz"), "rt", newline="") as file:
        removed = clean([row["text"] for row in csv.DictReader(file)], phi_check=True)[1].phi
    with gzip.open(shared_data("clinical/mtsamples.visible.jsonl.gz"), "rt", encoding="utf-8") as file:
        left = clean([json.loads(line)["text"] for line in file], phi_check=True)[1].phi

    assert (removed.pop("removal_mark"), sum(removed.values())) == (4878, 6)
    assert (left.pop("removal_mark"), sum(left.values())) == (5, 1402)


def test_only_documents_that_stay_are_checked():
    _, cleaner = clean(["Mr. Smith", f"Mr. Smith is {GERMAN}"], phi_check=True, min_characters=20)

    assert cleaner.phi["titled_name"] == 1


@given(st.text())
def test_the_check_changes_no_document(text):
    document = Document(text, "")

    assert list(PhiCheck()([document])) == [document]
    assert document.text == text
