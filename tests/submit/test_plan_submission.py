"""What was planned is what is queued, and planning checks and estimates each recipe once."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from launcher.cli.submit import submit as submit_command
from launcher.load import load_all
from launcher.run.paths import RunDir
from launcher.submit import plan_submission as planning
from launcher.submit import planned_recipe
from launcher.submit.plan_submission import SubmitOptions, plan_submission
from launcher.submit.queue_all import submit
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import MakeCluster, all_runs

RECIPE = """\
kind: prepare
name: {name}
corpus: a
tokenizer: tokenizer
sources: [{{format: pile, files: abstracts.jsonl}}]
resources: {{time: 1h}}
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A file of two recipes."""
    path = tmp_path / "recipes.yaml"
    path.write_text("---\n".join(RECIPE.format(name=name) for name in ("first", "second")))
    return path


@pytest.fixture
def profile(fake_slurm: FakeSlurm, make_cluster: MakeCluster, tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(make_cluster().model_dump(mode="json", exclude_defaults=True)))
    return path


def answer(monkeypatch: pytest.MonkeyPatch, while_asked: Any) -> None:
    """Answer `submit?` with yes, after something else has happened."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: while_asked())


def test_what_changes_while_a_person_is_asked_does_not_change_what_is_queued(
    profile: Path, recipes: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, make_cluster: MakeCluster
) -> None:
    as_confirmed = recipes.read_text()

    def change() -> None:
        recipes.write_text(as_confirmed.replace("time: 1h", "time: 9h"))
        profile.write_text(profile.read_text().replace("partition:", "account: other\n  partition:"))

    answer(monkeypatch, change)

    submit_command([str(recipes)], cluster=str(profile))

    assert fake_slurm.script("1002") == fake_slurm.asked_script()
    assert "#SBATCH --time=0-01:00:00" in fake_slurm.asked_script()
    for run in map(RunDir, all_runs(make_cluster())):
        assert run.submission.read_text() == fake_slurm.asked_script()
        assert run.recipe_as_written.read_text() in as_confirmed
        assert json.loads(run.recipe.read_text())["resources"]["time"] == "1h"


def test_the_code_that_was_planned_is_the_code_that_runs(
    recipes: Path, fake_slurm: FakeSlurm, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "source" / "launcher"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("planned = True\n")
    read_code = planning.read_code
    monkeypatch.setattr(planning, "read_code", lambda root: read_code(root, source.parent))
    plan = plan_submission(load_all([recipes], (), False)[0], make_cluster(), SubmitOptions())
    (source / "__init__.py").write_text("planned = False\n")

    runs = submit(plan)

    assert {(run.folder.code / "launcher" / "__init__.py").read_text() for run in runs} == {"planned = True\n"}


def test_recipes_are_checked_and_estimated_once(
    profile: Path, recipes: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def count(module: Any, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *arguments: calls.append(name) or real(*arguments))

    for name in ("check_each", "read_code", "render"):
        count(planning, name)
    for name in ("forecast", "checkpoint_bytes"):
        count(planned_recipe, name)
    answer(monkeypatch, lambda: None)

    submit_command([str(recipes)], cluster=str(profile))

    once = {"check_each": 1, "read_code": 1, "render": 1}
    assert {name: calls.count(name) for name in calls} == once | {"forecast": 2, "checkpoint_bytes": 2}
