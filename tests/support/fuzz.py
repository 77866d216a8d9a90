"""Damage of all kinds for files that the launcher reads, and the check that nothing worse than an error follows."""

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Value = TypeVar("Value")

LONG = 10_000
TEXTS = st.text(max_size=12) | st.sampled_from(
    ["../../x", "/etc/passwd", "-", "", "a" * 300, "1e999", "[[", "{", "\x00", "\u2028", "${HOME}", "~", "%j", "<b>"]
)
NUMBERS = (
    st.integers(-(10**30), 10**30)
    | st.floats()
    | st.sampled_from([0, -1, 2**31, 2**63, 10**300, 1e308, float("nan"), float("inf")])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
_ODD_BYTES = {
    "nothing": b"",
    "no keys": b"{}",
    "no items": b"[]",
    "null": b"null",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "a long number": b"1" * 5000,
    "a byte order mark": b"\xff\xfe",
    "not a number": b'{"a": NaN}',
    "empty lines": b"\n" * 99,
}
# By their names: hypothesis writes out what a strategy is made of.
BYTES = st.binary(max_size=64) | st.sampled_from([*_ODD_BYTES]).map(lambda name: _ODD_BYTES[name])


def fuzzed(strategy: st.SearchStrategy[Value], gate: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test of a check: a few examples in the gate, ten thousand in `make long`.

    Args:
        strategy: Of what the check gets besides fixtures.
        gate: Examples in the gate.
    """

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        sizes = [gate, pytest.param(LONG, marks=pytest.mark.long)]
        return pytest.mark.parametrize("examples", sizes)(_with_examples(check, strategy))

    return decorate


def _with_examples(check: Callable[..., None], strategy: st.SearchStrategy[Any]) -> Callable[..., None]:
    def test(examples: int, tmp_path: Path) -> None:
        limits = settings(max_examples=examples, suppress_health_check=list(HealthCheck))
        given(damage=strategy)(limits(lambda damage: check(tmp_path, damage)))()

    test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
    return test


def damaged(content: Any) -> st.SearchStrategy[Any]:
    """Values like `content` in which one to three things are replaced, left out or added."""
    return st.lists(st.tuples(st.randoms(use_true_random=False), VALUES), min_size=1, max_size=3).map(
        lambda changes: _change_all(content, changes)
    )


def _change_all(content: Any, changes: list[Any]) -> Any:
    made = copy.deepcopy(content)
    for random, value in changes:
        made = _change(made, random, value)
    return made


def _change(content: Any, random: Any, value: Any) -> Any:
    """Walk down to some place and change it."""
    if not isinstance(content, dict | list) or not content or random.random() < 0.1:
        return value
    keys: list[Any] = list(content) if isinstance(content, dict) else [*range(len(content))]
    key, chance = random.choice(keys), random.random()
    if chance < 0.1:
        del content[key]
    elif chance < 0.2 and isinstance(content, dict):
        content[random.choice(["more", "", "kind", "name", "base", "id"])] = value
    else:
        content[key] = _change(content[key], random, value)
    return content


def damaged_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """Bytes like `content`: cut off, with some replaced, or others altogether."""
    cut = st.integers(0, len(content)).map(lambda size: content[:size])
    patched = st.tuples(st.integers(0, max(0, len(content) - 1)), BYTES).map(
        lambda at: content[: at[0]] + at[1] + content[at[0] + len(at[1]) :]
    )
    return cut | patched | BYTES


def damaged_json(content: Any) -> st.SearchStrategy[bytes]:
    """A file like that of `content`: with other values, or with other bytes."""
    written = json.dumps(content, indent=1).encode()
    return damaged(content).map(as_json) | damaged_bytes(written)


def damaged_lines(rows: list[Any]) -> st.SearchStrategy[bytes]:
    """A .jsonl file like that of `rows`."""
    written = b"".join(as_json(row) + b"\n" for row in rows)
    lines = damaged(rows).map(lambda found: found if isinstance(found, list) else [found])
    return lines.map(lambda found: b"\n".join(map(as_json, found))) | damaged_bytes(written)


def as_json(value: Any) -> bytes:
    """JSON as Python writes it: NaN, infinity, lone surrogates and integers of any size included."""
    try:
        return json.dumps(value).encode()
    except ValueError:  # Python refuses to write integers of thousands of digits, but others do not
        return b'{"a": ' + b"1" * 5000 + b"}"


def files_beside(folder: Path, inside: Path) -> Iterator[str]:
    """Yield what is below a folder, without what is below one in it."""
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(root, name) != inside]
        yield from (os.path.join(root, name) for name in (*files, *folders))
