"""`launcher search ask | judge`: what nodes call between the trials of a search, and while one is under way."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.json_output import print_json
from launcher.cli.large_submission import ask_if_large, search_gpu_hours
from launcher.cli.submit_preview import print_search
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.cluster import Cluster
    from launcher.load import LoadedRecipe
    from launcher.monitor.sweep import SweepStatus
    from launcher.run.trials import SearchDir
    from launcher.submit.plan_submission import SubmitOptions
    from launcher.submit.searches import QueuedElements, SearchPlan

POLL_SECONDS = (0.5, 15)
"""Pause between two looks: short at first, then long, since each asks Slurm."""
_REFUSED = {
    "--rerun": "a search keeps the trials that it has; write another `name` to begin anew",
    "--follow": "a search has many trials; `launcher logs TRIAL --follow` follows one of them",
    "--test-only": "is not for searches; `--dry-run` prints the script, which `sbatch --test-only` takes",
}

app = typer.Typer(help="Commands that nodes call for searches; you rarely need them.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Commands that nodes call for searches; you rarely need them."""


@app.command()
def ask(
    folder: Annotated[Path, typer.Argument(help="Folder of the search.")],
    job: Annotated[str, typer.Option(help="Slurm's id of the element that asks, or `local-PID`.")],
    submission: Annotated[Path, typer.Option(help="Folder of the submission that started it.")],
    restarts: Annotated[int, typer.Option(help="How many times Slurm has put it back into the queue.")] = 0,
) -> None:
    """Make an element the owner of the next trial, and print its run directory. Nodes do it between two trials."""
    from launcher.operate.search.ask import ask as find_next
    from launcher.operate.search.owners import describe_owner
    from launcher.run.paths import SubmissionDir
    from launcher.run.trials import SearchDir

    search = SearchDir(folder.absolute())
    answer = find_next(search, describe_owner(job, restarts), SubmissionDir(submission.absolute()))
    trial = answer.trial
    run = str(search.runs_root / trial.run) if trial else None
    found = {"run": run, "fingerprint": trial.fingerprint if trial else "", "why": answer.why}
    typer.echo(json.dumps({**found, "is_done": answer.is_done}))


@app.command()
def judge(
    run: Annotated[Path, typer.Argument(help="Folder of the trial's run.")],
    after: Annotated[int, typer.Option(help="Last step that was judged before.")] = -1,
) -> None:
    """Print whether a trial is left behind by the others. Nodes do it after an evaluation."""
    from launcher.operate.search.pruning import judge_run
    from launcher.run.paths import RunDir

    step, newest = judge_run(RunDir(run.absolute()), after)
    typer.echo(json.dumps({"hopeless_at": step, "judged": newest}))


def submit_search_file(
    wanted: "Sequence[LoadedRecipe]", profile: "Cluster", options: "SubmitOptions", others: "Mapping[str, object]",
    *, dry_run: bool, yes: bool, as_json: bool, wait: bool = False,
) -> bool:  # fmt: skip
    """Queue a search, or what is missing of it; False if the recipes are no search.

    Raises:
        LauncherError: There are other recipes beside it, or options that searches do not have.
    """
    plan = _plan(wanted, profile, options)
    if plan is None:
        return False
    from launcher.cli.submit_report import warn
    from launcher.errors import LauncherError
    from launcher.submit.searches import submit_search

    if given := [name for name, value in others.items() if value]:
        raise LauncherError(f"{given[0]}: {_REFUSED[given[0]]}")
    warn(plan.corners.recipes)
    if dry_run:
        print_search(plan, _budget(plan), as_json)
        return True
    if not yes:
        ask_if_large(plan.left, search_gpu_hours(plan), lambda: _describe(plan))
    queued = submit_search(plan)
    _publish(plan.folder)
    if as_json:
        report = {"search": plan.record.name, "folder": str(plan.folder.root), "jobs": queued.jobs}
        print_json({**report, "elements": queued.elements, "left": queued.left}, "search")
    else:
        _report(plan.record.name, queued)
    if wait and not _all_end(plan.folder, profile):
        raise typer.Exit(1)
    return True


def _all_end(folder: "SearchDir", profile: "Cluster") -> bool:
    """Wait until no element is queued or running, telling how many trials are over; say whether all of them are."""
    from launcher.monitor.trials import read_past
    from launcher.submit.search_record import SearchRecord
    from launcher.submit.searches import alive_elements

    shown, (pause, longest) = -1, POLL_SECONDS
    while True:
        alive = alive_elements(folder, profile)
        record = SearchRecord.read(folder.record)  # a sweep of W&B may have ended before its time
        search = record.search
        past = read_past(folder, search.metric)
        over = sum(one.state != "open" for one in past)
        if over != shown:
            tell(f"{record.name}: {over} of {search.budget} trials are over")
        shown = over
        if not alive:
            return over >= search.budget and any(one.state == "finished" for one in past)
        time.sleep(pause)
        pause = min(1.5 * pause, longest)


