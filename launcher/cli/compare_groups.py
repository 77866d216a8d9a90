"""`launcher compare --group`: means over seeds, in all forms that scores of single models have."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from launcher.cli.html_file import write_html
from launcher.cli.json_output import print_json
from launcher.cli.views.seeds_formats import group_rows, groups_as_latex, groups_as_plain
from launcher.scores.scored_model import ScoredModel
from launcher.scores.seeds import compare_groups, group_models


def show_groups(
    models: Sequence[ScoredModel], baseline: ScoredModel, metrics: Sequence[str], shape: str, html: Path | None
) -> None:
    """Group models by their trainings, and print what their means are.

    Args:
        models: All of them.
        baseline: One of the group that the others are compared with.
        metrics: What the user asks for.
        shape: `table`, `json`, `csv` or `latex`.
        html: Also write a page to this file.
    """
    found = compare_groups(group_models(models), baseline, metrics)
    if html is not None:
        from launcher.cli.views.seeds_page import page_of_groups

        write_html(html, page_of_groups(found), found.models)
    if shape == "json":
        print_json(groups_as_plain(found), "groups")
    elif shape == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows(group_rows(found))
    elif shape == "latex":
        typer.echo(groups_as_latex(found))
    else:
        from launcher.cli.views.seeds_view import print_groups

        print_groups(found)
