"""`launcher pipeline advance`, and what other commands do with a pipeline."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.json_output import faults_as_json, print_json
from launcher.cli.large_submission import ask_if_large, runs_gpu_hours, search_gpu_hours
from launcher.cli.search import stop_search
from launcher.cli.submit_preview import print_pipeline
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.pipeline.plan import PipelinePlan
    from launcher.pipeline.record import Pipeline
    from launcher.run.paths import RunDir
    from launcher.run.trials import SearchDir

POLL_SECONDS = (0.5, 15)
"""Pause between two looks: short at first, then long, since each asks Slurm."""
STALLED_SECONDS = 60
"""A batch process that lives advances its pipeline within this time, unless Slurm is slow; then both may do it."""
_REFUSED = {
    "--after": "stages of a pipeline wait for each other; wait for the run, then submit the pipeline",
    "--max-parallel": "limits the runs of one array; a pipeline has many",
    "--test-only": "is not for pipelines; `--dry-run` shows what would be queued, and queues nothing",
    "--follow": "a pipeline has many runs; `launcher logs PIPELINE STAGE --follow` follows one of them",
}

app = typer.Typer(help="Commands that nodes call for pipelines; you rarely need them.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Commands that nodes call for pipelines; you rarely need them."""


@app.command()
def advance(
    folder: Annotated[Path, typer.Argument(help="Folder of a pipeline, or of a run that is a stage of some.")],
) -> None:
    """Queue the stages that can be queued now. Nodes do it when a stage ends; anybody may, at any time."""
    from launcher.errors import LauncherError, RunError
    from launcher.pipeline.advance import advance as go_on
    from launcher.pipeline.find import pipelines_with
    from launcher.pipeline.record import Pipeline
    from launcher.run.paths import PipelineDir, RunDir

    given = Pipeline(PipelineDir(folder.absolute()))
    pipelines = [given] if given.folder.record.is_file() else pipelines_with(RunDir(folder.absolute()))
    if not pipelines:
        raise RunError(f"`{folder}`: is no pipeline, and no stage of one")
    failures: list[LauncherError] = []
    for pipeline in pipelines:
        if not os.access(pipeline.folder.root, os.W_OK):  # somebody else's, whose runs advance it
            continue
        try:
            for line in go_on(pipeline, pipeline.cluster):
                typer.echo(line)
        except LauncherError as error:  # the others go on
            failures.append(error)
    if failures:
        raise failures[0]


def submit_file(
    path: Path, overrides: Sequence[str], profile: "Cluster", rehearse: bool, rerun: bool, *, dry_run: bool,
    yes: bool, as_json: bool,
) -> "Pipeline | None":  # fmt: skip
    """Submit a pipeline; None if nothing was to be done, or for a dry run."""
    from launcher.cli.submit_report import tell_turn
    from launcher.load.pipeline import load_pipeline
    from launcher.pipeline.plan import plan_pipeline
    from launcher.pipeline.submit import submit_pipeline

    plan = plan_pipeline(load_pipeline(path, overrides, rehearse), profile, rehearse, rerun)
    if dry_run:
        print_pipeline(plan, as_json)
        return None
    if plan.to_do and not yes:
        ask_if_large(len(plan.to_do), _gpu_hours(plan), lambda: _describe(plan))
    pipeline = submit_pipeline(plan, tell_turn)
    _report(pipeline, plan, as_json)
    return pipeline


def all_finish(pipeline: "Pipeline", cluster: "Cluster") -> bool:
    """Wait until a pipeline is over, telling each change of a stage, and say whether all stages finished."""
    from launcher.pipeline.states import find_stalled, is_over, read_stages

    shown: dict[str, str] = {}
    (pause, longest), patience = POLL_SECONDS, 30.0
    stalled, since = list[str](), 0.0
    while True:
        states, _ = read_stages(pipeline, cluster)
        for name, one in states.items():
            state = one.status.state if one.status else "not submitted"
            if shown.get(name) != state:
                tell(f"{name}  {state}")
            shown[name] = state
        # The batch process closes an attempt just after its ranks finished, and lets the run be found by its identity.
        last = [run.attempts[-1] for one in states.values() for run in one.members if run.attempts]
        is_closed = all(attempt.ended is not None for attempt in last)
        patience -= pause if is_over(states) else 0
        before, stalled = stalled, find_stalled(states)
        since = since + pause if stalled and stalled == before else 0.0
        if since - pause < STALLED_SECONDS <= since:
            _go_on_instead(pipeline, cluster)
        if is_over(states) and (is_closed or patience < 0):
            return all(one.is_finished for one in states.values())
        time.sleep(pause)
        pause = min(1.5 * pause, longest)


