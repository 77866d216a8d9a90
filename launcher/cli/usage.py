"""`launcher usage`: what all runs used, by recipe, by state and by what it was spent on."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.cli.arguments import ClusterOption, JsonOption
from launcher.cli.json_output import print_json

if TYPE_CHECKING:
    from launcher.monitor.usage import UsageTotal


def usage(
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Only what was used in this time until now: `7d`, `12h`."),
    ] = None,
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sum up GPU-hours of all runs: by recipe, by state, and how much of them was useful.

    Run directories are read, and Slurm is not asked: a running attempt counts up to its last sign of life.
    """
    from launcher.load import load_cluster
    from launcher.monitor.usage import measure_usage

    profile = load_cluster(cluster)
    begin = time.time() - _seconds(since) if since is not None else 0.0
    found = measure_usage(profile, begin)
    if as_json:
        groups = {"recipes": found.recipes, "states": found.states}
        plain: dict[str, Any] = {name: [_as_plain(one) for one in some] for name, some in groups.items()}
        print_json({"since": begin, "total": _as_plain(found.total), **plain, "notes": found.notes})
        return
    from launcher.cli.views.usage_view import usage_lines

    typer.echo("\n".join([*usage_lines(found, profile.roots.runs, since), *(f"note: {one}" for one in found.notes)]))


def _seconds(text: str) -> float:
    from launcher.errors import LauncherError
    from launcher.recipe.quantities import Duration

    try:
        return Duration(text).seconds
    except ValueError as error:
        raise LauncherError(f"--since {text}: {error}") from None


def _as_plain(total: "UsageTotal") -> dict[str, Any]:
    return {**asdict(total), "all_gpu_hours": total.all_gpu_hours, "useful_share": total.useful_share}
