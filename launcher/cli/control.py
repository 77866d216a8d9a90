"""`launcher cancel | stop | resume | save | sync`: what a person does to runs that exist."""

from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, RunsArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.cluster import Cluster
    from launcher.paths import RunDir


def cancel(runs: RunsArgument, cluster: ClusterOption = None) -> None:
    """End runs at once; what they trained since their last checkpoint is lost."""
    from launcher import control

    for run, profile in _each(runs, cluster):
        jobs = control.cancel(run, profile)
        said = f"job {jobs[0]}" if len(jobs) == 1 else f"{len(jobs)} jobs"
        typer.echo(f"{run.root.name}: {said} cancelled; `launcher resume` goes on")


def stop(runs: RunsArgument, cluster: ClusterOption = None) -> None:
    """Ask runs to save a checkpoint and stop; those that wait in the queue are taken out of it."""
    from launcher import control

    for run, profile in _each(runs, cluster):
        outcome = control.stop(run, profile)
        said = _asked_to_stop(run) if outcome == "asked" else outcome
        typer.echo(f"{run.root.name}: {said}; `launcher resume` goes on")


def _asked_to_stop(run: "RunDir") -> str:
    from launcher.record import RunRecord

    if RunRecord.read(run.record).kind in ("prepare", "vocabulary"):
        return "asked to stop after the files that are being read"
    return "asked to save and stop after the current step"


def resume(
    runs: RunsArgument,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Go on with this many nodes; the global batch and the data order stay.")
    ] = None,
    cluster: ClusterOption = None,
) -> None:
    """Queue stopped, failed or lost runs again; each goes on from its newest checkpoint.

    Of a `prepare` in several tasks, the tasks that did not finish are queued.
    """
    from launcher import control
    from launcher.paths import list_shares
    from launcher.resubmit import resubmit, resubmit_group

    for run, profile in _each(runs, cluster):
        if list_shares(run) and nodes is None:
            jobs = resubmit_group(run, profile, control.find_missing(run, profile))
            typer.echo(f"{run.root.name}: queued as job {', '.join(jobs)}")
            continue
        control.check_resumable(run, profile)
        typer.echo(f"{run.root.name}: queued as job {resubmit(run, profile, nodes)}")


def save(runs: RunsArgument, cluster: ClusterOption = None) -> None:
    """Ask running runs to save a checkpoint and go on."""
    for run, _ in _each(runs, cluster):
        run.save_request.touch()
        typer.echo(f"{run.root.name}: asked to save after the current step")


def sync(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN...]", help="Runs; all by default.")] = None,
    cluster: ClusterOption = None,
) -> None:
    """Send what runs tracked offline to W&B; several attempts become one W&B run."""
    from launcher.errors import RunError
    from launcher.load import load_cluster
    from launcher.runs import find_run, list_runs
    from launcher.sync import send, unsent_segments

    profile = load_cluster(cluster)
    chosen = [find_run(profile, text) for text in runs] if runs else list_runs(profile)
    waiting = {run.root.name: (run, segments) for run in chosen if (segments := unsent_segments(run))}
    unsent = []
    for name, (run, segments) in waiting.items():
        try:
            send(run, profile, segments)
        except RunError as error:  # of this run; others may go
            unsent.append(str(error))
        else:
            typer.echo(f"{name}: {len(segments)} segment{'s' * (len(segments) > 1)} sent")
    if unsent:
        raise RunError("\n".join(unsent))
    if not waiting:
        typer.echo("nothing to send")


def _each(runs: list[str], cluster: str | None) -> "Iterator[tuple[RunDir, Cluster]]":
    """Yield runs and the profile; all are looked up before the first one is touched."""
    from launcher.load import load_cluster
    from launcher.runs import find_run

    profile = load_cluster(cluster)
    for run in [find_run(profile, text) for text in runs]:
        yield run, profile
