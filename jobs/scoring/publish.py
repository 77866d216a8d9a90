"""Publish a classifier's predictions of held-out notes, and their scores. Predictions hold ids and labels, no text."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from jobs.scoring.bootstrap import LEVEL, Bootstrap, units_of
from jobs.scoring.classification import Predictions, compute_scores
from launcher.run.paths import SCORES


@dataclass(frozen=True)
class SplitPredictions:
    """The predictions of a split."""

    ids: Sequence[str]
    units: Sequence[str]
    """The unit of each note; the bootstrap draws units."""
    unit_column: str
    found: Predictions


def publish_scores(
    folder: Path,
    splits: Mapping[str, SplitPredictions],
    classes: Sequence[str],
    resampling: tuple[int, int],
    facts: Any,
) -> Iterator[None]:
    """Write `predictions/SPLIT.parquet` and finally `scores.json`; yields often. For rank 0.

    Args:
        folder: The run's outputs.
        splits: Predictions of each split.
        classes: Names of the classes.
        resampling: Resamples of the bootstrap, and its seed.
        facts: Further content of scores.json.
    """
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    report = {}
    for name, split in splits.items():
        parquet.write_table(_table(split, classes), folder / "predictions" / f"{name}.parquet")
        yield
        bootstrap = Bootstrap(split.found, units_of(split.units), *resampling)
        yield from bootstrap.compute()
        report[name] = _report(split, bootstrap)
    content = {**facts, "confidence": LEVEL, "resamples": resampling[0], "splits": report}
    staged = folder / f".{SCORES}"
    staged.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    staged.replace(folder / SCORES)
    yield


def describe_scores(folder: Path) -> str:
    """Say in one line for each split what scores.json says."""
    splits = json.loads((folder / SCORES).read_text(encoding="utf-8"))["splits"]
    lines = []
    for name, split in splits.items():
        said = "  ".join(describe_score(*pair) for pair in split["scores"].items())
        lines.append(f"{name}: {split['notes']:,} notes  {said}")
    return "\n".join(lines)


def describe_score(name: str, score: dict[str, float | None]) -> str:
    """Say what a score is, and its interval."""
    if score["value"] is None:
        return f"{name} -"
    interval = "" if score["low"] is None else f" ({score['low']:.4f} to {score['high']:.4f})"
    return f"{name} {score['value']:.4f}{interval}"


def _report(split: SplitPredictions, bootstrap: Bootstrap) -> dict[str, Any]:
    intervals = bootstrap.intervals()
    scores = {}
    for name, value in compute_scores(split.found).items():
        numbers = {"value": value, "low": intervals[name][0], "high": intervals[name][1]}
        scores[name] = {key: None if math.isnan(number) else number for key, number in numbers.items()}
    drawn = {"column": split.unit_column, "units": len(set(split.units))}
    skipped = split.found.skipped_classes
    return {"notes": len(split.ids), "resampled": drawn, "skipped_classes": skipped, "scores": scores}


def _table(split: SplitPredictions, classes: Sequence[str]) -> pyarrow.Table:
    # Columns `id`, `label` (a list where a note may have several) and `p_CLASS` for each class.
    found = split.found
    if found.label_type == "multilabel":
        labels: list[Any] = [[classes[number] for number in row.nonzero()[0]] for row in found.labels]
        column = pyarrow.array(labels, pyarrow.list_(pyarrow.string()))
    else:
        column = pyarrow.array([classes[number] for number in found.labels])
    probabilities = {f"p_{name}": found.probabilities[:, number] for number, name in enumerate(classes)}
    return pyarrow.table({"id": pyarrow.array(split.ids), "label": column, **probabilities})
