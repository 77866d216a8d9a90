"""What `launcher compare --group` shows: means over seeds, as a table, JSON or CSV."""

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console

from launcher.artifacts.scores import plus_minus
from launcher.cli.views.score_wording import MARK, error_text, number
from launcher.scores.seeds import GroupedComparison, GroupedScore

_HEAD = ("mean", "seeds", "difference", "", "p")
_COLUMNS = (
    *("task", "metric", "group", "mean", "standard_deviation", "seeds"),
    *("difference", "difference_standard_error", "p", "p_holm", "significant"),
)


def print_groups(found: GroupedComparison) -> None:
    """Print the means by task, and what they are."""
    out = Console(highlight=False, markup=False, emoji=False)
    sign = plus_minus(out.encoding)
    cells = [_cells(row, sign) for row in found.rows]
    widths = [max([len(name), *(len(one[place]) for one in cells)]) for place, name in enumerate(_HEAD)]
    names = max(len(group.label) for group in found.groups)
    out.print(_line("", _HEAD, widths, names), style="bold", soft_wrap=True)
    block = None
    for row, its in zip(found.rows, cells, strict=True):
        if (row.task, row.metric) != block:
            block = (row.task, row.metric)
            out.print(f"{row.task}  {row.metric}", style="bold", soft_wrap=True)
        out.print(_line(row.group, its, widths, names), soft_wrap=True)
    out.print()
    for line in _explanation(found, sign):
        out.print(_wrapped(line, out.width), style="dim", soft_wrap=True)
    for group in found.groups:
        out.print(_wrapped(f"{group.label}: {', '.join(_named(group.models))}", out.width), soft_wrap=True)
    for note in found.notes:
        out.print(_wrapped(f"note: {note}", out.width), soft_wrap=True)


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


def _cells(row: GroupedScore, sign: str) -> tuple[str, ...]:
    spread, its = row.spread, row.difference
    mean = number(spread.mean) + error_text(spread.standard_deviation, spread.mean, sign)
    if its is None:
        return (mean, str(spread.n), "baseline", "", "")
    said = ("+" if its.value >= 0 else "") + number(its.value) + error_text(its.standard_error, its.value, sign)
    p = "-" if its.p is None else "<0.001" if its.p < 0.0005 else f"{its.p:.3f}"
    return (mean, str(spread.n), said, MARK if row.is_marked else "", p)


def _line(name: str, cells: tuple[str, ...], widths: list[int], names: int) -> str:
    aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(["", name.ljust(names), *aligned]).rstrip()


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _named(models: Any) -> list[str]:
    return [
        f"{model.label} (seed {', '.join(str(one.seed) for one in model.scores.trainings if one.seed is not None)})"
        if any(one.seed is not None for one in model.scores.trainings)
        else f"{model.label} (seed not known)"
        for model in models
    ]


def _explanation(found: GroupedComparison, sign: str) -> list[str]:
    lines = [f"{sign} one standard deviation over seeds; of differences the standard error."]
    if found.tests:
        count = f"{found.tests} difference{'s' * (found.tests != 1)}"
        lines.append("p: Welch's t test over the seeds.")
        lines.append(f"{MARK} significant at 5 % after Holm's correction for {count}; no mark: not shown to differ.")
    return lines
