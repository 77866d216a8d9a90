"""`launcher pipeline advance`, and what other commands do with a pipeline."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.json_output import print_json

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.pipeline.plan import PipelinePlan
    from launcher.pipeline.record import Pipeline
    from launcher.pipeline.states import StageState

app = typer.Typer(help="Pipelines, where another command does not do.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Pipelines, where another command does not do."""


@app.command()
def advance(
    folder: Annotated[Path, typer.Argument(help="Folder of a pipeline, or of a run that is a stage of some.")],
) -> None:
    """Queue the stages that can be queued now. Nodes do it when a stage ends; anybody may, at any time."""
    from launcher.errors import RunError
    from launcher.pipeline.advance import advance as go_on
    from launcher.pipeline.find import pipelines_with
    from launcher.pipeline.record import Pipeline
    from launcher.run.paths import PipelineDir, RunDir

    given = Pipeline(PipelineDir(folder.absolute()))
    pipelines = [given] if given.folder.record.is_file() else pipelines_with(RunDir(folder.absolute()))
    if not pipelines:
        raise RunError(f"`{folder}`: is no pipeline, and no stage of one")
    for pipeline in pipelines:
        for line in go_on(pipeline, pipeline.cluster):
            typer.echo(line)


def submit_file(
    path: Path, overrides: Sequence[str], profile: "Cluster", rehearse: bool, rerun: bool, *, dry_run: bool,
    yes: bool, as_json: bool,
) -> "Pipeline | None":  # fmt: skip
    """Submit a pipeline; None if nothing was to be done, or for a dry run."""
    from launcher.load.pipeline import load_pipeline
    from launcher.pipeline.plan import plan_pipeline
    from launcher.pipeline.submit import submit_pipeline

    plan = plan_pipeline(load_pipeline(path, overrides, rehearse), profile, rehearse, rerun)
    if dry_run:
        _print_plan(plan)
        return None
    if plan.to_do and not yes:
        _ask_if_large(plan)
    pipeline = submit_pipeline(plan)
    _report(pipeline, plan, as_json)
    return pipeline


def refuse_sweep(values: Sequence[str] | None) -> None:
    """Refuse `--sweep` for a pipeline.

    Raises:
        LauncherError: There are values.
    """
    from launcher.errors import LauncherError

    if values:
        raise LauncherError(f"--sweep {values[0]}: is for recipes; a pipeline's stages have one value each")


def validate_file(
    path: Path, overrides: Sequence[str], profile: "Cluster | None", rehearse: bool, as_json: bool
) -> None:
    """Check a pipeline, and say what submitting it would do."""
    from launcher.errors import RecipeError
    from launcher.load.pipeline import load_pipeline
    from launcher.pipeline.order import order_stages
    from launcher.pipeline.plan import plan_pipeline

    stages: dict[str, tuple[Sequence[str], str | None]] = {}
    try:
        loaded = load_pipeline(path, overrides, rehearse)
        if profile is None:
            stages = {name: (sorted(awaits), None) for name, awaits in order_stages(loaded).awaits.items()}
        else:
            plan = plan_pipeline(loaded, profile, rehearse)
            names = {stage.record.name: stage.record.awaits for stage in plan.stages}
            stages = {name: (awaits, _what(name, plan)) for name, awaits in names.items()}
    except RecipeError as error:
        if not as_json:
            raise
        print_json({"file": str(path), "stages": [], "faults": [vars(one) for one in error.faults]}, "pipeline")
        raise typer.Exit(2) from None
    if as_json:
        rows = [{"stage": name, "awaits": awaits, "what": what} for name, (awaits, what) in stages.items()]
        print_json({"file": str(path), "stages": rows, "faults": []}, "pipeline")
    elif profile is None:
        typer.echo(f"{path}: ok: {loaded.recipe.name}: {', '.join(stages)}")
        typer.echo("no cluster profile: only the recipes themselves were checked (`--cluster NAME`)", err=True)
    else:
        typer.echo(
            "\n".join([f"{path}: ok: {loaded.recipe.name}", *(f"  {name}: {stages[name][1]}" for name in stages)])
        )


def _print_plan(plan: "PipelinePlan") -> None:
    for stage in plan.stages:
        typer.echo(f"{stage.record.name}: {_what(stage.record.name, plan)}")
        for one in stage.plan.submissions if stage.plan else ():
            typer.echo(one.script, nl=False)
    typer.echo("nothing was written or queued", err=True)


