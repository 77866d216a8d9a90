"""`launcher why`: why a run waits, or how it ended, and what to type next."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from launcher.cli.arguments import ClusterOption, JsonOption, RunArgument
from launcher.cli.json_output import print_json

if TYPE_CHECKING:
    from launcher.monitor.tracebacks import RankError


def why(run: RunArgument, cluster: ClusterOption = None, as_json: JsonOption = False) -> None:
    """Explain why a run waits or how it ended, and what to type next."""
    from launcher.load import load_cluster
    from launcher.monitor.find import find_run
    from launcher.monitor.why import explain_run

    profile = load_cluster(cluster)
    explanation = explain_run(profile, find_run(profile, run))
    if as_json:
        print_json(asdict(explanation))
        return
    first, *others = explanation.sentences
    typer.echo(f"{explanation.id} is {first}")
    for sentence in others:
        typer.echo(f"  {sentence}")
    for error in explanation.errors:
        _show_error(error)
    for path in explanation.evidence:
        typer.echo(f"  log: {path}")
    if explanation.commands:
        typer.echo("next:")
    for command in explanation.commands:
        typer.echo(f"  {command}")


def _show_error(error: "RankError") -> None:
    from launcher.cli.views.wording import number_list

    typer.echo(f"  rank{'s' * (len(error.ranks) > 1)} {number_list(error.ranks)}: {error.error}")
    typer.echo(f"    at {error.place}")
