"""What `launcher compare` shows in a terminal; it fits into 80 columns."""

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from launcher.artifacts.scores import plus_minus
from launcher.cli.views.score_wording import (
    MARK,
    detectable_text,
    difference_text,
    explanation,
    items_text,
    p_text,
    score_text,
)
from launcher.scores.comparison import ComparedScore, Comparison

_HEAD = ("score", "difference", "", "p", "detectable")
_GAP = "  "


def print_comparison(found: Comparison) -> None:
    """Print the scores by task, what they mean, and what a reader has to know."""
    out = Console(highlight=False, markup=False, emoji=False)
    sign = plus_minus(out.encoding)
    head = _HEAD if len(found.models) > 1 else _HEAD[:1]
    cells = {row: _cells(row, found, sign)[: len(head)] for row in found.rows}
    widths = [max(len(name), *(len(one[place]) for one in cells.values())) for place, name in enumerate(head)]
    room = out.width - sum(width + len(_GAP) for width in widths) - len(_GAP)
    names = max((len(model.label) for model in found.models if len(model.label) <= room), default=0)
    out.print(_line("", head, widths, names), style="bold", soft_wrap=True)
    for (task, metric), rows in found.blocks().items():
        out.print(Text.assemble((task, "bold"), f"  {metric}, {items_text(rows)}"), soft_wrap=True)
        for row in rows:
            is_long = len(row.model) > names
            if is_long:
                out.print(f"{_GAP}{row.model}", soft_wrap=True)
            out.print(_line("" if is_long else row.model, cells[row], widths, names), style=_color(row), soft_wrap=True)
    out.print()
    for line in explanation(found, sign):
        out.print(_wrapped(line, out.width), style="dim", soft_wrap=True)
    for note in found.notes:
        out.print(_wrapped(f"note: {note}", out.width), soft_wrap=True)


def _cells(row: ComparedScore, found: Comparison, sign: str) -> tuple[str, ...]:
    is_baseline = row.model == found.baseline
    return (
        score_text(row.score, sign),
        "baseline" if is_baseline else difference_text(row.difference, sign),
        MARK if row.is_marked else "",
        p_text(row),
        detectable_text(row.difference),
    )


def _line(name: str, cells: Sequence[str], widths: Sequence[int], names: int) -> str:
    """Put cells below those of other lines; names get `names` columns."""
    aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return _GAP.join(["", name.ljust(names), *aligned]).rstrip()


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _color(row: ComparedScore) -> str:
    if not row.is_marked:
        return ""
    return "green" if row.is_better else "red"
