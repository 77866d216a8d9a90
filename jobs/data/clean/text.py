"""Steps that look at nothing but the text: Unicode normalisation and lengths; and what the reader has decided."""

import unicodedata
from typing import Literal

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters.base import BaseFormatter


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
        self._form: Literal["NFC", "NFKC"] = "NFC" if form == "nfc" else "NFKC"

    def format(self, text: str) -> str:
        """Normalise a text. Most text is in that form already, which is quicker to find out."""
        return text if unicodedata.is_normalized(self._form, text) else unicodedata.normalize(self._form, text)


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