def _go_on_instead(pipeline: "Pipeline", cluster: "Cluster") -> None:
    """Advance a pipeline in place of a batch process that was killed before it did."""
    from launcher.errors import LauncherError
    from launcher.pipeline.advance import advance as go_on

    try:
        for line in go_on(pipeline, cluster):
            tell(line)
    except LauncherError as error:
        tell(str(error))


def refuse_options(sweep: Sequence[str] | None, others: Mapping[str, object] | None = None) -> None:
    """Refuse what a pipeline cannot take, instead of leaving it out.

    Args:
        sweep: Values of `--sweep`.
        others: Values of other options, by name.

    Raises:
        LauncherError: There are some.
    """
    from launcher.errors import LauncherError

    if sweep:
        raise LauncherError(f"--sweep {sweep[0]}: is for recipes; write a `sweep` into the stage")
    for option, value in (others or {}).items():
        if value:
            raise LauncherError(f"{option}: {_REFUSED[option]}")


def validate_file(
    path: Path, overrides: Sequence[str], profile: "Cluster | None", rehearse: bool, as_json: bool
) -> None:
    """Check a pipeline, and say what submitting it would do."""
    from launcher.cli.views.pipeline_plan_view import describe_plan, list_stages
    from launcher.load.pipeline import load_pipeline
    from launcher.pipeline.plan import plan_pipeline

    with faults_as_json(as_json, {"file": str(path), "stages": []}, "pipeline", str(path)):
        loaded = load_pipeline(path, overrides, rehearse)
        plan = plan_pipeline(loaded, profile, rehearse) if profile else None
        stages = [*(describe_plan(plan) if plan else list_stages(loaded))]
    if as_json:
        print_json({"file": str(path), "stages": [one._asdict() for one in stages], "faults": []}, "pipeline")
    elif plan is None:
        typer.echo(f"{path}: ok: {loaded.recipe.name}: {', '.join(one.stage for one in stages)}")
        tell("no cluster profile: only the recipes themselves were checked (`--cluster NAME`)")
    else:
        typer.echo("\n".join([f"{path}: ok: {loaded.recipe.name}", *(f"  {one}" for one in stages)]))


def _describe(plan: "PipelinePlan") -> str:
    """Say what submitting a pipeline would do, and when its first stage would start."""
    from launcher.cli.views.pipeline_plan_view import describe_plan
    from launcher.pipeline.submit import ask_start

    return "\n".join([*map(str, describe_plan(plan)), ask_start(plan)])


def _gpu_hours(plan: "PipelinePlan") -> float:
    plans = {id(stage.plan): stage.plan for stage in plan.to_do if stage.plan}.values()  # points of a sweep share one
    searches = [stage.search for stage in plan.to_do if stage.search]
    return sum(map(runs_gpu_hours, plans)) + sum(map(search_gpu_hours, searches))


def _report(pipeline: "Pipeline", plan: "PipelinePlan", as_json: bool) -> None:
    from launcher.cli.views.pipeline_plan_view import report_lines, report_rows

    rows = report_rows(pipeline, plan)
    if as_json:
        print_json({"pipeline": str(pipeline.folder.root), "stages": rows}, "pipeline")
        return
    for line in report_lines(rows):
        typer.echo(line)
    name = pipeline.record.id
    if not plan.to_do:
        typer.echo("all stages have finished; nothing is queued (--rerun queues them again)", err=True)
        return
    tell(f"\nlauncher status {name}        all stages\nlauncher logs {name} STAGE   what one prints")
    tell(f"launcher stop {name}          save and stop")


