"""`--dry-run` and `--test-only` for programs: one JSON object, of recipes, sweeps, searches and pipelines."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import RATES, MakeCluster, all_runs, make_corpus, make_model
from tests.support.wanted_runs import PIPELINE, PREPARE, SWEEP

SEARCH = RATES | {
    "search": {"space": {"optim.lr": {"low": 1e-4, "high": 1e-2}}, "metric": "loss", "trials": 4, "parallel": 2}
}


@pytest.fixture
def site(make_cluster: MakeCluster, fake_slurm: FakeSlurm, tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(make_cluster().model_dump(mode="json", exclude_defaults=True)))
    make_model(make_cluster(), "model")
    make_corpus(make_cluster(), "text")
    return path


def preview(site: Path, recipe: Any, *options: str) -> tuple[dict[str, Any], str]:
    path = site.with_name("recipe.yaml")
    path.write_text(json.dumps(recipe))
    printed, _ = launcher("submit", str(path), "--cluster", str(site), "--json", *options)
    plain, _ = launcher("submit", str(path), "--cluster", str(site), *options)
    return json.loads(printed), plain


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        (PREPARE, [["abstracts"]]),
        (SWEEP, [[f"abstracts-corpus={name}" for name in "abc"]]),
        (PREPARE | {"tasks": 2}, [["abstracts"], ["abstracts"]]),
        (SEARCH, [["rates"]]),
        (PIPELINE, [["a"], ["b"], ["c"]]),
    ],
    ids=["recipe", "sweep", "tasks", "search", "pipeline"],
)
def test_a_dry_run_prints_the_scripts_as_json(
    site: Path, fake_slurm: FakeSlurm, recipe: Any, names: list[list[str]]
) -> None:
    found, plain = preview(site, recipe, "--dry-run")

    assert (found["schema_version"], found["type"]) == (1, "planned")
    assert [one["runs"] for one in found["submissions"]] == names
    assert all(one["script"].startswith("#!") and one["start"] is None for one in found["submissions"])
    assert all(Path(one["folder"]).is_relative_to(site.parent / "runs") for one in found["submissions"])
    if recipe is not PIPELINE:  # whose folder has another name each time
        assert all(one["script"] in plain for one in found["submissions"])
    stages = [(one["stage"], one["awaits"], one["what"]) for one in found["stages"]]
    waits = {"a": [], "b": ["a"], "c": ["a", "b"]} if recipe is PIPELINE else {}
    assert stages == [(name, before, "a new run") for name, before in waits.items()]
    assert not (site.parent / "runs").exists() and not fake_slurm.calls("sbatch")


def test_starts_are_printed_as_json(site: Path, fake_slurm: FakeSlurm) -> None:
    found, plain = preview(site, PREPARE | {"tasks": 2}, "--test-only")

    starts = [one["start"] for one in found["submissions"]]
    assert starts == ["would start Fri 02 Jan 03:04 on n[1-2] (partition gpu)", "starts when its tasks are over"]
    assert [line.partition(": ")[2] for line in plain.splitlines()] == starts
    assert all("--test-only" in call.argv for call in fake_slurm.calls("sbatch"))


@pytest.mark.parametrize("option", ["--dry-run", "--test-only"])
def test_where_nothing_is_left_to_do_the_answer_is_empty(
    site: Path, fake_slurm: FakeSlurm, make_cluster: MakeCluster, option: str
) -> None:
    recipe = site.with_name("recipe.yaml")
    recipe.write_text(json.dumps(PREPARE))
    launcher("submit", str(recipe), "--cluster", str(site), "--yes")

    found, plain = preview(site, PREPARE, option)

    assert (found["submissions"], found["stages"], plain) == ([], [], "")
    assert len(all_runs(make_cluster())) == 1
