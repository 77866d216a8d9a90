"""`launcher submit` and `launcher render`: from recipes to queued runs, and the script on the way."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.cli.arguments import (
    AfterOption,
    ClusterOption,
    JsonOption,
    OverridesOption,
    RecipesArgument,
    RehearseOption,
    SweepOption,
)
from launcher.cli.large_submission import ask_if_large, runs_gpu_hours
from launcher.cli.logs import follow_run
from launcher.cli.pipeline import all_finish, refuse_options, submit_file
from launcher.cli.search import render_search, submit_search_file
from launcher.cli.submit_preview import print_scripts, print_starts, summary
from launcher.cli.submit_report import report_all, tell_known, tell_turn, tell_waiting, warn, without_copies
from launcher.cli.sweep import queue_waiting
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.load import LoadedRecipe
    from launcher.run.paths import RunDir
    from launcher.submit.plan_submission import SubmissionPlan, SubmitOptions

MaxParallel = Annotated[
    int | None,
    typer.Option("--max-parallel", help="How many runs of an array, or trials of a search, may run at once.", min=1),
]

POLL_SECONDS = (0.5, 15)
"""Pause between two looks: short at first, then long, since each asks Slurm."""


def render(
    recipes: RecipesArgument,
    *,
    overrides: OverridesOption = None,
    sweep: SweepOption = None,
    rehearse: RehearseOption = False,
    cluster: ClusterOption = None,
    max_parallel: MaxParallel = None,
    deepspeed: Annotated[
        bool, typer.Option("--deepspeed", help="Print DeepSpeed's configuration on the nodes instead, as JSON.")
    ] = False,
) -> None:
    """Print the batch scripts that `launcher submit` would send, byte for byte."""
    from launcher.load import load_cluster
    from launcher.submit.plan_submission import SubmitOptions, plan_submission

    profile, loaded = load_cluster(cluster), _load(recipes, overrides or (), rehearse, sweep or ())
    if deepspeed:
        for item in loaded:
            typer.echo(json.dumps(_deepspeed(item, profile), indent=1))
        return
    options = SubmitOptions(max_parallel=max_parallel, rehearsal=rehearse, check=False)
    if render_search(loaded, profile, options):
        return
    for one in plan_submission(loaded, profile, options).submissions:
        typer.echo(one.script, nl=False)


def submit(
    recipes: RecipesArgument,
    *,
    overrides: OverridesOption = None,
    sweep: SweepOption = None,
    rehearse: RehearseOption = False,
    cluster: ClusterOption = None,
    after: AfterOption = [],  # noqa: B006 - typer reads the default, nobody changes it
    max_parallel: MaxParallel = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the scripts; queue and write nothing.")] = False,
    test_only: Annotated[
        bool, typer.Option("--test-only", help="Ask Slurm when it would start; queue nothing.")
    ] = False,
    rerun: Annotated[
        bool,
        typer.Option(
            "--rerun", help="Also queue what is queued, runs or has finished with the same recipe and inputs."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a large submission.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all runs are over; fail unless all finished.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Print the first run's log until it is over.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check recipes, freeze each into a run directory with its code, and queue them.

    A recipe that is queued, runs or has finished already with the same inputs is not queued again: the run is named
    instead. A recipe with a `sweep`, or `--sweep`, is queued once for each point; runs of points that ended before they
    had finished are queued again.
    """
    from launcher.load import load_cluster
    from launcher.submit.plan_submission import SubmitOptions

    profile = load_cluster(cluster)
    if _is_pipeline(recipes):
        given = {"--after": after, "--max-parallel": max_parallel, "--test-only": test_only, "--follow": follow}
        refuse_options(sweep, given)
        pipeline = submit_file(
            Path(recipes[0]), overrides or (), profile, rehearse, rerun, dry_run=dry_run, yes=yes, as_json=as_json
        )
        if wait and pipeline and not all_finish(pipeline, profile):
            raise typer.Exit(1)
        return
    wanted = _load(recipes, overrides or (), rehearse, sweep or ())
    options = SubmitOptions(tuple(after), max_parallel, rehearse)
    refused = {"--test-only": test_only, "--rerun": rerun, "--follow": follow}
    if submit_search_file(wanted, profile, options, refused, dry_run=dry_run, yes=yes, as_json=as_json, wait=wait):
        return
    shows = print_scripts if dry_run else print_starts if test_only else None
    runs = _submit_recipes(wanted, profile, options, rerun, shows=shows, yes=yes, as_json=as_json)
    if follow and runs:
        follow_run(profile, runs[0])
    if wait and runs and not _all_finish(profile, runs):
        raise typer.Exit(1)


