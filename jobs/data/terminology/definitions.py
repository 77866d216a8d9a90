"""Find where a text defines abbreviations: `myocardial infarction (MI)` and `MI (myocardial infarction)`.

The algorithm of Schwartz and Hearst, "A simple algorithm for identifying abbreviation definitions in biomedical text",
Pacific Symposium on Biocomputing 2003, pages 451-462 (https://psb.stanford.edu/psb-online/proceedings/psb03/schwartz.pdf).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PARENTHESIS = re.compile(r"(?<=\s)\(([^()]{2,200})\)")
_SENTENCE_END = re.compile(r"[.!?;]\s+(?=[A-Z])|\n\s*\n")
_WORD_BEFORE = re.compile(r"(?<!\S)(\S{2,10})\s+$")
_COMPARES = re.compile("[=<>]")
_LOOK_BACK = 250
"""Characters before a parenthesis in which a long form may be; the longest allowed one has 15 words."""


@dataclass(frozen=True)
class Definition:
    """One definition, and where it stands."""

    short: str
    long: str
    start: int
    """Of the whole, in characters of the text."""
    end: int
    long_end: int
    """Of the long form."""


def find_definitions(text: str) -> Iterator[Definition]:
    """Give the definitions in a text, in its order."""
    for found in _PARENTHESIS.finditer(text):
        inside = re.split(r"[;,] ", found[1], maxsplit=1)[0].strip()
        if _may_be_short(inside):
            before = _sentence_before(text, found.start())
            long = best_long_form(inside, _last_words(before.rstrip(), min(len(inside) + 5, 2 * len(inside))))
            if long is not None:
                start = found.start() - len(before) + before.rfind(long)
                yield Definition(inside, long, start, found.end(), start + len(long))
            continue
        outside = _WORD_BEFORE.search(text, max(0, found.start() - 12), found.start())
        if outside and _may_be_short(outside[1]) and _fits(outside[1], inside):
            yield Definition(
                outside[1], inside, outside.start(1), found.end(), text.index(inside, found.start()) + len(inside)
            )


def best_long_form(short: str, candidate: str) -> str | None:
    """Return the shortest end of a candidate that has the short form's letters in their order; None if there is none.

    Each letter or digit of the short form is searched from the right; its first one must begin a word.
    """
    place = len(candidate) - 1
    for number in range(len(short) - 1, -1, -1):
        letter = short[number].lower()
        if not letter.isalnum():
            continue
        while place >= 0 and (
            candidate[place].lower() != letter or (number == 0 and place > 0 and candidate[place - 1].isalnum())
        ):
            place -= 1
        if place < 0:
            return None
        place -= 1
    long = candidate[candidate.rfind(" ", 0, place + 1) + 1 :].lstrip("([")
    return long if _is_plausible(short, long) else None


def _may_be_short(text: str) -> bool:
    """Two to ten characters, at most two words, at least one letter, the first a letter or digit, and no `p < 0.05`."""
    return (
        2 <= len(text) <= 10
        and len(text.split()) <= 2
        and any(one.isalpha() for one in text)
        and text[0].isalnum()
        and not _COMPARES.search(text)
    )


def _fits(short: str, long: str) -> bool:
    """Tell whether a whole text in parentheses is the long form of what stands before them."""
    return len(long.split()) <= min(len(short) + 5, 2 * len(short)) and best_long_form(short, long) == long


def _is_plausible(short: str, long: str) -> bool:
    words = re.split(r"[\s-]+", long)
    if long.count("(") != long.count(")") or long.count("[") != long.count("]"):
        return False
    return len(long) > len(short) and short not in words and len(words) <= min(len(short) + 5, 2 * len(short))


def _sentence_before(text: str, place: int) -> str:
    """Return what stands before a place in its sentence."""
    before = text[max(0, place - _LOOK_BACK) : place]
    ends = [found.end() for found in _SENTENCE_END.finditer(before)]
    return before[ends[-1] :] if ends else before


def _last_words(text: str, count: int) -> str:
    words = list(re.finditer(r"\S+", text))
    return text[words[-count].start() :] if len(words) > count else text.lstrip()
