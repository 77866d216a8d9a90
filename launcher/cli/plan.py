"""`launcher plan`: what a recipe needs, how long it takes and what it costs, before it waits in the queue."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, JsonOption, OverridesOption, RecipesArgument, RehearseOption
from launcher.cli.json_output import print_json
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.cluster import Cluster
    from launcher.load import LoadedRecipe
    from launcher.pipeline.forecast import PipelineForecast


def plan(
    files: RecipesArgument,
    *,
    overrides: OverridesOption = None,
    rehearse: RehearseOption = False,
    cluster: ClusterOption = None,
    rows: Annotated[int, typer.Option(help="How many other ways to show.", min=0)] = 8,
    trace: Annotated[
        bool,
        typer.Option("--trace", help="Trace two steps at the full world size on this machine, without GPUs or data."),
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Trace the whole model, not two of a few layers; takes minutes.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Draw it: one HTML page without scripts.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what trainings need, how long they take, what they cost, and in which other ways they fit.

    Of a pipeline: what its stages cost, and how long those take that wait for each other longest.

    All numbers are estimates by formulas; nothing is loaded or queued. `--trace` (extra `train`) takes two steps of
    the real model, adapter, mesh and optimizer on tensors without contents; what it finds is kept and shown beside the
    formulas. `launcher validate` checks whether recipes can work.
    """
    from launcher.load import load_cluster
    from launcher.load.pipeline import is_pipeline

    profile, paths = load_cluster(cluster), [Path(file) for file in files]
    pipelines = [path for path in paths if is_pipeline(path)]
    _refuse_contradictions(pipelines, trace=trace, full=full, is_page_and_json=bool(html and as_json))
    loaded = _load([path for path in paths if path not in pipelines], overrides or (), rehearse)
    stages = _forecast(pipelines, overrides or (), rehearse, profile)
    if trace:
        _trace_all(loaded, profile, full)
    if as_json:
        _print_json(loaded, stages, profile, rows)
    elif html:
        _draw(html, loaded, stages, profile)
    else:
        _show_all(loaded, stages, profile, rows)


def _print_json(
    loaded: "Sequence[LoadedRecipe]", stages: "dict[Path, PipelineForecast]", profile: "Cluster", rows: int
) -> None:
    plain = {"recipes": [_as_plain(item, profile, rows) for item in loaded]}
    print_json({**plain, "pipelines": [{"file": str(path), **asdict(found)} for path, found in stages.items()]})


def _show_all(
    loaded: "Sequence[LoadedRecipe]", stages: "dict[Path, PipelineForecast]", profile: "Cluster", rows: int
) -> None:
    from launcher.cli.views.plan_view import print_repeated
    from launcher.plan.repeated import forecast_repeated

    for item in loaded:
        _show(item, profile, rows)
    for repeated in forecast_repeated(loaded, profile):
        print_repeated(repeated, profile)
    for path, found in stages.items():
        _show_pipeline(path, profile, found)


def _refuse_contradictions(pipelines: "Sequence[Path]", *, trace: bool, full: bool, is_page_and_json: bool) -> None:
    from launcher.errors import LauncherError

    if is_page_and_json:
        raise LauncherError("--html: writes a page, and `--json` prints; leave one of them out")
    if full and not trace:
        raise LauncherError("--full: is how `--trace` traces; write both, or leave it out")
    if pipelines and trace:
        raise LauncherError(f"--trace: {pipelines[0]}: is a pipeline; name the recipes of its stages")


def _load(paths: "Sequence[Path]", overrides: "Sequence[str]", rehearse: bool) -> "list[LoadedRecipe]":
    from launcher.errors import RecipeError
    from launcher.load import load_all

    loaded, faults = load_all(paths, overrides, rehearse)
    if faults:
        raise RecipeError(faults)
    return loaded


def _forecast(
    paths: "Sequence[Path]", overrides: "Sequence[str]", rehearse: bool, profile: "Cluster"
) -> "dict[Path, PipelineForecast]":
    from launcher.load.pipeline import load_pipeline
    from launcher.pipeline.forecast import forecast_pipeline

    return {path: forecast_pipeline(load_pipeline(path, overrides, rehearse), profile) for path in paths}


def _show_pipeline(path: Path, profile: "Cluster", found: "PipelineForecast") -> None:
    from launcher.cli.views.plan_view import print_pipeline

    print_pipeline(path.stem, profile, found)


def _trace_all(loaded: "Sequence[LoadedRecipe]", profile: "Cluster", full: bool) -> None:
    from launcher.plan.trace import trace, trace_request

    for item in loaded:
        trace_request(item, profile, full)  # what cannot be traced is said before minutes have passed
    for item in loaded:
        trace(item, profile, full)


def _as_plain(item: "LoadedRecipe", profile: "Cluster", rows: int) -> dict[str, object]:
    from launcher.plan.alternatives import alternatives_of
    from launcher.plan.details import detail
    from launcher.plan.trace import kept_trace

    found, traced = detail(item, profile), kept_trace(item, profile)
    others = [asdict(one) for one in alternatives_of(item, profile)[:rows]]
    return {
        "file": str(item.path),
        "name": item.recipe.name,
        "details": found and asdict(found),
        "trace": traced and asdict(traced),
        "fits": others,
    }


def _show(item: "LoadedRecipe", profile: "Cluster", rows: int) -> None:
    from launcher.cli.views.plan_view import print_alternatives, print_details
    from launcher.cli.views.trace_view import print_trace
    from launcher.plan.alternatives import alternatives_of
    from launcher.plan.details import detail
    from launcher.plan.trace import kept_trace

    found, traced = detail(item, profile), kept_trace(item, profile)
    if found is None:
        typer.echo(f"{item.recipe.name}: {_why_nothing(item, profile)}")
    else:
        print_details(item, profile, found)
    if traced is not None:
        print_trace(traced, found.memory if found else None)
    if found is None:
        return
    print_alternatives(alternatives_of(item, profile)[:rows], found)


def _draw(
    path: Path, loaded: "Sequence[LoadedRecipe]", stages: "dict[Path, PipelineForecast]", profile: "Cluster"
) -> None:
    from launcher.cli.views.plan_page import RecipePlan, page
    from launcher.errors import LauncherError
    from launcher.plan.alternatives import alternatives_of
    from launcher.plan.details import detail
    from launcher.plan.trace import kept_trace
    from launcher.run.files import replace_text

    planned = []
    for item in loaded:
        found, others = detail(item, profile), alternatives_of(item, profile)
        why = "" if found else _why_nothing(item, profile)
        planned.append(RecipePlan(item, found, kept_trace(item, profile), others, why))
    try:
        replace_text(path, page(planned, {one.stem: found for one, found in stages.items()}, profile))
    except OSError as error:
        raise LauncherError(f"--html {path}: {error.strerror}; name a file that can be written") from None
    tell(f"{path}: written")


def _why_nothing(item: "LoadedRecipe", profile: "Cluster") -> str:
    from launcher.plan.recipe_at_site import at_site
    from launcher.plan.trace import refusal
    from launcher.plan.unknown_sizes import why_not_planned

    if not item.recipe.trains:
        return f"`kind: {item.recipe.kind}` trains nothing; `launcher validate` says what it asks for"
    return why_not_planned(item.recipe.model.path, at_site(item, profile), refusal(item.recipe) is None)
