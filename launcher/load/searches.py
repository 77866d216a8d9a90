"""From a recipe with a `search` to recipes at the corners of its space, so that all is checked before it is queued."""

import itertools
from collections.abc import Iterator, Mapping

from launcher.errors import Fault
from launcher.load.compose import Composer
from launcher.load.sweep_points import Assignment, Point, describe, overrides_of
from launcher.load.translate import fault_at, validate
from launcher.load.yaml_tree import YamlNode
from launcher.recipe.sections.search import Search

_FIXED: Mapping[str, str] = {
    **dict.fromkeys(("base", "kind", "name", "rehearsal", "sweep", "search"), "has one value in a recipe"),
    "output": "names what the best trial makes",
    **dict.fromkeys(("resources", "data_use", "secrets"), "is the same for all trials, which share their jobs"),
}
"""Keys that cannot be searched, and why."""


def why_fixed(key: str) -> str | None:
    """Say why a key cannot be searched; None if it can."""
    return _FIXED.get(key.partition(".")[0])


def corners(composer: Composer, root: YamlNode) -> list[tuple[YamlNode, Point | None]]:
    """Give recipes with the first value of each key, and with each other choice or end of a range in turn.

    Args:
        composer: Takes the faults.
        root: A recipe with a `search`; it stays in each of them.
    """
    assert isinstance(root.value, dict)
    written = root.value["search"]
    search = validate(Search, written)
    if isinstance(search, list):  # the recipe's own faults name them
        return [(root, None)]
    if faults := [*_find_faults(root, search)]:
        composer.faults += faults
        return []
    name = root.value.get("name")
    label = str(name.value) if name else ""
    return [
        (composer.set_all(root, overrides_of(point)), describe(label, point)[0]) for point in _points(search, written)
    ]


def _points(search: Search, written: YamlNode) -> Iterator[Assignment]:
    assert isinstance(written.value, dict)
    if search.sweep is not None:  # W&B has the space
        yield {}
        return
    space = written.value["space"].value
    assert isinstance(space, dict)
    ends = {key: _ends(space[key]) for key in search.space}
    if search.method == "grid":
        yield from (dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values()))
        return
    first = {key: values[0] for key, values in ends.items()}
    yield first
    for key, (_, *others) in ends.items():
        for other in others:
            yield first | {key: other}


def _ends(written: YamlNode) -> list[YamlNode]:
    """The choices, or the two ends of a range."""
    if isinstance(written.value, list):
        return written.value
    assert isinstance(written.value, dict)
    choices = written.value.get("of")
    if choices is not None and isinstance(choices.value, list):
        return choices.value
    return [written.value["low"], written.value["high"]]


def _find_faults(root: YamlNode, search: Search) -> Iterator[Fault]:
    assert isinstance(root.value, dict)
    sweep = root.value.get("sweep")
    if sweep is not None and sweep.value is not None:
        yield fault_at(root, ("sweep",), "does not go with a `search`; remove one of them", "conflict")
    for key in search.space:
        if why := why_fixed(key):
            message = f"`{key}` {why}; search another key"
            yield fault_at(root, ("search", "space", key), message, "invalid-value")
        elif not all(key.split(".")):
            message = f"`{key}` is no key; write the sections before it, too, such as `optim.lr`"
            yield fault_at(root, ("search", "space", key), message, "invalid-value")
