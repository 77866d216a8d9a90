"""`launcher validate`, `schema` and `init`: recipes and profiles before anything is submitted."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.cli.arguments import (
    ClusterOption,
    JsonOption,
    OverridesOption,
    RecipesArgument,
    RehearseOption,
    SweepOption,
)
from launcher.cli.json_output import faults_as_json, print_json
from launcher.cli.pipeline import refuse_options, validate_file
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.errors import Fault
    from launcher.load import LoadedRecipe
    from launcher.plan import Forecast


def validate(
    files: RecipesArgument,
    overrides: OverridesOption = None,
    sweep: SweepOption = None,
    rehearse: RehearseOption = False,
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check recipes, say whether they fit and what they cost; exit 2 with every fault of every file.

    Without a cluster profile only the recipes themselves are checked.
    """
    from launcher.errors import RecipeError
    from launcher.load import load_all
    from launcher.load.pipeline import is_pipeline
    from launcher.submit.planned_recipe import estimate_recipes

    of_pipeline = len(files) == 1 and is_pipeline(Path(files[0]))
    form = "pipeline" if of_pipeline else "recipes"
    nothing: dict[str, Any] = {"file": files[0], "stages": []} if of_pipeline else {"recipes": []}
    named = "cluster profile" if cluster is None else f"--cluster {cluster}"
    with faults_as_json(as_json, nothing, form, named, "not-found"):
        profile = _profile(cluster)
    if of_pipeline:
        with faults_as_json(as_json, nothing, form, files[0]):
            refuse_options(sweep)
        validate_file(Path(files[0]), overrides or (), profile, rehearse, as_json)
        return
    loaded, faults = load_all([Path(file) for file in files], overrides or (), rehearse, sweep or ())
    made_here = {item.recipe.makes.name: item.recipe.data_use for item in loaded if item.recipe.makes}
    loaded = [replace(item, awaited=made_here) for item in loaded]
    of_site, sound = _check(loaded, profile) if profile else ([], [True] * len(loaded))
    faults += of_site
    forecasts = [item.forecast for item in estimate_recipes(loaded, profile)] if profile else [None] * len(loaded)
    if as_json:
        reports = [_report(item, expected) for item, expected in zip(loaded, forecasts, strict=True)]
        print_json({"recipes": reports, "faults": [vars(fault) for fault in faults]}, "recipes")
        raise typer.Exit(2 if faults else 0)
    sweeps = Counter(
        (item.path, item.point.sweep) for item, good in zip(loaded, sound, strict=True) if item.point and good
    )
    for item, expected, good in zip(loaded, forecasts, sound, strict=True):
        count = sweeps.pop((item.path, item.point.sweep), 0) if item.point else 1
        if good and count:
            typer.echo("\n".join(_describe(item, expected)))
        if good and count and item.point:
            typer.echo(f"  {_repetitions(item, count, expected)}")
    if faults:
        raise RecipeError(faults)
    if not profile:
        tell("no cluster profile: only the recipes themselves were checked (`--cluster NAME`)")


def _repetitions(item: "LoadedRecipe", count: int, expected: "Forecast | None") -> str:
    """Say how often a recipe of a sweep or a search is carried out, and what that comes to."""
    from launcher.cli.views.wording import quantity
    from launcher.plan import attempt_gpu_hours

    assert item.point is not None
    search = item.recipe.search
    times = search.budget if search else count
    hours = times * (expected.attempt_gpu_hours if expected else attempt_gpu_hours(item.recipe))
    cost = f": at most {quantity(hours)} GPU-hours, an attempt each" if hours else ""
    if search:
        return f"search: {search.budget} trials, {search.parallel} at once, by {search.metric}{cost}"
    return f"sweep `{item.point.sweep}`: {count} points like this one{cost}"


def _check(loaded: "list[LoadedRecipe]", profile: "Cluster") -> "tuple[list[Fault], list[bool]]":
    """Find the faults of recipes at a site, and say of each recipe whether it has none."""
    from launcher.load.recipes import name_points_and_recipes
    from launcher.plan import check_each
    from launcher.plan.conflicts import find_conflicts, find_copies

    alone, copies = check_each(loaded, profile), find_copies(loaded)
    together = [*dict.fromkeys(find_conflicts([item for place, item in enumerate(loaded) if place not in copies]))]
    in_conflict = {fault.file for fault in together}
    sound = [not its and str(item.path) not in in_conflict for item, its in alone]
    return [*name_points_and_recipes(alone), *together], sound


def schema(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND|cluster", help="A kind of recipe, or `cluster`; all kinds if left out."),
    ] = None,
    json_of: Annotated[
        str | None,
        typer.Option("--json-of", metavar="COMMAND", help="The schema of what a command prints with `--json` instead."),
    ] = None,
) -> None:
    """Print the JSON schema of recipes or cluster profiles, for editors; with --json-of, that of a command's output."""
    from launcher.cluster import Cluster
    from launcher.errors import LauncherError
    from launcher.recipe import KINDS
    from launcher.recipe.schema import DIALECT, document_schema, recipe_schema

    if json_of is not None:
        found = _schema_of_output(json_of, kind)
    elif kind == "cluster":
        found = {"$schema": DIALECT, **document_schema(Cluster)}
    elif kind in (None, "pipeline") or kind in KINDS:
        found = recipe_schema(kind)
    else:
        known = ", ".join(f"`{name}`" for name in (*KINDS, "pipeline", "cluster"))
        raise LauncherError(f"schema: `{kind}` is not known; write one of {known}")
    typer.echo(json.dumps(found, indent=2))


