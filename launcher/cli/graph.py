"""`launcher graph`: the stages of a pipeline as a drawing."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, JsonOption
from launcher.cli.completion import complete_recipes_and_runs
from launcher.cli.json_output import print_json
from launcher.errors import LauncherError

if TYPE_CHECKING:
    from launcher.cli.views.graph_view import GraphNode
    from launcher.pipeline.record import Pipeline
    from launcher.pipeline.states import StageState


def graph(
    pipeline: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE",
            help="Pipeline file, or one that was submitted.",
            autocompletion=complete_recipes_and_runs,
        ),
    ],
    cluster: ClusterOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write a drawing instead: a file that ends in .svg or .html."),
    ] = None,
    follow: Annotated[
        int | None,
        typer.Option(
            "--follow", metavar="SECONDS", min=1, help="Write the .html again and again until the pipeline is over."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the stages of a pipeline, what each waits for, how it is doing and how long it took."""
    from launcher.cli.views.graph_view import draw_text

    if output is not None and output.suffix not in (".svg", ".html"):
        raise LauncherError(f"--output {output}: ends neither in .svg nor in .html")
    if follow is not None and (output is None or output.suffix != ".html"):
        raise LauncherError("--follow: writes a page again and again; add `--output FILE.html`")
    nodes, is_over = _read(pipeline, cluster)
    if as_json:
        from dataclasses import asdict

        print_json({"stages": [asdict(node) for node in nodes], "is_over": is_over})
    if output is None and not as_json:
        typer.echo("\n".join(draw_text(nodes)))
    if output is None:
        return
    _write(output, pipeline, nodes, None if is_over else follow)
    typer.echo(f"{output}: {len(nodes)} stages", err=True)
    while follow is not None and not is_over:
        _wait(follow)
        nodes, is_over = _read(pipeline, cluster)
        _write(output, pipeline, nodes, None if is_over else follow)


def _write(output: Path, name: str, nodes: "list[GraphNode]", refresh: int | None) -> None:
    from launcher.cli.views.graph_page import page
    from launcher.cli.views.graph_view import draw_svg
    from launcher.run.files import replace_text

    replace_text(output, page(name, nodes, refresh) if output.suffix == ".html" else draw_svg(nodes))


def _wait(seconds: int) -> None:
    import time

    time.sleep(seconds)


def _read(pipeline: str, cluster: str | None) -> "tuple[list[GraphNode], bool]":
    """Read the stages, and whether nothing more will happen by itself."""
    from launcher.cli.views.graph_view import GraphNode
    from launcher.load import load_cluster
    from launcher.load.pipeline import load_pipeline
    from launcher.pipeline.find import require_pipeline
    from launcher.pipeline.order import sort_loaded
    from launcher.pipeline.states import is_over, read_stages

    if pipeline.endswith((".yaml", ".yml")):
        loaded = load_pipeline(Path(pipeline))
        kinds = {stage.name: stage.loaded.recipe.kind for stage in loaded.stages}
        order = sort_loaded(loaded).items()
        return [GraphNode(name, kinds[name], tuple(sorted(awaits))) for name, awaits in order], True
    profile = load_cluster(cluster)
    found = require_pipeline(profile, pipeline)
    states, _ = read_stages(found, profile)
    return [_node(found, one) for one in states.values()], is_over(states)


def _node(pipeline: "Pipeline", one: "StageState") -> "GraphNode":
    import time

    from launcher.cli.views.graph_view import GraphNode
    from launcher.cli.views.wording import duration

    if one.status is None:
        return GraphNode(one.stage.name, "", one.stage.awaits, "removed")
    attempts = one.status.attempts
    taken = sum((each.ended or time.time()) - each.started for each in attempts)
    if one.is_finished and one.status.created < pipeline.record.created:
        detail = "finished before"
    elif len(attempts) > 1:
        detail = f"{duration(taken)}, {len(attempts)} attempts"
    else:
        detail = duration(taken) if attempts else ""
    return GraphNode(one.stage.name, one.status.kind, one.stage.awaits, one.status.state, detail, one.status.id)
