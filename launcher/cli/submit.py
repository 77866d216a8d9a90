"""`launcher submit` and `launcher render`: from recipes to queued runs, and the script on the way."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.cli.arguments import ClusterOption
from launcher.cli.logs import follow_run

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.freeze import FrozenRun
    from launcher.load import LoadedRecipe
    from launcher.paths import RunDir
    from launcher.preview import PlannedSubmission, Preview, SubmitOptions
    from launcher.record import RunRecord

Recipes = Annotated[list[str], typer.Argument(help="Recipe files.", metavar="RECIPE", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change a key of every recipe: `optim.lr=1e-5`.", metavar="KEY=VALUE")
]
Rehearse = Annotated[bool, typer.Option("--rehearse", help="Lay each recipe's `rehearsal` over it: small and quick.")]
MaxParallel = Annotated[
    int | None, typer.Option("--max-parallel", help="How many runs of an array may run at once.", min=1)
]

ASK_ABOVE_GPU_HOURS = 64
POLL_SECONDS = (0.5, 15)
"""Pause between two looks: short at first, then long, since each asks Slurm."""


def render(
    recipes: Recipes,
    *,
    overrides: Overrides = None,
    rehearse: Rehearse = False,
    cluster: ClusterOption = None,
    max_parallel: MaxParallel = None,
    deepspeed: Annotated[
        bool, typer.Option("--deepspeed", help="Print what DeepSpeed is told on the nodes instead, as JSON.")
    ] = False,
) -> None:
    """Print the batch scripts that `launcher submit` would send, byte for byte."""
    from launcher.load import load_cluster
    from launcher.preview import SubmitOptions, preview

    profile, options = load_cluster(cluster), SubmitOptions(max_parallel=max_parallel, rehearsal=rehearse)
    loaded = _load(recipes, overrides or (), rehearse)
    if deepspeed:
        for item in loaded:
            typer.echo(json.dumps(_deepspeed(item, profile), indent=1))
        return
    wanted = preview(loaded, profile, options)
    for one in wanted.submissions:
        typer.echo(one.script, nl=False)


def submit(
    recipes: Recipes,
    *,
    overrides: Overrides = None,
    rehearse: Rehearse = False,
    cluster: ClusterOption = None,
    after: Annotated[
        list[str], typer.Option(help="Start only when this run has finished; repeatable.", metavar="RUN")
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    max_parallel: MaxParallel = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent; touch nothing.")] = False,
    test_only: Annotated[
        bool, typer.Option("--test-only", help="Ask Slurm when it would start; queue nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a large submission.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all runs are over; fail unless all finished.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Print the first run's log until it is over.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the runs as JSON.")] = False,
) -> None:
    """Check recipes, freeze each into a run directory with its code, and queue them."""
    from launcher.load import load_cluster
    from launcher.preview import SubmitOptions
    from launcher.submit import submit as queue

    profile = load_cluster(cluster)
    loaded = _load(recipes, overrides or (), rehearse)
    options = SubmitOptions(tuple(after), max_parallel, rehearse)
    _warn(loaded, profile)
    if dry_run or test_only:
        _preview(loaded, profile, options, with_estimate=test_only)
        return
    if not yes:
        _ask_if_large(loaded, profile, options)
    frozen = queue(loaded, profile, options)
    _report(frozen, as_json)
    runs = [run.folder for run in frozen]
    if follow:
        follow_run(profile, runs[0])
    if wait and not _all_finish(profile, runs):
        raise typer.Exit(1)


def _deepspeed(item: "LoadedRecipe", cluster: "Cluster") -> dict[str, Any]:
    """The configuration of DeepSpeed for as many ranks as the recipe asks for.

    Raises:
        LauncherError: DeepSpeed has no part in the recipe.
    """
    from launcher.errors import LauncherError
    from launcher.plan import starting_micro_batch
    from launcher.recipe.training import TrainingRecipe
    from launcher.zero import deepspeed_config

    recipe = item.recipe
    if not isinstance(recipe, TrainingRecipe):
        raise LauncherError(f"--deepspeed: `{recipe.name}` trains nothing; leave it out")
    start = starting_micro_batch(item, cluster)
    config = deepspeed_config(recipe.sized(start) if start else recipe, recipe.resources.world_size)
    if config is None:
        strategy = recipe.parallel.strategy
        raise LauncherError(
            f"--deepspeed: `{recipe.name}` has `parallel.strategy: {strategy}`, which is not DeepSpeed's"
        )
    return config


def _load(files: Sequence[str], overrides: Sequence[str], rehearse: bool) -> "list[LoadedRecipe]":
    """Load all files; the faults of all of them are told at once."""
    from launcher.errors import RecipeError
    from launcher.load import load_all

    loaded, faults = load_all([Path(file) for file in files], overrides, rehearse)
    if faults:
        raise RecipeError(faults)
    return loaded


def _warn(loaded: "Sequence[LoadedRecipe]", cluster: "Cluster") -> None:
    """Tell what is no fault and yet surprising."""
    from launcher.plan import forecast
    from launcher.slurm.command import find_overrides

    if names := [name for name in find_overrides(os.environ) if name.startswith("SBATCH_")]:
        typer.echo(f"warning: {', '.join(names)} of this shell would override the script; left out", err=True)
    for item in loaded:
        said = forecast(item, cluster)
        if said.memory and said.gpu_memory and said.is_too_large:
            needs, has = said.memory.total / 1e9, said.gpu_memory / 1e9
            typer.echo(f"warning: {item.recipe.name} may not fit: about {needs:.0f} GB on {has:.0f} GB GPUs", err=True)
        if said.loading and said.node_memory and said.may_not_load:
            needs, has = said.loading / 1e9, said.node_memory / 1e9
            ranks = item.recipe.resources.ranks_per_node
            text = f"about {needs:.0f} GB of RAM for the copies of {ranks} ranks, {has:.0f} GB asked for"
            typer.echo(f"warning: {item.recipe.name} may not load: {text}; write more `resources.memory`", err=True)
        if said.loading and said.loads_by_luck:
            text = f"{item.recipe.name} asks for no RAM, and loading takes about {said.loading / 1e9:.0f} GB a node"
            typer.echo(f"warning: {text}; write `resources.memory`", err=True)
        if said.offloaded and said.node_memory and said.may_not_hold:
            needs, has = said.offloaded / 1e9, said.node_memory / 1e9
            text = f"about {needs:.0f} GB of RAM for what is offloaded, {has:.0f} GB asked for"
            typer.echo(f"warning: {item.recipe.name} may not train: {text}; write more `resources.memory`", err=True)


def _preview(
    loaded: "Sequence[LoadedRecipe]", cluster: "Cluster", options: "SubmitOptions", with_estimate: bool
) -> None:
    from launcher.preview import preview, require_feasible
    from launcher.slurm.queue import queue_of

    require_feasible(loaded, cluster, options)
    wanted = preview(loaded, cluster, options)
    for one in wanted.submissions:
        if with_estimate:
            when = "starts when its tasks are over" if one.call.waits else queue_of(cluster).estimate_start(one.script)
            typer.echo(f"{_contents(loaded, one)}: {when}")
        else:
            typer.echo(one.script, nl=False)
            typer.echo(f"# ^ {one.folder.script}: {_contents(loaded, one)}\n")
    if not with_estimate:
        typer.echo(_summary(loaded, wanted), err=True)
        typer.echo("nothing was written or queued", err=True)


def _contents(loaded: "Sequence[LoadedRecipe]", one: "PlannedSubmission") -> str:
    """Say which runs an sbatch call is for: `first, second`, or `corpus, tasks 0 to 15`."""
    names = [*dict.fromkeys(loaded[run.position].recipe.name for run in one.runs)]
    shares = [run.share.index for run in one.runs if run.share]
    tasks = f", tasks {shares[0]} to {shares[-1]}" if shares else ""
    last = ", finalise" if any(run.in_group and run.share is None for run in one.runs) else ""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") + tasks + last


def _summary(loaded: "Sequence[LoadedRecipe]", wanted: "Preview") -> str:
    """Say what a submission asks for: `2 runs in 1 job (8 nodes x 4 GPUs, 24h): at most 1536 GPU-hours an attempt`."""
    from launcher.cli.wording import machine

    runs, jobs, hours = len(loaded), len(wanted.submissions), _gpu_hours(loaded)
    sizes = {f"{machine(item.recipe)}, {item.recipe.resources.time}" for item in loaded}
    counts = f"{runs} run{'s' * (runs > 1)} in {jobs} job{'s' * (jobs > 1)}"
    return f"{counts} ({'; '.join(sorted(sizes))})" + (f": at most {hours:.0f} GPU-hours an attempt" if hours else "")


def _gpu_hours(loaded: "Sequence[LoadedRecipe]") -> float:
    from launcher.plan import attempt_gpu_hours

    return sum(attempt_gpu_hours(item.recipe) for item in loaded)


def _ask_if_large(loaded: "Sequence[LoadedRecipe]", cluster: "Cluster", options: "SubmitOptions") -> None:
    """Ask a person, never a script, before several runs or many GPU-hours."""
    is_large = len(loaded) > 1 or _gpu_hours(loaded) > ASK_ABOVE_GPU_HOURS
    if not (is_large and sys.stdin.isatty() and sys.stderr.isatty()):
        return
    from launcher.preview import preview, require_feasible
    from launcher.slurm.queue import queue_of

    require_feasible(loaded, cluster, options)
    wanted = preview(loaded, cluster, options)
    typer.echo(_summary(loaded, wanted), err=True)
    typer.echo(queue_of(cluster).estimate_start(wanted.submissions[0].script), err=True)
    typer.confirm("submit?", abort=True, err=True)


def _report(runs: "Sequence[FrozenRun]", as_json: bool) -> None:
    rows = [_row(run.folder, run.record) for run in runs]
    tasks = {run.record.id: _task_rows(run) for run in runs if run.record.group}
    if as_json:
        told = [row | ({"tasks": tasks[row["id"]]} if row["id"] in tasks else {}) for row in rows]
        typer.echo(json.dumps({"runs": told}, indent=1))
        return
    widths = {key: max(len(row[key]) for row in rows) for key in ("id", "name", "job")}
    for row in rows:
        typer.echo("  ".join([*(row[key].ljust(width) for key, width in widths.items()), row["folder"]]))
        if its_tasks := tasks.get(row["id"]):
            jobs = ", ".join(dict.fromkeys(task["job"].partition("_")[0] for task in its_tasks))
            first, last = its_tasks[0]["id"], its_tasks[-1]["id"]
            typer.echo(f"  after its {len(its_tasks)} tasks, {first} to {last}, in job {jobs}")
    first = rows[0]["id"]
    typer.echo(f"\nlauncher status          all runs\nlauncher logs -f {first}  what it prints", err=True)
    typer.echo(f"launcher stop {first}     save and stop", err=True)


def _row(folder: "RunDir", record: "RunRecord") -> dict[str, str]:
    job = record.submissions[-1].job_id
    return {"id": record.id, "name": record.name, "job": job, "folder": str(folder.root)}


def _task_rows(run: "FrozenRun") -> list[dict[str, str]]:
    """The runs that work for a run, read back from the folders just made."""
    from launcher.paths import list_shares
    from launcher.record import RunRecord

    return [_row(share, RunRecord.read(share.record)) for share in list_shares(run.folder)]


def _all_finish(cluster: "Cluster", runs: "Sequence[RunDir]") -> bool:
    """Wait until all runs are over, telling each change of state, and say whether all finished."""
    from launcher.status import read_statuses

    told: dict[str, str] = {}
    pause, longest = POLL_SECONDS
    while True:
        statuses, _ = read_statuses(cluster, runs)
        for status in statuses:
            words = f"{status.state}: {status.why}" if status.why else status.state
            if told.get(status.id) != words:
                typer.echo(f"{status.id}  {status.name}  {words}", err=True)
            told[status.id] = words
        if all(status.is_over for status in statuses):
            return len(statuses) == len(runs) and all(status.state == "finished" for status in statuses)
        time.sleep(pause)
        pause = min(1.5 * pause, longest)
