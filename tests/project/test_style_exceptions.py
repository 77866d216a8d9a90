"""Exceptions of the style check: each says why."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["launcher", "jobs", "bench", "docs"])
def test_each_exception_in_the_code_has_its_reason(folder: str) -> None:
    lines = (
        (path.relative_to(ROOT), number, line)
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    )
    silent = [f"{path}:{number}" for path, number, line in lines if re.search(r"# noqa(: [A-Z0-9, ]+)?$", line)]
    assert silent == []


def test_rules_on_security_are_checked_where_code_runs_for_users() -> None:
    text = (ROOT / "ruff.toml").read_text(encoding="utf-8")
    assert re.search(r'^select = .*"S"', text, re.MULTILINE)
    exempt = re.findall(r'^"(\S+)\*\*" = \[.*"S"', text, re.MULTILINE)
    assert exempt == ["tests/", "bench/"]
