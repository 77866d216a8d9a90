"""What `launcher status` shows, as rich tables and lines; it fits into 80 columns."""

import time
from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from launcher.artifacts.scores import EvaluationScores
from launcher.cli.views.group_view import print_group, read_share
from launcher.cli.views.plot import plot
from launcher.cli.views.score_wording import headlines
from launcher.cli.views.wording import clock, duration, file_size, node_list, quantity
from launcher.monitor.exit_reasons import EXIT_REASONS
from launcher.monitor.goodput import Goodput
from launcher.monitor.status import RunStatus
from launcher.run.ledger import Attempt
from launcher.run.metrics import Row

_COLORS = {
    "running": "green",
    "finished": "blue",
    "failed": "red",
    "lost": "red",
    "queued": "yellow",
    "requeued": "yellow",
}

WIDE = 110
"""From this many columns on the table also shows kind, nodes and the reason."""

_GAP = 2
_LIMITS = {"name": 32, "nodes": 16}
_PLOT_LINES = 14


def console() -> Console:
    """Make the console that everything is printed to."""
    return Console(highlight=False)


def runs_table(statuses: Sequence[RunStatus], width: int) -> Table:
    """Make the table of runs; names, and in a wide one reasons, get what room the other columns leave."""
    wide = width >= WIDE
    with_loss = any(one.loss is not None for one in statuses)
    names = ["id", "name", *(["kind"] if wide else []), "state", "step", *(["loss"] if with_loss else [])]
    names += ["attempts", "job", *(["nodes"] if wide else []), "source"]
    rows = [_cells(one, wide, with_loss) for one in statuses]
    elastic = "state" if wide else "name"
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    others = sum(_width(rows, names, other) + _GAP for other in names if other != elastic)
    for name in names:
        limit = max(8, width - others) if name == elastic else _LIMITS.get(name)
        justify: Literal["left", "right"] = "right" if name in ("step", "loss", "attempts") else "left"
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify=justify, max_width=limit)
    for row in rows:
        table.add_row(*row)
    return table


def _width(rows: Sequence[Sequence[str]], names: Sequence[str], name: str) -> int:
    place = names.index(name)
    longest = max(len(name), *(Text.from_markup(row[place]).cell_len for row in rows))
    return min(longest, _LIMITS.get(name, longest))


def _cells(one: RunStatus, wide: bool, with_loss: bool) -> list[str]:
    loss = ["" if one.loss is None else f"{one.loss:.4g}"] if with_loss else []
    source = "" if one.is_over else one.source
    numbers = [_progress(one), *loss, str(len(one.attempts) or ""), one.job_id]
    if not wide:
        return [one.id, escape(one.name), state_text(one) + _tasks(one), *numbers, source]
    because = "" if _tasks(one) else one.why.partition(":")[0].partition(";")[0]
    state = ", ".join([state_text(one) + _tasks(one), *filter(None, [escape(because), outlook(one)])])
    return [one.id, escape(one.name), one.kind, state, *numbers, node_list(one.nodes), source]


def state_text(one: RunStatus) -> str:
    """The state in its colour, as rich's markup."""
    color = _COLORS.get(one.state)
    return f"[{color}]{one.state}[/]" if color else one.state


def _tasks(one: RunStatus) -> str:
    """How many tasks of a group run, and how many have failed: ` 12/16, 1 failed`."""
    if one.group is None or one.is_over:
        return ""
    states = [task.state for task in one.group.tasks]
    failed = sum(state in ("failed", "lost") for state in states)
    running = f" {states.count('running')}/{len(states)}" if "running" in states else ""
    return running + (f", [red]{failed} failed[/]" if failed else "")


def _progress(one: RunStatus) -> str:
    if one.step is None:
        return ""
    if one.bytes_total is not None:
        return f"{one.phase or read_share(one)} {_counted(one)}"
    return f"{one.step}/{one.total_steps}" if one.total_steps else str(one.step)


def _counted(one: RunStatus) -> str:
    done, total = (one.phase_done, one.phase_total) if one.phase else (one.step, one.total_steps)
    return f"{done}/{total}" if total is not None else str(done)


def outlook(one: RunStatus) -> str:
    """When it starts or how long it still takes, if that is known."""
    if one.start_estimate:
        return f"starts about {clock(one.start_estimate)}"
    return f"{duration(one.eta_seconds)} left" if one.eta_seconds is not None else ""


def print_run(
    out: Console,
    one: RunStatus,
    goodput: Goodput,
    evaluation: Row,
    rows: Sequence[Row],
    scores: EvaluationScores | None = None,
) -> None:
    """Print everything about one run, with its scores or newest evaluation; the loss is plotted if there are rows."""
    rehearsal = " (rehearsal)" if one.rehearsal else ""
    out.print(f"[bold]{escape(one.name)}[/]  {one.id}  {one.kind}{rehearsal}  {state_text(one)} [dim]({one.source})[/]")
    for label, text in _details(one, goodput, headlines(scores) if scores else _scores(evaluation)):
        if text:
            out.print(f"  {label:<8} {escape(text)}", soft_wrap=True)
    if one.group is not None:
        print_group(out, one, one.group)
    if one.attempts:
        out.print()
        out.print(_attempts_table(one, out.width))
        for attempt in one.attempts:
            if attempt.message:
                out.print(f"  {attempt.number}: {attempt.message}", markup=False)
    _print_plot(out, one, rows)


