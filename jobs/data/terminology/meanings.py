"""Which concept a mention means in its document, if that can be told."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar

from jobs.data.terminology.definitions import Definition, find_definitions
from jobs.data.terminology.surface import WORD, folded, is_among_capitals, key_of
from jobs.data.terminology.term_index import Mention, TermIndex
from launcher.recipe.sections.terminology import Abbreviations

Item = TypeVar("Item")

_NEAR = 300
"""Characters before and after an abbreviation whose words tell its meaning: about two sentences each."""
_PLACES = 100
"""Of an abbreviation in one text, as many are looked at."""
_SHORTEST_TELLING_WORD = 4


class DocumentTerms:
    """A text, the mentions in it, and what they mean.

    An abbreviation has one meaning in a whole text (Gale, Church & Yarowsky 1992, "One sense per discourse",
    https://aclanthology.org/H92-1045): the one that the text defines; else the only one of which all words of a name
    stand near the abbreviation somewhere; else, if the recipe says so, the only one that the index knows. Everything
    else is ambiguous.
    """

    def __init__(self, text: str, index: TermIndex, abbreviations: Abbreviations) -> None:
        self.text = text
        self._trusted = abbreviations
        self._index = index
        self.mentions = list(index.mentions(text))
        self._decided: dict[str, int | None] = {}

    def concept_of(self, mention: Mention) -> int | None:
        """Return the concept that a mention means; None if that is ambiguous, or is no abbreviation at its place."""
        if mention.senses[0].spelling is None:
            return self._only_one(mention)
        spelling = mention.senses[0].spelling
        if is_among_capitals(self.text, mention.start, mention.end):
            return None
        if spelling not in self._decided:
            self._decided[spelling] = self._meaning(spelling, mention)
        return self._decided[spelling]

    def is_defined_at(self, mention: Mention) -> bool:
        """Tell whether a mention is in a definition, such as `heart attack (HA)`, which must stay as it is."""
        number = bisect_left(self.definitions, mention.end, key=lambda one: one.start) - 1
        # Definitions end one after another, too: each ends with its own parenthesis.
        return number >= 0 and self.definitions[number].end > mention.start

    @cached_property
    def definitions(self) -> list[Definition]:
        """What the text defines, by where it begins."""
        return sorted(find_definitions(self.text), key=lambda one: one.start) if "(" in self.text else []

    @cached_property
    def _defined(self) -> dict[str, list[Definition]]:
        return _grouped(self.definitions, lambda one: one.short)

    @cached_property
    def _by_end(self) -> dict[int, Mention]:
        return {one.end: one for one in self.mentions}

    @cached_property
    def _by_spelling(self) -> dict[str, list[Mention]]:
        abbreviations = (one for one in self.mentions if one.senses[0].spelling is not None)
        return _grouped(abbreviations, lambda one: str(one.senses[0].spelling))

    def _only_one(self, mention: Mention) -> int | None:
        return mention.senses[0].concept if len(mention.senses) == 1 else None

    def _meaning(self, spelling: str, mention: Mention) -> int | None:
        if defined := self._defined.get(spelling):
            return self._defined_meaning(defined)
        if self._trusted == "defined":
            return None
        if self._trusted == "known" and len(mention.senses) == 1:
            return mention.senses[0].concept
        told = self._told(spelling, [sense.concept for sense in mention.senses])
        return told.pop() if len(told) == 1 else None

    def _defined_meaning(self, definitions: list[Definition]) -> int | None:
        """Return the concept of all long forms; None if they differ, or one is not in the index.

        A term that ends where a long form ends and begins before it counts: the algorithm finds `pump inhibitor` in
        `proton pump inhibitor (PPI)`.
        """
        meanings = set[int | None]()
        for one in definitions:
            found = self._by_end.get(one.long_end)
            is_whole = found is not None and found.start <= one.long_end - len(one.long)
            meanings.add(self._only_one(found) if found and is_whole else None)
        return meanings.pop() if len(meanings) == 1 else None

    def _told(self, spelling: str, concepts: Sequence[int]) -> set[int]:
        """Return the concepts of which all long words of a name stand near an abbreviation, somewhere."""
        wanted = {concept: list(self._long_words(concept)) for concept in concepts}
        told = set[int]()
        for one in self._by_spelling[spelling][:_PLACES]:
            near = set(WORD.findall(folded(self.text[max(0, one.start - _NEAR) : one.start + _NEAR])))
            told |= {concept for concept, names in wanted.items() if any(words <= near for words in names)}
        return told

    def _long_words(self, concept: int) -> Iterator[set[str]]:
        """Give the long words of each name of a concept."""
        for name in (self._index.preferred[concept], *self._index.names[concept]):
            words = {word for word in WORD.findall(key_of(name)) if len(word) >= _SHORTEST_TELLING_WORD}
            if words:
                yield words


def _grouped(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
