"""`launcher sweep advance`: what nodes call when a point of a sweep has ended."""

from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.verbosity import tell

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


def queue_waiting(folder: str) -> bool:
    """Queue points of a sweep that wait for room, in place of a batch process that was killed before it did.

    Args:
        folder: Of one of its runs.

    Returns:
        Whether any were queued.
    """
    from launcher.errors import LauncherError
    from launcher.operate.sweep_queue import advance as queue_more
    from launcher.run.paths import RunDir

    try:
        told = queue_more(RunDir(Path(folder)))
    except LauncherError as error:
        told = []
        tell(str(error))
    for line in told:
        tell(line)
    return bool(told)
