"""The recipes of outcomes on a real Slurm, and a classifier that was queued before its tables were there."""

import json
import stat

import pytest

from launcher.artifacts.outcomes_manifest import read_outcomes
from launcher.devcluster import DevCluster
from tests.slurm.site import RECIPES, Site, manifest, record

pytestmark = pytest.mark.slurm
SMALL = (
    *("data.folder=core-rehearsal", "resources.nodes=1", "resources.gpus_per_node=1"),
    *("batch.global_batch=4 sequences", "schedule.length=4 steps", "checkpoint.interval=2 steps"),
)


@pytest.fixture(scope="module")
def site(devcluster: DevCluster) -> Site:
    return Site(devcluster)


def test_a_classifier_waits_for_the_tables_that_it_reads(site: Site) -> None:
    words = [word for setting in SMALL for word in ("--set", setting)]
    [tables] = site.submit(RECIPES / "outcomes_mimic_iii.yaml", "--rehearse")
    head = (RECIPES / "clinical_baseline_pmv.yaml", "--rehearse", *words, "--after", record(tables).id)
    [classifier] = site.submit(*head)

    site.wait_until_finished(tables)
    site.wait_until_finished(classifier)

    folder = site.cluster.layout.folder / "data" / "core-rehearsal"
    made = read_outcomes(folder)
    assert (made.run, made.data_use) == (record(tables).id, "credentialed")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    scores = json.loads((classifier.outputs / "scores.json").read_text())
    assert scores["splits"]["test"]["notes"] == made.sizes["pmv"]["test"]
    assert manifest(classifier.outputs / "model")["data_use"] == "credentialed"


def test_tables_of_mimic_iv_are_made(site: Site) -> None:
    [run] = site.submit(RECIPES / "outcomes_mimic_iv.yaml", "--rehearse")

    site.wait_until_finished(run)

    assert set(read_outcomes(site.cluster.layout.folder / "data" / "core-iv-rehearsal").sizes) == {
        "los",
        "mor",
        "diag",
        "proc",
    }
