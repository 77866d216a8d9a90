"""`launcher graph`: the stages of a pipeline as a drawing."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, JsonOption
from launcher.cli.completion import complete_recipes_and_runs
from launcher.cli.json_output import print_json
from launcher.cli.verbosity import tell
from launcher.errors import LauncherError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.cli.views.graph_view import GraphNode
    from launcher.monitor.status import RunStatus
    from launcher.pipeline.record import Pipeline
    from launcher.pipeline.states import StageState
    from launcher.recipe.sections.search import Search


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
    if output is not None and not output.parent.is_dir():
        raise LauncherError(f"--output {output}: there is no folder `{output.parent}`; make it, or write another path")
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
    tell(f"{output}: {len(nodes)} stages")
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
    from collections import Counter

    from launcher.cli.views.graph_view import GraphNode
    from launcher.cli.views.pipeline_view import by_stage
    from launcher.load import load_cluster
    from launcher.load.pipeline import load_pipeline
    from launcher.pipeline.find import require_pipeline
    from launcher.pipeline.order import sort_loaded
    from launcher.pipeline.states import is_over, read_stages

    if pipeline.endswith((".yaml", ".yml")):
        loaded = load_pipeline(Path(pipeline))
        kinds = {stage.sweep or stage.name: stage.loaded.recipe.kind for stage in loaded.stages}
        points = Counter(stage.sweep for stage in loaded.stages if stage.sweep)
        searches = {stage.name: stage.loaded.recipe.search for stage in loaded.stages}
        order = sort_loaded(loaded).items()
        return [
            GraphNode(name, kinds[name], tuple(sorted(awaits)), detail=_size(points[name], searches.get(name)))
            for name, awaits in order
        ], True
    profile = load_cluster(cluster)
    found = require_pipeline(profile, pipeline)
    states, _ = read_stages(found, profile)
    return [_node(found, name, its, states) for name, its in by_stage(states).items()], is_over(states)


def _size(points: int, search: "Search | None") -> str:
    return f"{search.budget} trials" if search else f"{points} points" if points else ""


def _node(
    pipeline: "Pipeline", name: str, its: "Sequence[StageState]", states: "Mapping[str, StageState]"
) -> "GraphNode":
    from launcher.cli.views.graph_view import GraphNode
    from launcher.cli.views.pipeline_view import sweep_state

    written = {one.stage.name: one.stage.sweep or one.stage.name for one in states.values()}
    awaits = dict.fromkeys(written[each] for one in its for each in one.stage.awaits)
    before = tuple(one for one in awaits if one != name)
    points = [one for one in its if one.stage.sweep]
    if points:
        state = sweep_state(points, next((one for one in its if one.stage.select), None), states)
        kind = next((point.status.kind for point in points if point.status), "")
        return GraphNode(name, kind, before, state, _sweep_detail(points), "")
    [one] = its
    if one.status is None:
        return GraphNode(name, "", before, "removed")
    detail = f"{one.status.step} of {one.status.total_steps} trials" if one.search else _detail(pipeline, one.status)
    return GraphNode(name, one.status.kind, before, one.status.state, detail, one.status.id)


def _sweep_detail(points: "Sequence[StageState]") -> str:
    return f"{sum(point.is_finished for point in points)} of {len(points)} points finished"


def _detail(pipeline: "Pipeline", status: "RunStatus") -> str:
    """Say how long a stage took, or that it is used again."""
    import time

    from launcher.cli.views.wording import duration
    from launcher.monitor.status import attempts_with_ends
    from launcher.run.paths import RunDir
    from launcher.run.record import RunRecord

    attempts = attempts_with_ends(status)
    run = RunDir(Path(status.folder))
    taken = sum((time.time() if each.ended is None else each.ended) - each.started for each in attempts)
    its_own = RunRecord.read(run.record).pipeline == str(pipeline.folder.root)
    if status.state == "finished" and not its_own:
        return "finished before"
    if len(attempts) > 1:
        return f"{duration(taken)}, {len(attempts)} attempts"
    return duration(taken) if attempts else ""
