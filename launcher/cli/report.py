"""`launcher report`: what runs did, how well, where their time went and what it cost, as a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, JsonOption, WhereOption
from launcher.cli.json_output import print_json
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.cluster import Cluster
    from launcher.monitor.run_report import NamedRun, RunReport


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|SWEEP|PIPELINE...",
            help="Runs: ids, recipe names (the newest run), run directories; sweeps and pipelines: all of their runs.",
        ),
    ],
    *,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE.html", help="Where to write the page; `report-NAME.html` by default."),
    ] = None,
    where: WhereOption = None,
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a page about runs: curves, attempts, goodput, cost, recipe. Several runs are drawn over one another.

    The page is one file that loads nothing from elsewhere. With --json, its numbers are printed instead, or besides.
    """
    from launcher.load import load_cluster
    from launcher.monitor.run_report import read_reports, with_shares

    profile = load_cluster(cluster)
    path = _checked(html) if html is not None else None
    chosen = [one for text in runs for one in _find(profile, text, where or ())]
    reports, notes = read_reports(profile, with_shares(chosen))
    if path is not None or not as_json:
        _write(path or _free_name(runs), runs, reports, notes)
    if as_json:
        from launcher.cli.views.report_wording import as_plain

        print_json({"runs": [as_plain(one) for one in reports], "notes": notes})


def _find(profile: "Cluster", text: str, where: "Sequence[str]") -> "list[NamedRun]":
    """Find the runs that a user names: those of a sweep, of a pipeline, or one."""
    from launcher.cli.arguments import refuse_where
    from launcher.load.sweep_points import shorten_keys
    from launcher.monitor.find import find_run, run_id
    from launcher.monitor.run_report import NamedRun
    from launcher.monitor.sweep import find_sweep, folders_of, select
    from launcher.pipeline.find import find_pipeline
    from launcher.run.record import RunRecord

    if points := find_sweep(profile, text):
        points = select(points, where)
        short = shorten_keys([*dict.fromkeys(key for point in points for key in point.values)])
        labels = [", ".join(f"{short[key]} {value}" for key, value in point.values.items()) for point in points]
        return [NamedRun(run, label) for run, label in zip(folders_of(profile, points), labels, strict=True)]
    refuse_where(list(where))
    if pipeline := find_pipeline(profile, text):
        return [NamedRun(run, stage) for stage, run in pipeline.runs().items()]
    run = find_run(profile, text)
    return [NamedRun(run, f"{RunRecord.read(run.record).name} {run_id(run)}")]


def _checked(path: Path) -> Path:
    from launcher.errors import LauncherError

    if path.suffix != ".html" or path.is_dir():
        raise LauncherError(f"--html {path}: write the path of a file that ends in `.html`")
    if not path.parent.is_dir():
        raise LauncherError(f"--html {path}: there is no folder `{path.parent}`; make it, or write another path")
    return path


def _free_name(runs: "Sequence[str]") -> Path:
    import re

    return Path(f"report-{re.sub(r'[^A-Za-z0-9._-]+', '-', '-'.join(runs))[:80].strip('-')}.html")


def _write(path: Path, runs: "Sequence[str]", reports: "Sequence[RunReport]", notes: "Sequence[str]") -> None:
    from launcher.cli.views.report_page import page
    from launcher.run.files import replace_text

    title = f"Report of {reports[0].label if len(reports) == 1 else ', '.join(runs)}"
    if any(one.is_credentialed for one in reports):
        path.touch()
        path.chmod(0o600)
        path.write_text(page(title, reports, notes), encoding="utf-8")
    else:
        replace_text(path, page(title, reports, notes))
    tell(f"written: {path}")
