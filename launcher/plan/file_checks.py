"""Whether the files that a recipe reads are there, and whether the tables that it makes are."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from launcher.artifacts.data_use import find_credentialed
from launcher.errors import Fault, FaultCode, LauncherError
from launcher.plan.recipe_at_site import RecipeAtSite
from launcher.recipe.base import Input
from launcher.run.files import closed_folder

if TYPE_CHECKING:
    from launcher.recipe import OutcomesRecipe


def check_files(here: RecipeAtSite) -> Iterator[Fault]:
    """Name the patterns that no file matches, but for those in a folder that will be there."""
    pending = {one.name.rstrip("/") for one in here.inputs("tables") if one.name.rstrip("/") in here.pending}
    for one in here.inputs("files"):
        if one.name.rpartition("/")[0] in pending:
            continue
        pattern = here.files(one.name)
        found = here.site.once(_first_file, pattern)
        if found is None:
            is_beside = one.name.startswith(("./", "../"))
            path = (Path(here.folder) if is_beside else here.root(here.cluster.roots.data)) / one.name
            code, hint = _hint(one, path)
            yield here.fault(code, one.key, f"no file matches `{path}`; {hint}")
        yield from _data_use_faults(here, one, found or pattern)
    for one in here.recipe.optional_inputs():
        if one.type == "files" and (found := here.site.once(_first_file, here.files(one.name))):
            yield from _data_use_faults(here, one, found)


def _data_use_faults(here: RecipeAtSite, one: Input, file: str) -> Iterator[Fault]:
    """Refuse a file of credentialed data in an open recipe, also one that a run has not made yet."""
    if here.recipe.data_use == "open" and (found := here.site.once(_find_record, file)):
        message = f"`{one.name}` was made of credentialed data, as `{found}` says; write `data_use: credentialed`"
        yield here.fault("data-use", one.key, message)


def _find_record(file: str) -> Path | None:
    found = find_credentialed([Path(file)])
    return found and found[1]


def _first_file(pattern: str) -> str | None:
    return next(filter(os.path.isfile, glob.iglob(pattern, recursive=True)), None)


def _hint(one: Input, path: Path) -> tuple[FaultCode, str]:
    """Say what may be meant by a pattern that matches nothing."""
    if closed := closed_folder(path):
        return "no-permission", f"permission denied for `{closed}`: ask its owner for access, or check the pattern"
    if "{" in one.name and "}" in one.name:
        return "not-found", "patterns have no `{}`: write a source for each"
    if os.path.isdir(path):
        inside = "**/data-*.arrow" if one.format == "dataset" else "*"
        return "not-found", f"write `{one.name.rstrip('/')}/{inside}` for the files in that folder"
    return "not-found", "check the pattern"


def check_tables_name(here: RecipeAtSite) -> Iterator[Fault]:
    """Compare outcome tables of the name that is to be made with the recipe."""
    made = here.recipe.makes
    if made is None or made.type != "tables":
        return
    folder = here.made(made)
    if not os.path.isdir(folder):
        return
    from launcher.artifacts.outcomes_manifest import decisive_settings, read_outcomes

    name, fix = f"`{made.name}` exists already", f"write another name, or remove `{folder}`"
    try:
        there = read_outcomes(folder).settings
    except PermissionError:
        yield here.fault("no-permission", "output", f"{name}: permission denied for `{folder}`; write another name")
    except LauncherError:
        yield here.fault("name-taken", "output", f"{name}, but does not hold complete outcome tables; {fix}")
    else:
        wanted = decisive_settings(cast("OutcomesRecipe", here.recipe))
        if differing := [key for key in wanted if there.get(key) != wanted[key]]:
            keys = ", ".join(f"`{key}`" for key in differing)
            yield here.fault("name-taken", "output", f"{name}, made with other settings ({keys}); {fix}")
