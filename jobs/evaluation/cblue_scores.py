"""Scores of CBLUE's data sets, as PromptCBLUE's `evaluators.py` defines them, with standard errors.

Facts: micro-F1, where a fact counts if all of it is right. Classes: the macro-F1 of scikit-learn, over all classes that
the answers or the model name, or its F1 weighted by the answers' classes (which PromptCBLUE's results call micro-F1).
Texts: F1 of ROUGE-L over Chinese characters and other words. `mean`: the mean over the data sets. One thing differs: an
empty text is no answer, while `evaluators.py` counts it as the first class.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from jobs.evaluation.cblue import CBLUE, CblueAnswer
from jobs.evaluation.text_metrics import common_f1
from launcher.artifacts.scores import Score
from launcher.artifacts.standard_errors import Z95, Mean, mean_of, ratio_of

_RESAMPLES = 1000
_NOTHING = "无 。"
"""What PromptCBLUE compares an empty text as."""


@dataclass(frozen=True)
class CblueItem:
    """An item of a data set, answered."""

    data_set: str
    answer: CblueAnswer
    """Of the files."""
    found: CblueAnswer
    """Of the model."""

    @property
    def metrics(self) -> dict[str, float]:
        """Scores of this item that are averaged, by name."""
        match self.answer, self.found:
            case str(), str():
                return {f"accuracy/{self.data_set}": float(self.answer == self.found)}
            case dict(), dict():
                total, count = self.rouge
                return {f"rouge_l/{self.data_set}": total / count} if count else {}
            case _:
                return {}

    @property
    def overlap(self) -> tuple[int, int]:
        """Twice the facts that both have, and the facts of both."""
        assert isinstance(self.answer, frozenset)
        assert isinstance(self.found, frozenset)
        return 2 * len(self.answer & self.found), len(self.answer) + len(self.found)

    @property
    def rouge(self) -> tuple[float, int]:
        """Sum of the ROUGE-L of all sections that the answer has, and their number."""
        assert isinstance(self.answer, dict)
        assert isinstance(self.found, dict)
        scores = [rouge_l_of_characters(self.found.get(name, ""), text) for name, text in self.answer.items()]
        return math.fsum(scores), len(scores)


def cblue_scores(items: Sequence[CblueItem]) -> dict[str, Score]:
    """Return `mean`, and for each data set its scores as `METRIC/DATA_SET`.

    Args:
        items: Of all data sets.
    """
    by_set = {name: [one for one in items if one.data_set == name] for name in CBLUE}
    headlines = {
        f"{CBLUE[name].scored_by}/{name}": _headline(CBLUE[name].scored_by, its) for name, its in by_set.items() if its
    }
    means: dict[str, list[float]] = {}
    for one in items:
        for metric, value in one.metrics.items():
            means.setdefault(metric, []).append(value)
    others = {name: Score.of(mean_of(values)) for name, values in means.items() if name not in headlines}
    return {"mean": mean_of_scores(headlines, len(items)), **headlines, **others}


def mean_of_scores(scores: Mapping[str, Score], items: int) -> Score:
    """Return the mean of scores of different items, each with the same weight.

    Args:
        scores: Of each part; their errors are independent.
        items: In all parts.
    """
    values = [score.value for score in scores.values() if score.value is not None]
    errors = [score.standard_error for score in scores.values() if score.standard_error is not None]
    if len(values) < len(scores):
        return Score(value=None, n=items)
    mean = math.fsum(values) / len(values)
    if len(errors) < len(scores):
        return Score(value=mean, n=items)
    return Score.of(Mean(mean, math.sqrt(math.fsum(error**2 for error in errors)) / len(values), items))


def rouge_l_of_characters(text: str, reference: str) -> float:
    """F1 of the longest common subsequence (Lin 2004, https://aclanthology.org/W04-1013).

    Words are Chinese characters, punctuation, and runs of other letters and digits in lower case, as transformers'
    BasicTokenizer divides texts.
    """
    return common_f1(_words(text), _words(reference))


def _words(text: str) -> list[str]:
    reader = _reader()
    normal = reader.normalizer.normalize_str(text)
    return [word for word, _ in reader.pre_tokenizer.pre_tokenize_str(normal)] or _NOTHING.split()


@cache
def _reader() -> Any:
    reader = Tokenizer(WordLevel({}, ""))
    reader.normalizer = BertNormalizer(lowercase=True)
    reader.pre_tokenizer = BertPreTokenizer()
    return reader


def _headline(metric: str, items: Sequence[CblueItem]) -> Score:
    if metric in ("macro_f1", "weighted_f1"):
        return _of_classes(items, is_macro=metric == "macro_f1")
    pairs = [one.overlap if metric == "micro_f1" else one.rouge for one in items]
    tops, bottoms = [float(top) for top, _ in pairs], [float(bottom) for _, bottom in pairs]
    if not any(bottoms):
        return Score(value=0.0, n=len(items))
    return Score.of(ratio_of(tops, bottoms, None))


def _of_classes(items: Sequence[CblueItem], is_macro: bool) -> Score:
    """Return an F1 over classes, with the error of the bootstrap (Efron & Tibshirani 1993, chapters 6 and 13)."""
    answers, found = [str(one.answer) for one in items], [str(one.found) for one in items]
    draws = np.random.default_rng(0).multinomial(len(items), [1 / len(items)] * len(items), _RESAMPLES).T
    value = float(class_f1(answers, found, np.ones((len(items), 1)), is_macro)[0])
    if len(items) == 1:
        return Score(value=value, n=1)
    error = float(class_f1(answers, found, draws.astype(np.float64), is_macro).std(ddof=1))
    return Score(value=value, standard_error=error, low=value - Z95 * error, high=value + Z95 * error, n=len(items))


def class_f1(
    answers: Sequence[str], found: Sequence[str], weights: NDArray[np.float64], is_macro: bool
) -> NDArray[np.float64]:
    """Return the F1 over classes for each column of weights.

    Args:
        answers: Class of each item.
        found: What the model says; any text is a class.
        weights: Of each item, [items, columns].
        is_macro: The mean over all classes that occur; else weighted by how often the answers have them.
    """
    classes = sorted({*answers, *found})
    wanted, said = (
        np.array([[one == name for name in classes] for one in its], np.float64) for its in (answers, found)
    )
    hits, support = (wanted * said).T @ weights, wanted.T @ weights
    sizes = support + said.T @ weights
    scores = np.divide(2 * hits, sizes, out=np.zeros_like(hits), where=sizes > 0)
    counted = (sizes > 0).astype(np.float64) if is_macro else support
    result: NDArray[np.float64] = (scores * counted).sum(0) / counted.sum(0)
    return result
