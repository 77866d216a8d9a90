"""A comparison as one HTML file: scores with intervals, light and dark, without scripts or anything from elsewhere."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from launcher.cli.views.compare_parts import descriptions, heads, listed, remarks, row, whole_page
from launcher.cli.views.score_plot import axis, dot, interval, plot, ticks_around
from launcher.cli.views.score_wording import (
    MARK,
    detectable_text,
    difference_text,
    explanation,
    items_text,
    number,
    p_text,
    score_text,
)
from launcher.scores.comparison import ComparedScore, Comparison

_OVERLAP = (
    "Intervals are of one score each. They can overlap where a difference is significant, since models are compared "
    "item by item. The dashed line is the score of the first model."
)


def page(found: Comparison) -> str:
    """Write the page."""
    names = [model.label for model in found.models]
    title = f"Scores of {names[0]}" if len(names) == 1 else f"Scores of {len(names)} models"
    parts = [
        *_scores(found),
        *remarks((*explanation(found), _OVERLAP)),
        *listed("Notes", found.notes),
        *descriptions(found.models),
    ]
    return whole_page(title, parts)


def _scores(found: Comparison) -> Iterator[str]:
    names = ("model", "score", "95 % interval", *(("difference", "p", "detectable") if len(found.models) > 1 else ()))
    yield f'<table class="scores">{heads(names)}'
    for (task, metric), rows in found.blocks().items():
        less = "; lower is better" if rows[0].lower_is_better else ""
        what = f"<b>{escape(task)}</b> {escape(metric)}, {items_text(rows)}{less}"
        yield f'<tbody><tr class="task"><th colspan="{len(names)}" scope="rowgroup">{what}</th></tr>'
        ticks = axis_ticks(rows)
        for one in rows:
            yield _row(one, found, ticks, rows[0].score.value)
        yield f'<tr class="axis" aria-hidden="true"><td colspan="2"></td><td>{axis(ticks)}</td></tr></tbody>'
    yield "</table>"


def _row(one: ComparedScore, found: Comparison, ticks: Sequence[float], baseline: float | None) -> str:
    kind = ("better" if one.is_better else "worse") if one.is_marked else "plain"
    mark = f' <b class="{kind}">{MARK}</b>' if one.is_marked else ""
    cells = [("score", score_text(one.score)), ("plot", _plot(one, ticks, baseline, kind))]
    if len(found.models) > 1:
        said = "baseline" if one.model == found.baseline else difference_text(one.difference)
        cells += [("difference", said + mark), ("p", p_text(one)), ("detectable", detectable_text(one.difference))]
    return row(one.model, cells)


def axis_ticks(rows: Sequence[ComparedScore]) -> list[float]:
    """Return round numbers around all scores and intervals, evenly spaced.

    Args:
        rows: Scores that share an axis.
    """
    return ticks_around(end for row in rows for end in (row.score.low, row.score.value, row.score.high))


def _plot(one: ComparedScore, ticks: Sequence[float], baseline: float | None, kind: str) -> str:
    score, parts = one.score, []
    said = f"{one.model}: {number(score.value)}"
    if score.low is not None:
        said += f", 95 % interval {number(score.low)} to {number(score.high)}"
    if score.value is not None and math.isfinite(score.value):
        if score.low is not None and score.high is not None:
            parts.append(interval(score.low, score.high, ticks, kind))
        parts.append(dot(score.value, ticks, kind))
    return plot(said, ticks, parts, baseline)
