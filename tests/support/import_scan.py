"""What modules import, read from their source."""

import ast
import sys
from collections.abc import Iterable, Iterator
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ("launcher", "jobs")


def imported(path: Path, at_once: bool = False) -> set[str]:
    """Return the dotted names that a file imports, those from `from a import b` as `a` and `a.b`.

    Args:
        path: The file.
        at_once: Leave out what functions import, and what only type checkers do.
    """
    body = ast.parse(path.read_text(encoding="utf-8")).body
    nodes = _statements(body) if at_once else (node for top in body for node in ast.walk(top))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _statements([*node.body, *node.orelse])


def packages(names: Iterable[str]) -> set[str]:
    """Keep the top-level names of what is neither ours nor Python's."""
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - set(OURS)


def imported_with(module: str) -> set[str]:
    """Return all packages that importing one of our modules imports."""
    todo, seen, found = [module], set(), set()
    while todo:
        name = todo.pop()
        if name in seen or not (path := source_of(name)):
            continue
        seen.add(name)
        names = imported(path, at_once=True)
        found |= packages(names)
        for each in names:
            parts = each.split(".")
            todo += [".".join(parts[:length]) for length in range(1, len(parts) + 1) if parts[0] in OURS]
    return found


def source_of(module: str) -> Path | None:
    """Return the file of one of our modules; None for other names."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def declared() -> dict[str, list[str]]:
    """Return the names of setup.cfg's dependencies, by extra; `core` is what is always installed."""
    return {extra: [_name(line) for line in lines] for extra, lines in requirements().items()}


def requirements() -> dict[str, list[str]]:
    """Return setup.cfg's dependencies as they are written there, by extra; `core` is what is always installed."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = {"core": config["options"]["install_requires"], **config["options.extras_require"]}
    return {extra: [line for line in text.split("\n") if line] for extra, text in lists.items()}


def _name(requirement: str) -> str:
    end = next((place for place, letter in enumerate(requirement) if letter in "<>=;[ "), len(requirement))
    return requirement if requirement.startswith("launcher[") else requirement[:end]
