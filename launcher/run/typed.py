"""Values that a file of a run holds, checked against the fields that they go into. Standard library only.

Disks fail and people edit files. A value of another type is found where it is read, with the name of its file, and not
by whatever computes with it later.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Made = TypeVar("Made")

LARGEST = 1e15
"""Beyond every count of bytes, steps or seconds there is; what is larger cannot be turned into a date or a size."""


class DamagedFileError(ValueError):
    """A file of a run holds something that it cannot hold; the message names it."""


def known_fields(of: type, found: Any, path: Path) -> dict[str, Any]:
    """Return what a JSON object says of the fields of a dataclass; what a newer launcher has added is left out.

    Args:
        of: The dataclass.
        found: What was read.
        path: Where from, for the message.

    Raises:
        DamagedFileError: It is no object, or a value has another type than its field.
    """
    if not isinstance(found, Mapping):
        raise DamagedFileError(f"{path}: holds no JSON object")
    hints = hints_of(of)
    for key, value in found.items():
        if key in hints and not fits(hints[key], value):
            raise DamagedFileError(f"{path}: `{key}` cannot be {str(value)[:80]!r}")
    return {key: value for key, value in found.items() if key in hints}


def made_of(of: type[Made], found: Any, path: Path, **given: Any) -> Made:
    """Make a dataclass of a JSON object.

    Args:
        of: The dataclass.
        found: What was read.
        path: Where from, for the message.
        **given: Fields to take instead.

    Raises:
        DamagedFileError: As `known_fields`, or a field is missing.
    """
    values = known_fields(of, found, path) | given
    plain: type = of
    needed = [one.name for one in fields(plain) if one.default is MISSING and one.default_factory is MISSING]
    if lacking := [name for name in needed if name not in values]:
        raise DamagedFileError(f"{path}: lacks `{lacking[0]}`")
    return of(**values)


def read_object(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DamagedFileError: It is not JSON.
        OSError: It cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path}: is not JSON ({error})") from None


def read_resolved(path: Path) -> dict[str, Any]:
    """Read recipe.json; nothing if there is none.

    Raises:
        DamagedFileError: It holds no JSON object.
        OSError: It cannot be read.
    """
    found = read_object(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise DamagedFileError(f"{path}: holds no JSON object")
    return found


def last_object(said: str) -> dict[str, Any]:
    """Read the last line that is a JSON object; a program of the site may print others before and behind it.

    Raises:
        ValueError: There is none.
    """
    for line in reversed(said.split("\n")):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    raise ValueError("no line is a JSON object")


@cache
def hints_of(of: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields."""
    hints = get_type_hints(of)
    return {one.name: hints[one.name] for one in fields(of)}


def fits(hint: Any, value: Any) -> bool:
    """Tell whether a value read from JSON has a type; numbers have to be finite, and dataclasses to be objects."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(one, value) for one in inner)
    if origin is Literal:
        return value in inner
    if origin in (list, tuple, Sequence):
        return isinstance(value, list) and all(fits(inner[0], one) for one in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict)
    return hint is Any or _is_plain(hint, value)


def _is_plain(hint: Any, value: Any) -> bool:
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint in (int, float):
        kinds = (int, float) if hint is float else int
        return isinstance(value, kinds) and abs(value) < LARGEST  # false for NaN
    if hint is type(None):
        return value is None
    return isinstance(value, str if hint is str else dict)
