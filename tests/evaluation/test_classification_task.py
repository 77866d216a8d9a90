"""Saved predictions in every format have the scores that scikit-learn gives them; what cannot be used is named."""

import csv
import gzip
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from scipy.stats import binomtest
from sklearn import metrics as sk

from jobs.evaluation.classification import prepare_classification
from jobs.evaluation.report import TaskReport
from jobs.kinds.evaluate import main
from launcher.errors import LauncherError
from launcher.recipe.kinds.evaluate import EvaluateRecipe
from launcher.recipe.sections.classification_task import ClassificationTask
from launcher.scores.comparison import compare
from launcher.scores.scored_model import open_models
from tests.support.evaluation_runs import evaluation, items_of, scores_of
from tests.support.evaluations import write_evaluation
from tests.support.training_runs import context_of, make_run_of

CLASSES = ("none", "some", "many")
Table = dict[str, list[Any]]


def table(notes: int = 40, seed: int = 0) -> Table:
    """Predictions of three classes that are right somewhat more often than not; two notes a patient."""
    random = np.random.default_rng(seed)
    truth = random.integers(3, size=notes)
    chances = random.random((notes, 3)) + 0.5 * np.eye(3)[truth]
    chances /= chances.sum(axis=1, keepdims=True)
    columns = {f"p_{name}": chances[:, number].tolist() for number, name in enumerate(CLASSES)}
    return {
        "id": [f"note-{number}" for number in range(notes)],
        "patient": [f"patient-{number // 2}" for number in range(notes)],
        "label": [CLASSES[number] for number in truth],
        "said": [CLASSES[number] for number in chances.argmax(axis=1)],
        **columns,
    }


def write(folder: Path, rows: Table, suffix: str = "jsonl") -> None:
    path = folder / f"found.{suffix}"
    records = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    if suffix == "parquet":
        parquet.write_table(pyarrow.table(rows), path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows])
            writer.writeheader()
            writer.writerows(records)


