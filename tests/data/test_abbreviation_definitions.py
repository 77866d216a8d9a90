"""Definitions of abbreviations: the paper's examples, an independent implementation, and where they stand."""

import pytest
from abbreviations import schwartz_hearst
from hypothesis import given
from hypothesis import strategies as st

from jobs.data.terminology.definitions import best_long_form, find_definitions
from tests.support.prepare_runs import abstracts


@pytest.mark.parametrize(
    ("text", "short", "long"),
    [
        ("The heat shock transcription factor (HSF) binds.", "HSF", "heat shock transcription factor"),
        ("by Gcn5-related N-acetyltransferase (GNAT) genes", "GNAT", "Gcn5-related N-acetyltransferase"),
        ("in HA (heart attack) patients", "HA", "heart attack"),
        ("after myocardial infarction (MI; n = 12) in", "MI", "myocardial infarction"),
        ("of odds ratios [odds ratio (OR) 2.0]", "OR", "odds ratio"),
    ],
)
def test_a_definition_is_found(text: str, short: str, long: str) -> None:
    [found] = find_definitions(text)

    assert (found.short, found.long) == (short, long)
    assert text[found.start : found.end].startswith((short, long))
    assert text[found.end - 1] == ")"


@pytest.mark.parametrize(
    "text",
    [
        "was higher (p < 0.05) than",
        "in the first group (A) of",
        "We saw it. Infarction (MI) was rare",
        "the patients (see Table 2) of",
        "a (1234) b",
        "()(((",
    ],
)
def test_what_defines_nothing_gives_nothing(text: str) -> None:
    assert list(find_definitions(text)) == []


def test_the_first_letter_must_begin_a_word() -> None:
    assert best_long_form("HSF", "the shock of heat shock factor") == "heat shock factor"
    assert best_long_form("ab", "xab") is None


def test_an_independent_implementation_finds_the_same_in_real_abstracts() -> None:
    ours, theirs = set(), set()
    for number, text in enumerate(abstracts()):
        ours |= {(number, one.short, one.long) for one in find_definitions(text)}
        pairs = schwartz_hearst.extract_abbreviation_definition_pairs(doc_text=text)  # one for each short form
        theirs |= {(number, short, long) for short, long in pairs.items()}

    assert len(theirs) > 600
    assert len(ours & theirs) / len(theirs) > 0.97


@given(st.text("aB (){}[],;.A1-"))
def test_places_are_those_of_the_text(text: str) -> None:
    for one in find_definitions(text):
        assert one.short in text[one.start : one.end]
        assert one.long in text[one.start : one.end]
