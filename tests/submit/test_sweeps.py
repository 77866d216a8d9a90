"""Submitting a sweep: one array, a run for each point, and afterwards only what is missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.run.ledger import append_event
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.sweep_points import SweptRun, read_points
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm, directives
from tests.support.submissions import MakeCluster, all_runs, write_profile

RECIPE = {
    "kind": "prepare",
    "name": "abstracts",
    "sources": [{"format": "pile", "files": "abstracts.jsonl"}],
    "tokenizer": "tokenizer",
    "resources": {"cpus_per_task": 2, "time": "10min"},
    "sweep": {"zip": {"corpus": ["a", "b", "c"], "validation": [0, 0.01, 0.02]}},
}

Submit = Callable[..., dict[str, Any]]


@pytest.fixture
def site(tmp_path: Path, make_cluster: MakeCluster) -> Path:
    return write_profile(tmp_path, make_cluster())


@pytest.fixture
def submit(tmp_path: Path, site: Path, fake_slurm: FakeSlurm) -> Submit:
    """Submit RECIPE with some keys replaced, and return what was printed as JSON."""

    def call(*options: str, **changes: Any) -> dict[str, Any]:
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(RECIPE | changes))
        printed, _ = launcher("submit", str(path), "--cluster", str(site), "--json", "--yes", *options)
        reports: dict[str, Any] = json.loads(printed)
        return reports

    return call


def points(tmp_path: Path) -> list[SweptRun]:
    return read_points(tmp_path / "runs", "abstracts")


def end(run: Path, reason: str) -> None:
    """Write what a run leaves that ended."""
    record = RunRecord.read(RunDir(run).record)
    job = record.submissions[-1].job_id
    append_event(RunDir(run).ledger, 0, job_id=job, started=record.created + 1, nodes=["n1"])
    append_event(RunDir(run).ledger, 0, ended=record.created + 2, reason=reason, action="stop")


def test_a_sweep_is_one_array_and_a_run_for_each_point(submit: Submit, tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    runs = submit("--max-parallel", "2")["runs"]

    assert [run["job"] for run in runs] == ["1001_0", "1001_1", "1001_2"]
    assert directives(fake_slurm.script("1001"))["array"] == "0-2%2"
    assert directives(fake_slurm.script("1001"))["job-name"] == "abstracts"
    assert [Path(run["folder"]).name for run in runs] == [point.run for point in points(tmp_path)]
    assert [point.values for point in points(tmp_path)] == [
        {"corpus": "a", "validation": 0},
        {"corpus": "b", "validation": 0.01},
        {"corpus": "c", "validation": 0.02},
    ]


def test_a_run_knows_its_sweep_and_its_point_and_freezes_its_own_recipe(submit: Submit) -> None:
    second = RunDir(Path(submit()["runs"][1]["folder"]))

    record, recipe = RunRecord.read(second.record), json.loads(second.recipe.read_text())
    assert (record.sweep, record.point) == ("abstracts", {"corpus": "b", "validation": 0.01})
    assert (record.name, recipe["name"]) == ("abstracts-corpus=b-validation=0.01",) * 2
    assert (recipe["corpus"], "sweep" in recipe) == ("b", False)


def test_submitting_again_queues_what_is_missing(submit: Submit, tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    before = submit()["runs"]
    longer = {"zip": {"corpus": ["b", "c", "d"], "validation": [0.01, 0.02, 0.03]}}

    runs = submit(sweep=longer)["runs"]

    assert [run["id"] for run in runs[:2]] == [run["id"] for run in before[1:]]
    assert runs[2]["job"] == "1002"
    assert len(all_runs_of(tmp_path)) == 4
    assert [point.run for point in points(tmp_path)] == [Path(run["folder"]).name for run in runs]


def test_a_point_that_failed_is_taken_up_in_its_run(submit: Submit, tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    before = submit("--max-parallel", "2")["runs"]
    for run in before[1:]:
        end(Path(run["folder"]), "error")

    runs = submit()["runs"]

    assert [run["id"] for run in runs] == [run["id"] for run in before]
    assert [run.get("resumed") for run in runs] == [False, True, True]
    assert fake_slurm.calls("sbatch")[-1].argv[1:-1] == ["--array=1,2%2"]
    assert [run["job"] for run in runs] == ["1001_0", "1002_1", "1002_2"]


def test_a_point_whose_resources_were_changed_is_a_new_run(submit: Submit, tmp_path: Path) -> None:
    before = submit()["runs"]
    end(Path(before[0]["folder"]), "error")

    runs = submit(resources={"cpus_per_task": 2, "time": "20min"})["runs"]

    assert not {run["id"] for run in runs} & {run["id"] for run in before}


def test_nothing_is_queued_when_everything_is(submit: Submit, fake_slurm: FakeSlurm) -> None:
    first = submit()["runs"]

    assert [run["id"] for run in submit()["runs"]] == [run["id"] for run in first]
    assert len(fake_slurm.calls("sbatch")) == 1


def test_a_sweep_that_sbatch_refuses_leaves_no_run(
    tmp_path: Path, site: Path, fake_slurm: FakeSlurm, make_cluster: MakeCluster
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    fake_slurm.fail("sbatch", 1, "sbatch: error: no")

    launcher("submit", str(path), "--cluster", str(site), "--yes", code=1)

    assert all_runs(make_cluster()) == []
    assert points(tmp_path) == []


def test_points_of_one_name_for_their_result_are_refused_before_anything_is_queued(
    tmp_path: Path, site: Path, fake_slurm: FakeSlurm, make_cluster: MakeCluster
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"corpus": "same", "sweep": {"grid": {"validation": [0, 0.01]}}}))

    _, told = launcher("submit", str(path), "--cluster", str(site), "--yes", code=2)

    assert all_runs(make_cluster()) == []
    assert "makes `same` from other files or settings" in told


def test_more_points_than_an_array_holds_are_several_arrays(submit: Submit, fake_slurm: FakeSlurm) -> None:
    fake_slurm.limit_arrays(2)

    runs = submit()["runs"]

    assert [run["job"] for run in runs] == ["1001_0", "1001_1", "1002"]


def test_validate_describes_a_sweep_once(tmp_path: Path, site: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(RECIPE))

    printed, _ = launcher("validate", str(path), "--cluster", str(site), "--sweep", "seed=1,2")

    assert printed.count(": ok: ") == 1
    assert "sweep `abstracts`: 6 points like this one" in printed


def test_dry_run_shows_the_array_and_writes_nothing(tmp_path: Path, site: Path, fake_slurm: FakeSlurm) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))

    printed, _ = launcher("submit", str(path), "--cluster", str(site), "--dry-run")

    assert "#SBATCH --array=0-2" in printed
    assert not (tmp_path / "runs").exists()


def all_runs_of(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
