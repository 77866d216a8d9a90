"""Names in a recipe that can be looked up here: layers of the model, columns of tables. Reads heads of files only."""

import csv
import glob
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from launcher.errors import Fault
from launcher.plan.model_shape import model_config, read_json
from launcher.plan.module_names import MADE_ON_THE_NODE, ModelModules, find_modules
from launcher.plan.recipe_at_site import RecipeAtSite
from launcher.recipe.base import TableInput

_BLOCK, _LONGEST_HEADER = 2**12, 2**16
"""Bytes that are read of a table at once, and those in which its first row must end."""


def check_targets(here: RecipeAtSite) -> Iterator[Fault]:
    """Look for the layers that an adapter is to change, if the model is here."""
    recipe = here.recipe
    if not recipe.trains or recipe.adapter is None or recipe.model.path in here.pending:
        return
    config = model_config(recipe, here)
    modules = here.site.once(_find_modules, here.model(recipe.model.path)) if config else None
    if modules:
        from launcher.recipe.names import target_faults

        names = modules.names | MADE_ON_THE_NODE
        for key, message in target_faults(recipe.adapter, names, modules.layers):
            yield here.fault("unknown-name", key, message)


def check_columns(here: RecipeAtSite) -> Iterator[Fault]:
    """Look for the columns that a recipe names in the first rows of its tables."""
    told = set[str]()
    for one in here.inputs("files"):
        if not isinstance(one, TableInput):
            continue
        from launcher.recipe.names import column_faults

        for path in here.site.once(_find_files, here.files(one.name)):
            header = here.site.once(read_header, Path(path))
            faults = column_faults(path, one.columns, header, here.recipe.data_use, one.fix) if header else ()
            for key, message in faults:
                if key not in told:  # a table in several files has one header
                    told.add(key)
                    yield here.fault("unknown-name", key, message)


def _find_modules(folder: Path) -> ModelModules | None:
    return find_modules(folder, read_json(folder / "config.json") or {})


def _find_files(pattern: str) -> list[str]:
    return sorted(glob.iglob(pattern, recursive=True))


def read_header(path: Path) -> list[str]:
    """Read the names of a CSV file's columns, without the rest of it; none if only the node can tell them."""
    if path.suffix not in (".csv", ".gz"):
        return []
    try:
        with path.open("rb", buffering=_BLOCK) as file:
            text = _first_line(gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file).decode("utf-8-sig")
        return [name.strip() for name in next(csv.reader([text], strict=True), [])]
    except (OSError, EOFError, zlib.error, UnicodeError, csv.Error):
        return []


def _first_line(file: IO[bytes] | gzip.GzipFile) -> bytes:
    line = file.readline(_LONGEST_HEADER)
    return line if line.endswith(b"\n") else b""
