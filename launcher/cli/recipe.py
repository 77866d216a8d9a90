"""`launcher validate`, `schema` and `init`: recipes and profiles before anything is submitted."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.cli.arguments import ClusterOption

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.load import LoadedRecipe
    from launcher.plan import Forecast


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="Recipe files.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of every recipe.")
    ] = None,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Lay each recipe's `rehearsal` over it.")] = False,
    cluster: ClusterOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check recipes, say whether they fit and what they cost; exit 2 with every fault of every file.

    Without a cluster profile only the recipes themselves are checked.
    """
    from launcher.errors import RecipeError
    from launcher.load import load_all
    from launcher.plan import check_all

    loaded, faults = load_all(files, overrides or (), rehearse)
    profile = _profile(cluster)
    if profile:
        made_here = {item.recipe.makes: item.recipe.data_use for item in loaded if item.recipe.makes}
        faults += check_all(loaded, profile, made_here)
    if as_json:
        reports = [_report(item, profile) for item in loaded]
        typer.echo(json.dumps({"recipes": reports, "faults": [vars(fault) for fault in faults]}, indent=1))
        raise typer.Exit(2 if faults else 0)
    if faults:
        raise RecipeError(faults)
    for item in loaded:
        typer.echo("\n".join(_describe(item, profile)))
    if not profile:
        typer.echo("no cluster profile: only the recipes themselves were checked (`--cluster NAME`)", err=True)


def schema(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND|cluster]", help="A kind of recipe, or `cluster`; all kinds if left out."),
    ] = None,
) -> None:
    """Print the JSON schema of recipes or cluster profiles, for editors."""
    from launcher.cluster import Cluster
    from launcher.errors import LauncherError
    from launcher.recipe import KINDS
    from launcher.recipe.schema import DIALECT, document_schema, recipe_schema

    if kind == "cluster":
        found = {"$schema": DIALECT, **document_schema(Cluster)}
    elif kind is None or kind in KINDS:
        found = recipe_schema(kind)
    else:
        known = ", ".join(f"`{name}`" for name in (*KINDS, "cluster"))
        raise LauncherError(f"schema: `{kind}` is not known; write one of {known}")
    typer.echo(json.dumps(found, indent=2))


def init(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("cluster.yaml"),
    name: Annotated[str | None, typer.Option(help="Name of the site; Slurm's ClusterName if left out.")] = None,
) -> None:
    """Write a cluster profile from what Slurm says of this site."""
    import shutil

    from launcher.errors import LauncherError, SlurmError
    from launcher.slurm.site import ask_site
    from launcher.slurm.site_profile import local_profile, site_profile

    if output.exists():
        raise LauncherError(f"--output: `{output}` exists; remove it, or write another file name")
    scratch = "$SCRATCH/launcher" if "SCRATCH" in os.environ else "~/launcher"
    if shutil.which("scontrol"):
        try:
            site = ask_site()
        except SlurmError as error:
            raise SlurmError(
                f"{error}\nSlurm is installed here, but none answers; set SLURM_CONF, or run this on a login node"
            ) from None
        text = site_profile(site, name or site.name, scratch)
        found = f"Slurm {site.version}, {len(site.partitions)} partitions"
    else:
        text = local_profile(name or "local", scratch, gpus=len(list(Path("/dev").glob("nvidia[0-9]*"))))
        found = "no Slurm on this machine (no `scontrol` on PATH), so a profile for local processes"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    typer.echo(f"{output}: {found}")
    typer.echo(f"read it and correct the folders; then: launcher validate RECIPE --cluster {output}", err=True)


def _profile(name: str | None) -> "Cluster | None":
    from launcher.errors import LauncherError
    from launcher.load import find_profile, load_cluster

    if name is None and "LAUNCHER_CLUSTER" not in os.environ:
        try:
            find_profile(None)
        except LauncherError:
            return None
    return load_cluster(name)


def _describe(item: "LoadedRecipe", cluster: "Cluster | None") -> list[str]:
    """Say in a few lines what a sound recipe asks for."""
    from launcher.cli.wording import machine, quantity
    from launcher.plan import attempt_gpu_hours, forecast

    recipe, wanted = item.recipe, item.recipe.resources
    ranks = _count(wanted.world_size, "rank")
    devices = _count(wanted.gpus_per_node, "GPU") if wanted.gpus_per_node else "CPUs"
    in_tasks = recipe.kind == "prepare" and recipe.tasks > 1
    size = machine(recipe) if in_tasks else f"{ranks}: {_count(wanted.nodes, 'node')} x {devices}"
    said = forecast(item, cluster) if cluster else None
    lines = [f"{item.path}: ok: {recipe.name}", f"  {size}{_batch(item, said.micro_batch if said else None)}"]
    if said:
        lines += _memory(said)
        lines += [f"  note: `{name}` is not on this site: the nodes ask the Hugging Face Hub" for name in said.hub_ids]
    if said and said.run:
        lines.append(
            f"  whole run: {said.run.steps:,} steps, {quantity(said.run.tokens)} tokens, "
            f"about {quantity(said.run.gpu_hours)} GPU-hours if {said.run.mfu:.0%} of the peak is reached"
        )
    hours = said.attempt_gpu_hours if said else attempt_gpu_hours(recipe)
    lines.append(f"  one attempt: at most {wanted.time}" + (f", {quantity(hours)} GPU-hours" if hours else ""))
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _batch(item: "LoadedRecipe", start: int | None) -> str:
    from launcher.recipe.training import TrainingRecipe

    recipe = item.recipe
    if not isinstance(recipe, TrainingRecipe):
        return ""
    is_auto = recipe.batch.micro_batch == "auto"
    recipe = recipe.sized(start) if start else recipe
    batch, ranks = recipe.batch, _count(recipe.resources.world_size, "rank")
    made_of = f"{batch.micro_batch} x {recipe.accumulation_steps} accumulation steps x {ranks}"
    made_of = made_of if start or not is_auto else f"micro batches (`auto`: a cluster profile tells) x {ranks}"
    first = ", to start with," if start else ""
    return (
        f"; global batch {batch.sequences} sequences = {made_of}{first} "
        f"({batch.sequences * batch.sequence_length:,} tokens)"
    )


def _memory(said: "Forecast") -> list[str]:
    if said.memory is None:
        return []
    size = f" of {said.gpu_memory / 1e9:.0f} GB" if said.gpu_memory else ""
    verdict = "; it may not fit" if said.is_too_large else ""
    lines = [f"  memory of one rank: about {said.memory.total / 1e9:.0f} GB{size} (estimate){verdict}"]
    size = f" of {said.node_memory / 1e9:.0f} GB" if said.node_memory else ""
    needs = [
        ("while it loads", said.loading, said.may_not_load or said.loads_by_luck),
        ("while it trains", said.offloaded, said.may_not_hold),
    ]
    for when, needed, is_too_much in needs:
        if needed:
            verdict = "; it may not fit" if is_too_much else ""
            lines.append(f"  RAM of one node {when}: about {needed / 1e9:.0f} GB{size} (estimate){verdict}")
    return lines


def _report(item: "LoadedRecipe", cluster: "Cluster | None") -> dict[str, Any]:
    from dataclasses import asdict

    from launcher.plan import forecast

    recipe = item.recipe
    said = asdict(forecast(item, cluster)) if cluster else {"world_size": recipe.resources.world_size}
    return {"file": str(item.path), "name": recipe.name, "kind": recipe.kind, **said}
