"""What `launcher compare --group` shows in a terminal: means over seeds."""

import textwrap

from rich.console import Console

from launcher.artifacts.scores import plus_minus
from launcher.cli.views.score_wording import MARK
from launcher.cli.views.seeds_wording import (
    difference_of_means_text,
    explanation_of_means,
    mean_text,
    members,
    p_of_means_text,
)
from launcher.scores.seeds import GroupedComparison, GroupedScore

_HEAD = ("mean", "seeds", "difference", "", "p")


def print_groups(found: GroupedComparison) -> None:
    """Print the means by task, and what they are."""
    out = Console(highlight=False, markup=False, emoji=False)
    sign = plus_minus(out.encoding)
    cells = {row: _cells(row, sign) for row in found.rows}
    widths = [max([len(name), *(len(one[place]) for one in cells.values())]) for place, name in enumerate(_HEAD)]
    names = max(len(group.label) for group in found.groups)
    out.print(_line("", _HEAD, widths, names), style="bold", soft_wrap=True)
    for (task, metric), rows in found.blocks().items():
        out.print(f"{task}  {metric}", style="bold", soft_wrap=True)
        for row in rows:
            out.print(_line(row.group, cells[row], widths, names), soft_wrap=True)
    out.print()
    for line in explanation_of_means(found, sign):
        out.print(_wrapped(line, out.width), style="dim", soft_wrap=True)
    for line in (*members(found), *(f"note: {note}" for note in found.notes)):
        out.print(_wrapped(line, out.width), soft_wrap=True)


def _cells(row: GroupedScore, sign: str) -> tuple[str, ...]:
    said = difference_of_means_text(row, sign)
    return (mean_text(row, sign), str(row.spread.n), said, MARK if row.is_marked else "", p_of_means_text(row))


def _line(name: str, cells: tuple[str, ...], widths: list[int], names: int) -> str:
    aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(["", name.ljust(names), *aligned]).rstrip()


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
