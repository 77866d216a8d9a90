"""`launcher cancel | stop | resume | save | sync`: commands on existing runs."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, PointsOption, RunsArgument, refuse_where
from launcher.cli.completion import complete_runs
from launcher.cli.pipeline import resume as resume_pipeline
from launcher.cli.pipeline import stop as stop_pipeline
from launcher.cli.search import resume_search, stop_search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from launcher.cluster import Cluster
    from launcher.pipeline.record import Pipeline
    from launcher.run.paths import RunDir
    from launcher.run.trials import SearchDir
    from launcher.slurm.parse import Job


def cancel(runs: RunsArgument, where: PointsOption = None, cluster: ClusterOption = None) -> None:
    """End runs, pipelines, sweeps and searches at once; what they trained since their last checkpoint is lost."""
    from launcher.operate.stop import cancel as end_now
    from launcher.operate.stop import cancel_all

    single = _without_groups(runs, where, cluster, cancel_all, "cancelled", at_once=True)
    for run, profile in _each(single, cluster):
        jobs = end_now(run, profile)
        ended = f"job {jobs[0]}" if len(jobs) == 1 else f"{len(jobs)} jobs"
        typer.echo(f"{run.root.name}: {ended} cancelled; `launcher resume` continues it")


def stop(runs: RunsArgument, where: PointsOption = None, cluster: ClusterOption = None) -> None:
    """Ask runs, pipelines, sweeps and searches to save a checkpoint and stop; remove queued jobs from the queue."""
    from launcher.operate.stop import stop as ask_to_stop
    from launcher.operate.stop import stop_all

    single = _without_groups(runs, where, cluster, stop_all, "asked to stop", at_once=False)
    for run, profile in _each(single, cluster):
        outcome = ask_to_stop(run, profile)
        text = _asked_to_stop(run) if outcome == "asked" else outcome
        typer.echo(f"{run.root.name}: {text}; `launcher resume` continues it")


def _without_groups(
    runs: list[str],
    where: list[str] | None,
    cluster: str | None,
    end: "Callable[[Sequence[RunDir], Cluster], int]",
    word: str,
    *,
    at_once: bool,
) -> list[str]:
    """End the pipelines, searches and sweeps among what was named, and return the rest, which are runs."""
    single = []
    rest = _without_pipelines(runs, partial(refuse_where, where), cluster, partial(stop_pipeline, at_once=at_once))
    rest = _without_searches(rest, partial(refuse_where, where), cluster, partial(stop_search, at_once=at_once))
    for text, profile, points in _sweeps(rest, where, cluster):
        if points is None:
            single.append(text)
        else:
            typer.echo(f"{text}: {end(points, profile)} of {_points(points)} {word}; {_RESUME}")
    return single


def _asked_to_stop(run: "RunDir") -> str:
    from launcher.recipe import KINDS
    from launcher.run.record import RunRecord

    if getattr(KINDS.get(RunRecord.read(run.record).kind), "progress", "steps") == "files":
        return "asked to stop after the files that are being read"
    return "asked to save and stop after the current step"


def resume(
    runs: RunsArgument,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Continue on this many nodes; global batch and data order do not change.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Release held jobs without a question.")] = False,
    where: PointsOption = None,
    cluster: ClusterOption = None,
) -> None:
    """Queue stopped, failed or lost runs again; each continues from its newest checkpoint.

    Of a sweep, all points that are over and have not finished are queued, or those that `--where` chooses. Of a
    `prepare` in several tasks, the tasks that did not finish are queued, of a pipeline the stages, of a search the
    trials. A run whose job is held in the queue is released: in a terminal after a question, elsewhere only with
    `--yes`.
    """
    from launcher.operate.stop import find_held, release
    from launcher.operate.stop import resume as queue_again

    def refuse() -> None:
        refuse_where(where)
        _refuse_nodes(nodes)

    single = []
    rest = _without_pipelines(runs, refuse, cluster, resume_pipeline)
    rest = _without_searches(rest, refuse, cluster, resume_search)
    for text, profile, points in _sweeps(rest, where, cluster):
        if points is None:
            single.append(text)
        else:
            _resume_points(text, points, profile, nodes)
    for run, profile in _each(single, cluster):
        if held := find_held(run, profile):
            _confirm_release(run, [*held.values()], yes, nodes)
            typer.echo(f"{run.root.name}: released job {', '.join(release(held, profile))}")
        else:
            typer.echo(f"{run.root.name}: queued as job {', '.join(queue_again(run, profile, nodes))}")


def _resume_points(name: str, points: "Sequence[RunDir]", profile: "Cluster", nodes: int | None) -> None:
    from launcher.errors import RunError
    from launcher.operate.stop import resume_all

    _refuse_nodes(nodes)
    count, jobs = resume_all(points, profile)
    if not count:
        raise RunError(f"`{name}`: no point is over without having finished; nothing to resume")
    typer.echo(f"{name}: {count} of {_points(points)} queued as job {', '.join(jobs)}")


def _refuse_nodes(nodes: int | None) -> None:
    from launcher.errors import RunError

    if nodes is not None:
        raise RunError("--nodes: is for single runs; name them one by one")


def _confirm_release(run: "RunDir", held: "Sequence[Job]", yes: bool, nodes: int | None) -> None:
    """Ask before a hold is undone: another person, or Slurm, may have had a reason for it."""
    from launcher.errors import RunError

    name, first = run.root.name, held[0]
    if nodes is not None:
        fix = f"leave `--nodes` out, or `launcher cancel {name}` first"
        raise RunError(f"`{name}`: job {first.id} is held in the queue and keeps its number of nodes; {fix}")
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise RunError(f"`{name}`: job {first.id}: {first.explanation}, and so does `launcher resume --yes {name}`")
    for job in held:
        typer.echo(f"{name}: job {job.id}: {job.explanation}", err=True)
    typer.confirm("release it?" if len(held) == 1 else "release them?", abort=True, err=True)


def save(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN", help="Run ids, recipe names (their newest runs), or folders.", autocompletion=complete_runs
        ),
    ],
    cluster: ClusterOption = None,
) -> None:
    """Ask running trainings to save a checkpoint and continue."""
    from launcher.operate.save import ask_to_save

    for run, profile in _each(runs, cluster):
        ask_to_save(run, profile)
        typer.echo(f"{run.root.name}: asked to save after the current step")


def sync(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="Runs; all by default.", autocompletion=complete_runs)
    ] = None,
    cluster: ClusterOption = None,
) -> None:
    """Send what runs tracked offline to W&B; several attempts become one W&B run."""
    from launcher.errors import RunError
    from launcher.load import load_cluster
    from launcher.monitor.find import find_run, list_runs
    from launcher.operate.wandb_sync import find_unsent, send

    profile = load_cluster(cluster)
    chosen = [find_run(profile, text) for text in runs] if runs else list_runs(profile)
    waiting, notes = find_unsent(profile, chosen)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    unsent = []
    for run, segments in waiting.items():
        try:
            send(run, profile, segments, tell=lambda said: typer.echo(f"note: {said}", err=True))
        except RunError as error:  # of this run; others may go
            unsent.append(str(error))
        else:
            typer.echo(f"{run.root.name}: {len(segments)} segment{'s' * (len(segments) > 1)} sent")
    if unsent:
        raise RunError("\n".join(unsent))
    if not waiting:
        typer.echo("nothing to send")


_RESUME = "`launcher resume` continues them"


def _points(runs: "Sequence[RunDir]") -> str:
    return f"{len(runs)} point{'s' * (len(runs) != 1)}"


def _sweeps(
    texts: list[str], where: list[str] | None, cluster: str | None
) -> "Iterator[tuple[str, Cluster, list[RunDir] | None]]":
    """Give the chosen runs of each sweep that a user names; None for a run on its own."""
    from launcher.load import load_cluster
    from launcher.monitor.sweep import find_sweep, folders_of, select

    profile = load_cluster(cluster)
    found = [(text, find_sweep(profile, text)) for text in texts]
    if not all(points for _, points in found):
        refuse_where(where)
    chosen = [(text, select(points, where or ()) if points else None) for text, points in found]
    for text, points in chosen:
        yield text, profile, None if points is None else folders_of(profile, points)


def _without_pipelines(
    names: "Sequence[str]",
    refuse: "Callable[[], None]",
    cluster: str | None,
    do: "Callable[[Pipeline, Cluster], None]",
) -> list[str]:
    """Do something with the pipelines among what was named, unless an option is not for them; return the rest."""
    from launcher.load import load_cluster
    from launcher.pipeline.find import find_pipeline

    profile = load_cluster(cluster)
    found = {name: find_pipeline(profile, name) for name in names}
    if any(found.values()):
        refuse()
    for pipeline in filter(None, found.values()):
        do(pipeline, profile)
    return [name for name in names if not found[name]]


def _without_searches(
    names: "Sequence[str]",
    refuse: "Callable[[], None]",
    cluster: str | None,
    do: "Callable[[SearchDir, Cluster], None]",
) -> list[str]:
    """Do something with the searches among what was named, unless an option is not for them; return the rest."""
    from launcher.load import load_cluster
    from launcher.monitor.sweep import search_named

    profile = load_cluster(cluster)
    found = {name: search_named(profile, name) for name in names}
    if any(found.values()):
        refuse()
    for search in filter(None, found.values()):
        do(search, profile)
    return [name for name in names if not found[name]]


def _each(runs: list[str], cluster: str | None) -> "Iterator[tuple[RunDir, Cluster]]":
    from launcher.load import load_cluster
    from launcher.monitor.find import find_run

    profile = load_cluster(cluster)
    for run in [find_run(profile, text) for text in runs]:
        yield run, profile
