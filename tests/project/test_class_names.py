"""Names of classes: each means one thing in the whole project."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("launcher", "jobs")


def classes_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Give the name and the place of each class below a folder, nested ones too."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield node.name, f"{path.relative_to(folder.parent)}:{node.lineno}"


def defined_twice(root: Path) -> dict[str, list[str]]:
    """Say for each name that several classes have where these are."""
    places = defaultdict(list)
    for package in PACKAGES:
        for name, place in classes_in(root / package):
            places[name].append(place)
    return {name: where for name, where in places.items() if len(where) > 1}


def test_each_class_name_is_defined_once() -> None:
    assert {name for package in PACKAGES for name, _ in classes_in(ROOT / package)} >= {"CorpusReader", "Cluster"}
    assert defined_twice(ROOT) == {}


def test_a_name_defined_twice_is_found_with_both_places(tmp_path: Path) -> None:
    for package, text in {
        "launcher": "class Node: ...\nclass Job: ...\n",
        "jobs": "def f():\n    class Job: ...\n",
    }.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / "module.py").write_text(text, encoding="utf-8")

    assert defined_twice(tmp_path) == {"Job": ["launcher/module.py:2", "jobs/module.py:2"]}
