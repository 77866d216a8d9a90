"""`.ci/audit`: what it says of the answers of pip-audit, and of none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkouts import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script, an environment of one package, and a pip-audit that answers what `answer` holds."""
    (tmp_path / ".ci").mkdir()
    for name in ("audit", "constraints"):
        shutil.copy(ROOT / ".ci" / name, tmp_path / ".ci")
    for folder in ("env/bin", "build/audit/bin"):
        (tmp_path / folder).mkdir(parents=True)
    write_program(tmp_path / "env/bin/python", "echo rich==15.0.0")
    write_program(tmp_path / "build/audit/bin/python", f'exec "{sys.executable}" "$@"')
    write_program(
        tmp_path / "build/audit/bin/pip-audit",
        'grep -q "^rich==15.0.0$" build/audit/packages.txt || exit 9\n'
        '[ -e answer ] || { echo "connection refused" >&2; exit 1; }\n'
        'while [ "$1" != --output ]; do shift; done; cp answer "$2"',
    )
    return tmp_path


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def audit(checkout: Path, *packages: dict[str, object]) -> tuple[int, str]:
    if packages:
        (checkout / "answer").write_text(json.dumps({"dependencies": packages}))
    argv = ["bash", ".ci/audit", "env"]
    done = subprocess.run(argv, cwd=checkout, env={**os.environ}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_package_with_a_known_vulnerability_is_named(checkout: Path) -> None:
    flaw = {"id": "PYSEC-1", "fix_versions": ["15.0.1"]}
    found = {"name": "rich", "version": "15.0.0", "vulns": [flaw]}

    code, said = audit(checkout, found, {"name": "torch", "skip_reason": "not found"})

    assert code == 1
    assert said.splitlines() == [
        "rich 15.0.0: PYSEC-1, mended in 15.0.1",
        "pip-audit: 1 known vulnerabilities; looked up 1 of 2 packages",
    ]


def test_a_service_that_knows_no_package_has_found_nothing_out(checkout: Path) -> None:
    assert audit(checkout, {"name": "rich", "skip_reason": "not found"}) == (
        0,
        "pip-audit: skipped: the service knows none of 1 packages\n",
    )


def test_a_service_that_does_not_answer_is_told(checkout: Path) -> None:
    code, said = audit(checkout)
    assert (code, said) == (0, "pip-audit: skipped: the service does not answer: connection refused\n")
