"""Mentions of terms in text: against a search that tries every stretch of words, and in hostile text."""

import random
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.data.terminology.surface import WORD, is_within_word, key_of
from jobs.data.terminology.term_index import TermIndex
from launcher.errors import LauncherError
from tests.support.prepare_runs import abstracts
from tests.support.term_indexes import SOME, index_of


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> TermIndex:
    return index_of(tmp_path_factory.mktemp("index"), SOME)


def found(index: TermIndex, text: str) -> list[str]:
    return [text[one.start : one.end] for one in index.mentions(text)]


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("Heart attack, then heart attacks.", ["Heart attack", "heart attacks"]),
        ("cancer of lung", ["cancer of lung"]),
        ("cancer of the lung; lung cancers", ["cancer", "lung cancers"]),
        ("cancerous, precancer, non-cancer, cancer_x", []),
        ("non-Hodgkin lymphoma and Hodgkin\u2019s disease", ["Hodgkin\u2019s disease"]),
        ("MI, mi, Mi and MIs", ["MI"]),
        ("IL-2 or IL", ["IL"]),
        ("all patients with ALL", ["ALL"]),
        ("kidney cancer of a kidney", ["kidney cancer", "kidney"]),
        ("psychoses, Psychosis", ["psychoses", "Psychosis"]),
        ("type-2 diabetes mellitus", ["type-2 diabetes mellitus"]),
        ("lung\ncancer, lung\n\ncancer", ["lung\ncancer", "cancer"]),
        ("cance\u0301r, cancer\u0301, can\u00adcer", []),
        ("", []),
        ("\u764c cancer\u764c", []),
    ],
)
def test_terms_are_found(index: TermIndex, text: str, mentions: list[str]) -> None:
    assert found(index, text) == mentions


def search(index: TermIndex, text: str) -> list[tuple[int, int]]:
    """Find the mentions of terms without abbreviations by trying every stretch of words, the longest first."""
    words = [word.span() for word in WORD.finditer(text)]
    names = {key for key, senses in index.senses.items() if senses[0].spelling is None}
    spans, free = [], 0
    for first, (start, _) in enumerate(words):
        for last in range(min(len(words), first + 8), first, -1):
            end = words[last - 1][1]
            stretch = text[start:end]
            key = re.sub("[-\n]", " ", stretch.lower())
            if start >= free and key in names and key_of(stretch) == key and not is_within_word(text, start, end):
                spans.append((start, end))
                free = end
    return spans


PARTS = [
    *("lung", "cancer", "of", "kidney", "heart", "attack", "malignant", "tumor", "renal", "carcinoma", "x-", "-", "\n"),
]


@given(st.lists(st.sampled_from(PARTS), max_size=30), st.sampled_from([" ", "  ", "-"]))
def test_an_exhaustive_search_finds_the_same(index: TermIndex, parts: list[str], gap: str) -> None:
    text = gap.join(parts)

    assert [(one.start, one.end) for one in index.mentions(text)] == search(index, text)


def test_long_texts_are_read_in_stretches_that_cut_no_term(index: TermIndex) -> None:
    draws = random.Random(1)
    text = " ".join(draws.choice(PARTS[:10]) for _ in range(40_000))

    assert [(one.start, one.end) for one in index.mentions(text)] == search(index, text)


UNITS = [
    "a",
    "cancer",
    "cancer ",
    "lung ",
    "-",
    " ",
    "\n",
    "MI ",
    "((MI) ",
    "\u0301",
    "\U0001f600",
    "\u0130 ",
    "(",
    "(a",
]


@pytest.mark.parametrize("unit", UNITS, ids=ascii)
def test_much_of_anything_is_read(index: TermIndex, unit: str) -> None:
    text = unit * (2**18 // len(unit))

    count = sum(1 for _ in index.mentions(text))

    assert count == (len(text) // len(unit) if unit in ("cancer ", "MI ", "((MI) ") else 0)


@pytest.mark.parametrize("unit", ["\u0130 "], ids=ascii)
def test_long_texts_take_little_memory(index: TermIndex, unit: str) -> None:
    text = unit * (2**18 // len(unit))
    tracemalloc.start()

    for _ in index.mentions(text):
        pass

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    index = index_of(tmp_path / "index", SOME)
    with (index.folder / "terms.tsv").open("a") as file:
        file.write("x\t0\tx\n")

    with pytest.raises(LauncherError, match=r"terms\.tsv: is damaged"):
        TermIndex(index.folder)


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match="is not an index of terms"):
        TermIndex(tmp_path)


def test_mentions_in_real_text_are_whole_words(index: TermIndex) -> None:
    texts = abstracts()[:100]

    count = 0
    for text in texts:
        for one in index.mentions(text):
            count += 1
            assert not text[one.start - 1 : one.start].isalnum()
            assert not text[one.end : one.end + 1].isalnum()
    assert count > 50
