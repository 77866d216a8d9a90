"""Read the UMLS Metathesaurus in its Rich Release Format.

Columns of MRCONSO.RRF and MRSTY.RRF: https://www.ncbi.nlm.nih.gov/books/NBK9685/ (sections 3.3.4 and 3.3.7).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from jobs.data.readers.source_stream import SourceStream
from jobs.data.terminology.concept import Concept
from jobs.data.terminology.term_sources import decoded_lines
from launcher.recipe.names import SourceNames
from launcher.recipe.sections.terminology import UmlsTerms

_CONSO_COLUMNS, _STY_COLUMNS = 18, 6


class Atom(NamedTuple):
    """One row of MRCONSO: a name of a concept in a vocabulary."""

    cui: str
    language: str
    vocabulary: str
    text: str
    is_suppressed: bool
    rank: tuple[bool, bool, bool]
    """Lowest for the name that UMLS prefers: of the preferred term (TS), its preferred form (STT), by its atom."""


class UmlsValues:
    """How often each value occurs that a recipe may ask for, to refuse those that nothing has."""

    def __init__(self) -> None:
        self.languages, self.vocabularies, self.types = Counter[str](), Counter[str](), Counter[str]()

    def faults(self, source: UmlsTerms) -> Iterator[tuple[str, str]]:
        """Give the key of each filter that names what no row has, and what is wrong."""
        for key, field, counts in (
            ("languages", "`LAT`", self.languages),
            ("vocabularies", "`SAB`", self.vocabularies),
            ("semantic_types", "`TUI` or `STY`", self.types),
        ):
            names = SourceNames(key, getattr(source, key), field, "rows", are_public=True)
            if fault := names.fault(counts, "credentialed"):
                yield key, fault


def read_umls(
    streams: Iterable[SourceStream],
    source: UmlsTerms,
    left_out: Counter[str],
    types: Iterable[SourceStream],
    values: UmlsValues,
) -> Iterator[Concept]:
    """Read the concepts of MRCONSO, whose rows are sorted by concept."""
    type_of = read_types(types, source, values)
    atoms = (atom for stream in streams for atom in _atoms(stream))
    for cui, its in groupby(atoms, lambda atom: atom.cui):
        kept = [atom for atom in its if _is_wanted(atom, source, left_out, values)]
        if not kept:
            continue
        if cui not in type_of:
            left_out["other_type"] += len(kept)
            continue
        order = {name: place for place, name in enumerate(source.vocabularies)}
        kept.sort(key=lambda atom: (order.get(atom.vocabulary, 0), atom.rank))
        names = dict.fromkeys(atom.text for atom in kept)
        preferred, *synonyms = names
        yield Concept(cui, preferred, type_of[cui], synonyms)


def read_types(streams: Iterable[SourceStream], source: UmlsTerms, values: UmlsValues) -> dict[str, str]:
    """Read the first wanted semantic type of each concept from MRSTY."""
    types: dict[str, str] = {}
    for stream in streams:
        for number, line in decoded_lines(stream):
            cells = line.split("|")
            if len(cells) < _STY_COLUMNS:
                stream.record_error(number, f"has {len(cells)} columns; MRSTY.RRF has {_STY_COLUMNS}")
                continue
            cui, tui, _, name = cells[:4]
            values.types.update((tui, name))
            if not source.semantic_types or tui in source.semantic_types or name in source.semantic_types:
                types.setdefault(cui, name)
    return types


def _atoms(stream: SourceStream) -> Iterator[Atom]:
    for number, line in decoded_lines(stream):
        cells = line.split("|")
        if len(cells) < _CONSO_COLUMNS:
            stream.record_error(number, f"has {len(cells)} columns; MRCONSO.RRF has {_CONSO_COLUMNS}")
            continue
        rank = (cells[2] != "P", cells[4] != "PF", cells[6] != "Y")
        yield Atom(cells[0], cells[1], cells[11], cells[14], cells[16] not in ("N", ""), rank)


def _is_wanted(atom: Atom, source: UmlsTerms, left_out: Counter[str], values: UmlsValues) -> bool:
    values.languages[atom.language] += 1
    values.vocabularies[atom.vocabulary] += 1
    reason = None
    if atom.is_suppressed:
        reason = "suppressed"
    elif atom.language not in source.languages:
        reason = "other_language"
    elif source.vocabularies and atom.vocabulary not in source.vocabularies:
        reason = "other_vocabulary"
    if reason:
        left_out[reason] += 1
    return reason is None
