"""An index of terms in memory, and the mentions of its terms in a text.

Two Aho-Corasick automata find all terms in one pass each: one in the folded text, one of abbreviations, which have
their capitals, in the text as it is. What they find inside of words is left out, and of what is left the longest from
the left is taken. So the time for a text depends little on the number of terms.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ahocorasick

from jobs.data.terminology.index_tables import LONGEST_TERM
from jobs.data.terminology.surface import (
    OTHERS_IN_WORDS,
    folded,
    has_plural_ending,
    is_acronym,
    is_in_word,
    is_within_word,
    key_of,
    plural,
    word_border,
)
from launcher.artifacts.corpus_manifest import file_sha256
from launcher.artifacts.terminology_manifest import CONCEPTS, TERMS, TerminologyManifest, read_terminology_manifest
from launcher.errors import LauncherError

_STRETCH = 2**15
"""Characters that are searched at once: bounds the memory for texts of any length."""
_PLURAL_ENDINGS = ("s", "es")
_NOTHING = (0, 0)


class Sense(NamedTuple):
    """One meaning of a term."""

    concept: int
    spelling: str | None
    """How an abbreviation is written; None: capitals make no difference."""


class Mention(NamedTuple):
    """A term in a text."""

    start: int
    end: int
    senses: tuple[Sense, ...]
    key: str
    """Of the term, in the singular if the text has its plural."""
    is_plural: bool


class TermIndex:
    """The terms and concepts of an index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: TerminologyManifest = read_terminology_manifest(folder)
        _check(folder, self.manifest)
        self.ids: list[str] = []
        self.types: list[str] = []
        self.preferred: list[str] = []
        self.preferred_keys: list[str] = []
        self.mentioned: list[int] = []
        """Mentions of each concept in the counted text."""
        self.names: list[list[str]] = []
        """Names of each concept, without abbreviations and without those that mean something else as well."""
        self.senses: dict[str, tuple[Sense, ...]] = {}
        """Of each key."""
        self._plurals: dict[str, str] = {}
        """Keys by plurals that are not made by `s` or `es`."""
        self._read_concepts()
        spellings = self._read_terms()
        words = (key for key, senses in self.senses.items() if senses[-1].spelling is None)
        self._words, self._spellings = _automaton([*words, *self._plurals]), _automaton(spellings)

    def _read_concepts(self) -> None:
        with (self.folder / CONCEPTS).open(encoding="utf-8", newline="\n") as file:
            for line in file:
                concept, type, preferred, mentions = line.rstrip("\n").split("\t")
                self.ids.append(concept)
                self.types.append(type)
                self.preferred.append(preferred)
                self.preferred_keys.append(key_of(preferred))
                self.mentioned.append(int(mentions))
                self.names.append([])

    def _read_terms(self) -> list[str]:
        """Read the table of terms; return the abbreviations."""
        spellings, names = list[str](), list[tuple[str, int, str]]()
        with (self.folder / TERMS).open(encoding="utf-8", newline="\n") as file:
            for line in file:
                key, number, text = line.rstrip("\n").split("\t")
                sense, known = Sense(int(number), text if is_acronym(text) else None), self.senses.get(key, ())
                if sense.spelling is not None:
                    spellings.append(text)
                    self.senses[key] = (sense, *known)  # abbreviations first
                else:
                    names.append((key, sense.concept, text))
                    if sense not in known:
                        self.senses[key] = (*known, sense)
        for key, concept, text in names:
            if len(self.senses[key]) == 1:
                self.names[concept].append(text)
            if (many := plural(key)) not in self.senses and many.removeprefix(key) not in _PLURAL_ENDINGS:
                self._plurals[many] = key
        return spellings

    def mentions(self, text: str) -> Iterator[Mention]:
        """Give the terms in a text: whole words, from left to right, the longest where several begin, none in another.

        Ambiguous ones have several senses.
        """
        low, place = folded(text), 0
        while place < len(low):
            end = word_border(low, place + _STRETCH)
            found = self._in_stretch(text, low, place, end)
            yield from found
            place = max(end, found[-1].end) if found else end

    def _in_stretch(self, text: str, low: str, begin: int, end: int) -> list[Mention]:
        """Return the mentions that begin in a stretch of whole words."""
        # By start: where the longest one ends, and where its singular does.
        until, longest = min(len(low), end + LONGEST_TERM), dict[int, tuple[int, int]]()
        for machine, searched in ((self._words, low), (self._spellings, text)):
            for last, length in machine.iter(searched, begin, until) if machine else ():
                start, singular = last + 1 - length, last + 1
                before = low[start - 1 : start]
                if start >= end or before.isalnum() or before in OTHERS_IN_WORDS:
                    continue
                stop = _whole_word(low, start, singular)
                # The longest; of a plural and a term that is one, the term.
                if stop and (stop, singular) > longest.get(start, _NOTHING) and not is_within_word(text, start, stop):
                    longest[start] = stop, singular
        found, free = list[Mention](), 0
        for start in sorted(longest):
            if start >= free:
                free, singular = longest[start]
                key = low[start:singular]
                one = self._plurals.get(key, key) if singular == free else key
                senses = _spelled(self.senses[one], text[start:singular])
                found.append(Mention(start, free, senses, one, singular < free or one != key))
        return found


def _whole_word(low: str, start: int, stop: int) -> int:
    """Return where a match ends, with the ending of a plural; 0 if it ends inside of a word."""
    after = low[stop : stop + 1]
    if not after.isalnum() and after not in OTHERS_IN_WORDS:
        return stop
    if after not in "se":
        return 0
    for ending in _PLURAL_ENDINGS:
        end = stop + len(ending)
        if low.startswith(ending, stop) and (end == len(low) or not is_in_word(low[end])):
            return end if has_plural_ending(low[start:stop], ending) else 0
    return 0


def _automaton(words: list[str]) -> Any:
    """Build an automaton that tells the last place and the length of each match; None without words."""
    machine = ahocorasick.Automaton(ahocorasick.STORE_LENGTH)
    for word in words:
        machine.add_word(word)
    machine.make_automaton()
    return machine if words else None


def _spelled(senses: tuple[Sense, ...], surface: str) -> tuple[Sense, ...]:
    """Return the senses that a spelling has: those of exactly this abbreviation, or those of words."""
    if len(senses) == 1 and senses[0].spelling is None:
        return senses
    exact = tuple(sense for sense in senses if sense.spelling == surface)
    return exact or tuple(sense for sense in senses if sense.spelling is None)


def _check(folder: Path, manifest: TerminologyManifest) -> None:
    for name, checksum in manifest.checksums.items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != checksum:
            raise LauncherError(f"{path}: is damaged or missing; copy the index again, or make it again")
