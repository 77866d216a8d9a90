"""Scores against scikit-learn called directly, and their intervals against a bootstrap that resamples row by row."""

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from jobs.scoring.bootstrap import Bootstrap, ranking_scores, units_of
from jobs.scoring.classification import Predictions, compute_scores, probabilities_of
from launcher.recipe.kinds.classify import METRICS
from launcher.recipe.sections.labelled_notes import Labels

KINDS: tuple[Labels, ...] = ("binary", "multiclass", "multilabel")


def predictions(labels: Labels, notes: int = 60, classes: int = 4, seed: int = 0) -> Predictions:
    """Predictions that are right somewhat more often than not, with many ties."""
    random = np.random.default_rng(seed)
    classes = 2 if labels == "binary" else classes
    logits = random.integers(-3, 4, (notes, classes)).astype(np.float32)
    if labels == "multilabel":
        truth = (random.random((notes, classes)) < 0.3).astype(np.int64)
        logits += truth
    else:
        truth = random.integers(classes, size=notes)
        logits[np.arange(notes), truth] += 1
    return Predictions(truth, probabilities_of(logits, labels), labels)


def by_scikit_learn(found: Predictions) -> dict[str, float]:
    """The same scores by the shortest calls that scikit-learn has for them."""
    truth, chances, decided = found.labels, found.probabilities, found.decisions.astype(int)
    if found.label_type == "multilabel":
        return {
            "auroc": sk.roc_auc_score(truth, chances, average="macro"),
            "auprc": sk.average_precision_score(truth, chances, average="macro"),
            "micro_f1": sk.f1_score(truth, decided, average="micro", zero_division=0),
            "macro_f1": sk.f1_score(truth, decided, average="macro", zero_division=0),
            "log_loss": float(np.mean([sk.log_loss(truth[:, k], chances[:, k]) for k in range(truth.shape[1])])),
        }
    choice = chances.argmax(axis=1)
    common = {
        "micro_f1": sk.f1_score(truth, choice, average="micro"),
        "macro_f1": sk.f1_score(truth, choice, average="macro"),
        "accuracy": sk.accuracy_score(truth, choice),
        "log_loss": sk.log_loss(truth, chances),
    }
    if found.label_type == "binary":
        return common | {
            "auroc": sk.roc_auc_score(truth, chances[:, 1]),
            "auprc": sk.average_precision_score(truth, chances[:, 1]),
            "f1": sk.f1_score(truth, choice),
        }
    return common | {
        "auroc": sk.roc_auc_score(truth, chances, multi_class="ovo", average="macro"),
        "auprc": sk.average_precision_score(truth, chances, average="macro"),
    }


@pytest.mark.parametrize("labels", KINDS)
def test_scores_are_those_of_scikit_learn(labels: Labels) -> None:
    found = predictions(labels)

    scores = compute_scores(found)

    assert set(scores) == set(METRICS[labels])
    assert scores == pytest.approx(by_scikit_learn(found), abs=1e-12)


def test_labels_of_a_note_are_judged_each_for_itself() -> None:
    logits = np.array([[2.0, 2.0], [-1.0, -3.0]], np.float32)

    chances = probabilities_of(logits, "multilabel")

    assert chances == pytest.approx(1 / (1 + np.exp(-logits.astype(float))))
    assert probabilities_of(logits, "binary").sum(axis=1) == pytest.approx([1, 1])


def test_classes_without_both_labels_are_left_out_of_ranking_scores_and_counted() -> None:
    found = predictions("multilabel")
    truth = np.column_stack((found.labels, np.zeros(60, np.int64), np.ones(60, np.int64)))
    wider = Predictions(truth, np.column_stack((found.probabilities, np.full((60, 2), 0.4))), "multilabel")

    assert wider.skipped_classes == 2
    for name in ("auroc", "auprc"):
        assert compute_scores(wider)[name] == pytest.approx(compute_scores(found)[name])


def test_a_class_that_no_note_has_is_left_out_of_one_versus_one() -> None:
    found = predictions("multiclass")
    wider = Predictions(found.labels, np.column_stack((found.probabilities * 0.9, np.full(60, 0.1))), "multiclass")

    assert wider.skipped_classes == 1
    assert compute_scores(wider)["auroc"] == pytest.approx(compute_scores(found)["auroc"])


def test_a_ranking_score_of_notes_of_one_class_is_not_a_number() -> None:
    found = predictions("binary")
    same = Predictions(np.zeros_like(found.labels), found.probabilities, "binary")

    assert math.isnan(compute_scores(same)["auroc"])
    assert same.skipped_classes == 1


def one_by_one(found: Predictions, units: NDArray[np.int64], resamples: int, seed: int) -> dict[str, list[float]]:
    """Scores of resamples: the rows are really repeated, and all is computed anew."""
    random = np.random.default_rng(seed)
    rows_of = [np.flatnonzero(units == unit) for unit in range(units.max() + 1)]
    values: dict[str, list[float]] = {name: [] for name in METRICS[found.label_type]}
    for _ in range(resamples):
        drawn = random.integers(len(rows_of), size=len(rows_of))
        rows = np.concatenate([rows_of[unit] for unit in drawn])
        again = Predictions(found.labels[rows], found.probabilities[rows], found.label_type)
        for name, value in compute_scores(again).items():
            values[name].append(value)
    return values


@pytest.mark.slow
@pytest.mark.parametrize("labels", KINDS)
def test_intervals_are_those_of_a_bootstrap_row_by_row(labels: Labels) -> None:
    found = predictions(labels, notes=40)
    units = units_of([f"patient-{number // 2}" for number in range(40)])
    slow = one_by_one(found, units, 40, seed=7)

    bootstrap = Bootstrap(found, units, 40, seed=7)
    for _ in bootstrap.compute():
        pass

    for name, values in slow.items():
        assert bootstrap.values[name] == pytest.approx(values, abs=1e-6, nan_ok=True), name
        expected = tuple(np.nanpercentile(values, (2.5, 97.5)))
        assert bootstrap.intervals()[name] == pytest.approx(expected, abs=1e-6), name


def test_rare_labels_that_a_resample_lacks_do_not_spoil_its_scores() -> None:
    found = predictions("multilabel", notes=30)
    found.labels[:, 0] = 0
    found.labels[3, 0] = 1
    units = np.arange(30)

    bootstrap = Bootstrap(found, units, 25, seed=1)
    for _ in bootstrap.compute():
        pass

    assert bootstrap.values["auroc"] == pytest.approx(one_by_one(found, units, 25, seed=1)["auroc"], abs=1e-6)


def test_resamples_without_a_class_count_for_no_interval() -> None:
    found = Predictions(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), "binary")

    bootstrap = Bootstrap(found, np.arange(3), 50, seed=3)
    for _ in bootstrap.compute():
        pass

    assert any(math.isnan(value) for value in bootstrap.values["auroc"])
    assert bootstrap.intervals()["auroc"] == (1.0, 1.0)


def test_ties_count_half() -> None:
    ones = np.ones((4, 1), np.float32)

    auroc, auprc = ranking_scores(np.full(4, 0.5), np.array([True, False, True, False]), ones)

    assert (auroc.item(), auprc.item()) == (0.5, 0.5)


def test_the_same_seed_gives_the_same_intervals() -> None:
    found, units = predictions("binary"), np.arange(60)

    def intervals(seed: int) -> Any:
        bootstrap = Bootstrap(found, units, 40, seed)
        for _ in bootstrap.compute():
            pass
        return json.dumps(bootstrap.intervals())

    assert intervals(1) == intervals(1)
    assert intervals(1) != intervals(2)
