"""A comparison for other programs: JSON, CSV, LaTeX."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from launcher.cli.views import latex
from launcher.cli.views.score_wording import explanation, score_text
from launcher.scores.comparison import ComparedScore, Comparison

_COLUMNS = (
    *("task", "metric", "model", "value", "standard_error", "low", "high", "n", "clusters"),
    *("difference", "difference_standard_error", "difference_low", "difference_high", "is_log_ratio"),
    *("test", "p", "p_holm", "significant", "detectable"),
)


def as_plain(found: Comparison) -> dict[str, Any]:
    """Return what `--json` prints."""
    models = [
        {
            "label": one.label,
            "folder": str(one.folder),
            **one.scores.model_dump(mode="json", include={"run", "name", "data_use", "model", "versions"}),
        }
        for one in found.models
    ]
    rows = [
        {
            "task": row.task,
            "metric": row.metric,
            "model": row.model,
            "score": row.score.model_dump(mode="json"),
            "lower_is_better": row.lower_is_better,
            "difference": row.difference and asdict(row.difference),
            "p_holm": row.p_holm,
            "significant": row.is_marked,
        }
        for row in found.rows
    ]
    return {"baseline": found.baseline, "models": models, "rows": rows, "tests": found.tests, "notes": [*found.notes]}


def csv_rows(found: Comparison) -> Iterator[tuple[Any, ...]]:
    """Yield the head of a CSV table, and a row for each score."""
    yield _COLUMNS
    for row in found.rows:
        score, difference = row.score, row.difference
        known = (score.value, score.standard_error, score.low, score.high, score.n, score.clusters)
        if difference is None:
            yield (row.task, row.metric, row.model, *known, *[None] * 10)
            continue
        ends = (difference.low, difference.high, difference.is_log_ratio)
        test = (difference.test, difference.p, row.p_holm, row.is_marked, difference.detectable)
        yield (row.task, row.metric, row.model, *known, difference.value, difference.standard_error, *ends, *test)


def latex_table(found: Comparison) -> str:
    """Write a table of models by tasks for the package booktabs; comments below it say what the numbers are."""
    blocks = found.blocks()
    rows = [
        (
            model.label,
            [_cell(next((row for row in block if row.model == model.label), None)) for block in blocks.values()],
        )
        for model in found.models
    ]
    heads = ["model", *(f"{task} ({metric})" for task, metric in blocks)]
    return latex.table(heads, rows, (*explanation(found), *found.notes))


def _cell(row: ComparedScore | None) -> str:
    return latex.cell(score_text(row.score, latex.SIGN), row.is_marked) if row else latex.cell(None, is_marked=False)