def score(folder: Path, limit: float = 0.0, **section: Any) -> TaskReport:
    task = {"type": "classification", "name": "found", "files": "found.*", "labels": "multiclass", **section}
    recipe = {
        "kind": "evaluate",
        "name": "scores",
        "tasks": [task],
        "max_bad_fraction": limit,
        "resources": {"time": "5min"},
    }
    context = context_of(make_run_of(recipe, folder))
    assert isinstance(context.recipe, EvaluateRecipe)
    (read,) = context.recipe.tasks
    assert isinstance(read, ClassificationTask)
    prepared = prepare_classification(context, context.recipe, read, "tasks.0")
    return prepared.report([row for batch in prepared.batches.members for row in prepared.batches.work(batch)])


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_scores_are_those_of_scikit_learn(tmp_path: Path, suffix: str) -> None:
    rows = table()
    write(tmp_path, rows, suffix)
    report = score(tmp_path, classes=CLASSES if suffix == "csv" else ())

    truth = [CLASSES.index(label) for label in rows["label"]]
    chances = np.array([rows[f"p_{name}"] for name in CLASSES]).T
    chosen = chances.argmax(axis=1)
    expected = {
        "auroc": sk.roc_auc_score(truth, chances, multi_class="ovo", average="macro"),
        "accuracy": sk.accuracy_score(truth, chosen),
        "macro_f1": sk.f1_score(truth, chosen, average="macro"),
        "micro_f1": sk.f1_score(truth, chosen, average="micro"),
        "log_loss": sk.log_loss(truth, chances),
    }
    found = {name: one.value for name, one in report.scores.scores.items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert report.scores.headline == "auroc"
    assert report.scores.lower_is_better == ("log_loss",)
    assert np.mean([item["log_loss"] for item in report.items]) == pytest.approx(expected["log_loss"])
    assert [item["prediction"] for item in report.items] == rows["said"]


def test_patients_are_resampled_together(tmp_path: Path) -> None:
    rows = table(200)
    doubled = {name: [value for value in values for _ in range(2)] for name, values in rows.items()}
    doubled["patient"], doubled["id"] = doubled["id"], [f"{number}" for number in range(400)]
    write(tmp_path, doubled)
    apart = score(tmp_path).scores.scores["accuracy"]
    together = score(tmp_path, group_column="patient").scores.scores["accuracy"]

    assert apart.standard_error and together.standard_error
    assert apart.value == together.value
    assert together.standard_error == pytest.approx(apart.standard_error * 2**0.5, rel=0.15)
    assert (apart.clusters, together.clusters) == (None, 200)
    by_formula = (apart.value * (1 - apart.value) / 400) ** 0.5  # type: ignore[operator]
    assert apart.standard_error == pytest.approx(by_formula, rel=0.15)


def test_notes_of_a_patient_are_told_apart(tmp_path: Path) -> None:
    rows = table(6)
    write(tmp_path, rows)
    by_note, by_patient = score(tmp_path, group_column="patient"), score(tmp_path, id_column="patient")

    ids = [f"patient-{number // 2}{'#2' * (number % 2)}" for number in range(6)]
    assert [item["id"] for item in by_patient.items] == ids
    assert [item["id"] for item in by_note.items] == rows["id"]
    assert [item["group"] for item in by_patient.items] == [item["group"] for item in by_note.items] == rows["patient"]
    assert by_patient.scores.scores == by_note.scores.scores


@pytest.mark.parametrize(
    ("suffix", "nothing"), [("jsonl", None), ("jsonl", "left out"), ("parquet", math.nan), ("csv", ""), ("csv", " ")]
)
def test_notes_that_name_no_patient_stand_alone_and_are_counted(tmp_path: Path, suffix: str, nothing: Any) -> None:
    rows = table(12)
    rows["patient"] = [number // 2 for number in range(12)]
    for place in (4, 7, 8):
        rows["patient"][place] = nothing
    rows["id"][4] = "3" if suffix != "parquet" else "3.0"  # also the name of a patient
    write(tmp_path, rows, suffix)
    path = tmp_path / f"found.{suffix}"
    if nothing == "left out":
        path.write_text(path.read_text().replace('"patient": "left out", ', ""))

    report = score(tmp_path, group_column="patient")

    assert report.scores.scores["accuracy"].clusters == 6 + 3
    assert report.scores.counts["notes without a `patient`"] == 3
    assert [item["group"] for item in report.items].count("") == 3


def test_decisions_without_probabilities_have_scores_of_decisions_only(tmp_path: Path) -> None:
    rows = table()
    write(tmp_path, {name: rows[name] for name in ("id", "label", "said")})
    report = score(tmp_path, prediction_column="said", classes=CLASSES)

    assert report.scores.scores.keys() == {"accuracy", "macro_f1", "micro_f1"}
    assert report.scores.scores["accuracy"].value == sk.accuracy_score(rows["label"], rows["said"])


def test_notes_with_several_labels(tmp_path: Path) -> None:
    rows = {"id": ["a", "b", "c"], "label": ["x,y", "", "y"], "p_x": [0.9, 0.2, 0.4], "p_y": [0.4, 0.1, 0.8]}
    write(tmp_path, rows, "csv")
    report = score(tmp_path, labels="multilabel", resamples=0)

    assert [item["answer"] for item in report.items] == ["x,y", "", "y"]
    assert [item["prediction"] for item in report.items] == ["x", "", "y"]
    assert report.scores.scores["micro_f1"].value == pytest.approx(2 * 2 / (2 + 3))
    assert report.scores.scores["micro_f1"].standard_error is None


@pytest.mark.parametrize(
    ("change", "section", "said"),
    [
        ({}, {"label_column": "lable"}, r"tasks\.0\.label_column: .* no column `lable`; there are `label`, "),
        ({}, {"classes": ("none", "some", "alot")}, r"tasks\.0\.classes: .* no column `p_alot`; there are `p_"),
        ({"label": "other"}, {}, r"found\.jsonl:1: its `label` is none of the 3 classes"),
        ({"p_none": 1.7}, {}, r"found\.jsonl:1: a probability of it is no number from 0 to 1"),
        ({"p_none": None}, {}, r"found\.jsonl:1: a probability of it is no number"),
        ({"p_none": 0.0, "p_some": 0.0, "p_many": 0.5}, {}, r"found\.jsonl:1: its probabilities add up to 0\.5000"),
        ({"id": ""}, {}, r"found\.jsonl:1: has no `id`"),
        ({"id": " "}, {}, r"found\.jsonl:1: has no `id`"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, change: dict[str, Any], section: dict[str, Any], said: str
) -> None:
    rows = table(4)
    for name, value in change.items():
        rows[name][0] = value
    write(tmp_path, rows)
    with pytest.raises(LauncherError, match=said):
        score(tmp_path, **section)


def packed(path: Path, content: bytes) -> None:
    """Write a file that is compressed as its name says, and torn at its end."""
    path.write_bytes(gzip.compress(content)[:-9])


def in_cp1252(path: Path, content: bytes) -> None:
    path.write_bytes(content.replace(b"note-1", b"n\xf6te-1"))


def without_its_middle(path: Path, content: bytes) -> None:
    path.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])


@pytest.mark.parametrize(
    ("written", "name", "change", "said"),
    [
        ("csv", "found.csv.gz", packed, r"found\.csv\.gz: the file is corrupt: .*; fetch it again"),
        ("csv", "found.csv", in_cp1252, r"found\.csv:3: byte 0xf6 is not UTF-8; save the file as UTF-8"),
        ("jsonl", "found.jsonl.gz", packed, r"found\.jsonl\.gz:\d+: the file is corrupt: "),
        (
            "parquet",
            "found.parquet",
            without_its_middle,
            r"found\.parquet: pyarrow cannot read it .*; write the",
        ),
    ],
)
def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, written: str, name: str, change: Callable[[Path, bytes], None], said: str
) -> None:
    write(tmp_path, table(), written)
    path = tmp_path / f"found.{written}"
    content = path.read_bytes()
    path.unlink()
    change(tmp_path / name, content)

    with pytest.raises(LauncherError, match=said):
        score(tmp_path)


def test_a_limit_lets_unreadable_rows_pass_and_counts_them(tmp_path: Path) -> None:
    rows = table(10)
    rows["label"][3] = "other"
    write(tmp_path, rows)
    report = score(tmp_path, limit=0.2)
    assert (report.scores.n, report.scores.counts["unreadable records"]) == (9, 1)


def reordered(rows: Table, order: Sequence[int]) -> Table:
    return {name: [values[place] for place in order] for name, values in rows.items()}


def test_models_whose_rows_are_in_another_order_are_compared_note_by_note(tmp_path: Path) -> None:
    order = np.random.default_rng(3).permutation(40).tolist()
    first = table()
    other = {**table(seed=1), "label": first["label"]}
    reports = {}
    for name, rows in {"first": first, "other": other, "shuffled": reordered(other, order)}.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name, rows)
        reports[name] = score(tmp_path / name, resamples=0)

    places = [(name, write_evaluation(tmp_path / "runs" / name, {"t": one}, name)) for name, one in reports.items()]
    found = compare(open_models(places), open_models(places)[0], ["accuracy"])

    assert [row["id"] for row in reports["shuffled"].items] == [f"note-{place}" for place in order]
    differences = {row.model: row.difference for row in found.rows}
    right = [said == label for said, label in zip(first["said"], first["label"], strict=True)]
    others = [said == label for said, label in zip(other["said"], first["label"], strict=True)]
    assert differences["other"] == differences["shuffled"] is not None
    assert differences["other"].value == pytest.approx(np.mean(others) - np.mean(right))
    assert differences["other"].p == pytest.approx(
        binomtest(sum(np.array(others) > right), int((np.array(others) != right).sum())).pvalue
    )


