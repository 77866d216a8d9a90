"""What `launcher status` shows of a `prepare` in several tasks: a bar for each, and one for all."""

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from launcher.cli.views.wording import file_size, node_list
from launcher.monitor.status import GroupStatus, RunStatus

FOLDED_FROM = 50
"""With more tasks than this, the finished ones are only counted."""
_BAR_WIDTH = 24
_COLORS = {"running": "green", "finished": "blue", "failed": "red", "lost": "red"}


def print_group(out: Console, whole: RunStatus, group: GroupStatus) -> None:
    """Print a line for each task, for the run that completes the corpus, and for all of it."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("task", "state", "node"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    table.add_column("read", width=_BAR_WIDTH if out.width >= 100 else _BAR_WIDTH // 2)
    for name in ("", "files", "speed", "attempts"):
        table.add_column(name, no_wrap=True, justify="right")
    shown = [task for task in group.tasks if len(group.tasks) <= FOLDED_FROM or task.state != "finished"]
    for task in shown:
        table.add_row(*_cells(task, task.id))
    if len(shown) < len(group.tasks):
        table.add_row(f"{len(group.tasks) - len(shown)} more", _colored("finished"))
    table.add_row("finalise", _colored(group.finalise.state), node_list(group.finalise.nodes))
    table.add_row(*_cells(whole, "all"), style="bold")
    out.print()
    out.print(table)
    for line in _troubles(group):
        out.print(f"  {line}", markup=False)


def read_share(one: RunStatus) -> str:
    """How much of the source files has been read: `31%`; nothing where that is not counted."""
    if one.bytes_done is None or one.bytes_total is None:
        return ""
    return f"{one.bytes_done / one.bytes_total:.0%}" if one.bytes_total else "100%"


def _cells(one: RunStatus, label: str) -> list[RenderableType]:
    done = one.state == "finished"
    bar = ProgressBar(total=max(1, one.bytes_total or 0), completed=one.bytes_done or 0, finished_style="bar.finished")
    files = f"{one.step}/{one.total_steps}" if one.total_steps is not None and one.step is not None else ""
    speed = f"{file_size(round(one.bytes_per_second))}/s" if one.bytes_per_second else ""
    nodes = node_list(one.nodes) if not done and label != "all" else ""
    return [label, _colored(one.state), nodes, bar, read_share(one), files, speed, str(len(one.attempts) or "")]


def _colored(state: str) -> str:
    color = _COLORS.get(state, "yellow")
    return f"[{color}]{state}[/]"


def _troubles(group: GroupStatus) -> Iterator[str]:
    """Say why tasks ended without finishing; not of interest once the corpus is made."""
    for task in group.tasks:
        if task.is_over and task.state != "finished" and group.finalise.state != "finished":
            yield f"{task.id}: {task.why}"
