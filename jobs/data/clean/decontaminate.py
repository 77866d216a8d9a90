"""Dropping documents that have words in common with evaluation sets, and the account of it."""

from collections import Counter
from collections.abc import Iterable, Mapping

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from jobs.data.clean.overlap import EvaluationIndex
from launcher.corpus import EvaluationSet

_NAMED = 10


class Decontaminator(BaseFilter):
    """Drops documents that have a run of words of an evaluation set.

    Whole documents go, where Brown et al. 2020 cut out a window: what is left of a question's source
    still answers it.
    """

    name = "decontaminate"

    def __init__(self, index: EvaluationIndex) -> None:
        super().__init__()
        self._index = index
        self.found = Counter[str]()
        """Dropped documents by the record that was found in them, as `FILE:RECORD`; each counts once."""

    def filter(self, doc: Document) -> tuple[bool, str]:
        """Tell whether the document has nothing of the evaluation sets."""
        owner = self._index.find(doc.text)
        if owner is not None:
            file, record = self._index.place(owner)
            self.found[f"{file}:{record}"] += 1
        return owner is None, "contaminated"


def account(index: EvaluationIndex, parts: Iterable[Mapping[str, int]]) -> tuple[EvaluationSet, ...]:
    """Sum up what was found.

    Args:
        index: Of the evaluation sets.
        parts: `Decontaminator.found` of every part.
    """
    found = Counter[str]()
    for part in parts:
        found.update(part)
    by_file: list[Counter[str]] = [Counter() for _ in index.files]
    for place, documents in found.items():
        file, record = place.split(":")
        by_file[int(file)][record] = documents
    return tuple(
        EvaluationSet(
            path=str(file.path),
            sha256=file.sha256,
            records=file.records,
            ngrams=file.ngrams,
            found=len(records),
            documents=records.total(),
            found_most=dict(sorted(records.items(), key=lambda item: (-item[1], int(item[0])))[:_NAMED]),
        )
        for file, records in zip(index.files, by_file, strict=True)
    )


def tell(sets: Iterable[EvaluationSet]) -> list[str]:
    """Say in a line for each evaluation set what was dropped for it. Text that many documents share shows here."""
    return [
        f"{its.path}: {its.documents:,} documents dropped for words of {its.found:,} of its {its.records:,} records"
        + "".join(f"; {count:,} for record {record}" for record, count in list(its.found_most.items())[:1])
        for its in sets
    ]
