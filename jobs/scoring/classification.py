"""Scores of a classifier's predictions, by scikit-learn.

A ranking score (AUROC, AUPRC) of several classes is the mean over the classes that some notes have and others do not;
`skipped_classes` counts the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from jobs.scoring.true_labels import TrueLabels
from launcher.recipe.kinds.classify import METRICS
from launcher.recipe.sections.labelled_notes import Labels

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]

THRESHOLD = 0.5
"""From this probability on, a note is given a label (multilabel)."""


def probabilities_of(logits: NDArray[np.float32], labels: Labels) -> Floats:
    """Turn logits into probabilities: of exclusive classes, or (`multilabel`) of each label by itself."""
    wide = logits.astype(np.float64)
    chances: Floats = expit(wide) if labels == "multilabel" else softmax(wide, axis=1)
    return chances


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for notes, and their labels."""

    labels: TrueLabels
    probabilities: Floats
    """A row for each note, a column for each class."""
    label_type: Labels

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.probabilities.shape[1])

    @cached_property
    def indicators(self) -> Flags:
        """The labels as a row of flags for each note."""
        if self.label_type == "multilabel":
            return self.labels.astype(np.bool_)
        is_class: Flags = self.labels[:, None] == np.arange(self.classes)
        return is_class

    @cached_property
    def decisions(self) -> Flags:
        """What the model predicts, as a row of flags for each note."""
        if self.label_type == "multilabel":
            chosen: Flags = self.probabilities >= THRESHOLD
        else:
            chosen = self.probabilities.argmax(axis=1)[:, None] == np.arange(self.classes)
        return chosen

    @cached_property
    def ranked_classes(self) -> list[int]:
        """The classes with a ranking score: some notes have them and some do not; of two exclusive ones the second."""
        counts = self.indicators.sum(axis=0)
        known = [number for number, count in enumerate(counts) if 0 < count < len(self.labels)]
        return [1] if self.label_type == "binary" and known else known

    @property
    def skipped_classes(self) -> int:
        """Classes that ranking scores leave out."""
        return (1 if self.label_type == "binary" else self.classes) - len(self.ranked_classes)


def compute_scores(found: Predictions) -> dict[str, float]:
    """Compute all scores that labels of this kind have; NaN where one is undefined."""
    compute = {
        "auroc": _auroc,
        "auprc": _auprc,
        "f1": lambda found: _f1(found, "binary"),
        "micro_f1": lambda found: _f1(found, "micro"),
        "macro_f1": lambda found: _f1(found, "macro"),
        "accuracy": _accuracy,
        "log_loss": _log_loss,
    }
    return {name: compute[name](found) for name in METRICS[found.label_type]}


def pairs(found: Predictions) -> Iterator[tuple[NDArray[np.intp], int]]:
    """Give the comparisons of one class with one other: the notes of both, and which class's probability ranks them.

    Their AUROC's mean over all ordered pairs is the one-versus-one AUROC (Hand & Till 2001,
    https://doi.org/10.1023/A:1010920819831), what scikit-learn calls `ovo` and `macro`.
    """
    for one, other in permutations(found.ranked_classes, 2):
        yield np.flatnonzero((found.labels == one) | (found.labels == other)), one


# Each function imports scikit-learn for itself: that takes a second and 35 MB, and most kinds never score notes.
def _auroc(found: Predictions) -> float:
    from sklearn.metrics import roc_auc_score

    if found.label_type == "multiclass":
        compared = pairs(found)
        return _mean(
            [roc_auc_score(found.indicators[rows, one], found.probabilities[rows, one]) for rows, one in compared]
        )
    columns = found.ranked_classes
    return _mean([roc_auc_score(found.indicators[:, one], found.probabilities[:, one]) for one in columns])


def _auprc(found: Predictions) -> float:
    from sklearn.metrics import average_precision_score

    columns = found.ranked_classes
    return _mean([average_precision_score(found.indicators[:, one], found.probabilities[:, one]) for one in columns])


def _f1(found: Predictions, average: str) -> float:
    from sklearn.metrics import f1_score

    if average == "binary":
        return float(f1_score(found.indicators[:, 1], found.decisions[:, 1], zero_division=0))
    return float(f1_score(found.indicators, found.decisions, average=average, zero_division=0))


def _accuracy(found: Predictions) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(found.indicators, found.decisions))


def _log_loss(found: Predictions) -> float:
    from sklearn.metrics import log_loss

    if found.label_type == "multilabel":
        return float(log_loss(found.labels.ravel(), found.probabilities.ravel(), labels=[0, 1]))
    return float(log_loss(found.labels, found.probabilities, labels=range(found.classes)))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
