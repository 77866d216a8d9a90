"""`launcher attach` and `launcher stacks`: looking into a run while it runs."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, JsonOption, RunArgument
from launcher.cli.json_output import print_json

if TYPE_CHECKING:
    from launcher.operate.stacks import StackReport


def attach(
    run: RunArgument,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND...]", help="What to run; a shell by default.", show_default=False),
    ] = None,
    *,
    rank: Annotated[int, typer.Option(help="Beside which rank.", min=0)] = 0,
    cluster: ClusterOption = None,
) -> None:
    """Open a shell beside a rank of a running run, or run a command there.

    It is on the rank's node, with the rank's variables and in its container. LAUNCHER_RANK_PROCESS is the rank's
    process. The run goes on, and the shell ends with its job.
    """
    from launcher.load import load_cluster
    from launcher.monitor.find import find_run
    from launcher.operate.attach import attach as join

    profile = load_cluster(cluster)
    raise typer.Exit(join(find_run(profile, run), profile, rank, command or []))


def stacks(
    run: RunArgument,
    *,
    all_threads: Annotated[
        bool, typer.Option("--all-threads", help="Show all threads, not only the one that works.")
    ] = False,
    patience: Annotated[float, typer.Option(help="Seconds to wait for the ranks' answers.", min=0)] = 10,
    as_json: JsonOption = False,
    cluster: ClusterOption = None,
) -> None:
    """Show where the ranks of a running run are right now; ranks at the same place are put together.

    The ranks also write their stacks into their logs. The run goes on.
    """
    from launcher.load import load_cluster
    from launcher.monitor.find import find_run
    from launcher.operate.stacks import ask_for_stacks

    profile = load_cluster(cluster)
    found = find_run(profile, run)
    report = ask_for_stacks(found, profile, patience, all_threads)
    if as_json:
        print_json(asdict(report))
    else:
        _print_stacks(report, found.root.name)
    if report.silent:
        raise typer.Exit(1)


def _print_stacks(report: "StackReport", name: str) -> None:
    from launcher.run.numbers import ranks_in_words
    from launcher.run.stacks import short_frame

    for shared in report.stacks:
        typer.echo(ranks_in_words(shared.ranks))
        for thread, frames in shared.threads.items():
            if len(shared.threads) > 1:
                typer.echo(f"  {thread}")
            for frame in frames:
                typer.echo(f"    {short_frame(frame)}")
    if report.silent:
        ranks = ranks_in_words(report.silent)
        typer.echo(
            f"{ranks}: no answer. C code keeps the interpreter's lock, the rank is not ready yet, or an older launcher "
            f"submitted the run. Where py-spy is installed and allowed: launcher attach {name} --rank "
            f"{report.silent[0]} -- sh -c 'py-spy dump --native --pid $LAUNCHER_RANK_PROCESS'",
            err=True,
        )
