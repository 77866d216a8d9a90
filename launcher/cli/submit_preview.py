"""What `launcher submit` shows instead of queueing: scripts (`--dry-run`), or when they would start (`--test-only`)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from launcher.cli.json_output import print_json
from launcher.cli.large_submission import runs_gpu_hours
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from launcher.pipeline.plan import PipelinePlan
    from launcher.submit.plan_submission import PlannedSubmission, SubmissionPlan
    from launcher.submit.searches import SearchPlan

_NOTHING = "nothing was written or queued"


def print_scripts(plan: "SubmissionPlan | None", as_json: bool) -> None:
    """Print the scripts that would be sent; None: there is nothing to do."""
    if as_json:
        _print_json([_row(plan, one) for one in plan.submissions] if plan else [])
    elif plan:
        for one in plan.submissions:
            typer.echo(one.script, nl=False)
            typer.echo(f"# ^ {one.folder.script}: {contents(plan, one)}\n")
        tell(summary(plan))
        tell(_NOTHING)


def print_starts(plan: "SubmissionPlan | None", as_json: bool) -> None:
    """Ask Slurm when each script would start, and print it; None: there is nothing to do."""
    if as_json:
        _print_json([_row(plan, one, when) for one, when in _starts(plan)] if plan else [])
    elif plan:
        for one, when in _starts(plan):
            typer.echo(f"{contents(plan, one)}: {when}")


def _starts(plan: "SubmissionPlan") -> "Iterator[tuple[PlannedSubmission, str]]":
    from launcher.slurm.queue import queue_of

    queue = queue_of(plan.cluster)
    for one in plan.submissions:
        yield one, "starts when its tasks are over" if one.call.waits else queue.estimate_start(one.script)


def print_search(plan: "SearchPlan", budget: str, as_json: bool) -> None:
    """Print the script of a search.

    Args:
        plan: The search.
        budget: Its trials, in words.
        as_json: Print JSON.
    """
    from launcher.submit.searches import script_of

    script, name = script_of(plan), plan.record.name
    if as_json:
        _print_json([{"runs": [name], "folder": str(plan.folder.root), "script": script, "start": None}])
        return
    typer.echo(script, nl=False)
    tell(f"{name}: {budget}\n{_NOTHING}")


def print_pipeline(plan: "PipelinePlan", as_json: bool) -> None:
    """Print what would be done about each stage, and the scripts of those that need a run."""
    from launcher.cli.views.pipeline_plan_view import describe_plan

    stages = [*describe_plan(plan)]
    plans = {id(stage.plan): stage.plan for stage in plan.to_do if stage.plan}.values()
    if as_json:
        rows = [_row(one, submission) for one in plans for submission in one.submissions]
        _print_json(rows, [stage._asdict() for stage in stages])
        return
    typer.echo("\n".join(map(str, stages)))
    for one in plans:
        for submission in one.submissions:
            typer.echo(submission.script, nl=False)
    tell(_NOTHING)


def contents(plan: "SubmissionPlan", one: "PlannedSubmission") -> str:
    """Say which runs an sbatch call is for: `first, second`, or `corpus, tasks 0 to 15`."""
    names = _names(plan, one)
    shares = [run.share.index for run in one.call.runs if run.share]
    tasks = f", tasks {shares[0]} to {shares[-1]}" if shares else ""
    last = ", finalise" if any(run.in_group and run.share is None for run in one.call.runs) else ""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") + tasks + last


def summary(plan: "SubmissionPlan") -> str:
    """Say what a submission asks for: `2 runs in 1 job (8 nodes x 4 GPUs, 24h): at most 1536 GPU-hours an attempt`."""
    from launcher.cli.views.wording import machine

    runs, jobs, hours = len(plan.recipes), len(plan.submissions), runs_gpu_hours(plan)
    sizes = {f"{machine(item.recipe)}, {item.recipe.resources.time}" for item in plan.recipes}
    counts = f"{runs} run{'s' * (runs > 1)} in {jobs} job{'s' * (jobs > 1)}"
    return f"{counts} ({'; '.join(sorted(sizes))})" + (f": at most {hours:.0f} GPU-hours an attempt" if hours else "")


def _names(plan: "SubmissionPlan", one: "PlannedSubmission") -> list[str]:
    return [*dict.fromkeys(plan.recipes[run.position].recipe.name for run in one.call.runs)]


def _row(plan: "SubmissionPlan", one: "PlannedSubmission", start: str | None = None) -> dict[str, Any]:
    return {"runs": _names(plan, one), "folder": str(one.folder.root), "script": one.script, "start": start}


def _print_json(submissions: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]] = ()) -> None:
    print_json({"submissions": submissions, "stages": stages}, "planned")
