"""Filters of documents, on datatrove's interface. Each gives the reason under which it drops."""

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter


class PileSubset(BaseFilter):
    """Keeps the documents of one component of the Pile."""

    name = "subset"

    def __init__(self, subset: str) -> None:
        super().__init__()
        self._subset = subset

    def filter(self, doc: Document) -> tuple[bool, str]:
        """Tell whether the document's `meta.pile_set_name` is the wanted one."""
        return doc.metadata.get("pile_set_name") == self._subset, "other_subset"


class MinimumLength(BaseFilter):
    """Drops short documents."""

    name = "minimum length"

    def __init__(self, characters: int) -> None:
        super().__init__()
        self._characters = characters

    def filter(self, doc: Document) -> tuple[bool, str]:
        """Tell whether the document has enough characters."""
        return len(doc.text) >= self._characters, "too_short"
