"""The points of a sweep: which values each key has at each, in the order of the recipe."""

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from launcher.load.compose import Override
from launcher.load.translate import plain
from launcher.load.yaml_tree import YamlNode
from launcher.recipe.sections.sweep import DrawnKey, Sweep

MAX_POINTS = 10_000
"""A sweep of more is taken for a mistake."""
_DIGITS = 4
"""Of a number that is drawn: enough for a learning rate, short enough for a name."""
_LONGEST_NAME = 100

Assignment: TypeAlias = dict[str, YamlNode]
"""Values of some keys, with the lines they stand on."""


@dataclass(frozen=True)
class Point:
    """One point of a sweep."""

    sweep: str
    """Name of the sweep: that of the recipe."""
    values: Mapping[str, Any]
    """By the dotted keys."""
    label: str
    """`optim.lr=1e-5 seed=2`, for messages."""


def list_points(sweep: Sweep, written: YamlNode) -> list[Assignment]:
    """List the points of a sweep.

    Args:
        sweep: The section.
        written: The same as a tree.

    Returns:
        The values of each point, without the points that `skip` leaves out. The first key varies slowest.
    """
    parts = [*_grid(written), _zip(written), _list(written), _random(sweep, written), _seeds(sweep, written)]
    combined = itertools.product(*(part for part in parts if part))
    points = ({key: node for part in parts_of_one for key, node in part.items()} for parts_of_one in combined)
    return [point for point in points if not any(matches(point, condition) for condition in sweep.skip)]


def count_points(sweep: Sweep) -> int:
    """Count the points of a sweep, those that are left out included."""
    sizes = [len(values) for values in sweep.grid.values()]
    sizes += [len(next(iter(sweep.zip.values())))] if sweep.zip else []
    sizes += [len(sweep.list)] if sweep.list else []
    sizes += [sweep.random.points] if sweep.random else []
    sizes += [sweep.seeds if isinstance(sweep.seeds, int) else len(sweep.seeds)] if sweep.seeds is not None else []
    return math.prod(sizes)


def matches(point: Assignment, condition: Mapping[str, Any]) -> bool:
    """Tell whether a point has all values of a condition."""
    return all(key in point and is_one_of(plain(point[key]), wanted) for key, wanted in condition.items())


def is_one_of(value: Any, wanted: Any) -> bool:
    """Compare a value with the wanted one, or with a list of them; 4 equals 4.0, but not true."""
    choices = wanted if isinstance(wanted, (list, tuple)) and not isinstance(value, list) else [wanted]
    return any(_same(value, choice) for choice in choices)


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def overrides_of(point: Assignment) -> list[Override]:
    """Write a point as `--set` would."""
    return [Override(tuple(key.split(".")), node) for key, node in point.items()]


def describe(name: str, point: Assignment) -> tuple[Point, str]:
    """Give a point as others see it, and the name of its run: `biomed-lr=1e-5-seed=2`."""
    short = shorten_keys(list(point))
    words = {key: _word(node) for key, node in point.items()}
    label = " ".join(f"{key}={word}" for key, word in words.items())
    values = {key: plain(node) for key, node in point.items()}
    run = "-".join([name, *(f"{short[key]}={word}" for key, word in words.items())]).replace("/", "_")
    if len(run) > _LONGEST_NAME:
        run = f"{run[: _LONGEST_NAME - 9]}-{_digest(values)}"
    return Point(name, values, label), run


def shorten_keys(keys: Sequence[str]) -> dict[str, str]:
    """Leave out the sections before keys whose last words are unique."""
    last = {key: key.rpartition(".")[2] for key in keys}
    alike = Counter(last.values())
    return {key: word if alike[word] == 1 and not word.isdecimal() else key for key, word in last.items()}


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _word(node: YamlNode) -> str:
    return node.text or json.dumps(plain(node))


def _child(written: YamlNode, key: str) -> dict[str, YamlNode]:
    assert isinstance(written.value, dict)
    node = written.value.get(key)
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _items(node: YamlNode) -> list[YamlNode]:
    assert isinstance(node.value, list)
    return node.value


def _grid(written: YamlNode) -> Iterator[list[Assignment]]:
    for key, values in _child(written, "grid").items():
        yield [{key: value} for value in _items(values)]


def _zip(written: YamlNode) -> list[Assignment]:
    keys = _child(written, "zip")
    rows = zip(*(_items(values) for values in keys.values()), strict=True)
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _list(written: YamlNode) -> list[Assignment]:
    assert isinstance(written.value, dict)
    node = written.value.get("list")
    return [item.value for item in _items(node) if isinstance(item.value, dict)] if node else []


def _seeds(sweep: Sweep, written: YamlNode) -> list[Assignment]:
    if sweep.seeds is None:
        return []
    assert isinstance(written.value, dict)
    node = written.value["seeds"]
    seeds: Iterable[int] = range(1, sweep.seeds + 1) if isinstance(sweep.seeds, int) else sweep.seeds
    return [{"seed": YamlNode(seed, node.origin, str(seed))} for seed in seeds]


def _random(sweep: Sweep, written: YamlNode) -> list[Assignment]:
    """Draw points: each key from a stream of its own, so that more points or other keys change none of the first."""
    if sweep.random is None:
        return []
    keys = _child(YamlNode(_child(written, "random"), written.origin), "keys")
    columns = {}
    for key, drawn in sweep.random.keys.items():
        stream = random.Random(f"{sweep.random.seed} {key}")  # noqa: S311 - no secret
        columns[key] = [_draw(drawn, keys[key], stream) for _ in range(sweep.random.points)]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _draw(drawn: DrawnKey, written: YamlNode, stream: random.Random) -> YamlNode:
    if drawn.low is None or drawn.high is None:
        assert isinstance(written.value, dict)
        return stream.choice(_items(written.value["of"]))
    value = draw_number(drawn, stream)
    return YamlNode(value, written.origin, json.dumps(value))


def draw_number(drawn: DrawnKey, stream: random.Random) -> int | float:
    """Draw a number between two others, with few digits."""
    assert drawn.low is not None and drawn.high is not None
    low, high = drawn.low, drawn.high
    value: int | float
    if isinstance(low, int) and isinstance(high, int) and drawn.scale == "linear":
        value = stream.randint(low, high)
    elif drawn.scale == "linear":
        value = shorten(stream.uniform(low, high), drawn)
    else:
        value = shorten(math.exp(stream.uniform(math.log(low), math.log(high))), drawn)
    return min(max(value, low), high)


def shorten(value: float, drawn: DrawnKey) -> int | float:
    """Round a number that was drawn between two others: to a whole one between whole ones, else to four digits."""
    assert drawn.low is not None and drawn.high is not None
    rounded = float(f"{value:.{_DIGITS}g}")
    whole = isinstance(drawn.low, int) and isinstance(drawn.high, int)
    return min(max(round(rounded) if whole else rounded, drawn.low), drawn.high)