def show(pipeline: "Pipeline", profile: "Cluster", as_json: bool, everything: bool = False) -> None:
    """Show how the stages are doing; with `everything`, each point of a sweep."""
    from launcher.cli.views.pipeline_view import stage_as_json, stages_table
    from launcher.cli.views.status_view import console
    from launcher.pipeline.states import find_stalled, read_stages
    from launcher.pipeline.why import say_stalled

    states, notes = read_stages(pipeline, profile)
    if (stalled := find_stalled(states)) and not pipeline.is_stopped:
        notes = (*notes, say_stalled(stalled, str(pipeline.folder.root)))
    if as_json:
        stages = [stage_as_json(one) for one in states.values()]
        print_json({"pipeline": str(pipeline.folder.root), "stages": stages, "notes": notes}, "pipeline")
        return
    out = console()
    out.print(f"{pipeline.record.name}  {pipeline.folder.root}", markup=False, soft_wrap=True)
    out.print(stages_table(states, everything))
    for note in notes:
        out.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)


def stop(pipeline: "Pipeline", profile: "Cluster", at_once: bool) -> None:
    """Stop or cancel all stages that are queued or running, the last ones first; nothing is queued any more."""
    from launcher.operate import stop as ending
    from launcher.run.ledger import StopRequest

    if at_once and profile.executor == "local":
        _refuse_elsewhere(pipeline, profile)
    pipeline.folder.stop_request.touch()
    alive = _alive(pipeline, profile)
    for run in (run for runs in alive.values() for run in runs):
        StopRequest().write(run.stop_request)  # all of them first: Slurm may not answer, and start one of them later
    for search in _searches(pipeline, profile):
        stop_search(search, profile, at_once)
    for name, runs in reversed(alive.items()):
        if len(runs) > 1:
            count = (ending.cancel_all if at_once else ending.stop_all)(runs, profile)
            typer.echo(f"{name}: {count} points {'cancelled' if at_once else 'asked to save and stop'}")
        elif at_once:
            ending.cancel(runs[0], profile)
            typer.echo(f"{name}: cancelled")
        else:
            typer.echo(f"{name}: {ending.stop(runs[0], profile)}")
    typer.echo(f"`launcher resume {pipeline.record.id}` continues {pipeline.record.name}")


def _refuse_elsewhere(pipeline: "Pipeline", profile: "Cluster") -> None:
    """Refuse to cancel what works on another machine, before any STOP tells it to save and stop."""
    from launcher.operate.search.stop import started_trials
    from launcher.operate.stop import refuse_elsewhere

    runs = [run for runs in _alive(pipeline, profile).values() for run in runs]
    trials = [run for search in _searches(pipeline, profile) for run in started_trials(search)]
    refuse_elsewhere([*runs, *trials], profile)


def _searches(pipeline: "Pipeline", profile: "Cluster") -> "list[SearchDir]":
    """Give the searches that are queued or running."""
    from launcher.pipeline.states import read_stages

    states = read_stages(pipeline, profile)[0].values()
    return [one.search.folder for one in states if one.search and one.is_alive]


def _alive(pipeline: "Pipeline", profile: "Cluster") -> "dict[str, list[RunDir]]":
    """Give the runs that are queued or running, of a sweep those of its points together."""
    from launcher.pipeline.states import read_stages

    found: dict[str, list[RunDir]] = {}
    for name, one in read_stages(pipeline, profile)[0].items():
        if one.run and one.is_alive:
            found.setdefault(one.stage.sweep or name, []).append(one.run)
    return found


def resume(pipeline: "Pipeline", profile: "Cluster") -> None:
    """Take up what failed, was stopped or never started; what has finished stays."""
    from launcher.pipeline.advance import advance as go_on

    told = go_on(pipeline, profile, resume=True)
    for line in told or [f"{pipeline.record.name}: nothing to resume"]:
        typer.echo(line)
