"""JSON lines are split as bytes: `str.splitlines` also ends lines at U+2028, U+0085 and others, which JSON may hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def of_bytes(text: ast.expr, function: ast.AST) -> bool:
    """Tell whether an expression is bytes for certain: read as such, or a parameter or variable that was."""
    if isinstance(text, ast.Call):
        return isinstance(text.func, ast.Attribute) and text.func.attr in ("read_bytes", "encode")
    if not isinstance(text, ast.Name):
        return False
    arguments = [node for node in ast.walk(function) if isinstance(node, ast.arg) and node.arg == text.id]
    if any(one.annotation is not None and ast.unparse(one.annotation) == "bytes" for one in arguments):
        return True
    assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
    values = [node.value for node in assigned if text.id in map(ast.unparse, node.targets)]
    return bool(values) and all(not isinstance(one, ast.Name) and of_bytes(one, function) for one in values)


def parses_json(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("loads")


def text_lines(module: ast.Module) -> Iterator[int]:
    """Give the lines where a function that parses JSON goes through the lines of something that may be text."""
    for function in ast.walk(module):
        if not isinstance(function, ast.FunctionDef) or not any(map(parses_json, ast.walk(function))):
            continue
        single = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Subscript)}
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or id(node) in single:
                continue
            if node.func.attr == "splitlines" and not of_bytes(node.func.value, function):
                yield node.lineno


@pytest.mark.parametrize("folder", ["launcher", "jobs", "bench"])
def test_json_lines_are_split_as_bytes(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in text_lines(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert found == []


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("return [json.loads(line) for line in path.read_text().splitlines()]", 1),
        ("content = path.read_text()\n    return [json.loads(line) for line in content.splitlines()]", 1),
        ("lines = text.splitlines()\n    return [orjson.loads(line) for line in lines]", 1),
        ("content = path.read_bytes()\n    return [json.loads(line) for line in content.splitlines()]", 0),
        ("return [json.loads(line) for line in raw.splitlines()]", 0),
        ("return json.loads(text.splitlines()[-1])", 0),
        ("return [line.split() for line in text.splitlines()]", 0),
    ],
)
def test_lines_of_text_are_recognised(code: str, count: int) -> None:
    function = f"def read(path: Path, text: str, raw: bytes):\n    {code}"

    assert len([*text_lines(ast.parse(function))]) == count