def _details(one: RunStatus, goodput: Goodput, scores: str) -> list[tuple[str, str]]:
    job = f"{one.job_id} on {node_list(one.nodes)}" if one.job_id and one.nodes else one.job_id
    return [
        ("state", ", ".join(filter(None, [one.why, outlook(one)]))),
        ("files" if one.bytes_total is not None else "step", progress_text(one)),
        ("scores", scores),
        ("job", job),
        ("created", clock(one.created)),
        ("folder", one.folder),
        ("W&B", one.wandb_id if _is_tracked(one.kind) else ""),
        ("cost", cost_text(one, goodput)),
    ]


def _is_tracked(kind: str) -> bool:
    from launcher.recipe import KINDS

    return getattr(KINDS.get(kind), "is_tracked", False)


def progress_text(one: RunStatus) -> str:
    """How far it is, with its loss and its speed."""
    if one.step is None:
        return ""
    if one.bytes_total is not None:
        speed = f", {file_size(round(one.bytes_per_second))}/s" if one.bytes_per_second else ""
        phase = f"; {one.phase} {_counted(one)}" if one.phase else ""
        of = f" of {one.total_steps}" if one.total_steps is not None else ""
        return f"{one.step}{of}, {file_size(one.bytes_total)} ({read_share(one)} read){speed}{phase}"
    of = f" of {one.total_steps} ({one.step / one.total_steps:.0%})" if one.total_steps else ""
    loss = f", loss {one.loss:.4f}" if one.loss is not None else ""
    speed = f", {quantity(one.tokens_per_second)} tokens/s" if one.tokens_per_second else ""
    return f"{one.step}{of}{loss}{speed}"


def _scores(evaluation: Row) -> str:
    scores = [
        f"{name} {value:.4f}" for name, value in evaluation.items() if isinstance(value, float) and name != "time"
    ]
    return f"step {evaluation['step']}: {', '.join(scores)}" if scores else ""


def cost_text(one: RunStatus, goodput: Goodput) -> str:
    """What it cost: steps, time in training and in the queue."""
    if goodput.useful_fraction is None:
        return ""
    unit, share = "useful steps", f" (goodput {goodput.useful_fraction:.1%})"
    if one.bytes_total is not None:
        unit, share = "files", ""
    steps = f"{goodput.useful_steps} {unit}, {goodput.redone_steps} redone{share}"
    return f"{steps}; {duration(goodput.attempt_seconds)} running, {duration(goodput.queued_seconds)} in the queue"


def _attempts_table(one: RunStatus, width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("attempt", justify="right", no_wrap=True)
    table.add_column("job", no_wrap=True)
    table.add_column("nodes", no_wrap=True, overflow="ellipsis", max_width=16 if width < WIDE else 40)
    table.add_column("steps", no_wrap=True, justify="right")
    table.add_column("start", no_wrap=True)
    table.add_column("took", no_wrap=True, justify="right")
    table.add_column("ended", overflow="fold")
    table.add_column("then", no_wrap=True)
    for attempt in one.attempts:
        table.add_row(*_attempt_cells(one, attempt))
    return table


def _attempt_cells(one: RunStatus, attempt: Attempt) -> list[str]:
    is_current = attempt is one.attempts[-1] and one.state == "running"
    end = attempt.ended or (time.time() if is_current else None)
    took = duration(end - attempt.started) if end and attempt.started else ""
    ended = "" if is_current else ("finished" if attempt.reason == "finished" else EXIT_REASONS[attempt.reason].short)
    return [
        *(str(attempt.number), attempt.job_id, node_list(attempt.nodes), _steps(one, attempt)),
        *(clock(attempt.started), took, ended, attempt.action or ("" if not is_current else "[green]running[/]")),
    ]


def _steps(one: RunStatus, attempt: Attempt) -> str:
    last = one.step if attempt is one.attempts[-1] and attempt.last_step is None else attempt.last_step
    if attempt.first_step is None:
        return ""
    return f"{attempt.first_step}-{'' if last is None else last}"


def _print_plot(out: Console, one: RunStatus, rows: Sequence[Row]) -> None:
    points = [(float(row["step"]), float(row["loss"])) for row in rows if row.get("loss") is not None]
    starts = [float(attempt.first_step) for attempt in one.attempts if attempt.first_step is not None]
    lines = plot(points, starts[1:], min(out.width, 100), _PLOT_LINES) if out.encoding.lower().startswith("utf") else []
    if lines:
        marks = " (┬ a new attempt)" if len(starts) > 1 else ""
        out.print(f"\nloss by step{marks}")
        for line in lines:
            out.print(line, markup=False, soft_wrap=True)
