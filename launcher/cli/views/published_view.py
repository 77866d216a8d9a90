"""Published numbers below our own, as a table that fits the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from launcher.cli.views.score_wording import number
from launcher.pipeline.scores import StageScore
from launcher.scores.published import PublishedTable


def print_published(table: PublishedTable) -> None:
    """Print what a system's authors report, with the source and what is known against it."""
    out = Console(highlight=False, markup=False, emoji=False)
    out.print()
    out.print(f"published by {table.title}, not measured here: {table.metric} ({table.source})", style="bold")
    needed = max(map(len, table.rows), default=0) + sum(max(len(name), 5) + 2 for name in table.columns)
    if needed > out.width:
        for model, numbers in table.rows.items():
            said = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
            out.print(f"{model}: {said}")
    elif table.rows:
        out.print(_as_table(table))
    if table.remark:
        out.print(f"note: {table.remark}")


def _as_table(table: PublishedTable) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column("model", no_wrap=True)
    for column in table.columns:
        shown.add_column(column, justify="right", no_wrap=True)
    for model, numbers in table.rows.items():
        shown.add_row(model, *(f"{numbers[name]:g}" if name in numbers else "" for name in table.columns))
    return shown


def print_stage_scores(pipeline: str, scores: Sequence[StageScore], notes: Sequence[str]) -> None:
    """Print the scores of a pipeline's stages with their 95 % intervals."""
    out = Console(highlight=False, markup=False, emoji=False)
    out.print(f"{pipeline}: scores of its stages, with 95 % intervals", style="bold")
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    has_points = any(one.point for one in scores)
    for column in ("stage", *(("point",) if has_points else ()), "task", "metric"):
        shown.add_column(column, overflow="fold")
    for column in ("score", "interval", "items"):
        shown.add_column(column, justify="right", no_wrap=True)
    for one in scores:
        interval = "" if one.low is None or one.high is None else f"{number(one.low)} to {number(one.high)}"
        point = (one.point,) if has_points else ()
        shown.add_row(one.stage, *point, one.task, one.metric, number(one.value), interval, f"{one.n:,}")
    out.print(shown)
    for note in notes:
        out.print(f"note: {note}", soft_wrap=True)
