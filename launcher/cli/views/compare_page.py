"""A comparison as one HTML file: scores with intervals, light and dark, without scripts or anything from elsewhere."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from launcher.cli.views.axes import round_ticks
from launcher.cli.views.compare_style import STYLE
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
from launcher.scores.scored_model import ScoredModel

_WIDTH = 1000
"""Of a plot, in its own units; it is stretched to what the page has."""
_OVERLAP = (
    "Intervals are of one score each. They can overlap where a difference is significant, since models are compared "
    "item by item. The dashed line is the score of the first model."
)


def page(found: Comparison) -> str:
    """Write the page."""
    names = [model.label for model in found.models]
    title = f"Scores of {names[0]}" if len(names) == 1 else f"Scores of {len(names)} models"
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>',
        f"<style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>",
        *_scores(found),
        *(f'<p class="small">{escape(line)}</p>' for line in (*explanation(found), _OVERLAP)),
        *_notes(found.notes),
        *_models(found.models),
        "</main></body></html>\n",
    ]
    return "\n".join(lines)


def _scores(found: Comparison) -> Iterator[str]:
    heads = ("model", "score", "95 % interval", *(("difference", "p", "detectable") if len(found.models) > 1 else ()))
    yield '<table class="scores"><thead><tr>'
    yield "".join(f'<th scope="col">{head}</th>' for head in heads)
    yield "</tr></thead>"
    for (task, metric), rows in found.blocks().items():
        less = "; lower is better" if rows[0].lower_is_better else ""
        what = f"<b>{escape(task)}</b> {escape(metric)}, {items_text(rows)}{less}"
        yield f'<tbody><tr class="task"><th colspan="{len(heads)}" scope="rowgroup">{what}</th></tr>'
        ticks = axis_ticks(rows)
        for row in rows:
            yield _row(row, found, ticks, rows[0].score.value)
        yield f'<tr class="axis" aria-hidden="true"><td colspan="2"></td><td>{_axis(ticks)}</td></tr></tbody>'
    yield "</table>"


def _row(row: ComparedScore, found: Comparison, ticks: Sequence[float], baseline: float | None) -> str:
    kind = ("better" if row.is_better else "worse") if row.is_marked else "plain"
    mark = f' <b class="{kind}">{MARK}</b>' if row.is_marked else ""
    cells = [("score", score_text(row.score)), ("plot", _plot(row, ticks, baseline, kind))]
    if len(found.models) > 1:
        said = "baseline" if row.model == found.baseline else difference_text(row.difference)
        cells += [("difference", said + mark), ("p", p_text(row)), ("detectable", detectable_text(row.difference))]
    filled = "".join(f'<td class="{name}" data-name="{name}">{text}</td>' for name, text in cells)
    return f'<tr><th scope="row">{escape(row.model)}</th>{filled}</tr>'


def axis_ticks(rows: Sequence[ComparedScore]) -> list[float]:
    """Return round numbers around all scores and intervals, evenly spaced.

    Args:
        rows: Scores that share an axis.
    """
    ends = [end for row in rows for end in (row.score.low, row.score.value, row.score.high) if end is not None]
    finite = [end for end in ends if math.isfinite(end)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    return round_ticks(low, high)


def _place(value: float, ticks: Sequence[float]) -> float:
    return round(_WIDTH * (value - ticks[0]) / (ticks[-1] - ticks[0]), 1)


def _plot(row: ComparedScore, ticks: Sequence[float], baseline: float | None, kind: str) -> str:
    score = row.score
    said = f"{number(score.value)}" + (
        "" if score.low is None else f", 95 % interval {number(score.low)} to {number(score.high)}"
    )
    parts = [_upright(_place(tick, ticks), 0, 24, "tick") for tick in ticks]
    if baseline is not None and math.isfinite(baseline):
        parts.append(_upright(_place(baseline, ticks), 0, 24, "baseline"))
    if score.value is not None and math.isfinite(score.value):
        center = _place(score.value, ticks)
        if score.low is not None and score.high is not None:
            low, high = _place(score.low, ticks), _place(score.high, ticks)
            parts.append(f'<line class="{kind}" x1="{low}" x2="{high}" y1="12" y2="12"/>')
            parts += [_upright(end, 7, 17, kind) for end in (low, high)]
        parts.append(f'<line class="{kind} dot" x1="{center}" x2="{center}" y1="12" y2="12"/>')
    label = f'role="img" aria-label="{escape(row.model)}: {said}"'
    return f'<svg {label} viewBox="0 0 {_WIDTH} 24" preserveAspectRatio="none">{"".join(parts)}</svg>'


def _upright(place: float, top: int, bottom: int, kind: str) -> str:
    return f'<line class="{kind}" x1="{place}" x2="{place}" y1="{top}" y2="{bottom}"/>'


def _axis(ticks: Sequence[float]) -> str:
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    labels = (f'<span style="left:{_place(tick, ticks) / _WIDTH:.2%}">{tick:,.{decimals}f}</span>' for tick in ticks)
    return f'<div class="labels">{"".join(labels)}</div>'


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield "<h2>Notes</h2><ul>"
        yield from (f"<li>{escape(note)}</li>" for note in notes)
        yield "</ul>"


def _models(models: Sequence[ScoredModel]) -> Iterator[str]:
    yield "<h2>Models</h2><dl>"
    for model in models:
        its, versions = model.scores.model, model.scores.versions
        facts = [
            ("model", its.get("path")),
            *(("adapter", one.get("path")) for one in its.get("adapters") or ()),
            ("number format", its.get("dtype")),
            ("SHA-256", its.get("sha256")),
            ("run", model.scores.run),
            ("data", model.scores.data_use),
            ("computed with", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ]
        yield f"<dt>{escape(model.label)}</dt>"
        yield from (f"<dd>{name}: {_fact(value)}</dd>" for name, value in facts if value)
    yield "</dl>"


def _fact(value: Any) -> str:
    return f"<code>{escape(str(value))}</code>"
