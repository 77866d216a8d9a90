"""Ids of items: unique in a task, since scores of two models are compared item by item."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError


def with_folders(names: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Return ids that tell files of one name apart: `FILE:LINE` becomes `FOLDER/FILE:LINE` where that is needed.

    Args:
        names: The ids as readers make them: of the record, or the file's name and a line.
        paths: The file of each. Folders are named from the innermost on that holds all of them.
    """
    if len({*names}) == len(names):
        return [*names]
    common = os.path.commonpath([path.parent for path in {*paths}])
    places = {path: path.relative_to(common).as_posix() for path in {*paths}}
    return [
        places[path] + name.removeprefix(path.name) if name.startswith(f"{path.name}:") else name
        for name, path in zip(names, paths, strict=True)
    ]


def numbered(names: Sequence[str]) -> list[str]:
    """Return unique ids: the second item that is called `x` becomes `x#2`, or `x#3` if that is the id of another."""
    taken, seen = {*names}, Counter[str]()
    found = []
    for name in names:
        one, seen[name] = name, seen[name] + 1
        while seen[name] > 1 and (one := f"{name}#{seen[name]}") in taken:
            seen[name] += 1
        taken.add(one)
        found.append(one)
    return found


def text_or_nothing(value: Any) -> str:
    """Return a value of a record as a text, and an empty one for null, for no number (NaN), and for white space."""
    is_nothing = value is None or (isinstance(value, float) and math.isnan(value))
    text = "" if is_nothing else str(value)
    return text if text.strip() else ""


def check_ids(names: Sequence[str], key: str) -> None:
    """Refuse ids that occur twice.

    Args:
        names: The ids.
        key: Of the files in the recipe, for messages.

    Raises:
        LauncherError: says how many do, and the first of them.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise LauncherError(f"{key}: {len(twice):,} ids occur more than once, first `{twice[0]}`; make them unique")
