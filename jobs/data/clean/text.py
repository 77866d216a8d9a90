"""Unicode normalisation, lengths, and what the reader marked to be dropped."""

import math
import re
import unicodedata
from functools import cache
from itertools import groupby
from typing import Literal

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters.base import BaseFormatter

_Form = Literal["NFC", "NFKC"]
# Finds text that may have many marks in a thirtieth of the time of the marks themselves.
_FAR_FROM_LATIN = re.compile("[\u0300-\u33ff\ua000-\U0001ffff][\u0300-\u33ff\ua000-\U0001ffff]{30}")


def normalised(form: _Form, text: str) -> str:
    """Normalise text, in linear time."""
    return text if unicodedata.is_normalized(form, text) else unicodedata.normalize(form, with_few_marks(text))


def with_few_marks(text: str) -> str:
    """Put an invisible joiner after each 30 marks on a letter; no script needs so many.

    This is the Stream-Safe Text Process (https://www.unicode.org/reports/tr15/#Stream_Safe_Text_Format). Python sorts
    the marks on a letter in quadratic time: a megabyte of them takes minutes.
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


class MarkedByReader(BaseFilter):  # type: ignore[misc]  # datatrove has no types
    """Drops what the reader marked; see `jobs.data.readers`."""

    name = "marked by reader"

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Tell whether the document stays."""
        reason = doc.metadata.get("drop")
        return True if reason is None else (False, str(reason))


class Normaliser(BaseFormatter):  # type: ignore[misc]  # datatrove has no types
    """Puts text into a Unicode normalisation form (https://www.unicode.org/reports/tr15/)."""

    name = "unicode normalisation"

    def __init__(self, form: Literal["nfc", "nfkc"]) -> None:
        super().__init__()
        self._form: _Form = "NFC" if form == "nfc" else "NFKC"

    def format(self, text: str) -> str:
        """Normalise a text."""
        return normalised(self._form, text)


class LengthFilter(BaseFilter):  # type: ignore[misc]  # datatrove has no types
    """Drops documents that are blank or too short to be of use, or too long to be tokenised in memory."""

    name = "length"

    def __init__(self, least: int = 0, most: float = math.inf) -> None:
        super().__init__()
        self._least, self._most = least, most

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Tell whether the number of characters is allowed."""
        if len(doc.text) < self._least or not doc.text or doc.text.isspace():
            return False, "too_short"
        return len(doc.text) <= self._most or (False, "too_long")
