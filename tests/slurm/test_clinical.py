"""Clinical LLaMA-LoRA's two steps, queued at once: the tasks wait for the adapter, and that for its corpus."""

import json

import pytest

from launcher.devcluster import DevCluster
from launcher.run.paths import RunDir
from tests.slurm.site import RECIPES, Site, joined_losses, manifest, record, recorded_losses

pytestmark = pytest.mark.slurm

TASKS = ("mor", "los", "pmv", "diag", "proc")


@pytest.fixture(scope="module")
def site(devcluster: DevCluster) -> Site:
    return Site(devcluster)


@pytest.mark.long
@pytest.mark.parametrize("wanted", [(*TASKS[:1], *TASKS[3:4]), TASKS])
def test_tasks_follow_their_clinical_adapter(site: Site, wanted: tuple[str, ...]) -> None:
    def submit(name: str, *before: RunDir, settings: tuple[str, ...] = ()) -> RunDir:
        waits = [word for run in before for word in ("--after", record(run).id)]
        [run] = site.submit(RECIPES / f"{name}.yaml", "--rehearse", *settings, *waits)
        return run

    corpus = submit("prepare_mimic_iv")
    clinical = submit("clinical_llama_lora_mimic", corpus)
    tasks = {"mor": submit("clinical_llama_lora_mor", clinical)}
    for task in wanted[1:]:
        tasks[task] = submit(f"clinical_llama_lora_{task}", clinical, settings=("--set", "resources.gpus_per_node=1"))

    evaluated = submit("clinical_eval", corpus, clinical)

    for run in (corpus, clinical, *tasks.values(), evaluated):
        site.wait_until_finished(run)
    adapter = site.cluster.layout.folder / "models" / "clinical-llama-lora-rehearsal"
    assert adapter.resolve() == (clinical.outputs / "model").resolve()
    assert manifest(adapter)["data_use"] == "credentialed"
    assert list(joined_losses(clinical).values()) == recorded_losses("clinical-llama-lora-mimic")
    for task, run in tasks.items():
        assert list(joined_losses(run).values()) == recorded_losses(f"clinical-llama-lora-{task}")
        said = manifest(run.outputs / "model")
        (beneath,) = said["beneath"]
        assert (beneath["path"], beneath["trainable"]) == ("clinical-llama-lora-rehearsal", True)
        assert said["corpora"][0] == "mimic-iv-rehearsal"
        assert said["data_use"] == "credentialed"
        assert (run.outputs / "model" / beneath["folder"] / "adapter_model.safetensors").is_file()
        assert json.loads((run.outputs / "scores.json").read_text())["splits"]["test"]
    scores = json.loads((evaluated.outputs / "scores.json").read_text())
    assert (scores["data_use"], scores["model"]["adapters"][0]["path"]) == ("credentialed", adapter.name)
    for task in ("first-512", "whole-notes"):
        assert 1 < scores["tasks"][task]["scores"]["token_perplexity"]["value"] < 512
        assert scores["tasks"][task]["notes"][1] == (
            "trained on `mimic-iv-rehearsal`, whose `validation` split was held out"
        )
