"""`launcher status`: all runs in a table, or one run in detail."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.status import RunStatus

NEWEST = 30
"""Runs in the table without `--all`, besides those that are not over."""


def status(
    run: Annotated[str | None, typer.Argument(help="Run id, recipe name (its newest run), or run directory.")] = None,
    cluster: ClusterOption = None,
    everything: Annotated[bool, typer.Option("--all", help=f"Also show old runs, not only {NEWEST}.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[
        bool | None, typer.Option("--plot/--no-plot", help="Plot the loss; the default in a terminal.")
    ] = None,
) -> None:
    """Show how runs are doing; with RUN, everything about that one."""
    from launcher.load import load_cluster
    from launcher.runs import find_run, list_runs
    from launcher.status import read_statuses

    profile = load_cluster(cluster)
    if run is not None:
        [one], notes = read_statuses(profile, [find_run(profile, run)], finished_tasks=True)
        _show_one(one, notes, as_json, sys.stdout.isatty() if plot is None else plot)
        return
    statuses, notes = read_statuses(profile, list_runs(profile))
    if as_json:
        _print_json({"runs": [asdict(one) for one in statuses], "notes": notes})
    elif not statuses:
        typer.echo(f"no runs in {profile.roots.runs}; `launcher submit RECIPE` makes one")
    else:
        _show_table(statuses, notes, everything)


def _show_table(statuses: "Sequence[RunStatus]", notes: "Sequence[str]", everything: bool) -> None:
    from launcher.cli.status_view import console, runs_table

    shown = [one for place, one in enumerate(statuses) if everything or place < NEWEST or not one.is_over]
    out = console()
    out.print(runs_table(shown, out.width))
    if len(shown) < len(statuses):
        out.print(f"[dim]{len(statuses) - len(shown)} older runs that are over: `launcher status --all`[/]")
    for note in notes:
        out.print(f"note: {note}", style="dim", markup=False)


def _show_one(one: "RunStatus", notes: "Sequence[str]", as_json: bool, plot: bool) -> None:
    from launcher.metrics import read_joined_rows
    from launcher.paths import RunDir
    from launcher.report import measure_goodput

    run = RunDir(Path(one.folder))
    goodput = measure_goodput(run)
    if as_json:
        _print_json({**asdict(one), "goodput": asdict(goodput), "notes": notes})
        return
    from launcher.cli.status_view import console, print_run

    out = console()
    print_run(out, one, goodput, read_joined_rows(run.metrics) if plot else [])
    for note in notes:
        out.print(f"note: {note}", style="dim", markup=False)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))
