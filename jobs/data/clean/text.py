"""Steps that look at nothing but the text: Unicode normalisation and lengths; and what the reader has decided."""

import re
import unicodedata
from functools import cache
from itertools import groupby
from typing import Literal

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters.base import BaseFormatter

_Form = Literal["NFC", "NFKC"]
# Where there may be many marks: found in a thirtieth of the time that the marks themselves take.
_FAR_FROM_LATIN = re.compile("[\u0300-\u33ff\ua000-\U0001ffff][\u0300-\u33ff\ua000-\U0001ffff]{30}")


def normalised(form: _Form, text: str) -> str:
    """Put text into a normalisation form, in linear time."""
    return text if unicodedata.is_normalized(form, text) else unicodedata.normalize(form, with_few_marks(text))


def with_few_marks(text: str) -> str:
    """Put a joiner that cannot be seen behind each 30 marks on a letter; no writing needs so many.

    It is the Stream-Safe Text Process (https://www.unicode.org/reports/tr15/#Stream_Safe_Text_Format). Python's
    normalisation sorts the marks on a letter in quadratic time: a megabyte of them takes minutes.
    """
    return _many_marks().sub("\\g<0>\u034f", text) if _FAR_FROM_LATIN.search(text) else text


@cache
def _many_marks() -> re.Pattern[str]:
    """Thirty characters in a row that are, or decompose into, marks; Unicode has them in its first two planes."""
    places = [place for place in range(0x300, 0x20000) if _is_mark(chr(place))]
    runs = [[place for _, place in run] for _, run in groupby(enumerate(places), lambda pair: pair[1] - pair[0])]
    marks = "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)
    return re.compile(f"[{marks}]{{30}}(?=[{marks}])")


def _is_mark(character: str) -> bool:
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) != 0


class MarkedByReader(BaseFilter):
    """Drops what the reader says is to be left out; see `jobs.data.readers`."""

    name = "marked by reader"

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Tell whether the reader gave no reason to drop the document."""
        reason = doc.metadata.get("drop")
        return True if reason is None else (False, str(reason))


class Normaliser(BaseFormatter):
    """Puts text into a Unicode normalisation form (https://www.unicode.org/reports/tr15/)."""

    name = "unicode normalisation"

    def __init__(self, form: Literal["nfc", "nfkc"]) -> None:
        super().__init__()
        self._form: _Form = "NFC" if form == "nfc" else "NFKC"

    def format(self, text: str) -> str:
        """Normalise a text. Most text is in that form already, which is quicker to find out."""
        return normalised(self._form, text)


class MinimumLength(BaseFilter):
    """Drops short documents."""

    name = "minimum length"

    def __init__(self, characters: int) -> None:
        super().__init__()
        self._characters = characters

    def filter(self, doc: Document) -> tuple[bool, str]:
        """Tell whether the document has enough characters."""
        return len(doc.text) >= self._characters, "too_short"


class MaximumLength(BaseFilter):
    """Drops documents that would take too much memory to tokenise."""

    name = "maximum length"

    def __init__(self, characters: int) -> None:
        super().__init__()
        self._characters = characters

    def filter(self, doc: Document) -> tuple[bool, str]:
        """Tell whether the document does not have too many characters."""
        return len(doc.text) <= self._characters, "too_long"
