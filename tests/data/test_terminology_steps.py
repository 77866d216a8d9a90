"""Normalising, masking and varying terms: what changes, what stays, and that all of it can be undone."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.data.terminology import normalise
from jobs.data.terminology.augment import Augmenter, MaskingRates
from jobs.data.terminology.edits import undo
from jobs.data.terminology.normalise import normalised
from jobs.data.terminology.surface import key_of
from jobs.data.terminology.term_index import TermIndex
from jobs.data.terminology.text_steps import TextSteps
from launcher.recipe.sections.terminology import Masking, SynonymDrawing, TextTerminology
from tests.support.prepare_runs import abstracts
from tests.support.term_indexes import SOME, index_of

LISTED = (("AD", "Alzheimer's disease"), ("AD", "atopic dermatitis"), ("CRC", "colorectal cancer"))
MENTIONS = {"cancer": 900, "lung cancer": 90, "celiac disease": 9, "kidney": 1}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> TermIndex:
    return index_of(tmp_path_factory.mktemp("index"), SOME, LISTED, MENTIONS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A heart attack.", "A myocardial infarction."),
        ("Heart attacks kill.", "Myocardial infarctions kill."),
        ("CANCER OF LUNG", "LUNG CANCER"),
        ("Coeliac disease; coeliac-disease", "Celiac disease; celiac disease"),
        ("cancers, Lung Cancer and KIDNEYS", "cancers, Lung Cancer and KIDNEYS"),
        ("a psychotic disorder, psychotic disorders", "a psychosis, psychoses"),
        ("renal organ cancer", "kidney cancer"),
        ("heartattack, cheart attack", "heartattack, cheart attack"),
    ],
)
def test_names_become_preferred_terms(index: TermIndex, text: str, expected: str) -> None:
    done = normalised(text, index)

    assert done.text == expected
    assert undo(done.text, done.rounds) == text


@pytest.mark.parametrize(
    ("text", "trusted", "expected"),
    [
        (
            "After heart attack (HA), HA was rare.",
            "defined",
            "After heart attack (HA), myocardial infarction was rare.",
        ),
        ("MI (mitral insufficiency); MI", "defined", "MI (mitral insufficiency); mitral insufficiency"),
        ("MI: an infarction of a myocardial kind", "defined", None),
        ("In MI an infarction of myocardial kind", "told", "In myocardial infarction an infarction of myocardial kind"),
        ("MI, mitral insufficiency, heart attack", "told", None),
        ("MI came back", "known", None),
        ("CRC came back", "known", "Colorectal cancer came back"),
        ("CRC came back", "told", None),
        ("Clinical research centre (CRC): the CRC is", "known", None),
        ("ALL PATIENTS with acute lymphoblastic leukemia", "known", None),
        ("of AD and atopic dermatitis", "told", "of atopic dermatitis and atopic dermatitis"),
        ("Alzheimer's disease, atopic dermatitis, AD", "told", None),
    ],
)
def test_an_abbreviation_is_changed_only_if_the_text_decides(
    index: TermIndex, text: str, trusted: str, expected: str | None
) -> None:
    done = normalised(text, index, trusted)

    assert done.text == (expected or text.replace("heart attack", "myocardial infarction"))
    assert (done.counts["ambiguous"] > 0) == (expected is None)
    assert undo(done.text, done.rounds) == text


WORDS = [
    *(name for names in SOME for name in names),
    *("AD", "CRC", "(MI)", "(AD)", "(HA)", "HA", "(heart attack)", "HEART ATTACK", "Cancers", "Alzheimer's disease"),
    *("atopic", "dermatitis", "of", "renal", "x_", "\n", ".", ",", "-", "\u00e9\u0301", "\u0130", "\U0001f600"),
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join) | st.text()


@given(TEXTS, st.sampled_from(["defined", "told", "known"]))
def test_a_normalised_text_stays_as_it_is_and_can_be_undone(index: TermIndex, text: str, trusted: str) -> None:
    done = normalised(text, index, trusted)

    assert normalised(done.text, index, trusted).text == done.text
    assert undo(done.text, done.rounds) == text
    assert (done.text != text) <= bool(done.rounds)


@given(TEXTS, st.integers(0, 9))
def test_masks_and_synonyms_can_be_undone(index: TermIndex, text: str, seed: int) -> None:
    settings = TextTerminology(index="x", masking=Masking(base=0.3), synonyms=SynonymDrawing(probability=0.5))

    done = TextSteps(settings, seed, index).run(text)

    assert undo(done.text, done.rounds) == text
    assert TextSteps(settings, seed, index).run(text) == done


def test_what_does_not_settle_is_left_as_it_was(index: TermIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalise, "_ROUNDS", 2)
    assert normalised("renal organ cancer", index).text == "kidney cancer"
    monkeypatch.setattr(normalise, "_ROUNDS", 1)

    done = normalised("renal organ cancer", index)

    assert (done.text, done.rounds, done.counts) == ("renal organ cancer", (), Counter(unsettled=1))


def test_rare_concepts_are_masked_more_often(index: TermIndex) -> None:
    rates = MaskingRates(Masking(base=0.1, most=0.6, exponent=0.5), index)
    by_name = {name: rates.of(index.preferred.index(name)) for name in [*MENTIONS, "psychosis"]}

    mean = sum(MENTIONS.values()) / len(MENTIONS)
    expected = {name: min(0.6, 0.1 * (mean / count) ** 0.5) for name, count in MENTIONS.items()}
    assert by_name == pytest.approx(expected | {"psychosis": 0.6})
    assert by_name["cancer"] < by_name["lung cancer"] < by_name["celiac disease"] < by_name["kidney"]


def test_mentions_are_masked_as_often_as_the_formula_says(index: TermIndex) -> None:
    masking, draws = Masking(base=0.2, placeholder="<{type}>"), random.Random(5)
    augmenter, rate = Augmenter(index, masking, None), MaskingRates(masking, index).of(index.preferred.index("cancer"))

    done = augmenter.run("cancer " * 20_000, draws)

    assert done.text.count("<disease>") == done.counts["masked"]
    spread = 4 * (rate * (1 - rate) * 20_000) ** 0.5  # four standard deviations
    assert abs(done.counts["masked"] - rate * 20_000) < spread


def test_a_synonym_is_another_name_of_the_same_concept(index: TermIndex) -> None:
    augmenter = Augmenter(index, None, SynonymDrawing(probability=1.0))

    done = augmenter.run("Myocardial infarctions, lung cancer, MI", random.Random(1))

    first, second, third = done.text.split(", ")
    assert first in ("Heart attacks", "Cardiac infarctions")
    assert second in ("cancer of lung", "pulmonary carcinoma")
    assert third == "MI"
    assert done.counts == {"synonym": 2}
    again = normalised(done.text, index)
    assert key_of(again.text) == key_of("Myocardial infarctions, lung cancer, MI")


def test_definitions_are_neither_masked_nor_varied(index: TermIndex) -> None:
    augmenter = Augmenter(index, Masking(base=1.0, most=1.0, exponent=0), SynonymDrawing(probability=1.0))

    done = augmenter.run("Heart attack (HA) and HA", random.Random(1))

    assert done.text == "Heart attack (HA) and [disease]"


def test_real_abstracts_stay_normalised_and_can_be_undone(index: TermIndex) -> None:
    changed = 0
    for text in abstracts()[:250]:
        done = normalised(text, index, "known")
        changed += done.text != text
        assert normalised(done.text, index, "known").text == done.text
        assert undo(done.text, done.rounds) == text
    assert changed >= 3


UNITS = [
    "heart attack (HA) ",
    "MI ",
    "MI (MI) ",
    "(MI)",
    "mitral insufficiency MI ",
    "renal organ ",
    "(",
    "a (b) ",
    "HA. ",
]


@pytest.mark.parametrize("unit", UNITS)
def test_a_long_text_of_anything_is_changed_in_linear_time(index: TermIndex, unit: str) -> None:
    text = unit * (2**17 // len(unit))

    done = normalised(text, index)

    assert undo(done.text, done.rounds) == text
