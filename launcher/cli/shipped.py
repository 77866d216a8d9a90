"""`launcher recipes`: the recipes that are shipped, and a copy of them to change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import JsonOption
from launcher.cli.json_output import print_json

SHIPPED = Path(__file__).parents[1] / "recipes"
"""A link in a checkout."""


def recipes(
    copy: Annotated[
        Path | None,
        typer.Option("--copy", metavar="FOLDER", help="Copy all of them into this new folder.", file_okay=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the recipes that are shipped, with the published values of five systems; `--copy recipes` to use them."""
    from rich.console import Console
    from rich.table import Table

    if copy:
        _copy(copy)
        return
    files = sorted((*SHIPPED.glob("*.yaml"), *SHIPPED.glob("pipelines/*.yaml")))
    listed = [recipe for file in files for recipe in _describe(file)]
    if as_json:
        print_json({"recipes": listed})
    else:
        table = Table(box=None, pad_edge=False)
        for header in ("recipe", "kind", "what it does"):
            table.add_column(header, overflow="fold")
        for one in listed:
            table.add_row(*one.values())
        Console().print(table)


def _copy(folder: Path) -> None:
    """Copy recipes, profiles and the small data of rehearsals.

    Raises:
        LauncherError: There is such a folder already.
    """
    import shutil

    from launcher.errors import LauncherError

    if folder.exists():
        raise LauncherError(f"--copy {folder}: exists already; name a new folder, so that nothing of yours is replaced")
    shutil.copytree(SHIPPED, folder)
    typer.echo(
        f"{folder}: {len([*folder.glob('**/*.yaml')])} files of recipes and profiles; next:\n"
        f"  launcher validate {folder}/biomed_llama_cpt.yaml --rehearse"
    )


def _describe(path: Path) -> Iterator[dict[str, str]]:
    """Say what each recipe of a file is; what it leaves out stands in its `base`."""
    import yaml

    for node in yaml.compose_all(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
        # Not constructed: values below may have tags of recipes (`!replace`).
        found = {key.value: value.value for key, value in node.value if isinstance(value, yaml.ScalarNode)}
        below = next(_describe(path.parent / found["base"])) if "base" in found else {}
        said = {key: found.get(key) or below.get(key, "") for key in ("kind", "description")}
        yield {"recipe": path.relative_to(SHIPPED).as_posix()} | said
