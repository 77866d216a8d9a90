"""`launcher nodes`: the nodes that gave trouble, which new jobs are not given."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, JsonOption
from launcher.cli.json_output import print_json

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.run.suspects import SuspectNode, Trouble

app = typer.Typer(help="Nodes that gave trouble, which new jobs are not given.")

NodesArgument = Annotated[list[str], typer.Argument(metavar="NODE", help="Names as Slurm has them.")]


@app.command(name="list")
def list_suspects(cluster: ClusterOption = None, as_json: JsonOption = False) -> None:
    """List the nodes that failed the preflight check, hung or were slow lately, and until when they are avoided."""
    from launcher.load import load_cluster
    from launcher.site.suspect_nodes import known_suspects

    profile = load_cluster(cluster)
    found = known_suspects(profile)
    if as_json:
        print_json({"nodes": [asdict(one) for one in found]})
        return
    if not found:
        typer.echo(_nothing(profile))
    for one in found:
        _show(one)


@app.command()
def forgive(names: NodesArgument, cluster: ClusterOption = None) -> None:
    """Forget what was reported of nodes: after a repair, or when it was not their fault."""
    from launcher.errors import RunError
    from launcher.site.suspect_nodes import known_suspects

    profile = _remembering(cluster, names)
    reported = [one.node for one in known_suspects(profile)]
    if unknown := [name for name in names if name not in reported]:
        listed = f"; there are reports of {', '.join(f'`{name}`' for name in reported)}" if reported else ""
        raise RunError(f"`{unknown[0]}`: nothing was reported of it lately{listed or ', nor of any other node'}")
    _report(names, "forgiven", "", profile)
    typer.echo(f"{', '.join(names)}: forgiven; new jobs may get {'it' if len(names) == 1 else 'them'} again")


@app.command()
def add(
    names: NodesArgument,
    reason: Annotated[str, typer.Option("--reason", help="What is wrong; everybody who uses the site's runs sees it.")],
    cluster: ClusterOption = None,
) -> None:
    """Have new jobs avoid nodes, until the report expires or somebody forgives them."""
    from launcher.errors import RunError

    profile = _remembering(cluster, names)
    if not reason.strip():
        raise RunError("--reason: is empty; say what is wrong, for those who wonder why their jobs do not get the node")
    _report(names, "added by hand", reason, profile)
    typer.echo(f"{', '.join(names)}: new jobs avoid {'it' if len(names) == 1 else 'them'} for {profile.slurm.remember}")


def _remembering(cluster: str | None, names: list[str]) -> "Cluster":
    """Load the profile of a site that remembers nodes.

    Raises:
        RunError: It remembers nothing, or what is named is no node.
    """
    from launcher.errors import RunError
    from launcher.load import load_cluster
    from launcher.run.suspects import is_node_name

    profile = load_cluster(cluster)
    if profile.slurm.remember is None:
        raise RunError(f"cluster profile `{profile.name}` says `slurm.remember: null`; give it a duration such as `7d`")
    for name in names:
        if not is_node_name(name):
            raise RunError(f"`{name}` is not the name of one node; write each of them, such as `gpu03 gpu04`")
    return profile


def _report(names: list[str], trouble: "Trouble", note: str, profile: "Cluster") -> None:
    from launcher.run.paths import expand
    from launcher.run.suspects import NodeReport, report_node

    runs = expand(profile.roots.runs)
    runs.mkdir(parents=True, exist_ok=True)
    for name in names:
        report_node(runs, NodeReport(name, trouble, time.time(), note=note))


def _show(one: "SuspectNode") -> None:
    from launcher.cli.views.wording import clock

    until = f"until {clock(one.until)}"
    typer.echo(f"{one.node}  {f'avoided {until}' if one.is_avoided else f'remembered {until}, not avoided yet'}")
    for report in one.reports:
        typer.echo(f"  {clock(report.time)}  {report}")


def _nothing(profile: "Cluster") -> str:
    if profile.slurm.remember is None:
        return f"cluster profile `{profile.name}` says `slurm.remember: null`, so nothing is remembered"
    return f"no node gave trouble in the last {profile.slurm.remember}"
