"""A report as one HTML file: light, dark and on paper, without scripts or anything from elsewhere."""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from html import escape
from typing import Any

import yaml

from launcher.cli.views.html_page import html_page
from launcher.cli.views.line_chart import ChartLine, chart, drawable, legend
from launcher.cli.views.report_style import STYLE
from launcher.cli.views.report_wording import (
    DEFINITIONS,
    attempt_rows,
    environment_of,
    summary_rows,
    time_rows,
)
from launcher.cli.views.time_chart import bars, kinds_legend
from launcher.cli.views.wording import duration
from launcher.monitor.checkpoint_interval import SOURCE
from launcher.monitor.consumption import ENERGY_ASSUMPTION
from launcher.monitor.run_report import RunReport

_FIRST = ("loss", "lr", "tokens_per_second", "mfu", "memory_gib", "grad_norm")
"""The order of the charts; others follow."""
_TITLES = {
    "loss": "loss",
    "lr": "learning rate",
    "tokens_per_second": "tokens per second",
    "mfu": "model FLOPs utilisation (MFU)",
    "memory_gib": "peak memory of rank 0, GiB",
    "grad_norm": "norm of the gradient",
}
_MOST_CHARTS = 40


def page(title: str, reports: Sequence[RunReport], notes: Sequence[str]) -> str:
    """Write the page."""
    made = datetime.fromtimestamp(time.time()).strftime("%Y-%m-%d %H:%M")
    parts = [
        f'<p class="soft">{len(reports)} run{"s" * (len(reports) != 1)}, as of {made}</p>',
        *_restriction(reports),
        *_table(*summary_rows(reports)),
        legend([one.label for one in reports]),
        *_charts(reports),
        *_time(reports),
        *_intervals(reports),
        *_scores(reports),
        *_notes(notes),
        "<h2>The runs</h2>",
        *(line for one in reports for line in _run(one, is_open=len(reports) == 1)),
        "<h2>What the words mean</h2>",
        *_definitions([*DEFINITIONS, ("energy, at most", ENERGY_ASSUMPTION)]),
    ]
    return html_page(title, STYLE, parts)


