"""A comparison for other programs: JSON, CSV, LaTeX."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from launcher.cli.views.score_wording import MARK, explanation, score_text
from launcher.scores.comparison import ComparedScore, Comparison

_COLUMNS = (
    *("task", "metric", "model", "value", "standard_error", "low", "high", "n", "clusters"),
    *("difference", "difference_standard_error", "difference_low", "difference_high", "is_log_ratio"),
    *("test", "p", "p_holm", "significant", "detectable"),
)
_ESCAPED = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


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
    names = [_escape(f"{task} ({metric})") for task, metric in blocks]
    lines = [rf"\begin{{tabular}}{{l{'r' * len(blocks)}}}", r"\toprule", " & ".join(["model", *names]) + r" \\"]
    lines.append(r"\midrule")
    for model in found.models:
        rows = [next((row for row in block if row.model == model.label), None) for block in blocks.values()]
        lines.append(" & ".join([_escape(model.label), *map(_latex_cell, rows)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *(f"% {line}" for line in (*explanation(found), *found.notes))])


def _latex_cell(row: ComparedScore | None) -> str:
    if row is None:
        return "--"
    mark = rf"^{{{MARK}}}" if row.is_marked else ""
    value, _, error = score_text(row.score, r"\pm ").replace(",", "{,}").partition(" ")
    return f"${value}{mark}{error and f' {error}'}$"


def _escape(text: str) -> str:
    return "".join(_ESCAPED.get(char, char) for char in text)
