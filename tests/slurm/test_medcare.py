"""MedCare's three recipes, queued at once: each waits for what the ones before it make."""

import json

import pytest

from launcher.devcluster import DevCluster
from launcher.run.paths import RunDir
from tests.slurm.site import RECIPES, Site, joined_losses, manifest, record, recorded_losses

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def site(devcluster: DevCluster) -> Site:
    return Site(devcluster)


def test_the_stages_follow_each_other(site: Site) -> None:
    def submit(part: str, *before: RunDir) -> RunDir:
        waits = [word for run in before for word in ("--after", record(run).id)]
        [run] = site.submit(RECIPES / f"medcare_{part}.yaml", "--rehearse", *waits)
        return run

    first = submit("stage1")
    merge = submit("merge", first)
    second = submit("stage2", first, merge)

    for run in (first, merge, second):
        site.wait_until_finished(run)
    models = site.cluster.layout.folder / "models"
    adapter, final = models / "medcare-stage1-rehearsal", models / "medcare-stage2-rehearsal"
    assert adapter.resolve() == (first.outputs / "model").resolve()
    assert json.loads((adapter / "adapter_config.json").read_text())["peft_type"] == "MOLORA"
    assert manifest(models / "medcare-taia-rehearsal")["adapters"][0]["only"] == "attention"
    said = manifest(final)
    assert (said["base_model"], said["started_from"]) == ("medcare-taia-rehearsal", "medcare-stage1-rehearsal")
    assert said["corpora"] == ["medcare-1", "medcare-2"]
    assert json.loads((final / "adapter_config.json").read_text())["r"] == 64
    assert list(joined_losses(first).values()) == recorded_losses("medcare-stage1")
    assert list(joined_losses(second).values()) == recorded_losses("medcare-stage2")
