"""Confidence intervals of scores: the percentile bootstrap (Efron & Tibshirani 1993, chapter 13).

A resample is a weight for each note: how often it was drawn. Scores are computed from sums of weights, for a block of
resamples in one pass over the sorted notes; calling scikit-learn for each resample takes hours with a thousand classes.
Notes of one unit (a patient) are drawn together: they are not independent.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from jobs.scoring.classification import Floats, Predictions, pairs
from launcher.recipe.kinds.classify import METRICS

LEVEL = 0.95
_BLOCK = 128
"""Resamples at once: their weights should stay in a core's cache."""

Weights = NDArray[np.float32]
"""A row for each note, a column for each resample."""


class Bootstrap:
    """Scores of resamples of predictions.

    Args:
        found: The predictions.
        units: The unit of each note, numbered from 0.
        resamples: How many.
        seed: Of the draws.
    """

    def __init__(self, found: Predictions, units: NDArray[np.int64], resamples: int, seed: int) -> None:
        self._found = found
        self._units = units
        self._sizes = [min(_BLOCK, resamples - start) for start in range(0, resamples, _BLOCK)]
        self._random = np.random.default_rng(seed)
        self.values: dict[str, list[float]] = {name: [] for name in METRICS[found.label_type]}
        """The scores of each resample; NaN where one is undefined."""

    def compute(self) -> Iterator[None]:
        """Compute all scores; yields after each class of each block."""
        for size in self._sizes:
            weights = self._draw(size)
            scores = decision_scores(self._found, weights)
            yield
            scores["auroc"], scores["auprc"] = yield from _mean_ranking_scores(self._found, weights)
            for name, values in self.values.items():
                values.extend(scores[name].tolist())

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return the interval of each score; NaN for one that is undefined in all resamples."""
        ends = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
        known = {name: [value for value in values if not math.isnan(value)] for name, values in self.values.items()}
        nothing = (float("nan"), float("nan"))
        return {name: _pair(np.percentile(values, ends)) if values else nothing for name, values in known.items()}

    def _draw(self, size: int) -> Weights:
        units = int(self._units.max()) + 1
        drawn = [np.bincount(self._random.integers(units, size=units), minlength=units) for _ in range(size)]
        return np.stack(drawn, axis=1).astype(np.float32)[self._units]


def units_of(ids: Sequence[str]) -> NDArray[np.int64]:
    """Number the units of notes from their ids."""
    numbers: NDArray[np.int64] = np.unique(np.array(ids, dtype=object).astype(str), return_inverse=True)[1]
    return numbers


def decision_scores(found: Predictions, weights: Weights) -> dict[str, Floats]:
    """Compute the scores that need no ranking, of each resample."""
    decided, right = found.decisions.astype(np.float32), found.indicators.astype(np.float32)
    hits = ((decided * right).T @ weights).astype(np.float64)
    chosen = (decided.T @ weights + right.T @ weights).astype(np.float64)
    per_class = _ratio(2 * hits, chosen, 0.0)
    total = weights.sum(axis=0, dtype=np.float64)
    exact = (found.decisions == found.indicators).all(axis=1)
    return {
        "f1": per_class[-1],
        "micro_f1": _ratio(2 * hits.sum(axis=0), chosen.sum(axis=0), 0.0),
        "macro_f1": per_class.mean(axis=0),
        "accuracy": exact @ weights / total,
        "log_loss": losses_of_notes(found) @ weights / total,
    }


def ranking_scores(scores: Floats, right: NDArray[np.bool_], weights: Weights) -> tuple[Floats, Floats]:
    """Compute AUROC and AUPRC (average precision) of each resample from one ranking of the notes.

    Args:
        scores: Ranks the notes; equal scores share a threshold.
        right: Which notes have the label.
        weights: How often each note was drawn; the scores are NaN if none or all of the drawn notes have the label.
    """
    order = np.argsort(-scores, kind="stable")
    starts = _segments(scores[order], right[order])
    everything = _sums(order, starts, weights)
    of_right = np.flatnonzero(right[order])
    hits = _sums(order[of_right], np.searchsorted(of_right, starts), weights)
    false_alarms = everything - hits
    gained = np.diff(hits, axis=0, prepend=0)
    areas = np.diff(false_alarms, axis=0, prepend=0) * (hits - gained / 2)
    precision = _ratio(hits, everything, 0.0)
    both = hits[-1] * false_alarms[-1]
    auroc = _ratio(areas.sum(axis=0), both, np.nan)
    auprc = _ratio((gained * precision).sum(axis=0), np.where(both, hits[-1], 0), np.nan)
    return auroc, auprc


def _segments(scores: Floats, right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where thresholds begin in notes sorted by score; neighbouring ones without a labelled note are joined."""
    starts = np.flatnonzero(np.diff(scores, prepend=np.inf))
    has_label = np.logical_or.reduceat(right, starts)
    matters = has_label | np.append(True, has_label[:-1])
    found: NDArray[np.int64] = starts[matters]
    return found


def _sums(notes: NDArray[np.int64], starts: NDArray[np.int64], weights: Weights) -> Floats:
    """Return how often notes were drawn up to the end of each segment; exact, as sums of integers."""
    ends = np.append(starts, len(notes))
    choose = csr_array((np.ones(len(notes), np.float32), notes, ends), shape=(len(starts), len(weights)))
    sums: Floats = np.cumsum(choose @ weights, axis=0, dtype=np.float64)
    return sums


class _Mean:
    """The mean over classes, of each resample, without NaN; a running one, since pairs of classes may be a million."""

    def __init__(self, resamples: int) -> None:
        self._sum, self._count = np.zeros(resamples), np.zeros(resamples)

    def add(self, values: Floats) -> None:
        self._sum += np.nan_to_num(values)
        self._count += ~np.isnan(values)

    @property
    def values(self) -> Floats:
        means: Floats = _ratio(self._sum, self._count, np.nan)
        return means


def _mean_ranking_scores(found: Predictions, weights: Weights) -> Generator[None, None, tuple[Floats, Floats]]:
    """Compute AUROC and AUPRC over all classes; yields after each."""
    areas, precisions = _Mean(weights.shape[1]), _Mean(weights.shape[1])
    for one in found.ranked_classes:
        auroc, auprc = ranking_scores(found.probabilities[:, one], found.indicators[:, one], weights)
        precisions.add(auprc)
        if found.label_type != "multiclass":
            areas.add(auroc)
        yield
    for rows, one in pairs(found) if found.label_type == "multiclass" else ():
        areas.add(ranking_scores(found.probabilities[rows, one], found.indicators[rows, one], weights[rows])[0])
        yield
    return areas.values, precisions.values


def losses_of_notes(found: Predictions) -> Floats:
    """Return the log loss of each note; probabilities are clipped as in scikit-learn."""
    tiny = np.finfo(np.float64).eps
    chances = np.clip(found.probabilities, tiny, 1 - tiny)
    if found.label_type == "multilabel":
        losses: Floats = -np.log(np.where(found.indicators, chances, 1 - chances)).mean(axis=1)
    else:
        losses = -np.log(chances[np.arange(len(chances)), found.labels])
    return losses


def _ratio(numerator: Any, denominator: Any, otherwise: float) -> Any:
    """Divide; where the denominator is 0, the result is `otherwise`."""
    result = np.full(np.shape(denominator), otherwise, np.result_type(numerator, denominator))
    return np.divide(numerator, denominator, out=result, where=denominator > 0)


def _pair(ends: Floats) -> tuple[float, float]:
    return float(ends[0]), float(ends[1])
