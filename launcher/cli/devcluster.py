"""`launcher devcluster`: a real Slurm on this machine, to try things and to run the tests."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import JsonOption, RunArgument
from launcher.cli.json_output import print_json

if TYPE_CHECKING:
    from launcher.devcluster import ClusterStatus, DevCluster

app = typer.Typer(no_args_is_help=True, help="A real Slurm on this machine: virtual nodes with fake GPUs.")

Folder = Annotated[
    Path,
    typer.Option("--dir", help="The folder that holds the cluster.", file_okay=False),
]
DEFAULT_FOLDER = Path("~/.launcher/devcluster")


def _cluster(folder: Path) -> "DevCluster":
    from launcher.devcluster import DevCluster

    return DevCluster(folder, on_progress=typer.echo)


@app.command()
def up(
    folder: Folder = DEFAULT_FOLDER,
    nodes: Annotated[int, typer.Option(help="How many virtual nodes.")] = 4,
    gpus: Annotated[int, typer.Option(help="How many fake A100 GPUs a node.")] = 4,
    accounting: Annotated[bool, typer.Option("--accounting", help="Also start MariaDB and slurmdbd.")] = False,
) -> None:
    """Start a cluster, or say that it runs already."""
    from launcher.devcluster import Shape

    cluster = _cluster(folder)
    cluster.up(Shape(nodes=nodes, gpus=gpus, accounting=accounting))
    typer.echo(
        "\nnext, in your shell:\n"
        f"  export LAUNCHER_CLUSTER={cluster.profile}    # for launcher submit, status, ...\n"
        f"  export SLURM_CONF={cluster.slurm_conf}    # for sinfo, squeue, sbatch, ...\n"
        f"to end it: launcher devcluster down{_dir_option(folder)}"
    )


@app.command()
def down(
    folder: Folder = DEFAULT_FOLDER,
    purge: Annotated[bool, typer.Option("--purge", help="Also remove the folder, runs included.")] = False,
) -> None:
    """End the cluster and every job on it."""
    _cluster(folder).down(purge=purge)


@app.command()
def status(
    folder: Folder = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Show daemons, nodes, ports and version."""
    report = _cluster(folder).status()
    if as_json:
        print_json(asdict(report))
    elif report.settings is None:
        typer.echo(f"no dev cluster in {report.folder}; start one with `launcher devcluster up{_dir_option(folder)}`")
    else:
        _print_status(report)


@app.command()
def preempt(
    job: Annotated[str | None, typer.Argument(help="The job to preempt; by default all running ones.")] = None,
    folder: Folder = DEFAULT_FOLDER,
    nodes: Annotated[int | None, typer.Option(min=1, help="How many nodes to take; by default all they hold.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="How long to keep them; by default 3 seconds.")] = None,
) -> None:
    """Take the nodes of running jobs for a moment, as a more important job would."""
    preemptor = _cluster(folder).preempt(job, nodes, seconds=3 if minutes is None else minutes * 60)
    typer.echo(f"job {preemptor} in partition `high` preempts; watch with `squeue`")


@app.command("kill-node")
def kill_node(
    name: str,
    folder: Folder = DEFAULT_FOLDER,
    announce: Annotated[bool, typer.Option("--announce", help="Tell slurmctld at once.")] = False,
) -> None:
    """Cut the power of a node: its daemon and all its tasks die at once."""
    killed = _cluster(folder).kill_node(name, announce)
    when = "is told" if announce else "finds out in about 30 seconds"
    typer.echo(f"{name} is dead (processes killed: {killed}); slurmctld {when}")


@app.command("revive-node")
def revive_node(name: str, folder: Folder = DEFAULT_FOLDER) -> None:
    """Switch a killed node on again and wait until Slurm uses it."""
    _cluster(folder).revive_node(name)
    typer.echo(f"{name} is back")


@app.command()
def chaos(
    run: RunArgument,
    *,
    folder: Folder = DEFAULT_FOLDER,
    seed: Annotated[int, typer.Option(help="Which faults strike, and when.")] = 0,
    faults: Annotated[int, typer.Option(min=1, help="How many faults strike.")] = 6,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only these faults; repeatable.", metavar="FAULT")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="A run of the same recipe that nothing disturbed; its losses must be the same.", metavar="RUN"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Break a run again and again until it has finished, and show what each fault cost.

    Faults and moments are drawn from the seed: preemption, time limit, kills, hangs, a full or read-only disk, torn
    files, a silent slurmctld, and what administrators do. Where a run does not come back by itself it is resumed, as a
    person would. Exits with 1 if its losses are not those of the run that nothing disturbed.
    """
    from launcher.cli.chaos import break_run
    from launcher.devcluster.chaos import choose_faults, draw_strikes

    strikes = draw_strikes(choose_faults(only or []), faults, seed)
    raise typer.Exit(break_run(_cluster(folder), run, against, strikes, seed, as_json))


def _dir_option(folder: Path) -> str:
    return "" if folder == DEFAULT_FOLDER else f" --dir {folder}"


def _print_status(report: "ClusterStatus") -> None:
    from rich.console import Console
    from rich.table import Table

    settings = report.settings
    assert settings is not None
    year, month = settings.version
    console = Console()
    state = "[green]running[/]" if report.is_running else "[red]not running[/]"
    console.print(f"{report.folder}: {state}, {settings.shape}, Slurm {year}.{month:02d}", soft_wrap=True)
    ports = dict(zip((f"slurmd-{name}" for name in settings.node_names), settings.node_ports, strict=True))
    ports |= {"slurmctld": settings.controller_port, "slurmdbd": settings.database_port}
    states = report.node_states or {}
    table = Table("daemon", "pid", "port", "node state")
    for daemon in report.daemons:
        node = daemon.name.removeprefix("slurmd-")
        pid = str(daemon.pid) if daemon.pid else "[red]dead[/]"
        table.add_row(daemon.name, pid, str(ports.get(daemon.name, "")), states.get(node, ""))
    console.print(table)
