"""Which language a text is in, told by py3langid, whose model comes with the package.

A document is dropped only if its text is evidence of that: if all languages asked for have together a
probability below `_DOUBT`. Text that says nothing about its language (numbers, abbreviations) makes all
140 languages equally probable, 0.007 each, and stays. Measured with `languages: [en]`: none of 12,910
abstracts and 1,275 clinical notes is dropped, in capitals or not, and none of 5,778 English titles alone;
titles in other languages go to 79 % if alone, to 90 % if three stand together, to 93 % if five do.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

_DOUBT = 0.001
_PIECES = 4
_PIECE_CHARACTERS = 100
"""More text does not tell more, but takes longer: of long documents so many pieces of this length are looked at."""


class LanguageFilter(BaseFilter):
    """Drops documents in other languages.

    Args:
        languages: Codes of those to keep.
    """

    name = "language"

    def __init__(self, languages: Sequence[str]) -> None:
        super().__init__()
        self._languages = frozenset(languages)

    def filter(self, doc: Document) -> tuple[bool, str]:
        """Tell whether the document may be in one of the languages."""
        return self.probability(doc.text) >= _DOUBT, "other_language_by_text"

    def probability(self, text: str) -> float:
        """Estimate how probable it is that a text is in one of the languages."""
        # Lower case: a text in capitals, but for one letter, would be taken for another script's.
        ranking = load_identifier().rank(sample(text).lower())
        return sum(float(probability) for language, probability in ranking if language in self._languages)


def sample(text: str) -> str:
    """Take pieces of a long text from its start to its end; a short text is taken whole."""
    if len(text) <= _PIECES * _PIECE_CHARACTERS:
        return text
    step = (len(text) - _PIECE_CHARACTERS) // (_PIECES - 1)
    return " ".join(text[start : start + _PIECE_CHARACTERS] for start in range(0, _PIECES * step, step))


@cache
def load_identifier() -> Any:
    """Load the model; before workers are forked, all of them have it."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
