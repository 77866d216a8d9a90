"""Arguments that several commands share."""

from typing import Annotated

import typer

from launcher.cli.completion import complete_keys, complete_profiles, complete_recipes, complete_runs, complete_stages

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Run id, recipe name (its newest run), or run directory.", autocompletion=complete_runs
    ),
]
RunsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN",
        help="Run ids, names (the newest runs of recipes, pipelines, sweeps, searches), or folders.",
        autocompletion=complete_runs,
    ),
]
StageArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="STAGE", help="Of a pipeline: the stage.", show_default=False, autocompletion=complete_stages
    ),
]
RecipesArgument = Annotated[
    list[str],
    typer.Argument(help="Recipe files.", metavar="RECIPE", show_default=False, autocompletion=complete_recipes),
]
OverridesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a key of every recipe: `optim.lr=1e-5`.",
        metavar="KEY=VALUE",
        autocompletion=complete_keys,
    ),
]
SweepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        help="Make a run for each of these values: `optim.lr=1e-5,3e-5`.",
        metavar="KEY=A,B",
        autocompletion=complete_keys,
    ),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Only points of a sweep, or trials of a search, with this value: `adapter.r=4`; repeatable.",
        metavar="KEY=VALUE",
    ),
]
PointsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where", help="Only points of a sweep with this value: `adapter.r=4`; repeatable.", metavar="KEY=VALUE"
    ),
]
"""For commands that take a search only as a whole."""
MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric", help="Compare the points of a sweep, or the trials of a search, by this metric.", metavar="NAME"
    ),
]
AfterOption = Annotated[
    list[str],
    typer.Option(
        help="Start only when this run has finished; repeatable.", metavar="RUN", autocompletion=complete_runs
    ),
]
RehearseOption = Annotated[
    bool, typer.Option("--rehearse", help="Lay each recipe's `rehearsal` over it: small and quick.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME|FILE",
        help="Cluster profile.",
        show_default=False,
        autocompletion=complete_profiles,
    ),
]


def refuse_where(conditions: list[str] | None) -> None:
    """Refuse `--where` for what is not a sweep.

    Raises:
        RunError: There are conditions.
    """
    from launcher.errors import RunError

    if conditions:
        raise RunError(f"--where {conditions[0]}: chooses points of a sweep; name one, or leave it out")


def refuse_metric(metric: str | None) -> None:
    """Refuse `--metric` for what is neither a sweep nor a search.

    Raises:
        RunError: There is one.
    """
    from launcher.errors import RunError

    if metric is not None:
        raise RunError(f"--metric {metric}: compares points of a sweep or of a search; name one, or leave it out")
