"""Decide which terms an index has and what they mean, and write its tables.

Two tables of UTF-8 text with columns separated by tabs, and no header. A concept's number is that of its line, from 0.

    concepts.tsv   id, type, preferred term, mentions in the counted text; in the order of the sources
    terms.tsv      key (see `jobs.data.terminology.surface.key_of`), concept's number, the term as its source spells it;
                   sorted by these three
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jobs.data.terminology.concept import Concept
from jobs.data.terminology.surface import WORD, is_acronym, key_of
from jobs.rank.atomic_files import write_durably
from launcher.artifacts.terminology_manifest import CONCEPTS, TERMS

LONGEST_TERM = 120
"""Characters of the longest terms that are indexed. Longer ones are definitions, which no text repeats."""
_MOST_WORDS = 12


class Row(NamedTuple):
    """One term of one concept."""

    source: int
    concept: int
    is_synonym: bool
    text: str


def refusal(term: str, key: str) -> str | None:
    """Say why a term cannot be looked for in text; None if it can."""
    words = WORD.findall(key)
    if not any(one.isalpha() for one in key):
        return "no_letter"
    if len(key) < (2 if is_acronym(term) else 3):
        return "too_short"
    if len(key) > LONGEST_TERM or len(words) > _MOST_WORDS:
        return "too_long"
    if not (key.startswith(words[0]) and key.endswith(words[-1])):
        return "begins_or_ends_with_a_sign"
    return None


class IndexTables:
    """Collects concepts in the order of their sources, then decides what each term means."""

    def __init__(self, exclude: Iterable[str] = ()) -> None:
        self._excluded = dict.fromkeys(map(key_of, exclude), 0)
        self._concepts: list[Concept] = []
        self._numbers: dict[str, int] = {}
        self._rows: defaultdict[str, list[Row]] = defaultdict(list)
        self.left_out: list[Counter[str]] = []
        """Of each source, terms that are not in the index, by reason."""
        self.concepts: list[Concept] = []
        self.terms: list[tuple[str, int, str]] = []
        self.origins: list[tuple[int, int]] = []
        """Of each source, concepts and terms in the index; these four are complete after `decide`."""
        self.ambiguous = 0

    def add(self, concepts: Iterable[Concept], left_out: Counter[str]) -> None:
        """Add the concepts of the next source; `left_out` goes on counting while they are read."""
        source = len(self.left_out)
        self.left_out.append(left_out)
        for concept in concepts:
            preferred = " ".join(concept.preferred.split())
            is_new = concept.id not in self._numbers
            if is_new and (reason := self._refusal(preferred)):
                left_out[reason] += 1
                left_out["its_preferred_term_is_left_out"] += len(concept.synonyms)
                continue
            number = self._numbers.setdefault(concept.id, len(self._concepts))
            if is_new:
                self._concepts.append(replace(concept, preferred=preferred, synonyms=[]))
            self._add_term(Row(source, number, not is_new, preferred))
            for text in concept.synonyms:
                self._add_term(Row(source, number, True, " ".join(text.split())))

    def add_meanings(self, meanings: Iterable[tuple[str, str]], type: str) -> None:
        """Add the next source, abbreviations and their meanings, each a term known so far or a concept of its own."""
        left_out = Counter[str]()
        concepts = (Concept(f"{type}:{meaning}", meaning, type, [short]) for short, meaning in meanings)
        self.add((self._known(concept) for concept in concepts), left_out)

    def unknown_exclusions(self) -> list[str]:
        """Name the terms to leave out that no source has."""
        return [key for key, count in self._excluded.items() if not count]

    def decide(self) -> None:
        """Decide what each term means, and number the concepts that have one."""
        kept = [(key, row) for key in sorted(self._rows) for row in self._decide(self._rows[key])]
        numbers = {old: new for new, old in enumerate(sorted({row.concept for _, row in kept}))}
        self.concepts = [self._concepts[old] for old in numbers]
        self.terms = sorted({(key, numbers[row.concept], row.text) for key, row in kept})
        first_source: dict[int, int] = {}
        for _, row in kept:
            first_source[row.concept] = min(row.source, first_source.get(row.concept, row.source))
        of_concepts, of_terms = Counter(first_source.values()), Counter(row.source for _, row in kept)
        self.origins = [(of_concepts[number], of_terms[number]) for number in range(len(self.left_out))]
        self.ambiguous = _count_ambiguous(self.terms)

    def write(self, folder: Path, mentions: Sequence[int]) -> None:
        """Write both tables; `mentions` has a number for each concept."""
        both = zip(self.concepts, mentions, strict=True)
        lines = (f"{one.id}\t{one.type}\t{one.preferred}\t{count}\n" for one, count in both)
        write_durably(folder / CONCEPTS, "".join(lines))
        write_durably(folder / TERMS, "".join(f"{key}\t{concept}\t{text}\n" for key, concept, text in self.terms))

    def _known(self, concept: Concept) -> Concept:
        """Return the concept that has the meaning of an abbreviation as a name already, with the abbreviation."""
        rows = self._rows.get(key_of(concept.preferred), [])
        known = {row.concept for row in rows if not is_acronym(row.text)}
        if len(known) != 1:
            return concept
        its = self._concepts[known.pop()]
        return Concept(its.id, its.preferred, its.type, concept.synonyms)

    def _refusal(self, term: str) -> str | None:
        key = key_of(term)
        if key in self._excluded:
            self._excluded[key] += 1
            return "excluded"
        return refusal(term, key)

    def _add_term(self, row: Row) -> None:
        if reason := self._refusal(row.text):
            self.left_out[row.source][reason] += 1
            return
        rows = self._rows[key_of(row.text)]
        if not any((one.concept, one.text) == (row.concept, row.text) for one in rows):
            rows.append(row)

    def _decide(self, rows: list[Row]) -> Iterator[Row]:
        """Choose the meanings of one key, for the spellings with fixed capitals and for all others."""
        by_spelling: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_spelling[row.text if is_acronym(row.text) else ""].append(row)
        for spelling, its in by_spelling.items():
            yield from self._decide_spelling(its, is_abbreviation=bool(spelling))

    def _decide_spelling(self, rows: list[Row], is_abbreviation: bool) -> Iterator[Row]:
        first = rows if is_abbreviation else [row for row in rows if row.source == rows[0].source]
        named = [row for row in first if not row.is_synonym]
        seen: dict[str, int] = {}
        for row in rows:
            if row not in first:
                self._leave_out(row, "known_from_an_earlier_source")
            elif named and row.is_synonym:
                self._leave_out(row, "preferred_term_of_another_concept")
            elif seen.setdefault(key_of(self._concepts[row.concept].preferred), row.concept) != row.concept:
                self._leave_out(row, "same_name_as_another_concept")
            else:
                yield row

    def _leave_out(self, row: Row, reason: str) -> None:
        self.left_out[row.source][reason] += 1


def _count_ambiguous(terms: Iterable[tuple[str, int, str]]) -> int:
    meanings: defaultdict[str, set[int]] = defaultdict(set)
    for key, concept, text in terms:
        meanings[text if is_acronym(text) else f"\0{key}"].add(concept)
    return sum(len(its) > 1 for its in meanings.values())