def _what(name: str, plan: "PipelinePlan") -> str:
    stage = next(stage for stage in plan.stages if stage.record.name == name)
    after = f", after {', '.join(stage.record.awaits)}" if stage.record.awaits else ""
    if stage.finished:
        return f"finished as {stage.finished.root.name}"
    if stage.shared:
        return f"carried out by {stage.shared.root.name} of another pipeline"
    return f"a new run{after}"


def _ask_if_large(plan: "PipelinePlan") -> None:
    """Ask for confirmation in a terminal before several stages are queued."""
    if not (len(plan.to_do) > 1 and sys.stdin.isatty() and sys.stderr.isatty()):
        return
    from launcher.pipeline.submit import ask_start

    for stage in plan.stages:
        typer.echo(f"{stage.record.name}: {_what(stage.record.name, plan)}", err=True)
    typer.echo(ask_start(plan), err=True)
    typer.confirm("submit?", abort=True, err=True)


def _report(pipeline: "Pipeline", plan: "PipelinePlan", as_json: bool) -> None:
    from launcher.run.record import RunRecord

    rows = []
    for stage in plan.stages:
        run = pipeline.run_of(stage.record.name)
        record = RunRecord.read(run.record) if run else None
        job = record.submissions[-1].job_id if record and record.submissions and not stage.finished else ""
        where = {"id": record.id if record else "", "job": job, "folder": str(run.root) if run else ""}
        rows.append({"stage": stage.record.name, **where, "reused": stage.finished is not None})
    if as_json:
        print_json({"pipeline": str(pipeline.folder.root), "stages": rows}, "pipeline")
        return
    width = max(len(str(row["stage"])) for row in rows)
    for row, stage in zip(rows, plan.stages, strict=True):
        what = f"job {row['job']}" if row["job"] else "is queued later"
        if stage.finished:
            what = "finished already, with the same recipe and inputs"
        typer.echo(f"{str(row['stage']).ljust(width)}  {row['id']}  {what}")
    name = pipeline.record.id
    if not plan.to_do:
        typer.echo("all stages have finished; nothing is queued (--rerun queues them again)", err=True)
        return
    typer.echo(f"\nlauncher status {name}        all stages\nlauncher logs {name} STAGE   what one prints", err=True)
    typer.echo(f"launcher stop {name}          save and stop", err=True)


def show(pipeline: "Pipeline", profile: "Cluster", as_json: bool) -> None:
    """Show how the stages are doing."""
    from dataclasses import asdict

    from launcher.cli.views.pipeline_view import stages_table
    from launcher.cli.views.status_view import console
    from launcher.pipeline.states import read_stages

    states, notes = read_stages(pipeline, profile)
    if as_json:
        stages = [
            {"stage": name, "awaits": one.stage.awaits, **(asdict(one.status) if one.status else {"state": "removed"})}
            for name, one in states.items()
        ]
        print_json({"pipeline": str(pipeline.folder.root), "stages": stages, "notes": notes}, "pipeline")
        return
    out = console()
    out.print(f"{pipeline.record.name}  {pipeline.folder.root}", markup=False, soft_wrap=True)
    out.print(stages_table(states))
    for note in notes:
        out.print(f"note: {note}", style="dim", markup=False)


def stop(pipeline: "Pipeline", profile: "Cluster", at_once: bool) -> None:
    """Stop or cancel all stages that are queued or running, the last ones first; nothing is queued any more."""
    from launcher.operate import stop as ending

    pipeline.folder.stop_request.touch()
    for name, one in reversed(_alive(pipeline, profile)):
        assert one.run is not None
        if at_once:
            ending.cancel(one.run, profile)
            typer.echo(f"{name}: cancelled")
        else:
            typer.echo(f"{name}: {ending.stop(one.run, profile)}")
    typer.echo(f"`launcher resume {pipeline.record.id}` continues {pipeline.record.name}")


def _alive(pipeline: "Pipeline", profile: "Cluster") -> "list[tuple[str, StageState]]":
    from launcher.pipeline.states import read_stages

    states, _ = read_stages(pipeline, profile)
    return [(name, one) for name, one in states.items() if one.is_alive]


def resume(pipeline: "Pipeline", profile: "Cluster") -> None:
    """Take up what failed, was stopped or never started; what has finished stays."""
    from launcher.pipeline.advance import advance as go_on

    told = go_on(pipeline, profile, resume=True)
    for line in told or [f"{pipeline.record.name}: nothing to resume"]:
        typer.echo(line)
