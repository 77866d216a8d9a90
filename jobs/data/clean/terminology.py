"""Normalise, mask and vary terms in documents for training; held-out documents stay as they are."""

from collections import Counter

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from jobs.data.corpus.shard_writer import split_of_document
from jobs.data.terminology.text_steps import TextSteps


class TerminologyStep(BaseFilter):  # type: ignore[misc]  # datatrove has no types
    """Changes documents, and drops none."""

    name = "terminology"

    def __init__(self, steps: TextSteps, validation: float) -> None:
        super().__init__()
        self._steps, self._validation = steps, validation
        self.counts = Counter[str]()
        """What was changed and left, and `documents` that were changed."""

    def filter(self, doc: Document) -> bool:
        """Change a document, unless it is held out. Its split is that of its text as it was."""
        doc.metadata["split"] = split_of_document(doc, self._validation)
        if doc.metadata["split"] == "train":
            changed = self._steps.run(doc.text)
            doc.text, doc.metadata["changes"] = changed.text, changed.rounds
            self.counts += changed.counts
            self.counts["documents"] += bool(changed.rounds)
        return True
