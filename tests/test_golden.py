"""The scripts of all shipped recipes, under review: tests/golden/ shows what a change of the template does.

`pytest tests/test_golden.py --update-golden` writes them anew.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.load import load_cluster, load_recipes
from launcher.paths import SubmissionDir, submissions_root
from launcher.preview import plan_calls
from launcher.render import Request, render
from launcher.slurm.queue import queue_of
from tests.conftest import GOLDEN
from tests.test_render import check_shell

RECIPES = Path(__file__).parents[1] / "recipes"
FILES = sorted(path for path in RECIPES.rglob("*.yaml") if path.parent.name != "clusters")
CASES = [(path, cluster, way) for path in FILES for cluster in ("a100", "dev", "local") for way in ("", "-rehearsal")]


def name_of(path: Path, cluster: str, way: str) -> str:
    return f"{'-'.join(path.relative_to(RECIPES).with_suffix('').parts)}-{cluster}{way}.sh"


@pytest.fixture(autouse=True)
def somebodys_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("SCRATCH", "/scratch/someone")
    monkeypatch.setenv("PATH", "/nowhere")  # no Slurm that could say how long its arrays may be


@pytest.mark.parametrize(("path", "cluster", "way"), CASES, ids=[name_of(*case) for case in CASES])
def test_a_recipe_renders_to_its_golden_script(
    path: Path, cluster: str, way: str, golden: Callable[[str, str], None]
) -> None:
    loaded = load_recipes(path, rehearse=bool(way))
    profile = load_cluster(str(RECIPES / "clusters" / f"{cluster}.yaml"))
    runs, scripts = Path("/runs"), []

    for number, call in enumerate(plan_calls(loaded, queue_of(profile)), 1):
        request = Request(tuple(loaded[run.position].recipe for run in call.runs), purpose=call.purpose)
        folder = SubmissionDir(submissions_root(runs) / f"0a1b2c3d-{number}")
        scripts.append(render(request, profile, folder, runs / ".code" / "0123456789abcdef", "/usr/bin/python3"))

    for script in scripts:
        check_shell(script)
    golden(name_of(path, cluster, way), "".join(scripts))


def test_there_are_recipes_and_no_golden_script_without_one() -> None:
    assert len(FILES) >= 2
    assert {path.name for path in GOLDEN.glob("*.sh")} == {name_of(*case) for case in CASES}
