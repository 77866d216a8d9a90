"""What runs did when, as bars of SVG: a bar for each run, from its submission on."""

from collections.abc import Iterator, Sequence
from html import escape

from launcher.cli.views.wording import duration, moment_of
from launcher.monitor.time_account import TIME_KINDS, TimeAccount, TimeKind, TimeSpan

WIDTH = 1000
_LEAST = 0.4
"""Width of a stretch that is drawn by itself; shorter ones are drawn as what takes most of their place."""
_NAMED = 6
"""Times that are written below."""


def bars(accounts: Sequence[tuple[str, TimeAccount]]) -> str:
    """Draw all runs to one scale, the first submission on the left."""
    spans = [span for _, account in accounts for span in account.spans]
    if not spans:
        return ""
    first, last = min(span.start for span in spans), max(span.end for span in spans)
    scale = WIDTH / ((last - first) or 1.0)
    rows = [_row(label, account, first, scale) for label, account in accounts if account.spans]
    times = [first + (last - first) * part / (_NAMED - 1) for part in range(_NAMED)]
    form = "%H:%M:%S" if last - first < 600 else "%d %b %H:%M"
    marks = (
        f'<span style="left:{part / (_NAMED - 1):.0%}">{moment_of(moment).strftime(form)}</span>'
        for part, moment in enumerate(times)
    )
    return f'<div class="bars">{"".join(rows)}<b></b><div class="along">{"".join(marks)}</div></div>'


def _row(label: str, account: TimeAccount, first: float, scale: float) -> str:
    said = ", ".join(f"{kind} {duration(seconds)}" for kind, seconds in account.by_kind().items() if seconds)
    drawn = "".join(
        f'<rect class="{kind}" x="{start:.2f}" width="{end - start:.2f}" y="4" height="16"/>'
        for kind, start, end in _visible(account.spans, first, scale)
    )
    starts = dict.fromkeys(span.attempt for span in account.spans if span.attempt is not None)
    marks = "".join(_mark(account.spans, number, first, scale) for number in starts)
    return (
        f'<b>{escape(label)}</b><svg role="img" aria-label="{escape(label)}: {escape(said)}" '
        f'viewBox="0 0 {WIDTH} 24" preserveAspectRatio="none">{drawn}{marks}</svg>'
    )


def _mark(spans: Sequence[TimeSpan], attempt: int, first: float, scale: float) -> str:
    place = (next(span.start for span in spans if span.attempt == attempt) - first) * scale
    return f'<line class="start" x1="{place:.2f}" x2="{place:.2f}" y1="0" y2="24"/>'


def _visible(spans: Sequence[TimeSpan], first: float, scale: float) -> Iterator[tuple[TimeKind, float, float]]:
    """Put stretches together that would be too narrow to be seen: a run may save ten thousand times."""
    waiting: list[TimeSpan] = []
    for span in spans:
        waiting.append(span)
        if (span.end - waiting[0].start) * scale >= _LEAST:
            yield _longest(waiting), (waiting[0].start - first) * scale, (span.end - first) * scale
            waiting = []
    if waiting:
        yield _longest(waiting), (waiting[0].start - first) * scale, (waiting[-1].end - first) * scale


def _longest(spans: Sequence[TimeSpan]) -> TimeKind:
    seconds = dict.fromkeys((span.what for span in spans), 0.0)
    for span in spans:
        seconds[span.what] += span.seconds
    return max(seconds, key=lambda kind: seconds[kind])


def kinds_legend(accounts: Sequence[TimeAccount]) -> str:
    """Say which colour is what, for the kinds that there are."""
    there = [kind for kind in TIME_KINDS if any(account.seconds(kind) for account in accounts)]
    items = (
        f'<li><svg class="key" viewBox="0 0 30 10" aria-hidden="true"><rect class="{kind}" width="30" height="10"/>'
        f"</svg>{kind}</li>"
        for kind in there
    )
    return f'<ul class="legend">{"".join(items)}</ul>'
