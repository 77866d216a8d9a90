"""How terms look in text: what counts as the same word, as an abbreviation, as a plural, as the border of a word.

Rules that only compare characters; nothing here knows a terminology.
"""

import re

_JOINED = "\u0300-\u036f\u200c\u200d"
WORD = re.compile(rf"[\w{_JOINED}]+")
"""A word: letters, digits and `_`, with the accents and joiners that belong to them."""
_NO_WORD = re.compile(rf"[^\w{_JOINED}]")
OTHERS_IN_WORDS = frozenset({"_", "\u200c", "\u200d", *map(chr, range(0x300, 0x370))})
"""Characters of words that are neither letters nor digits."""
_HYPHENS = "-\u2010\u2011\u2012\u2013"
_ASCII_SIGNS = "-\t\n\r\x0b\x0c"
_OTHER_SIGNS = "\u2010\u2011\u2012\u2013\xa0"
_APOSTROPHES = "'\u2019\u02bc"
_TAIL = re.compile(rf"[{_HYPHENS}][^\W\d_]{{4,}}")
_ACRONYM = re.compile(r"[\w&/+.-]{2,10}")
_LONGEST_ACRONYM_OF_LETTERS = 8
_SENTENCE_START = re.compile(r"(?:^|[.!?]\s+|\n)[\s\"'(\[]*$")


def folded(text: str) -> str:
    """Return a text of the same length in which equal terms look equal: no capitals, hyphens and spaces alike."""
    low = text.replace("\u0130", "i").lower()  # the one capital that becomes two characters, an i with a dot above
    for sign in _ASCII_SIGNS:
        low = low.replace(sign, " ")
    if not low.isascii():
        for same, signs in ((" ", _OTHER_SIGNS), ("'", _APOSTROPHES)):
            for sign in signs:
                low = low.replace(sign, same)
    return low


def is_in_word(character: str) -> bool:
    """Tell whether a character belongs to words."""
    return character.isalnum() or character in OTHERS_IN_WORDS


def word_border(text: str, place: int) -> int:
    """Return the next place, from one on, that is not inside a word."""
    found = _NO_WORD.search(text, place)
    return found.start() if found else len(text)


def key_of(term: str) -> str:
    """Return what a term is looked up by: folded, with one space where there are several."""
    return " ".join(folded(term).split())


def is_acronym(term: str) -> bool:
    """Tell whether a term is written with exactly these capitals: `MI`, `mRNA`, `HbA1c`, `5-FU`; not `ASTHMA ATTACK`.

    Names all in capitals, as some vocabularies have them, are told apart by their length.
    """
    if not _ACRONYM.fullmatch(term):
        return False
    capitals = sum(one.isupper() for one in term)
    letters = sum(one.isalpha() for one in term)
    if capitals == letters > _LONGEST_ACRONYM_OF_LETTERS:
        return False
    return capitals >= 2 or (capitals == 1 and letters < len(term) and len(term) <= 5)


def is_within_word(text: str, start: int, end: int) -> bool:
    """Tell whether a stretch of whole words is part of a longer one, by a hyphen: `non-Hodgkin lymphoma`, `IL-2`.

    A longer word of letters may follow: `cancer-related`.
    """
    if start > 1 and text[start - 1] in _HYPHENS and (text[start - 2].isalnum() or text[start - 2] in _APOSTROPHES):
        return True
    if end + 1 >= len(text) or text[end] not in _HYPHENS:
        return False
    return text[end + 1].isalnum() and not _TAIL.match(text, end)


def is_among_capitals(text: str, start: int, end: int) -> bool:
    """Tell whether the word before or after a stretch is long and in capitals, so that its own capitals say nothing."""
    before = WORD.findall(text, max(0, start - 40), start)[-1:]
    after = WORD.findall(text, end, end + 40)[:1]
    return any(len(word) >= 4 and word.isalpha() and word.isupper() for word in before + after)


def has_plural_ending(term: str, ending: str) -> bool:
    """Tell whether a term forms its plural by `s` or `es`: its last word has three letters or more, no digits."""
    word = WORD.findall(term)[-1]
    hisses = word.endswith(("s", "x", "z", "ch", "sh"))
    return len(word) >= 3 and word.isalpha() and hisses == (ending == "es")


def plural(term: str) -> str:
    """Return the plural of a term; the term itself where its last word has none that the rules know."""
    last = WORD.findall(term)[-1:]
    word = last[0] if last else ""
    if not (len(word) >= 3 and word.isalpha() and word[1:].islower() and term.endswith(word)):
        return term
    if word.endswith("sis"):
        return term[:-2] + "es"
    if word.endswith(("s", "x", "z")):
        return term
    if word.endswith("y") and word[-2] not in "aeiou":
        return term[:-1] + "ies"
    return term + ("es" if word.endswith(("ch", "sh")) else "s")


def with_capitals_of(surface: str, term: str, before: str) -> str:
    """Write a term with the capitals that its place asks for.

    Args:
        surface: What stands there.
        term: What is written instead, as its source spells it.
        before: Some characters of the text before it.
    """
    first = WORD.match(term)
    if is_acronym(term) or first is None:
        return term
    if len(surface) > 4 and surface.isupper() and " " in surface:
        return term.upper()
    starts = surface[:1].isupper() and first[0].islower() and _SENTENCE_START.search(before)
    return term[:1].upper() + term[1:] if starts else term
