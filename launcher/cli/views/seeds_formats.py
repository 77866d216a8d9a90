"""Means over seeds for other programs: JSON, CSV, LaTeX."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from launcher.cli.views import latex
from launcher.cli.views.seeds_wording import explanation_of_means, mean_text, members
from launcher.scores.seeds import GroupedComparison, GroupedScore

_COLUMNS = (
    *("task", "metric", "group", "mean", "standard_deviation", "seeds"),
    *("difference", "difference_standard_error", "p", "p_holm", "significant"),
)


def groups_as_plain(found: GroupedComparison) -> dict[str, Any]:
    """Return what `--json` prints."""
    groups = [
        {"label": one.label, "runs": [model.scores.run for model in one.models], "seeds": [*one.seeds]}
        for one in found.groups
    ]
    rows = [{**asdict(row), "significant": row.is_marked} for row in found.rows]
    return {
        "baseline": found.groups[0].label,
        "groups": groups,
        "rows": rows,
        "tests": found.tests,
        "notes": [*found.notes],
    }


def group_rows(found: GroupedComparison) -> Iterator[tuple[Any, ...]]:
    """Yield the head of a CSV table, and a row for each score."""
    yield _COLUMNS
    for row in found.rows:
        known = (row.task, row.metric, row.group, row.spread.mean, row.spread.standard_deviation, row.spread.n)
        its = row.difference
        tested = (its.value, its.standard_error, its.p, row.p_holm, row.is_marked) if its else (None,) * 5
        yield (*known, *tested)


def groups_as_latex(found: GroupedComparison) -> str:
    """Write a table of groups by tasks for the package booktabs; comments below it say what the numbers are."""
    blocks = found.blocks()
    rows = [
        (group.label, [_cell(next((row for row in its if row.group == group.label), None)) for its in blocks.values()])
        for group in found.groups
    ]
    heads = ["group", *(f"{task} ({metric})" for task, metric in blocks)]
    return latex.table(heads, rows, (*explanation_of_means(found), *members(found), *found.notes))


def _cell(row: GroupedScore | None) -> str:
    return latex.cell(mean_text(row, latex.SIGN), row.is_marked) if row else latex.cell(None, is_marked=False)
