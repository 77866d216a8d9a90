"""Means over seeds as one HTML file, with each seed's own score; the sister of `compare_page`."""

from collections.abc import Iterator, Sequence
from html import escape

from launcher.cli.views.compare_parts import descriptions, heads, listed, remarks, row, whole_page
from launcher.cli.views.score_plot import axis, dot, interval, plot, ticks_around
from launcher.cli.views.score_wording import MARK, number
from launcher.cli.views.seeds_wording import (
    difference_of_means_text,
    explanation_of_means,
    mean_text,
    members,
    p_of_means_text,
)
from launcher.scores.seeds import GroupedComparison, GroupedScore

_POINTS = (
    "A small point is the score of one seed, a large one the mean. The line reaches one standard deviation to both "
    "sides. The dashed line is the mean of the first group."
)


def page_of_groups(found: GroupedComparison) -> str:
    """Write the page."""
    labels = [group.label for group in found.groups]
    title = f"Mean scores of {labels[0]}" if len(labels) == 1 else f"Mean scores of {len(labels)} groups"
    parts = [
        *_scores(found),
        *remarks((*explanation_of_means(found), _POINTS)),
        *listed("Groups", [*members(found)]),
        *listed("Notes", found.notes),
        *descriptions(found.models),
    ]
    return whole_page(title, parts)


def _scores(found: GroupedComparison) -> Iterator[str]:
    names = ("group", "mean", "each seed", "seeds", *(("difference", "p") if len(found.groups) > 1 else ()))
    yield f'<table class="scores">{heads(names)}'
    for (task, metric), rows in found.blocks().items():
        less = "; lower is better" if rows[0].lower_is_better else ""
        what = f"<b>{escape(task)}</b> {escape(metric)}{less}"
        yield f'<tbody><tr class="task"><th colspan="{len(names)}" scope="rowgroup">{what}</th></tr>'
        ticks = ticks_around(end for one in rows for end in (*one.values, *_ends(one)))
        for one in rows:
            yield _row(one, found, ticks, rows[0])
        yield f'<tr class="axis" aria-hidden="true"><td colspan="2"></td><td>{axis(ticks)}</td></tr></tbody>'
    yield "</table>"


def _row(one: GroupedScore, found: GroupedComparison, ticks: Sequence[float], baseline: GroupedScore) -> str:
    kind = ("better" if one.is_better else "worse") if one.is_marked else "plain"
    mark = f' <b class="{kind}">{MARK}</b>' if one.is_marked else ""
    drawn = plot(_said(one), ticks, _parts(one, ticks, kind), baseline.spread.mean)
    cells = [("score", mean_text(one)), ("plot", drawn), ("seeds", str(one.spread.n))]
    if len(found.groups) > 1:
        cells += [("difference", difference_of_means_text(one) + mark), ("p", p_of_means_text(one))]
    return row(one.group, cells)


def _parts(one: GroupedScore, ticks: Sequence[float], kind: str) -> Iterator[str]:
    if ends := _ends(one):
        yield interval(*ends, ticks, kind)
    yield from (dot(value, ticks, f"{kind} small") for value in one.values)
    yield dot(one.spread.mean, ticks, kind)


def _ends(one: GroupedScore) -> tuple[float, float] | tuple[()]:
    """One standard deviation to both sides of the mean."""
    deviation = one.spread.standard_deviation
    return () if deviation is None else (one.spread.mean - deviation, one.spread.mean + deviation)


def _said(one: GroupedScore) -> str:
    return f"{one.group}: mean {number(one.spread.mean)} of seeds with {', '.join(map(number, one.values))}"
