"""Arguments that several commands share."""

from typing import Annotated

import typer

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Run id, recipe name (its newest run), or run directory.")
]
RunsArgument = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Run ids, recipe names (their newest runs), or run directories.")
]
ClusterOption = Annotated[
    str | None, typer.Option("--cluster", metavar="NAME|FILE", help="Cluster profile.", show_default=False)
]
