"""`launcher doctor`: what a site will do with runs, before the first one is submitted."""

from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, JsonOption
from launcher.cli.json_output import print_json
from launcher.cli.shipped import SHIPPED
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.doctor import Examination


def doctor(
    *,
    cluster: ClusterOption = None,
    submit: Annotated[
        bool,
        typer.Option("--submit", help="Queue a small job that measures the site and is stopped once; wait for it."),
    ] = False,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes of that job.")] = 2,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="With --submit: only small files and messages, on CPUs as well.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what the site will do with runs: stop requests, preemption, limits, folders; exit 1 if something is wrong.

    Asks Slurm and looks at this machine; nothing is queued or changed, except with `--submit`.
    """
    from launcher.doctor import examine
    from launcher.load import load_cluster

    profile = load_cluster(cluster)
    found = _check(profile, nodes, rehearse) if submit else examine(profile)
    if as_json:
        _print_json(found)
    else:
        _print_table(found)
    raise typer.Exit(1 if found.problems else 0)


def _check(cluster: "Cluster", nodes: int, rehearse: bool) -> "Examination":
    from launcher.doctor import Examination
    from launcher.doctor.site_check import site_check_findings
    from launcher.operate.site_check import check_site
    from launcher.site.partitions import ask_site

    check = check_site(SHIPPED / "site_check.yaml", cluster, nodes, rehearse, tell)
    return Examination(cluster.name, ask_site(cluster).version, tuple(site_check_findings(check)))


def _print_json(found: "Examination") -> None:
    from dataclasses import asdict

    preemptions = [{**asdict(one), "seconds_to_save": one.seconds_to_save} for one in found.preemptions]
    report = {**asdict(found), "preemptions": preemptions, "problems": found.problems}
    print_json(report)


def _print_table(found: "Examination") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colors = {"ok": "green", "note": "yellow", "problem": "bold red"}
    out = Console(highlight=False)
    where = f"Slurm {found.slurm}" if found.slurm else "no Slurm"
    out.print(f"[bold]{found.cluster}[/], {where}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in found.findings:
        fix = Text(f"\n-> {one.fix}", style="" if one.level == "problem" else "dim") if one.fix else Text()
        table.add_row(Text(one.level, style=colors[one.level]), Text(one.topic), Text(one.what) + fix)
    out.print(table)
    out.print(_summary(found))


def _summary(found: "Examination") -> str:
    notes = sum(one.level == "note" for one in found.findings)
    counts = [
        f"{number} {noun}{'s' * (number != 1)}" for number, noun in ((found.problems, "problem"), (notes, "note"))
    ]
    return ", ".join(counts)