@pytest.mark.parametrize(
    ("change", "section", "is_equal"),
    [
        ({}, {"classes": CLASSES[::-1]}, True),
        ({"label": "none"}, {}, False),
        ({"id": "note-x"}, {}, False),
        ({}, {"classes": (*CLASSES, "other"), "prediction_column": "said"}, False),
    ],
)
def test_items_are_equal_if_notes_labels_and_classes_are(
    tmp_path: Path, change: dict[str, Any], section: dict[str, Any], is_equal: bool
) -> None:
    rows = table()
    assert rows["label"][0] != "none"
    write(tmp_path, rows)
    before = score(tmp_path, resamples=0).scores.items_sha256
    for name, value in change.items():
        rows[name][0] = value
    write(tmp_path, rows)

    assert (score(tmp_path, resamples=0, **section).scores.items_sha256 == before) is is_equal


def test_items_with_another_positive_class_are_others(tmp_path: Path) -> None:
    write(tmp_path, {"id": ["a", "b"], "label": ["x", "y"], "p_x": [0.9, 0.2], "p_y": [0.1, 0.8]})
    one, other = (score(tmp_path, labels="binary", resamples=0, classes=[*classes]) for classes in ("xy", "yx"))

    assert one.scores.items_sha256 != other.scores.items_sha256


def test_a_recipe_of_saved_predictions_needs_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, table())
    task = {"type": "classification", "name": "found", "files": "./found.jsonl", "labels": "multiclass"}
    context = evaluation(tmp_path, task, model=None)

    main(context)

    scores = scores_of(context)
    assert scores.model == {}
    assert scores.tasks["found"].n == len(items_of(context)) == 40
    assert "found: 40 items  auroc 0." in capsys.readouterr().out
    with pytest.raises(ValueError, match="model: no task uses it; leave it out"):
        evaluation(tmp_path, task)
    with pytest.raises(ValueError, match=r"model: is missing, and tasks\.0 needs one"):
        evaluation(tmp_path, {"type": "choice", "name": "a", "format": "choice", "files": "a"}, model=None)
