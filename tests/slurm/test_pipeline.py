"""A pipeline on a real Slurm: queued at once, preempted on its way, and not done again."""

import json
from pathlib import Path

import pytest

from launcher.devcluster import DevCluster
from launcher.monitor.trials import read_past
from launcher.pipeline.record import Pipeline
from launcher.run.ledger import read_attempts
from launcher.run.paths import PipelineDir, RunDir
from launcher.run.trials import find_search
from tests.slurm.site import RECIPES, Site, last_step, manifest
from tests.support.swept_pipelines import write_searched_pipeline, write_swept_pipeline
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm

STAGES = {
    "prepare": ("prepare_pile_pubmed", {"corpus": "pubmed"}),
    "pretrain": (
        "biomed_llama_cpt",
        {"data.corpora": [{"name": "pubmed"}], "output": "pretrained", "schedule.length": "16 steps"}
        | {"resources.nodes": 1, "resources.gpus_per_node": 1, "parallel.strategy": "full_shard"},
    ),
    "after": (
        "biomed_llama_eval",
        {"model.path": "pretrained", "array_size": 2}
        | {"tasks": [{"type": "perplexity", "name": "heldout", "corpus": "pubmed", "limit": 4}]},
    ),
}
"""By stage: its recipe, and what is set in it."""


def test_a_preempted_pipeline_finishes_and_is_not_done_again(devcluster: DevCluster, tmp_path: Path) -> None:
    site, path = Site(devcluster), tmp_path / "pipeline.yaml"
    stages_of = {name: {"recipe": f"{RECIPES}/{file}.yaml", "set": keys} for name, (file, keys) in STAGES.items()}
    path.write_text(json.dumps({"kind": "pipeline", "name": "small", "stages": stages_of}))
    first = submit(site, path)
    stages = {row["stage"]: RunDir(devcluster.layout.folder / "runs" / row["folder"]) for row in first["stages"]}
    assert [*stages] == [*STAGES]
    assert all(row["job"] for row in first["stages"]), "all of it is queued at once"

    site.preempt(stages["pretrain"], step=4)
    for name in STAGES:
        site.wait_until_finished(stages[name])

    reasons = [attempt.reason for attempt in read_attempts(stages["pretrain"].ledger)]
    assert reasons == ["preempted", "finished"]
    assert last_step(stages["pretrain"]) == 16
    evaluated = json.loads((stages["after"].outputs / "scores.json").read_text())
    artifacts = PipelineDir(devcluster.layout.folder / "runs" / first["pipeline"]).artifacts
    assert manifest(artifacts / "models" / "pretrained")["run"] == stages["pretrain"].root.name.rpartition("-")[2]
    assert evaluated["tasks"]
    before = newest_job(site)

    again = submit(site, path)

    assert [row["folder"] for row in again["stages"]] == [row["folder"] for row in first["stages"]]
    assert [row["job"] for row in again["stages"]] == [""] * 3
    assert newest_job(site) == before


def newest_job(site: Site) -> int:
    """The highest number of a job that Slurm has given."""
    told = site.slurm("squeue", "--noheader", "--states=all", "--format=%A").split()
    return max(int(job) for job in told)


def submit(site: Site, path: Path) -> dict[str, list[dict[str, str]]]:
    """Submit the pipeline's rehearsal and return what was said."""
    told: dict[str, list[dict[str, str]]] = json.loads(site.launcher("submit", path, "--rehearse", "--yes", "--json"))
    return told


def test_a_sweep_is_an_array_whose_best_point_the_next_stage_reads(devcluster: DevCluster, tmp_path: Path) -> None:
    site = Site(devcluster)
    first = submit(site, write_swept_pipeline(tmp_path / "swept.yaml", [2, 4], steps=6))
    rows = {row["stage"]: row for row in first["stages"]}
    points = {name: RunDir(Path(rows[name]["folder"])) for name in ("adapt-r=2", "adapt-r=4")}
    assert [rows[name]["job"].partition("_")[2] for name in points] == ["0", "1"]
    assert rows["evaluate"]["job"] == "", "it is queued when a point is selected"

    site.preempt(points["adapt-r=4"], step=1)
    for run in (*points.values(), RunDir(Path(rows["evaluate"]["folder"]))):
        site.wait_until_finished(run)

    assert [one.reason for one in read_attempts(points["adapt-r=4"].ledger)] == ["preempted", "finished"]
    folder = PipelineDir(Path(str(first["pipeline"])))
    assert "adapt: selected `adapt-r=" in folder.log.read_text()
    before = newest_job(site)

    second = submit(site, write_swept_pipeline(tmp_path / "swept.yaml", [2, 3, 4], steps=6))

    again = {row["stage"]: row for row in second["stages"]}
    assert {name: RunDir(Path(again[name]["folder"])) for name in points} == points
    site.wait_until_finished(RunDir(Path(again["adapt-r=3"]["folder"])))
    evaluated = RunDir(Path(again["evaluate"]["folder"]))
    log = PipelineDir(Path(str(second["pipeline"]))).log
    wait_for(lambda: "evaluate: " in log.read_text(), "the evaluation's turn")
    if "`adapt-r=3`" in log.read_text():
        site.wait_until_finished(evaluated)
        assert newest_job(site) == before + 2
    else:
        assert newest_job(site) == before + 1, "the evaluation has finished with the same adapter"


@pytest.mark.slow
def test_the_best_trial_of_a_search_is_what_the_next_stage_reads(devcluster: DevCluster, tmp_path: Path) -> None:
    site, path = Site(devcluster), write_searched_pipeline(tmp_path / "searched.yaml", trials=2)
    first = submit(site, path)
    rows = {row["stage"]: row for row in first["stages"]}
    pipeline = Pipeline(PipelineDir(Path(str(first["pipeline"]))))
    assert (rows["adapt"]["job"], rows["evaluate"]["job"]) == ("", ""), "they are queued when what they read is there"
    evaluated = RunDir(Path(rows["evaluate"]["folder"]))

    site.wait_until_finished(evaluated)

    folder = find_search(pipeline.folder.root.parent, rows["adapt"]["search"])
    assert folder
    past = read_past(folder, "validation_loss")
    best = min(past, key=lambda one: one.value or 0.0)
    assert [one.state for one in past] == ["finished"] * 2
    assert pipeline.runs()["adapt"].root.name == best.trial.run
    assert manifest(pipeline.folder.artifacts / "models" / "clinical")["run"] == best.trial.run.rpartition("-")[2]
    before = newest_job(site)

    again = submit(site, path)

    assert again["pipeline"] == first["pipeline"]
    assert newest_job(site) == before
