"""Drawings of `launcher plan --html`: bars of memory against a GPU's limit, and of the seconds of a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

PARTS = ("parameters", "gathered", "gradients", "optimizer", "activations", "logits", "cache", "other", "overhead")
"""Parts of the memory, in the order in which they are stacked; the place of each is the number of its colour."""
_WIDTH, _HEIGHT, _BAR = 1000, 34, 22

STYLE = (
    """
:root { --c8: #5f7d1a; }
@media screen and (prefers-color-scheme: dark) { :root { --c8: #a9c76b; } }
.plan { display: grid; grid-template-columns: minmax(6rem, 16rem) 1fr minmax(4rem, max-content); gap: .25rem .8rem;
  align-items: center; margin: .5rem 0 .3rem; font-size: .9rem; }
.plan svg { display: block; width: 100%; height: 34px; }
.plan b { font-weight: 400; overflow-wrap: anywhere; }
.plan span { font-variant-numeric: tabular-nums; white-space: nowrap; text-align: right; }
.plan span.over, td.over { color: var(--lost); }
rect.room { fill: var(--idle); } line.limit { stroke: var(--lost); stroke-width: 2; vector-effect: non-scaling-stroke; }
rect.computing { fill: var(--c2); } rect.sending { fill: var(--c1); }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; vertical-align: -.05rem; }
@media screen and (max-width: 46rem) { .plan { grid-template-columns: 1fr max-content; }
  .plan b { grid-column: 1 / -1; } }
"""
    + "".join(
        f"rect.m{place} {{ fill: var(--c{place}); }} i.m{place} {{ background: var(--c{place}); }}\n"
        for place in range(len(PARTS))
    )
    + "@media print { .plan svg rect, .legend i { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }\n"
)


@dataclass(frozen=True)
class MemoryBar:
    """The memory of one way to run a training."""

    label: str
    parts: dict[str, int]
    """Bytes by `PARTS`."""
    total: str
    """As people read it."""

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.parts.values())


def memory_bars(bars: Sequence[MemoryBar], limit: int | None) -> str:
    """Stack the parts of each bar, all to one scale, with a line at what a GPU has."""
    scale = _WIDTH / (1.02 * max([limit or 0, *(one.bytes for one in bars)], default=1))
    return f'<div class="plan">{"".join(_memory_bar(one, limit, scale) for one in bars)}</div>'


def _memory_bar(one: MemoryBar, limit: int | None, scale: float) -> str:
    drawn, left = [], 0.0
    if limit:
        drawn.append(_rect("room", 0, limit * scale, "room of a GPU"))
    for place, part in enumerate(PARTS):
        width = one.parts.get(part, 0) * scale
        if width:
            drawn.append(_rect(f"m{place}", left, width, part))
            left += width
    if limit:
        drawn.append(f'<line class="limit" x1="{limit * scale:.1f}" x2="{limit * scale:.1f}" y1="0" y2="{_HEIGHT}"/>')
    is_over = limit is not None and one.bytes > limit
    mark = ' class="over"' if is_over else ""
    return (
        f"<b>{escape(one.label)}</b>{_svg(''.join(drawn), one.label, one.total)}<span{mark}>{escape(one.total)}</span>"
    )


def memory_legend(bars: Sequence[MemoryBar]) -> str:
    """Say which colour is which part."""
    there = [place for place, part in enumerate(PARTS) if any(one.parts.get(part) for one in bars)]
    items = "".join(f'<li><i class="m{place}"></i>{PARTS[place]}</li>' for place in there)
    return f'<ul class="legend">{items}</ul>'


def time_bars(rows: Sequence[tuple[str, str, float, str]]) -> str:
    """Draw seconds beside each other.

    Args:
        rows: What takes the time, `computing` or `sending`, the seconds, and those as people read them.
    """
    most = max(seconds for _, _, seconds, _ in rows)
    parts = []
    for label, kind, seconds, text in rows:
        drawn = _svg(_rect(kind, 0, _WIDTH * seconds / most, label), label, text)
        parts.append(f"<b>{escape(label)}</b>{drawn}<span>{escape(text)}</span>")
    return f'<div class="plan">{"".join(parts)}</div>'


def _svg(content: str, label: str, text: str) -> str:
    said = escape(f"{label}: {text}", quote=True)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{said}">'
        f"{content}</svg>"
    )


def _rect(kind: str, left: float, width: float, title: str) -> str:
    top = (_HEIGHT - _BAR) / 2
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{top:g}" width="{width:.1f}" height="{_BAR}">'
        f"<title>{escape(title)}</title></rect>"
    )