def _restriction(reports: Sequence[RunReport]) -> Iterator[str]:
    if any(one.is_credentialed for one in reports):
        yield (
            '<p class="restricted">Made from credentialed data: numbers, names and settings only, no text of data and '
            "no messages of errors. Ask who is responsible for the data before you pass it on.</p>"
        )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lay out a table; columns in which nothing is said are left out."""
    said = [place for place in range(len(heads)) if place == 0 or any(row[place] for row in rows)]
    texts = {place for place in said if any(row[place] and not _is_number(row[place]) for row in rows)}

    def cells(row: Sequence[str], tag: str) -> str:
        styles = {place: ' class="text"' if place in texts else "" for place in said}
        return "".join(f"<{tag}{styles[place]}>{escape(row[place])}</{tag}>" for place in said)

    yield f'<div class="scroll"><table><thead><tr>{cells(heads, "th")}</tr></thead><tbody>'
    yield from (f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    yield "</tbody></table></div>"


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "-+"


def _charts(reports: Sequence[RunReport]) -> Iterator[str]:
    found = [*_metric_charts(reports), *_evaluation_charts(reports)]
    if not found:
        return
    yield '<h2>Curves</h2><div class="charts">'
    for place, (title, lines) in enumerate(found[:_MOST_CHARTS]):
        drawn = chart(title, lines)
        yield drawn.replace('class="chart"', 'class="chart wide"', 1) if place == 0 else drawn
    yield "</div>"
    if len(found) > _MOST_CHARTS:
        yield f'<p class="soft">{len(found) - _MOST_CHARTS} more metrics are in <code>--json</code>.</p>'
    if any(curve.width > 1 for one in reports for curve in one.metrics.curves.values()):
        yield '<p class="soft">Lines are means of neighbouring steps; areas behind them reach to their extremes.</p>'


def _metric_charts(reports: Sequence[RunReport]) -> Iterator[tuple[str, list[ChartLine]]]:
    names = dict.fromkeys(name for one in reports for name in one.metrics.curves)
    for name in sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST)):
        lines = [
            ChartLine(one.label, place, one.metrics.curves[name].points())
            for place, one in enumerate(reports)
            if name in one.metrics.curves
        ]
        yield _TITLES.get(name, name), lines


def _evaluation_charts(reports: Sequence[RunReport]) -> Iterator[tuple[str, list[ChartLine]]]:
    for name in dict.fromkeys(name for one in reports for name in one.evaluations):
        lines = [
            ChartLine(one.label, place, drawn)
            for place, one in enumerate(reports)
            if (drawn := drawable(one.evaluations.get(name, ())))
        ]
        if lines:
            yield f"evaluation: {name}", lines


def _time(reports: Sequence[RunReport]) -> Iterator[str]:
    accounts = [(one.label, one.account) for one in reports]
    if drawn := bars(accounts):
        yield "<h2>Where the time went</h2>"
        yield kinds_legend([account for _, account in accounts])
        yield drawn
        yield '<p class="soft">Dark strokes are starts of attempts.</p>'
        yield from _table(*time_rows(reports))


def _intervals(reports: Sequence[RunReport]) -> Iterator[str]:
    timed = [one for one in reports if one.advice.saves]
    if not timed:
        return
    yield "<h2>How often to save</h2>"
    for one in timed:
        advice, name = one.advice, f"<b>{escape(one.label)}</b>: " if len(reports) > 1 else ""
        saves = f"{advice.saves} checkpoint{'s' * (advice.saves != 1)}, {advice.save_seconds:.3g} s each (median)"
        between = advice.mean_seconds_between_failures
        if advice.seconds is None or between is None:
            seen = f"no attempt ended without saving in {duration(advice.hours_on_nodes * 3600)} on nodes"
            yield f"<p>{name}{saves}; {seen}, so there is nothing to work an interval out from.</p>"
            continue
        failures = f"{advice.failures} attempt{'s' * (advice.failures != 1)} ended without saving, one in"
        configured = (one.recipe.get("checkpoint") or {}).get("interval")
        now = f" The recipe says <code>{escape(str(configured))}</code>." if configured else ""
        yield (
            f"<p>{name}{saves}; {failures} {duration(between)} on nodes: saving every "
            f"<b>{duration(advice.seconds)}</b> would lose the least time.{now}</p>"
        )
    yield f'<p class="soft">{escape(SOURCE)}. Few failures make a rough estimate.</p>'


def _scores(reports: Sequence[RunReport]) -> Iterator[str]:
    rows = [
        (one.label, task, metric, _number(score.value), _number(score.standard_error), str(score.n))
        for one in reports
        if one.scores
        for task, its in one.scores.tasks.items()
        for metric, score in its.scores.items()
    ]
    if rows:
        yield "<h2>Scores</h2>"
        yield from _table(("run", "task", "metric", "score", "standard error", "items"), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield "<h2>Notes</h2><ul>"
        yield from (f"<li>{escape(note)}</li>" for note in notes)
        yield "</ul>"


def _run(one: RunReport, is_open: bool) -> Iterator[str]:
    yield f"<h3>{escape(one.label)}</h3>"
    yield from _definitions(environment_of(one))
    if one.status.attempts:
        yield from _table(*attempt_rows(one))
    if one.inputs:
        yield "<h3>What it read</h3>"
        yield from _definitions(
            (each.key, "; ".join([f"{each.type} {each.name}", *filter(None, each.facts)])) for each in one.inputs
        )
    text = yaml.safe_dump(dict(one.recipe), sort_keys=False, allow_unicode=True, width=100)
    yield f"<details{' open' * is_open}><summary>Resolved recipe</summary><pre>{escape(text)}</pre></details>"


def _definitions(pairs: Iterable[tuple[str, Any]]) -> Iterator[str]:
    yield "<dl>"
    yield from (f"<dt>{escape(name)}</dt><dd>{escape(str(text))}</dd>" for name, text in pairs if text)
    yield "</dl>"
