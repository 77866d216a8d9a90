"""`launcher why`: why a run waits, or how it ended, and what to type next."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from launcher.cli.arguments import ClusterOption, JsonOption, RunArgument

if TYPE_CHECKING:
    from launcher.monitor.tracebacks import RankError
    from launcher.run.stacks import SharedStack

_FRAMES = 12
"""Of a stack; below them is how every rank got to where it is."""


def why(run: RunArgument, cluster: ClusterOption = None, as_json: JsonOption = False) -> None:
    """Explain why a run waits or how it ended, and what to type next."""
    from launcher.load import load_cluster
    from launcher.monitor.find import find_run
    from launcher.monitor.why import explain_run

    profile = load_cluster(cluster)
    explanation = explain_run(profile, find_run(profile, run))
    if as_json:
        typer.echo(json.dumps(asdict(explanation), indent=2))
        return
    first, *others = explanation.sentences
    typer.echo(f"{explanation.id} is {first}")
    for sentence in others:
        typer.echo(f"  {sentence}")
    for error in explanation.errors:
        _show_error(error)
    for stack in explanation.stacks:
        _show_stack(stack)
    for path in explanation.evidence:
        typer.echo(f"  log: {path}")
    if explanation.commands:
        typer.echo("next:")
    for command in explanation.commands:
        typer.echo(f"  {command}")


def _show_error(error: "RankError") -> None:
    from launcher.run.numbers import ranks_in_words

    typer.echo(f"  {ranks_in_words(error.ranks)}: {error.error}")
    typer.echo(f"    at {error.place}")


def _show_stack(stack: "SharedStack") -> None:
    from launcher.run.numbers import ranks_in_words
    from launcher.run.stacks import short_frame

    typer.echo(f"  {ranks_in_words(stack.ranks)} had got to:")
    for frame in stack.frames[:_FRAMES]:
        typer.echo(f"    {short_frame(frame)}")
    if len(stack.frames) > _FRAMES:
        typer.echo("    ...")
