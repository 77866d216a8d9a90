"""An ordinary `pip install .` has everything that the launcher needs of the checkout: no editable install, no clone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkouts import ROOT, copy_checkout

pytestmark = pytest.mark.slow

RECIPE = """\
kind: prepare
name: abstracts
corpus: abstracts
sources:
  - format: pile
    files: ./abstracts.jsonl
tokenizer: ./tokenizer
resources:
  time: 1h
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: building leaves traces."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def packages(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has installed the wheel."""
    target = tmp_path_factory.mktemp("packages")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    argv = [sys.executable, "-m", "pip", "install", *offline, f"--target={target}", str(checkout)]
    subprocess.run(argv, check=True, capture_output=True)
    assert run_with(target, target, "-c", "import launcher; print(launcher.__path__[0])") == f"{target}/launcher\n"
    return target


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with a recipe, away from any checkout."""
    folder = tmp_path / "desk"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "abstracts.jsonl").touch()
    (folder / "abstracts.yaml").write_text(RECIPE)
    return folder


def launcher(packages: Path, desk: Path, *arguments: str) -> str:
    """Type `launcher ARGUMENTS`."""
    return run_with(packages, desk, "-m", "launcher", *arguments, "--cluster", "a100")


def run_with(packages: Path, desk: Path, *arguments: str) -> str:
    """Run Python with the packages of a folder."""
    environ = {**os.environ, "PYTHONPATH": str(packages), "HOME": str(desk), "SCRATCH": str(desk)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=desk, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_launcher_renders_the_script_of_the_checkout(packages: Path, checkout: Path, desk: Path) -> None:
    script = launcher(packages, desk, "render", "abstracts.yaml")

    assert script == launcher(checkout, desk, "render", "abstracts.yaml")
    assert script.startswith("#!/bin/bash")


@pytest.mark.usefixtures("fake_slurm")
def test_the_code_of_a_run_is_a_copy_of_the_installed_packages(packages: Path, desk: Path) -> None:
    launcher(packages, desk, "submit", "abstracts.yaml", "--yes")

    [code] = desk.glob("runs/abstracts-*/code")
    assert modules(code) == modules(packages) == modules(ROOT)


def modules(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for name in ("launcher", "jobs") for path in (root / name).rglob("*.py"))
