"""The five published systems in rehearsal size on a real Slurm: one line each, from data to a table of scores."""

import json
import random
import re
from pathlib import Path

import pytest

from launcher.devcluster import DevCluster
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir
from tests.slurm.site import RECIPES, Site
from tests.slurm.test_pipeline import newest_job

pytestmark = pytest.mark.long

SYSTEMS = {
    "biomed_llama": ("pretrain",),
    "clinical_llama_lora": ("adapt-r=4-alpha=8-dropout=0.1",),
    "medcare": ("stage1", "stage2"),
    "medicalgpt": ("pretrain", "sft", "reward"),
    "pubmedqa_qlora": ("train-terms",),
}
"""Trainings of each that are preempted once: those that little else runs beside, so that they cannot be missed."""
HOUR = 3600


@pytest.mark.parametrize("system", SYSTEMS)
def test_one_line_goes_from_data_to_scores_through_preemptions_and_is_not_done_again(
    small_cluster: DevCluster, system: str
) -> None:
    site, chosen = Site(small_cluster), random.Random(system)
    stages = submit(site, system)

    for stage in SYSTEMS[system]:
        site.wait_for_attempt(stages[stage], 0, timeout=HOUR)
        site.preempt(stages[stage], step=chosen.randint(1, 3))
    for run in stages.values():
        site.wait_until_finished(run, timeout=HOUR)

    for stage in SYSTEMS[system]:
        assert [attempt.reason for attempt in read_attempts(stages[stage].ledger)] == ["preempted", "finished"]
    name = f"{system.replace('_', '-')}-rehearsal"
    found = json.loads(site.launcher("compare", name, "--json"))
    assert all(score["n"] > 0 for score in found["scores"])
    assert {score["stage"] for score in found["scores"]} == {re.split(r"-\w+=", name)[0] for name in scored(stages)}
    assert found["published"]["source"]
    before = newest_job(site)

    assert submit(site, system) == stages

    assert newest_job(site) == before


def submit(site: Site, system: str) -> dict[str, RunDir]:
    """Submit the rehearsal of a system; gives the run of each stage, of a sweep that of each point."""
    path = RECIPES / "pipelines" / f"{system}.yaml"
    told = json.loads(site.launcher("submit", path, "--rehearse", "--yes", "--json"))
    return {row["stage"]: RunDir(Path(row["folder"])) for row in told["stages"] if "selects" not in row}


def scored(stages: dict[str, RunDir]) -> set[str]:
    """The stages whose runs left scores."""
    return {name for name, run in stages.items() if (run.outputs / "scores.json").is_file()}
