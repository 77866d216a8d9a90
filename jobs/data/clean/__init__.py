"""What happens to documents between reading and tokenising; the order is that of `launcher.recipe.prepare.Clean`.

Steps see one document at a time, so that a part is a pure function of its file: what needs all documents
at once (duplicates) is decided by keys when all parts are there. Nothing of a text is printed or kept but
in the document.
"""

from collections import Counter
from collections.abc import Iterable

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from jobs.data.clean.decontaminate import Decontaminator
from jobs.data.clean.language import LanguageFilter
from jobs.data.clean.overlap import EvaluationIndex
from jobs.data.clean.phi import PhiCheck
from jobs.data.clean.text import MarkedByReader, MaximumLength, MinimumLength, Normaliser
from launcher.recipe.prepare import Clean


class Cleaner:
    """The steps that a recipe asks for, and what they have done to the documents of one part.

    Args:
        clean: The recipe's section.
        evaluation: Index of the evaluation sets, if the recipe names some.
    """

    def __init__(self, clean: Clean, evaluation: EvaluationIndex | None) -> None:
        self._phi = PhiCheck() if clean.phi_check else None
        self._decontaminator = Decontaminator(evaluation) if evaluation else None
        steps: list[PipelineStep | None] = [
            MarkedByReader(),
            MaximumLength(clean.max_characters),  # and again: NFKC writes some characters as many
            Normaliser(clean.normalise) if clean.normalise != "none" else None,
            MinimumLength(clean.min_characters),
            MaximumLength(clean.max_characters),
            LanguageFilter(clean.languages) if clean.languages else None,
            self._decontaminator,
            self._phi,
        ]
        self._steps = [step for step in steps if step is not None]

    def run(self, documents: Iterable[Document]) -> Iterable[Document]:
        """Give what is left of the documents, as they come."""
        for step in self._steps:
            documents = step(documents)
        return documents

    @property
    def dropped(self) -> dict[str, int]:
        """Documents left out so far, by reason."""
        counts = Counter[str]()
        for step in self._steps:
            for label, stat in step.stats.stats.items():
                if label.startswith("dropped_"):
                    counts[label.removeprefix("dropped_")] += int(stat.total)
        return dict(counts)

    @property
    def phi(self) -> dict[str, int]:
        """What looks like patients' data in the documents that stayed so far, by pattern."""
        return dict(self._phi.found) if self._phi else {}

    @property
    def contaminated(self) -> dict[str, int]:
        """Documents dropped so far for words of an evaluation set, by the record the words are in."""
        return dict(self._decontaminator.found) if self._decontaminator else {}
