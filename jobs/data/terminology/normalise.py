"""Put the preferred term in place of every other name of a concept."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jobs.data.terminology.edits import Edit, Replacement, apply
from jobs.data.terminology.meanings import DocumentTerms
from jobs.data.terminology.surface import key_of, plural, with_capitals_of
from jobs.data.terminology.term_index import Mention, TermIndex
from launcher.recipe.sections.terminology import Abbreviations

_ROUNDS = 5
"""A preferred term may form a longer term with the words beside it; a text that changes longer than this is left."""
_BEFORE = 8
"""Characters that tell whether a sentence starts."""


@dataclass(frozen=True)
class ChangedText:
    """A text, how it came about, and what was counted."""

    text: str
    rounds: Sequence[Sequence[Edit]] = ()
    """Edits that were made one after another; see `jobs.data.terminology.edits.undo`."""
    counts: Counter[str] = field(default_factory=Counter)
    """`normalised`, `ambiguous`, `unsettled` texts, `masked`, `synonym`."""


def normalised(text: str, index: TermIndex, abbreviations: Abbreviations = "told") -> ChangedText:
    """Normalise a text until nothing changes any more, so that a normalised text stays as it is."""
    counts, rounds, new = Counter[str](), list[list[Edit]](), text
    for _ in range(_ROUNDS):
        ambiguous = Counter[str]()
        changes = list(_changes(DocumentTerms(new, index, abbreviations), index, ambiguous))
        if not rounds:
            counts += ambiguous
        if not changes:
            counts["normalised"] += sum(map(len, rounds))
            return ChangedText(new, rounds, +counts)
        new, edits = apply(new, changes)
        rounds.append(edits)
    counts["unsettled"] += 1
    return ChangedText(text, (), counts)


def _changes(document: DocumentTerms, index: TermIndex, counts: Counter[str]) -> Iterator[Replacement]:
    for mention in document.mentions:
        if is_preferred(mention, index) or document.is_defined_at(mention):
            continue
        concept = document.concept_of(mention)
        if concept is None:
            counts["ambiguous"] += 1
        elif mention.key != index.preferred_keys[concept]:
            new = named(document.text, mention, index.preferred[concept])
            if key_of(new) != key_of(document.text[mention.start : mention.end]):
                yield Replacement(mention.start, mention.end, new, "normalised")


def is_preferred(mention: Mention, index: TermIndex) -> bool:
    """Tell whether a mention is the preferred term of its only sense."""
    return len(mention.senses) == 1 and mention.key == index.preferred_keys[mention.senses[0].concept]


def named(text: str, mention: Mention, name: str) -> str:
    """Write another name in place of a mention: in the plural, and with the capitals, that it has."""
    name = plural(name) if mention.is_plural else name
    surface, before = text[mention.start : mention.end], text[max(0, mention.start - _BEFORE) : mention.start]
    return with_capitals_of(surface, name, before)