def _schema_of_output(command: str, kind: str | None) -> dict[str, Any]:
    from launcher.cli.json_forms import OUTPUTS
    from launcher.cli.json_schemas import output_schema
    from launcher.errors import LauncherError

    if kind is not None:
        raise LauncherError(f"--json-of: has a schema of its own; leave `{kind}` out")
    if command not in OUTPUTS:
        known = ", ".join(f"`{name}`" for name in OUTPUTS)
        raise LauncherError(f"--json-of: `{command}` is no command with `--json`; write one of {known}")
    return output_schema(command)


def init(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("cluster.yaml"),
    name: Annotated[str | None, typer.Option(help="Name of the site; Slurm's ClusterName if left out.")] = None,
) -> None:
    """Write a cluster profile from what Slurm says of this site."""
    from launcher.errors import LauncherError, SlurmError
    from launcher.site.new_profile import local_profile, site_profile
    from launcher.site.partitions import ask_site
    from launcher.slurm.site_query import has_slurm

    if output.exists():
        raise LauncherError(f"--output: `{output}` exists; remove it, or write another file name")
    scratch = "$SCRATCH/launcher" if "SCRATCH" in os.environ else "~/launcher"
    if has_slurm():
        try:
            site = ask_site()
        except SlurmError as error:
            raise SlurmError(
                f"{error}\nSlurm is installed here, but does not answer; set SLURM_CONF, or run this on a login node"
            ) from None
        text = site_profile(site, name or site.name, scratch)
        found = f"Slurm {site.version}, {len(site.partitions)} partitions"
    else:
        text = local_profile(name or "local", scratch, gpus=len(list(Path("/dev").glob("nvidia[0-9]*"))))
        found = "no Slurm on this machine (no `scontrol` on PATH), so a profile for local processes"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    typer.echo(f"{output}: {found}")
    tell(f"read it and correct the folders; then: launcher validate RECIPE --cluster {output}")


def _profile(name: str | None) -> "Cluster | None":
    from launcher.errors import LauncherError
    from launcher.load import find_profile, load_cluster

    if name is None and "LAUNCHER_CLUSTER" not in os.environ:
        try:
            find_profile(None)
        except LauncherError:
            return None
    return load_cluster(name)


def _describe(item: "LoadedRecipe", expected: "Forecast | None") -> list[str]:
    from launcher.cli.views.wording import machine, quantity
    from launcher.plan import attempt_gpu_hours

    recipe, wanted = item.recipe, item.recipe.resources
    ranks = _count(wanted.world_size, "rank")
    devices = _count(wanted.gpus_per_node, "GPU") if wanted.gpus_per_node else "CPUs"
    in_tasks = recipe.shares > 1
    size = machine(recipe) if in_tasks else f"{ranks}: {_count(wanted.nodes, 'node')} x {devices}"
    lines = [f"{item.path}: ok: {recipe.name}", f"  {size}{_batch(item, expected.micro_batch if expected else None)}"]
    if expected:
        lines += _memory(expected)
        lines += [
            f"  note: `{name}` is not on this site: nodes load it from the Hugging Face Hub"
            for name in expected.hub_ids
        ]
    if expected and expected.run:
        lines.append(
            f"  whole run: {expected.run.steps:,} steps, {quantity(expected.run.tokens)} tokens, "
            f"{'at least' if expected.run.is_least else 'about'} {quantity(expected.run.gpu_hours)} GPU-hours if "
            f"{expected.run.mfu:.0%} of the peak is reached"
        )
    hours = expected.attempt_gpu_hours if expected else attempt_gpu_hours(recipe)
    together = " together" if in_tasks else ""
    lines.append(
        f"  one attempt: at most {wanted.time}" + (f", {quantity(hours)} GPU-hours{together}" if hours else "")
    )
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _batch(item: "LoadedRecipe", start: int | None) -> str:
    recipe = item.recipe
    if not recipe.trains:
        return ""
    is_auto = recipe.batch.micro_batch == "auto"
    recipe = recipe.sized(start) if start else recipe
    batch, ranks = recipe.batch, _count(recipe.resources.world_size, "rank")
    made_of = f"{batch.micro_batch} x {recipe.accumulation_steps} accumulation steps x {ranks}"
    made_of = made_of if start or not is_auto else f"micro batches (`auto`: chosen for a cluster profile) x {ranks}"
    first = ", to start with" if start else ""
    return (
        f"; global batch {batch.sequences} sequences = {made_of}{first} "
        f"({batch.sequences * batch.sequence_length:,} tokens)"
    )


def _memory(expected: "Forecast") -> list[str]:
    if expected.memory is None:
        return []
    size = f" of {expected.gpu_memory / 1e9:.0f} GB" if expected.gpu_memory else ""
    warning = "; it may not fit" if expected.is_too_large else ""
    lines = [f"  memory of one rank: about {expected.memory.total / 1e9:.0f} GB{size} (estimate){warning}"]
    size = f" of {expected.node_memory / 1e9:.0f} GB" if expected.node_memory else ""
    needs = [
        ("while it loads", expected.loading, expected.may_not_load or expected.may_exceed_default),
        ("while it trains", expected.offloaded, expected.may_not_offload),
    ]
    for when, needed, is_too_much in needs:
        if needed:
            warning = "; it may not fit" if is_too_much else ""
            lines.append(f"  RAM of one node {when}: about {needed / 1e9:.0f} GB{size} (estimate){warning}")
    return lines


def _report(item: "LoadedRecipe", expected: "Forecast | None") -> dict[str, Any]:
    from dataclasses import asdict

    recipe = item.recipe
    size = asdict(expected) if expected else {"world_size": recipe.resources.world_size}
    return {"file": str(item.path), "name": recipe.name, "kind": recipe.kind, **size}
