"""`launcher status`: all runs in a table, or one run in detail."""

import contextlib
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, JsonOption, MetricOption, WhereOption, refuse_metric, refuse_where
from launcher.cli.completion import complete_runs
from launcher.cli.json_output import print_json
from launcher.cli.pipeline import show
from launcher.cli.search import idle_notes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.artifacts.scores import EvaluationScores
    from launcher.monitor.status import RunStatus
    from launcher.monitor.sweep import SweepStatus
    from launcher.run.paths import RunDir

NEWEST = 30
"""Runs in the table without `--all`, besides those that are not over."""


def status(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="Run id, recipe name (its newest run), run directory, or name of a pipeline, a sweep or a search.",
            autocompletion=complete_runs,
        ),
    ] = None,
    *,
    cluster: ClusterOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help=f"Also show old runs, not only {NEWEST}, and all points of a sweep.")
    ] = False,
    where: WhereOption = None,
    metric: MetricOption = None,
    as_json: JsonOption = False,
    plot: Annotated[
        bool | None, typer.Option("--plot/--no-plot", help="Plot the loss; the default in a terminal.")
    ] = None,
) -> None:
    """Show how runs are doing; with RUN, everything about that one; of a sweep or a search all runs, the best first."""
    from launcher.load import load_cluster
    from launcher.monitor.find import find_run, list_runs
    from launcher.monitor.searches import read_search
    from launcher.monitor.status import read_statuses
    from launcher.monitor.sweep import find_sweep, read_sweep, search_named, select
    from launcher.pipeline.find import find_pipeline, find_stage_search

    profile = load_cluster(cluster)
    if run is not None and (search := search_named(profile, run) or find_stage_search(profile, run)):
        found = read_search(search, profile, where or (), metric)
        idle = () if where else idle_notes(search, profile, found)
        _show_sweep(replace(found, notes=(*found.notes, *idle)), as_json, everything)
        return
    if run is not None and (points := find_sweep(profile, run)):
        _show_sweep(read_sweep(profile, run, select(points, where or ()), metric), as_json, everything)
        return
    refuse_where(where)
    refuse_metric(metric)
    if run is not None and (pipeline := find_pipeline(profile, run)):
        show(pipeline, profile, as_json, everything)
        return
    if run is not None:
        [one], notes = read_statuses(profile, [find_run(profile, run)], finished_tasks=True)
        _show_one(one, notes, as_json, sys.stdout.isatty() if plot is None else plot)
        return
    statuses, notes = read_statuses(profile, list_runs(profile))
    if as_json:
        print_json({"runs": [asdict(one) for one in statuses], "notes": notes}, "runs")
    elif not statuses:
        typer.echo(f"no runs in {profile.roots.runs}; `launcher submit RECIPE` makes one")
    else:
        _show_table(statuses, notes, everything)


def _show_sweep(sweep: "SweepStatus", as_json: bool, everything: bool) -> None:
    if as_json:
        points = [{"values": one.values, "metrics": one.metrics, **asdict(one.run)} for one in sweep.points]
        best = sweep.best.run.id if sweep.best else None
        form = "sweep" if sweep.trials is None else "search"
        found = {form: sweep.name, **({} if sweep.trials is None else {"trials": sweep.trials})}
        compared = {"metric": sweep.metric, "lower_is_better": sweep.lower_is_better, "best": best}
        print_json({**found, **compared, "points": points, "notes": sweep.notes}, form)
        return
    from launcher.cli.views.sweep_view import sweep_lines

    typer.echo("\n".join([*sweep_lines(sweep, everything), *(f"note: {note}" for note in sweep.notes)]))


def _show_table(statuses: "Sequence[RunStatus]", notes: "Sequence[str]", everything: bool) -> None:
    from launcher.cli.views.status_view import console, runs_table

    alone = [one for one in statuses if everything or one.sweep is None]
    shown = [one for place, one in enumerate(alone) if everything or place < NEWEST or not one.is_over]
    out = console()
    if shown or len(alone) == len(statuses):
        out.print(runs_table(shown, out.width))
    for name in dict.fromkeys(one.sweep for one in statuses if one.sweep and not everything):
        states = Counter(one.state for one in statuses if one.sweep == name)
        counted = ", ".join(f"{count} {state}" for state, count in states.items())
        out.print(f"sweep {name}: {counted}: `launcher status '{name}'`", markup=False, soft_wrap=True)
    if len(shown) < len(alone):
        out.print(f"[dim]{len(alone) - len(shown)} older runs that are over: `launcher status --all`[/]")
    for note in notes:
        out.print(f"note: {note}", style="dim", markup=False)


def _show_one(one: "RunStatus", notes: "Sequence[str]", as_json: bool, plot: bool) -> None:
    from launcher.monitor.goodput import measure_goodput
    from launcher.run.metrics import read_joined_rows
    from launcher.run.paths import RunDir

    run = RunDir(Path(one.folder))
    goodput, evaluations, scores = measure_goodput(run), read_joined_rows(run.evaluations), _read_scores(run)
    if as_json:
        measured = {"goodput": asdict(goodput), "evaluations": evaluations}
        as_plain = scores and scores.model_dump(mode="json")
        print_json({**asdict(one), **measured, "scores": as_plain, "notes": notes}, "run")
        return
    from launcher.cli.views.status_view import console, print_run

    out = console()
    newest = evaluations[-1] if evaluations else {}
    print_run(out, one, goodput, newest, read_joined_rows(run.metrics) if plot else [], scores)
    for note in notes:
        out.print(f"note: {note}", style="dim", markup=False)


def _read_scores(run: "RunDir") -> "EvaluationScores | None":
    """Read what a finished evaluation came to; scores of another format, or damaged ones, are left out."""
    from launcher.artifacts.scores import find_scores, read_scores
    from launcher.errors import LauncherError

    if find_scores(run.outputs) is None:
        return None
    with contextlib.suppress(LauncherError):
        return read_scores(run.outputs)
    return None
