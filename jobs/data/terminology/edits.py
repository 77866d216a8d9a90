"""Changes to a text, each with its place, so that it can be shown and undone."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias


class Edit(NamedTuple):
    """One replacement."""

    start: int
    """In the new text, in characters."""
    old: str
    """What stood there."""
    new: str
    why: str
    """`normalised`, `masked` or `synonym`."""


Rounds: TypeAlias = Sequence[Sequence[Edit]]
"""Edits that were made one after another; those of a round are in the order of the text and do not overlap."""


class Replacement(NamedTuple):
    """One replacement that is to be made."""

    start: int
    """In the old text, in characters."""
    end: int
    new: str
    why: str


def apply(text: str, replacements: Iterable[Replacement]) -> tuple[str, list[Edit]]:
    """Make replacements, which are in the order of the text and do not overlap."""
    parts, edits, place, length = [], [], 0, 0
    for one in replacements:
        length += one.start - place
        edits.append(Edit(length, text[one.start : one.end], one.new, one.why))
        parts += [text[place : one.start], one.new]
        place, length = one.end, length + len(one.new)
    return "".join([*parts, text[place:]]), edits


def undo(text: str, rounds: Rounds) -> str:
    """Return the text before all rounds of edits; the last one is undone first."""
    for edits in reversed(rounds):
        text, _ = apply(text, [Replacement(one.start, one.start + len(one.new), one.old, one.why) for one in edits])
    return text
