"""From a recipe with a `sweep` to the recipes of its points."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from launcher.errors import Fault
from launcher.load.compose import Composer, Override, map_origins
from launcher.load.sweep_points import (
    MAX_POINTS,
    Assignment,
    Point,
    count_points,
    describe,
    list_points,
    matches,
    overrides_of,
)
from launcher.load.translate import fault_at, plain, validate
from launcher.load.yaml_tree import Origin, YamlNode
from launcher.recipe.sections.sweep import Sweep

_FIXED = ("base", "kind", "name", "rehearsal", "sweep")
"""Keys that say what the recipe is, so that they have one value."""


def expand(composer: Composer, root: YamlNode, only_first: bool = False) -> list[tuple[YamlNode, Point]]:
    """Give the tree of each point's recipe, without the sweep; the composer takes the faults of the sweep itself.

    Args:
        composer: Takes the faults.
        root: A recipe with a `sweep`.
        only_first: Whether the first point is enough.
    """
    assert isinstance(root.value, dict)
    entries = {key: node for key, node in root.value.items() if key != "sweep"}
    written = map_origins(root.value["sweep"], lambda origin: origin._replace(section=f"{origin.section}sweep."))
    sweep = validate(Sweep, written)
    if isinstance(sweep, list):
        composer.faults += sweep
        return []
    if (count := count_points(sweep)) > MAX_POINTS:
        message = f"{count:,} points are more than {MAX_POINTS:,}; leave values out, or draw `random` points"
        composer.faults.append(fault_at(root, ("sweep",), message, "out-of-range"))
        return []
    if faults := [*_find_faults(sweep, written)]:
        composer.faults += faults
        return []
    points = list_points(sweep, root.value["sweep"])
    composer.faults += [*_find_faults_of_points(sweep, written, points), *_find_copies(root, points)]
    without = YamlNode(entries, root.origin)
    return [_lay_point(composer, without, point) for point in points[: 1 if only_first else None]]


def _lay_point(composer: Composer, root: YamlNode, point: Assignment) -> tuple[YamlNode, Point]:
    assert isinstance(root.value, dict)
    name = root.value.get("name")
    described, run = describe(str(name.value) if name else "", point)
    tree = composer.set_all(root, overrides_of(point))
    assert isinstance(tree.value, dict)
    named = {"name": name._replace(value=run, text=run)} if name else {}
    return YamlNode(tree.value | named, tree.origin), described


def _find_faults(sweep: Sweep, written: YamlNode) -> Iterator[Fault]:
    """Find what is wrong with a section that has the right form."""
    for part, key in _swept_keys(sweep):
        if key.split(".")[0] in _FIXED:
            message = f"`{key}` has one value in a recipe; write a recipe for each, or sweep another key"
            yield fault_at(written, (part, key), message, "invalid-value")
        elif not all(key.split(".")):
            message = f"`{key}` is no key; write the sections before it, too, such as `optim.lr`"
            yield fault_at(written, (part, key), message, "invalid-value")


def _swept_keys(sweep: Sweep) -> Iterator[tuple[str, str]]:
    yield from (("grid", key) for key in sweep.grid)
    yield from (("zip", key) for key in sweep.zip)
    yield from (("list", key) for key in dict.fromkeys(key for point in sweep.list for key in point))
    yield from (("random", key) for key in (sweep.random.keys if sweep.random else ()))


def _find_faults_of_points(sweep: Sweep, written: YamlNode, points: Sequence[Assignment]) -> list[Fault]:
    known = {key for _, key in _swept_keys(sweep)} | ({"seed"} if sweep.seeds is not None else set())
    everything = [*list_points(sweep.model_copy(update={"skip": ()}), written)] if sweep.skip else points
    faults = [
        _fault_of_condition(written, place, condition, known)
        for place, condition in enumerate(sweep.skip)
        if not known.issuperset(condition) or not any(matches(point, condition) for point in everything)
    ]
    if not points and not faults:
        faults.append(fault_at(written, ("skip",), "leaves no point; write conditions that fewer have", "conflict"))
    return faults


def _find_copies(root: YamlNode, points: Sequence[Assignment]) -> Iterator[Fault]:
    seen: set[str] = set()
    for point in points:
        text = json.dumps({key: plain(node) for key, node in point.items()}, sort_keys=True)
        if text in seen:
            message = f"the point {describe('', point)[0].label} is there twice; remove one of them"
            yield fault_at(root, ("sweep",), message, "conflict")
        seen.add(text)


def _fault_of_condition(written: YamlNode, place: int, condition: Mapping[str, object], known: set[str]) -> Fault:
    path = ("skip", place)
    if unknown := [key for key in condition if key not in known]:
        listed = ", ".join(f"`{key}`" for key in sorted(known))
        return fault_at(written, path, f"`{unknown[0]}` is not swept; write one of {listed}", "unknown-name")
    return fault_at(written, path, "no point has these values; correct or remove the condition", "unknown-name")


def name_points(found: Iterable[tuple[Point | None, Fault]], total: int) -> list[Fault]:
    """Give each fault once, with the points that have it; what all of them have is the recipe's own.

    Args:
        found: Faults, each with the point that has it; None for a recipe without a sweep.
        total: How many points there are.
    """
    labels: dict[Fault, list[str]] = {}
    for point, fault in found:
        labels.setdefault(fault, []).extend([point.label] if point and point.label else [])
    return [_name(fault, [*dict.fromkeys(its)], total) for fault, its in labels.items()]


def _name(fault: Fault, labels: Sequence[str], total: int) -> Fault:
    if not labels or (len(labels) == total and total > 1):
        return fault
    more = f" and {len(labels) - 1} more points" if len(labels) > 1 else ""
    return replace(fault, message=f"{fault.message} (at the point {labels[0]}{more})")


def lay_options(composer: Composer, root: YamlNode, options: Sequence[str]) -> YamlNode:
    """Lay `--sweep KEY=A,B` over a recipe's `sweep.grid`."""
    return composer.set_all(root, [one for text in options if (one := _parse_option(composer, text))])


def _parse_option(composer: Composer, text: str) -> Override | None:
    key, equals, values = text.partition("=")
    origin = Origin(f"--sweep {key}", None)
    if not equals or not key or not values.strip():
        composer.refuse(origin, "structure", "is no list of values; write `--sweep optim.lr=1e-5,3e-5`")
        return None
    return Override(("sweep", "grid", key), composer.parse_value(f"[{values}]", origin, text, tuple(key.split("."))))
