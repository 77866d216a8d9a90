"""Drop documents that share words with evaluation sets, and report how many."""

from collections import Counter
from collections.abc import Iterable, Mapping

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from jobs.data.clean.overlap import EvaluationIndex
from launcher.artifacts.corpus_manifest import EvaluationSet

_NAMED = 10


class Decontaminator(BaseFilter):  # type: ignore[misc]  # datatrove has no types
    """Drops documents that contain a run of words of an evaluation set.

    Whole documents, where Brown et al. 2020 cut out a window: the rest of a question's source may still answer it.
    """

    name = "decontaminate"

    def __init__(self, index: EvaluationIndex) -> None:
        super().__init__()
        self._index = index
        self.found = Counter[str]()
        """Dropped documents by the first record found in them, as `FILE:RECORD`."""

    def filter(self, doc: Document) -> tuple[bool, str]:
        """Tell whether the document shares nothing with the evaluation sets."""
        owner = self._index.find(doc.text)
        if owner is not None:
            file, record = self._index.place(owner)
            self.found[f"{file}:{record}"] += 1
        return owner is None, "contaminated"


def account(index: EvaluationIndex, per_file: Iterable[Mapping[str, int]]) -> tuple[EvaluationSet, ...]:
    """Sum up the `Decontaminator.found` of every source file."""
    found = Counter[str]()
    for one in per_file:
        found.update(one)
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


def describe_decontamination(sets: Iterable[EvaluationSet]) -> list[str]:
    """Say in a line for each evaluation set what was dropped for it, and for which record most."""
    return [
        f"{its.path}: {its.documents:,} documents dropped for words of {its.found:,} of its {its.records:,} records"
        + "".join(f"; {count:,} for record {record}" for record, count in list(its.found_most.items())[:1])
        for its in sets
    ]
