"""What happens to documents between reading and tokenising, in the order of `launcher.recipe.kinds.prepare.Clean`.

Steps see one document at a time, so the result is a pure function of the source file; duplicates are dropped later, by
keys (`jobs.data.dedup`). Text is printed and kept nowhere but in the document.
"""

from collections import Counter
from collections.abc import Iterable

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from jobs.data.clean.decontaminate import Decontaminator
from jobs.data.clean.language import LanguageFilter
from jobs.data.clean.overlap import EvaluationIndex
from jobs.data.clean.phi import PhiCheck
from jobs.data.clean.terminology import TerminologyStep
from jobs.data.clean.text import LengthFilter, MarkedByReader, Normaliser
from launcher.recipe.kinds.prepare import Clean


class Cleaner:
    """The steps that a recipe asks for, and what they did to the documents of one source file."""

    def __init__(
        self, clean: Clean, evaluation: EvaluationIndex | None, terminology: TerminologyStep | None = None
    ) -> None:
        self._phi = PhiCheck() if clean.phi_check else None
        self._terminology = terminology
        self._decontaminator = Decontaminator(evaluation) if evaluation else None
        steps: list[PipelineStep | None] = [
            MarkedByReader(),
            LengthFilter(most=clean.max_characters),
            Normaliser(clean.normalise) if clean.normalise != "none" else None,
            LengthFilter(least=clean.min_characters),
            LengthFilter(most=clean.max_characters),  # again: NFKC expands some characters
            LanguageFilter(clean.languages) if clean.languages else None,
            self._decontaminator,
            self._phi,
            self._terminology,
        ]
        self._steps = [step for step in steps if step is not None]

    def run(self, documents: Iterable[Document]) -> Iterable[Document]:
        """Give the documents that stay."""
        for step in self._steps:
            documents = step(documents)
        return documents

    @property
    def dropped(self) -> dict[str, int]:
        """Documents dropped so far, by reason."""
        counts = Counter[str]()
        for step in self._steps:
            for label, stat in step.stats.stats.items():
                if label.startswith("dropped_"):
                    counts[label.removeprefix("dropped_")] += int(stat.total)
        return dict(counts)

    @property
    def phi(self) -> dict[str, int]:
        """Matches of patterns of patients' data so far."""
        return dict(self._phi.found) if self._phi else {}

    @property
    def terminology(self) -> dict[str, int]:
        """What was done to terms so far."""
        return dict(sorted((+self._terminology.counts).items())) if self._terminology else {}

    @property
    def contaminated(self) -> dict[str, int]:
        """Documents dropped so far for words of an evaluation set, by its record."""
        return dict(self._decontaminator.found) if self._decontaminator else {}