def _submit_recipes(
    wanted: "Sequence[LoadedRecipe]", profile: "Cluster", options: "SubmitOptions", rerun: bool,
    *, shows: "Callable[[SubmissionPlan | None, bool], None] | None", yes: bool, as_json: bool,
) -> "list[RunDir]":  # fmt: skip
    """Queue recipes that have no run yet, or only show what would be queued; return the runs that are not over."""
    from launcher.submit.missing import find_missing, submit_missing

    wanted = wanted if rerun else without_copies(wanted)
    missing = find_missing(wanted, profile, options, rerun)
    tell_known(missing.points)
    plan = missing.plan
    if plan:
        warn(plan.recipes)
    if shows:
        shows(plan, as_json)
        return []
    if plan and not yes:
        _ask_if_public(plan)
        ask_if_large(len(plan.recipes), runs_gpu_hours(plan), lambda: _describe(plan))
    done = submit_missing(missing, tell_turn, tell_known)
    report_all(done.points, done.frozen, done.resumed, as_json)
    tell_waiting(done.waiting)
    return [*(run.folder for run in done.frozen), *done.points.over.values(), *done.points.alive.values()]


def _is_pipeline(files: Sequence[str]) -> bool:
    """Tell whether a pipeline is to be submitted.

    Raises:
        LauncherError: It is not the only file.
    """
    may_be = [file for file in files if os.path.isfile(file) and b"pipeline" in _beginning(file)]
    if not may_be:
        return False
    from launcher.errors import LauncherError
    from launcher.load.pipeline import is_pipeline

    found = [file for file in may_be if is_pipeline(Path(file))]
    if found and len(files) > 1:
        raise LauncherError(f"{found[0]}: is a pipeline; submit it by itself")
    return bool(found)


def _beginning(file: str) -> bytes:
    """Read as much of a file as a recipe can have: `launcher.load.read` refuses longer ones."""
    from launcher.load.read import MAX_BYTES

    with Path(file).open("rb") as opened:
        return opened.read(MAX_BYTES)


def _deepspeed(item: "LoadedRecipe", cluster: "Cluster") -> dict[str, Any]:
    """The configuration of DeepSpeed for as many ranks as the recipe asks for.

    Raises:
        LauncherError: DeepSpeed has no part in the recipe.
    """
    from launcher.errors import LauncherError
    from launcher.plan import starting_micro_batch
    from launcher.recipe.deepspeed import deepspeed_config

    recipe = item.recipe
    if not recipe.trains:
        raise LauncherError(f"--deepspeed: `{recipe.name}` trains nothing; leave it out")
    start = starting_micro_batch(item, cluster)
    config = deepspeed_config(recipe.sized(start) if start else recipe, recipe.resources.world_size)
    if config is None:
        strategy = recipe.parallel.strategy
        raise LauncherError(
            f"--deepspeed: `{recipe.name}` has `parallel.strategy: {strategy}`, which is not DeepSpeed's"
        )
    return config


def _load(
    files: Sequence[str], overrides: Sequence[str], rehearse: bool, sweeps: Sequence[str] = ()
) -> "list[LoadedRecipe]":
    from launcher.errors import RecipeError
    from launcher.load import load_all

    loaded, faults = load_all([Path(file) for file in files], overrides, rehearse, sweeps)
    if faults:
        raise RecipeError(faults)
    return loaded


def _describe(plan: "SubmissionPlan") -> str:
    """Say what a submission asks for, and when its first job would start."""
    from launcher.slurm.queue import queue_of

    return f"{summary(plan)}\n{queue_of(plan.cluster).estimate_start(plan.submissions[0].script)}"


def _ask_if_public(plan: "SubmissionPlan") -> None:
    """Ask for confirmation before anybody can read a result; without a terminal only `--yes` confirms.

    Raises:
        LauncherError: nobody can be asked.
    """
    from launcher.errors import LauncherError

    public = {one.recipe.name: where for one in plan.recipes if (where := one.recipe.published_at)}
    if public and not sys.stdin.isatty():
        raise LauncherError(
            f"public: `{next(iter(public))}` will be readable by everybody on the Hugging Face Hub; confirm it with "
            "`--yes`, or leave out `public: true`"
        )
    for name, where in public.items():
        typer.confirm(f"{name}: everybody will be able to read huggingface.co/{where}; submit?", abort=True, err=True)


def _all_finish(cluster: "Cluster", runs: "Sequence[RunDir]") -> bool:
    """Wait until all runs are over, telling each change of state, and say whether all finished."""
    from launcher.monitor.status import read_statuses

    shown: dict[str, str] = {}
    (pause, longest), patience = POLL_SECONDS, 30.0
    while True:
        statuses, _ = read_statuses(cluster, runs)
        for status in statuses:
            words = f"{status.state}: {status.why}" if status.why else status.state
            if shown.get(status.id) != words:
                tell(f"{status.id}  {status.name}  {words}")
            shown[status.id] = words
        # The batch process closes an attempt just after its ranks finished, and lets the run be found by its identity.
        closed = all(not one.attempts or one.attempts[-1].ended is not None for one in statuses)
        over = all(status.is_over for status in statuses)
        patience = patience - pause if over else 30.0
        waiting = [one for one in statuses if one.state == "not submitted" and not one.stop_requested]
        if over and waiting and patience < 0 and queue_waiting(waiting[0].folder):
            patience = 30.0
        elif over and ((closed and not waiting) or patience < 0):
            return len(statuses) == len(runs) and all(status.state == "finished" for status in statuses)
        time.sleep(pause)
        pause = min(1.5 * pause, longest)
