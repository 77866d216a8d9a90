"""Scores of texts against references, equal to those of the programs that define them."""

import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NOT_LATIN = re.compile(r"[^a-z0-9]+")


def best(score: Callable[[str, str], float], text: str, references: Sequence[str]) -> float:
    """Return the score against the reference that fits best."""
    return max(score(text, reference) for reference in references)


def exact_match(text: str, reference: str) -> float:
    """1 if both are the same but for case, punctuation, articles and spaces (SQuAD's evaluate-v1.1.py)."""
    return float(_squad_words(text) == _squad_words(reference))


def token_f1(text: str, reference: str) -> float:
    """F1 of the words that both have, as SQuAD's evaluate-v1.1.py counts them."""
    found, wanted = _squad_words(text), _squad_words(reference)
    return _f1((Counter(found) & Counter(wanted)).total(), len(found), len(wanted))


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, https://aclanthology.org/W04-1013).

    Equal to rouge-score 0.1.2 without a stemmer. Words are of Latin letters and digits; other scripts have none.
    """
    found, wanted = (_NOT_LATIN.sub(" ", one.lower()).split() for one in (text, reference))
    return common_f1(found, wanted)


def common_f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    """F1 of the longest common subsequence of two lists of words."""
    return _f1(_common_subsequence(found, wanted), len(found), len(wanted))


def macro_f1(predicted: Sequence[int | None], answers: Sequence[int], classes: int) -> float:
    """Mean of the F1 of each class, 0 for one that nothing has; None among the predictions is of no class."""
    return float(_macro_f1s(predicted, answers, classes, np.ones((len(answers), 1)))[0])


def macro_f1_interval(
    predicted: Sequence[int | None],
    answers: Sequence[int],
    classes: int,
    groups: Sequence[Hashable],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % interval of macro-F1 by the percentile bootstrap (Efron & Tibshirani 1993, chapter 13).

    Args:
        predicted: Numbers of classes; None: of no class.
        answers: Numbers of classes.
        classes: How many there are.
        groups: Items of one group are drawn together.
        resamples: How many.
        seed: Of the draws.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    units = np.array([numbers[group] for group in groups])
    count, draws = len(numbers), np.random.default_rng(seed)
    weights = np.stack([np.bincount(draws.integers(count, size=count), minlength=count) for _ in range(resamples)], 1)
    low, high = np.percentile(_macro_f1s(predicted, answers, classes, weights[units]), (2.5, 97.5))
    return float(low), float(high)


def _macro_f1s(
    predicted: Sequence[int | None], answers: Sequence[int], classes: int, weights: NDArray[Any]
) -> NDArray[np.float64]:
    """Macro-F1 for each column of weights, [items, columns]."""
    said = np.array([[one == number for number in range(classes)] for one in predicted], np.float64)
    right = np.array([[one == number for number in range(classes)] for one in answers], np.float64)
    hits, sizes = (said * right).T @ weights, said.T @ weights + right.T @ weights
    scores: NDArray[np.float64] = np.divide(2 * hits, sizes, out=np.zeros_like(hits), where=sizes > 0).mean(0)
    return scores


def _squad_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _f1(common: int, found: int, wanted: int) -> float:
    return 2 * common / (found + wanted) if common else 0.0


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        above = row
        row = [0]
        for place, other in enumerate(second):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[place]))
    return row[-1]