def render_search(wanted: "Sequence[LoadedRecipe]", profile: "Cluster", options: "SubmitOptions") -> bool:
    """Print the script of a search; False if the recipes are no search."""
    plan = _plan(wanted, profile, options)
    if plan is not None:
        from launcher.submit.searches import script_of

        typer.echo(script_of(plan), nl=False)
    return plan is not None


def _plan(wanted: "Sequence[LoadedRecipe]", profile: "Cluster", options: "SubmitOptions") -> "SearchPlan | None":
    """Work out what submitting a search would do; None if the recipes are no search.

    Raises:
        LauncherError: There are other recipes beside it.
    """
    searches = [item for item in wanted if item.recipe.search]
    if not searches:
        return None
    from launcher.errors import LauncherError
    from launcher.submit.plan_submission import plan_submission
    from launcher.submit.searches import plan_search

    if len({item.recipe.name for item in wanted}) > 1 or len(searches) < len(wanted):
        raise LauncherError(f"{searches[0].path}: is a search; submit it by itself")
    return plan_search(plan_submission(wanted, profile, options), wanted)


def _publish(folder: "SearchDir") -> None:
    """Give the best result its name, if the node that should have done it could not."""
    from launcher.monitor.trials import read_past
    from launcher.operate.search.best import publish_best
    from launcher.submit.search_record import SearchRecord

    record = SearchRecord.read(folder.record)
    if told := publish_best(folder, record, read_past(folder, record.search.metric)):
        tell(f"{record.name}: {told}")


def _describe(plan: "SearchPlan") -> str:
    """Say what a search asks for, and when its first element would start."""
    from launcher.slurm.queue import queue_of
    from launcher.submit.searches import script_of

    hours = search_gpu_hours(plan)
    cost = f": at most {hours:.0f} GPU-hours, an attempt a trial" if hours else ""
    return f"{plan.record.name}: {_budget(plan)}{cost}\n{queue_of(plan.record.site).estimate_start(script_of(plan))}"


def _budget(plan: "SearchPlan") -> str:
    search, known = plan.record.search, 0 if plan.is_new else len(plan.past)
    done = f", {known} of which there are" if known else ""
    return f"{search.budget} trials{done}, {search.parallel} at once, by {search.metric}"


def _report(name: str, queued: "QueuedElements") -> None:
    if queued.jobs:
        trials = f"{queued.left} trial{'s' * (queued.left > 1)} left"
        elements = f"{queued.elements} element{'s' * (queued.elements > 1)}"
        typer.echo(f"{name}: {trials}: {elements} in job {', '.join(queued.jobs)}")
    elif queued.left:
        typer.echo(f"{name}: {queued.left} trials left, and {queued.alive} elements are queued or running already")
    else:
        typer.echo(f"{name}: all trials are over; write more `trials` to go on")
    tell(f"\nlauncher status '{name}'  its trials, and the best of them")


def idle_notes(folder: "SearchDir", profile: "Cluster", found: "SweepStatus") -> list[str]:
    """Say that a search is at rest although there is something left, and where its elements said why."""
    from launcher.submit.searches import alive_elements

    left = (found.trials or 0) - sum(point.run.state in ("finished", "pruned") for point in found.points)
    if left <= 0 or alive_elements(folder, profile):
        return []
    logs = folder.submissions()[-1].root / "slurm-*.log" if folder.submissions() else folder.root
    return [f"no element is queued or running: `launcher resume {found.name}` queues some; the last ones said: {logs}"]


def resume_search(folder: "SearchDir", profile: "Cluster") -> None:
    """Try what failed or was stopped again, and queue elements for it and for what is missing."""
    from launcher.submit.search_record import SearchRecord
    from launcher.submit.searches import forget_failures, queue_missing, require_no_leavers

    require_no_leavers(folder, profile)
    forget_failures(folder)
    _publish(folder)
    _report(SearchRecord.read(folder.record).name, queue_missing(folder, profile))


def stop_search(folder: "SearchDir", profile: "Cluster", at_once: bool) -> None:
    """End the elements of a search, at once or when their trials have saved; no further trial is started."""
    from launcher.operate.search.stop import stop_search as end
    from launcher.submit.search_record import SearchRecord

    trials = end(folder, profile, at_once)
    said = "cancelled" if at_once else "asked to save and stop"
    name = SearchRecord.read(folder.record).name
    typer.echo(f"{name}: {trials} trial{'s' * (trials != 1)} {said}; `launcher resume {name}` continues")
