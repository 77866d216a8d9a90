"""`launcher sweep advance`: what nodes call when a point of a sweep has ended."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Commands that nodes call for sweeps; you rarely need them.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Commands that nodes call for sweeps; you rarely need them."""


@app.command()
def advance(folder: Annotated[Path, typer.Argument(help="Folder of a run that is a point of the sweep.")]) -> None:
    """Queue points that the queue had no room for yet. Nodes do it when a run ends; anybody may, at any time."""
    from launcher.operate.sweep_queue import advance as go_on
    from launcher.run.paths import RunDir

    for line in go_on(RunDir(folder.absolute())):
        typer.echo(line)
