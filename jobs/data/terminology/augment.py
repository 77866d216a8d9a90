"""Mask mentions, rare concepts more often than frequent ones, and put other names of a concept in place of mentions."""

import random
from collections import Counter
from collections.abc import Iterator

from jobs.data.terminology.edits import Replacement, apply
from jobs.data.terminology.meanings import DocumentTerms
from jobs.data.terminology.normalise import ChangedText, named
from jobs.data.terminology.surface import key_of
from jobs.data.terminology.term_index import Mention, TermIndex
from launcher.recipe.sections.terminology import Abbreviations, Masking, SynonymDrawing


class MaskingRates:
    """How probable it is that a mention of each concept is masked."""

    def __init__(self, masking: Masking, index: TermIndex) -> None:
        occurring = [count for count in index.mentioned if count]
        self._masking, self._counts = masking, index.mentioned
        self._mean = sum(occurring) / max(1, len(occurring))

    def of(self, concept: int) -> float:
        """Return min(most, base x (mean / frequency) ^ exponent); a concept that was never counted has frequency 1."""
        its = self._masking
        rarity: float = (self._mean / max(1, self._counts[concept])) ** its.exponent
        return min(its.most, its.base * rarity)


class Augmenter:
    """Masks and varies the mentions of a text."""

    def __init__(
        self,
        index: TermIndex,
        masking: Masking | None,
        synonyms: SynonymDrawing | None,
        abbreviations: Abbreviations = "told",
    ) -> None:
        self._index, self._synonyms, self._abbreviations = index, synonyms, abbreviations
        self._rates = MaskingRates(masking, index) if masking else None
        self._placeholder = masking.placeholder if masking else ""

    def run(self, text: str, draws: random.Random) -> ChangedText:
        """Change a text; the same draws give the same result."""
        new, edits = apply(text, self._replacements(DocumentTerms(text, self._index, self._abbreviations), draws))
        return ChangedText(new, [edits] if edits else [], Counter(edit.why for edit in edits))

    def _replacements(self, document: DocumentTerms, draws: random.Random) -> Iterator[Replacement]:
        for mention in document.mentions:
            concept = None if document.is_defined_at(mention) else document.concept_of(mention)
            if concept is None:
                continue
            is_masked = self._rates is not None and draws.random() < self._rates.of(concept)
            is_varied = self._synonyms is not None and draws.random() < self._synonyms.probability
            if is_masked:
                placeholder = self._placeholder.replace("{type}", self._index.types[concept])
                yield Replacement(mention.start, mention.end, placeholder, "masked")
            elif is_varied and (names := self._other_names(mention, concept)):
                new = named(document.text, mention, draws.choice(names))
                if key_of(new) != key_of(document.text[mention.start : mention.end]):
                    yield Replacement(mention.start, mention.end, new, "synonym")

    def _other_names(self, mention: Mention, concept: int) -> list[str]:
        return [name for name in self._index.names[concept] if key_of(name) != mention.key]
