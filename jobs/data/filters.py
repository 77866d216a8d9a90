"""Filters of documents, on datatrove's interface. Each gives the reason under which it drops."""

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from launcher.recipe.prepare import Clean


def filters_of(clean: Clean) -> list[BaseFilter]:
    """The filters that a recipe asks for, in the order they are applied."""
    return [MarkedByReader(), MinimumLength(clean.min_characters)]


class MarkedByReader(BaseFilter):
    """Drops what the reader says is to be left out; see `jobs.data.readers`."""

    name = "marked by reader"

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Tell whether the reader gave no reason to drop the document."""
        reason = doc.metadata.get("drop")
        return True if reason is None else (False, str(reason))


class MinimumLength(BaseFilter):
    """Drops short documents."""

    name = "minimum length"

    def __init__(self, characters: int) -> None:
        super().__init__()
        self._characters = characters

    def filter(self, doc: Document) -> tuple[bool, str]:
        """Tell whether the document has enough characters."""
        return len(doc.text) >= self._characters, "too_short"
