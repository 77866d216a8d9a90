"""`launcher plan`: what a recipe needs, how long it takes and what it costs, before it waits in the queue."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, JsonOption, OverridesOption, RecipesArgument, RehearseOption

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.load import LoadedRecipe


def plan(
    files: RecipesArgument,
    overrides: OverridesOption = None,
    rehearse: RehearseOption = False,
    cluster: ClusterOption = None,
    rows: Annotated[int, typer.Option(help="How many other ways to show.", min=0)] = 8,
    as_json: JsonOption = False,
) -> None:
    """Say what trainings need, how long they take, what they cost, and in which other ways they fit.

    All numbers are estimates by formulas; nothing is loaded or queued. `launcher validate` checks whether recipes can
    work.
    """
    from launcher.errors import RecipeError
    from launcher.load import load_all, load_cluster

    profile = load_cluster(cluster)
    loaded, faults = load_all([Path(file) for file in files], overrides or (), rehearse)
    if faults:
        raise RecipeError(faults)
    if as_json:
        typer.echo(json.dumps({"recipes": [_as_plain(item, profile, rows) for item in loaded]}, indent=1))
        return
    for item in loaded:
        _show(item, profile, rows)


def _as_plain(item: "LoadedRecipe", profile: "Cluster", rows: int) -> dict[str, object]:
    from launcher.plan.alternatives import alternatives_of
    from launcher.plan.details import detail

    found = detail(item, profile)
    others = [asdict(one) for one in alternatives_of(item, profile)[:rows]]
    return {"file": str(item.path), "name": item.recipe.name, "details": found and asdict(found), "fits": others}


def _show(item: "LoadedRecipe", profile: "Cluster", rows: int) -> None:
    from launcher.cli.views.plan_view import print_alternatives, print_details
    from launcher.plan.alternatives import alternatives_of
    from launcher.plan.details import detail

    found = detail(item, profile)
    if found is None:
        typer.echo(f"{item.recipe.name}: {_why_nothing(item, profile)}")
        return
    print_details(item, profile, found)
    print_alternatives(alternatives_of(item, profile)[:rows], found)


def _why_nothing(item: "LoadedRecipe", profile: "Cluster") -> str:
    if not item.recipe.trains:
        return f"`kind: {item.recipe.kind}` trains nothing; `launcher validate` says what it asks for"
    return (
        f"the sizes of `{item.recipe.model.path}` are not known: put a LLaMA-like model with its config.json below "
        f"{profile.roots.models}"
    )
