"""What `launcher usage` prints."""

from collections.abc import Iterator, Sequence

from launcher.cli.views.report_wording import percent
from launcher.monitor.time_account import TimeKind
from launcher.monitor.usage import Usage, UsageTotal

_ROWS = 30
_WASTE: tuple[TimeKind, ...] = ("starting", "redone", "saving", "evaluating", "lost")


def usage_lines(usage: Usage, root: str, since: str | None) -> Iterator[str]:
    """Write tables by recipe and by state."""
    total = usage.total
    if not total.runs:
        yield f"no runs in {root}" + (f" in the last {since}" if since else "")
        return
    when = f" in the last {since}" if since else ""
    cost = f", cost {total.cost:,.2f}" if total.cost else ""
    useful = f", {percent(total.useful_share)} of them useful" if total.useful_share is not None else ""
    runs = f"{total.runs:,} run{'s' * (total.runs != 1)} in {root}{when}"
    yield f"{runs}: {total.all_gpu_hours:,.1f} GPU-hours{useful}{cost}"
    yield ""
    yield from _table("recipe", usage.recipes)
    yield ""
    yield from _table("state", usage.states)


def _table(head: str, totals: Sequence[UsageTotal]) -> Iterator[str]:
    kinds = [kind for kind in _WASTE if any(one.gpu_hours.get(kind) for one in totals)]
    shown, more = totals[:_ROWS], totals[_ROWS:]
    rows = [(head, "runs", "GPU-hours", "node-hours", "useful", *kinds)]
    for one in shown:
        whole = one.all_gpu_hours
        shares = [one.gpu_hours.get(kind, 0.0) / whole if whole else None for kind in kinds]
        counted = (f"{one.runs:,}", f"{whole:,.1f}", f"{one.node_hours:,.1f}")
        rows.append((one.name, *counted, percent(one.useful_share), *map(percent, shares)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = [f"{text:>{width}}" for text, width in zip(numbers, widths[1:], strict=True)]
        yield "  ".join([f"{name:<{widths[0]}}", *cells]).rstrip()
    if more:
        yield f"{len(more):,} more with {sum(one.all_gpu_hours for one in more):,.1f} GPU-hours: `--json`"
