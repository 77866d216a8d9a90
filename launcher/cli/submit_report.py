"""What `launcher submit` says: warnings, runs that it queued, and those that there were before."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from launcher.cli.json_output import print_json
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from launcher.load import LoadedRecipe
    from launcher.run.paths import RunDir
    from launcher.run.record import RunRecord
    from launcher.submit.freeze import FrozenRun
    from launcher.submit.planned_recipe import PlannedRecipe
    from launcher.submit.sweeps import SortedPoints


SHOWN = 10
"""Points of a sweep that are listed one by one."""


def warn(recipes: "Sequence[PlannedRecipe]") -> None:
    """Warn of what is allowed and yet surprising."""
    from launcher.slurm.command import find_overrides

    if names := [name for name in find_overrides(os.environ) if name.startswith("SBATCH_")]:
        typer.echo(f"warning: {', '.join(names)} of this shell would override the script; ignored", err=True)
    for text in (text for one in recipes for text in _memory_warnings(one)):
        typer.echo(f"warning: {text}", err=True)


def _memory_warnings(planned: "PlannedRecipe") -> Iterator[str]:
    name, expected = planned.recipe.name, planned.forecast
    if expected.memory and expected.gpu_memory and expected.is_too_large:
        needs, has = expected.memory.total / 1e9, expected.gpu_memory / 1e9
        yield f"{name} may not fit: about {needs:.0f} GB on {has:.0f} GB GPUs"
    asked = f"{(expected.node_memory or 0) / 1e9:.0f} GB asked for; write more `resources.memory`"
    if expected.loading and expected.may_not_load:
        needs, ranks = expected.loading / 1e9, planned.recipe.resources.ranks_per_node
        yield f"{name} may not load: about {needs:.0f} GB of RAM for the copies of {ranks} ranks, {asked}"
    if expected.loading and expected.may_exceed_default:
        needs = expected.loading / 1e9
        yield f"{name} asks for no RAM, and loading takes about {needs:.0f} GB a node; write `resources.memory`"
    if expected.offloaded and expected.may_not_offload:
        yield f"{name} may not train: about {expected.offloaded / 1e9:.0f} GB of RAM for what is offloaded, {asked}"


def without_copies(wanted: "Sequence[LoadedRecipe]") -> "list[LoadedRecipe]":
    """Leave out the recipes that are there twice, to the letter, and say so."""
    from launcher.plan.conflicts import find_copies

    copies = find_copies(wanted)
    for name in dict.fromkeys(wanted[place].recipe.name for place in copies):
        typer.echo(f"{name}: is there more than once; it is queued once (--rerun queues each)", err=True)
    return [item for place, item in enumerate(wanted) if place not in copies]


def tell_known(points: "SortedPoints") -> None:
    """Name the runs that make a new one needless: those that have finished, and of sweeps those that have not yet."""
    single = {place: run for place, run in points.finished.items() if points.wanted[place].point is None}
    _tell_reused(single)
    _tell_single(points)
    for name in points.sweeps:
        places = {place for place, item in enumerate(points.wanted) if item.point and item.point.sweep == name}
        told = [
            f"{len(places & there.keys())} {what}"
            for there, what in (
                (points.finished, "finished already"),
                (points.alive, "queued or running"),
                (points.over, "to be taken up again"),
            )
            if places & there.keys()
        ]
        if told:
            new = len(places & {*points.new})
            typer.echo(f"{name}: of {len(places)} points {', '.join([*told, f'{new} new'])}", err=True)


def tell_turn() -> None:
    """Say why nothing happens for a moment."""
    tell("another process is queueing runs below this `roots.runs`; waiting for it to be done")


def tell_waiting(waiting: "Mapping[str, Sequence[RunDir]]") -> None:
    """Say which points are queued later, and start with it: those before them may have ended in the meantime."""
    from launcher.operate.sweep_queue import advance

    for name, runs in waiting.items():
        typer.echo(
            f"{name}: {len(runs)} points more than you may have queued; they are queued by themselves as others end",
            err=True,
        )
        for line in advance(runs[0]):
            typer.echo(f"{name}: {line}", err=True)


def _tell_reused(reused: "Mapping[int, RunDir]") -> None:
    from launcher.cli.views.wording import clock
    from launcher.run.ledger import read_attempts
    from launcher.run.record import RunRecord

    for run in reused.values():
        record, ended = RunRecord.read(run.record), read_attempts(run.ledger)[-1].ended
        when = f" ({clock(ended)})" if ended else ""
        told = f"{record.name}: finished as {record.id}{when}, with the same recipe and inputs; nothing is queued"
        typer.echo(f"{told} (--rerun queues it again)", err=True)


def _tell_single(points: "SortedPoints") -> None:
    from launcher.run.record import RunRecord

    for place, run in points.alive.items():
        if points.wanted[place].point is None:
            record = RunRecord.read(run.record)
            told = f"{record.name}: is queued or running as {record.id}, with the same recipe; nothing is queued"
            typer.echo(f"{told} (--rerun queues it again)", err=True)


def report_all(points: "SortedPoints", queued: "Sequence[FrozenRun]", resumed: "Sequence[str]", as_json: bool) -> None:
    """Report on recipes in their order: what was queued, and as JSON what had a run already, too.

    Args:
        points: The recipes, and the runs that there were.
        queued: The new runs.
        resumed: Jobs of runs that were taken up again.
        as_json: Print JSON.
    """
    from launcher.run.record import RunRecord

    if not as_json:
        _report(points, queued, resumed)
        return
    rest = iter(queued)
    rows: list[dict[str, Any]] = []
    for place in range(len(points.wanted)):
        if run := points.finished.get(place):
            rows.append({**_row(run, RunRecord.read(run.record)), "reused": True})
            continue
        if run := points.alive.get(place) or points.over.get(place):
            rows.append({**_row(run, RunRecord.read(run.record)), "reused": False, "resumed": place in points.over})
            continue
        new = next(rest)
        tasks = {"tasks": _task_rows(new)} if new.record.group else {}
        rows.append({**_row(new.folder, new.record), "reused": False, **tasks})
    print_json({"runs": rows}, "runs")


def _report(points: "SortedPoints", queued: "Sequence[FrozenRun]", resumed: "Sequence[str]") -> None:
    from launcher.cli.views.wording import not_on

    alone = [run for run in queued if run.record.sweep is None]
    if alone:
        _report_runs(alone)
    for name in points.sweeps:
        its = [run for run in queued if run.record.sweep == name]
        its = [run for run in its if run.record.submissions]
        jobs = dict.fromkeys(run.record.submissions[-1].job_id.partition("_")[0] for run in its)
        if its:
            typer.echo(f"{name}: {len(its)} {'runs' if len(its) > 1 else 'run'} in job {', '.join(jobs)}")
        if len(its) <= SHOWN:
            _report_points(its)
    if avoided := dict.fromkeys(node for run in queued for node in run.avoids):
        tell(not_on(tuple(avoided)))
    if resumed:
        count = len(points.over)
        typer.echo(f"{count} {'runs' if count > 1 else 'run'} taken up again in job {', '.join(resumed)}")
    for name in points.sweeps:
        tell(f"\nlauncher status '{name}'  its points, and the best of them")


def _report_points(runs: "Sequence[FrozenRun]") -> None:
    width = max((len(run.record.name) for run in runs), default=0)
    for run in runs:
        typer.echo(f"  {run.record.id}  {run.record.name.ljust(width)}  {run.folder.root}")


def _report_runs(runs: "Sequence[FrozenRun]") -> None:
    rows = [_row(run.folder, run.record) for run in runs]
    tasks = {run.record.id: _task_rows(run) for run in runs if run.record.group}
    widths = {key: max(len(row[key]) for row in rows) for key in ("id", "name", "job")}
    for row in rows:
        typer.echo("  ".join([*(row[key].ljust(width) for key, width in widths.items()), row["folder"]]))
        if its_tasks := tasks.get(row["id"]):
            jobs = ", ".join(dict.fromkeys(task["job"].partition("_")[0] for task in its_tasks))
            first, last = its_tasks[0]["id"], its_tasks[-1]["id"]
            typer.echo(f"  after its {len(its_tasks)} tasks, {first} to {last}, in job {jobs}")
    first = rows[0]["id"]
    tell(f"\nlauncher status          all runs\nlauncher logs -f {first}  what it prints")
    tell(f"launcher stop {first}     save and stop")


def _row(folder: "RunDir", record: "RunRecord") -> dict[str, str]:
    job = record.submissions[-1].job_id if record.submissions else ""
    return {"id": record.id, "name": record.name, "job": job, "folder": str(folder.root)}


def _task_rows(run: "FrozenRun") -> list[dict[str, str]]:
    from launcher.run.paths import list_shares
    from launcher.run.record import RunRecord

    return [_row(share, RunRecord.read(share.record)) for share in list_shares(run.folder)]
