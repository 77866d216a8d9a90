"""How terms look in text: folding, borders of words, plurals, capitals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.data.terminology.surface import (
    WORD,
    folded,
    has_plural_ending,
    is_acronym,
    is_in_word,
    is_within_word,
    key_of,
    plural,
    with_capitals_of,
)


@given(st.text())
def test_folded_text_has_the_same_length_and_stays_as_it_is(text: str) -> None:
    assert len(folded(text)) == len(text)
    assert folded(folded(text)) == folded(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Breast-Cancer", "breast cancer"),
        ("T\u2010cell\nleukemia", "T cell leukemia"),
        ("Crohn\u2019s  disease", "crohn's disease"),
        ("\u0130stanbul fever", "\u0130STANBUL FEVER"),
    ],
)
def test_equal_terms_have_equal_keys(one: str, other: str) -> None:
    assert key_of(one) == key_of(other)


@pytest.mark.parametrize("term", ["MI", "mRNA", "HbA1c", "5-FU", "NSAID", "IL-2", "A&E", "p53A", "COVID-19"])
def test_an_abbreviation_is_told_by_its_capitals(term: str) -> None:
    assert is_acronym(term)


@pytest.mark.parametrize("term", ["asthma", "Asthma", "ASTHMA ATTACK", "PNEUMONIA", "type 2", "Down syndrome", "x"])
def test_other_terms_are_no_abbreviations(term: str) -> None:
    assert not is_acronym(term)


@pytest.mark.parametrize(
    ("text", "is_within"),
    [
        ("non-[Hodgkin lymphoma]", True),
        ("[IL]-2 levels", True),
        ("pre-[eclampsia]", True),
        ("[HIV]-positive", False),
        ("[cancer]-related", False),
        ("[cancer] - a review", False),
        ("a -[cancer]", False),
        ("[cancer]", False),
        ("[cancer]-", False),
        ("[p53]\u2013x", True),
    ],
)
def test_a_hyphen_may_make_a_longer_word(text: str, is_within: bool) -> None:
    start, end = text.index("["), text.index("]") - 1

    assert is_within_word(text.replace("[", "").replace("]", ""), start, end) is is_within


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("lung cancer", "lung cancers"),
        ("biopsy", "biopsies"),
        ("psychosis", "psychoses"),
        ("ray", "rays"),
        ("rash", "rashes"),
        ("Heart Attack", "Heart Attacks"),
        ("diabetes mellitus", "diabetes mellitus"),
        ("NSAID", "NSAID"),
        ("type 2", "type 2"),
        ("disease, x", "disease, x"),
    ],
)
def test_plurals_are_the_regular_ones(one: str, many: str) -> None:
    assert plural(one) == many


ENDINGS = [
    *[("lung cancer", "s", True), ("virus", "es", True), ("virus", "s", False), ("cancer", "es", False)],
    *[("il", "s", False), ("h2", "s", False), ("rash", "es", True), ("nsaid", "s", True), ("gas", "s", False)],
]


@pytest.mark.parametrize(("term", "ending", "has"), ENDINGS)
def test_a_plural_has_the_ending_of_its_word(term: str, ending: str, has: bool) -> None:
    assert has_plural_ending(term, ending) is has


@given(st.characters())
def test_a_character_is_in_a_word_if_words_are_made_of_it(character: str) -> None:
    assert is_in_word(character) == bool(WORD.fullmatch(character))


@pytest.mark.parametrize(
    ("surface", "term", "before", "written"),
    [
        ("Heart attack", "myocardial infarction", "", "Myocardial infarction"),
        ("Heart attack", "myocardial infarction", "died. ", "Myocardial infarction"),
        ("Hansen's disease", "leprosy", "of ", "leprosy"),
        ("heart attack", "Myocardial Infarction", "of ", "Myocardial Infarction"),
        ("HEART ATTACK", "myocardial infarction", "OF ", "MYOCARDIAL INFARCTION"),
        ("NIDDM", "diabetes", "of ", "diabetes"),
        ("HEART ATTACK", "MI", "OF ", "MI"),
    ],
)
def test_a_term_gets_the_capitals_of_its_place(surface: str, term: str, before: str, written: str) -> None:
    assert with_capitals_of(surface, term, before) == written
