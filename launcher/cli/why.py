"""`launcher why`: why a run waits, or how it ended, and what to type next."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from launcher.cli.arguments import ClusterOption, JsonOption, RunArgument, StageArgument
from launcher.cli.json_output import print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.cluster import Cluster
    from launcher.monitor.tracebacks import RankError
    from launcher.monitor.why import Explanation
    from launcher.run.stacks import SharedStack

_FRAMES = 12
"""Of a stack; below them is how every rank got to where it is."""


def why(
    run: RunArgument, stage: StageArgument = None, cluster: ClusterOption = None, as_json: JsonOption = False
) -> None:
    """Explain why a run waits or how it ended, and what to type next.

    Of a pipeline, each stage that has not finished is explained in a line; of a stage that is a sweep, its points.
    """
    from launcher.load import load_cluster
    from launcher.monitor.find import find_run
    from launcher.monitor.why import explain_run
    from launcher.pipeline.find import find_stage

    profile = load_cluster(cluster)
    if lines := _explain_pipeline(profile, run, stage):
        if as_json:
            print_json({"pipeline": run, "sentences": lines}, "pipeline")
        else:
            typer.echo("\n".join(lines))
        return
    explanation = explain_run(profile, find_stage(profile, run, stage) if stage else find_run(profile, run))
    if as_json:
        print_json(asdict(explanation), "run")
    else:
        _show(explanation)


def _show(explanation: "Explanation") -> None:
    first, *others = explanation.sentences
    typer.echo(f"{explanation.id} is {first}")
    for sentence in others:
        typer.echo(f"  {sentence}")
    _show_ranks(explanation.errors, explanation.stacks)
    for path in explanation.evidence:
        typer.echo(f"  log: {path}")
    if explanation.commands:
        typer.echo("next:")
    for command in explanation.commands:
        typer.echo(f"  {command}")


def _explain_pipeline(profile: "Cluster", name: str, stage: str | None) -> list[str]:
    """Explain a pipeline, or a stage of it that is a sweep; nothing if the name leads to a run."""
    from launcher.pipeline.find import find_pipeline
    from launcher.pipeline.states import read_stages
    from launcher.pipeline.why import explain_stages, explain_sweep

    pipeline = find_pipeline(profile, name)
    if pipeline is None:
        return []
    if stage is None:
        folder = "" if pipeline.is_stopped else str(pipeline.folder.root)
        return [*explain_stages(read_stages(pipeline, profile)[0], pipeline.record.id, folder)]
    if not any(one.sweep == stage for one in pipeline.record.stages):
        return []
    return [*explain_sweep(stage, read_stages(pipeline, profile)[0], pipeline.record.id)]


def _show_ranks(errors: "Sequence[RankError]", stacks: "Sequence[SharedStack]") -> None:
    for error in errors:
        _show_error(error)
    for stack in stacks:
        _show_stack(stack)


def _show_error(error: "RankError") -> None:
    from launcher.run.numbers import ranks_in_words

    typer.echo(f"  {ranks_in_words(error.ranks)}: {error.error}")
    typer.echo(f"    at {error.place}")


def _show_stack(stack: "SharedStack") -> None:
    from launcher.run.numbers import ranks_in_words
    from launcher.run.stacks import short_frame

    typer.echo(f"  {ranks_in_words(stack.ranks)} had got to:")
    for frame in stack.frames[:_FRAMES]:
        typer.echo(f"    {short_frame(frame)}")
    if len(stack.frames) > _FRAMES:
        typer.echo("    ...")
