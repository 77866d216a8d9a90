"""`launcher compare`: scores of models side by side, with what is known of their differences."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, JsonOption
from launcher.cli.completion import complete_recipes_and_runs
from launcher.cli.json_output import print_json

if TYPE_CHECKING:
    from launcher.scores.comparison import Comparison
    from launcher.scores.published import PublishedTable


def compare(
    evaluations: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|FILE",
            autocompletion=complete_recipes_and_runs,
            help="Runs of `kind: evaluate`: ids, recipe names, run directories; or a `scores.json` or its folder.",
        ),
    ],
    *,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What the others are compared with; the first one by default."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Show this metric instead of each task's headline; `all`; repeatable."),
    ] = None,
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: a row for each score.")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table: models by tasks.")] = False,
    group: Annotated[
        bool, typer.Option("--group", help="Group models that differ in the seed of their training only.")
    ] = False,
    published: Annotated[
        str | None,
        typer.Option(
            metavar="SYSTEM", help="Also show what a published system reports: `biomed_llama`, `medcare`, ..."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE.html", help="Also write a page with scores and intervals."),
    ] = None,
) -> None:
    """Compare scores of models item by item: paired differences, their standard errors, and which are significant.

    Scores of other items or other prompts are refused. With one RUN, its scores are shown. With --group, means over
    seeds are compared. Of a sweep, the mean and the standard deviation over seeds are shown; of a pipeline, the scores
    of its stages and what its authors report.
    """
    from launcher.scores.comparison import compare as compare_models
    from launcher.scores.published import read_published
    from launcher.scores.scored_model import choose_baseline, open_models

    _check_formats(as_json + as_csv + as_latex, group, published, as_csv or as_latex)
    others = [name for name, is_asked in (("--csv", as_csv), ("--latex", as_latex), ("--html", html)) if is_asked]
    one = evaluations[0] if len(evaluations) == 1 else ""
    if one and _compare_one(one, metric, cluster, published, as_json=as_json, group=group, others=others):
        return
    quoted = read_published(published) if published is not None else None
    models = open_models(_places(evaluations, cluster))
    if group:
        from launcher.cli.compare_groups import show_groups

        shape = "json" if as_json else "csv" if as_csv else "latex" if as_latex else "table"
        show_groups(models, choose_baseline(models, baseline), metric or (), shape, html)
        return
    found = compare_models(models, choose_baseline(models, baseline), metric or ())
    if html is not None:
        from launcher.cli.html_file import write_html
        from launcher.cli.views.compare_page import page

        write_html(html, page(found), models)
    if as_json:
        _print_json(found, quoted)
    elif as_csv or as_latex:
        _print_for_papers(found, as_latex)
    else:
        _print_table(found, quoted)


def _check_formats(formats: int, group: bool, published: str | None, is_bare: bool) -> None:
    from launcher.errors import LauncherError

    if formats > 1:
        raise LauncherError("--json, --csv, --latex: each prints something else; write one of them")
    if published is not None and (group or is_bare):
        raise LauncherError("--published: goes with the table and --json; leave --csv, --latex and --group out")


def _print_json(found: "Comparison", quoted: "PublishedTable | None") -> None:
    from launcher.cli.views.compare_formats import as_plain

    print_json({**as_plain(found), "published": quoted and asdict(quoted)}, "models")


def _print_for_papers(found: "Comparison", as_latex: bool) -> None:
    from launcher.cli.views.compare_formats import csv_rows, latex_table

    if as_latex:
        typer.echo(latex_table(found))
    else:
        csv.writer(sys.stdout, lineterminator="\n").writerows(csv_rows(found))


def _print_table(found: "Comparison", quoted: "PublishedTable | None") -> None:
    from launcher.cli.views.compare_view import print_comparison
    from launcher.cli.views.published_view import print_published

    print_comparison(found)
    if quoted is not None:
        print_published(quoted)


def _compare_one(
    name: str,
    metrics: list[str] | None,
    cluster: str | None,
    published: str | None,
    *,
    as_json: bool,
    group: bool,
    others: Sequence[str],
) -> bool:
    """Show a pipeline or a sweep; False if the name is that of neither."""
    from launcher.artifacts.scores import find_scores
    from launcher.run.home import expand_home

    if "/" in name or not name.strip() or find_scores(expand_home(name).absolute()):
        return False
    from launcher.cli.compare_pipeline import compare_pipeline

    if compare_pipeline(name, cluster, published, as_json, others):
        return True
    return not group and _compare_sweep(name, metrics, cluster, as_json, others)


def _compare_sweep(
    name: str, metrics: list[str] | None, cluster: str | None, as_json: bool, others: Sequence[str]
) -> bool:
    """Print means over seeds of a sweep; False if there is no such sweep."""
    from launcher.cli.compare_pipeline import refuse_other_forms
    from launcher.cli.views.sweep_view import group_lines
    from launcher.load import load_cluster
    from launcher.monitor.sweep import find_sweep, group_seeds, read_sweep

    profile = load_cluster(cluster)
    points = find_sweep(profile, name)
    if not points:
        return False
    refuse_other_forms(f"`{name}` is a sweep", others)
    wanted: Sequence[str | None] = metrics or [None]
    found = [read_sweep(profile, name, points, metric) for metric in wanted]
    if as_json:
        means = [{"metric": one.metric, "groups": [asdict(group) for group in group_seeds(one)]} for one in found]
        print_json({"sweep": name, "metrics": means}, "sweep")
    else:
        typer.echo("\n\n".join("\n".join(group_lines(one, group_seeds(one))) for one in found))
    return True


def _places(texts: list[str], cluster: str | None) -> list[tuple[str, Path]]:
    """Find the folders that a user names; all that cannot be found are reported at once."""
    from launcher.errors import LauncherError
    from launcher.run.home import NoHomeError

    found, errors = [], []
    for text in texts:
        try:
            found.append((text, _place(text, cluster)))
        except (LauncherError, NoHomeError) as error:
            errors.append(str(error))
    if errors:
        raise LauncherError("\n".join(dict.fromkeys(errors)))
    return found


def _place(text: str, cluster: str | None) -> Path:
    """Return the folder of a run's scores, or the path that the text is."""
    from launcher.artifacts.scores import find_scores
    from launcher.errors import RunError
    from launcher.run.home import expand_home

    if not text.strip():  # else it would be this folder
        raise RunError(f"`{text}`: is empty; name a run of `kind: evaluate`; `launcher status` lists the runs")
    path = expand_home(text).absolute()
    if "/" in text or find_scores(path):
        return path
    from launcher.load import load_cluster
    from launcher.monitor.find import find_run
    from launcher.run.record import RunRecord

    run = find_run(load_cluster(cluster), text)
    if find_scores(run.outputs) is None:
        kind, fix = RunRecord.read(run.record).kind, "name a finished run of `kind: evaluate`"
        raise RunError(f"`{text}`: is a run of `kind: {kind}` without scores; {fix}; `launcher status` lists the runs")
    return run.outputs
