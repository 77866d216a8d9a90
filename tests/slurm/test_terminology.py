"""An index of terms, and a corpus and a fine-tuning that use it, queued at once: they wait for the index."""

import json
import stat

import pytest

from launcher.artifacts.corpus_manifest import read_manifest
from launcher.artifacts.terminology_manifest import read_terminology_manifest
from launcher.devcluster import DevCluster
from launcher.run.paths import RunDir
from tests.slurm.site import RECIPES, Site, record

pytestmark = pytest.mark.slurm


def test_a_corpus_follows_the_index_that_it_uses(small_cluster: DevCluster) -> None:
    site, roots = Site(small_cluster), small_cluster.layout.folder
    index = "{index: disease-terms-rehearsal, masking: {base: 0.2}, synonyms: {probability: 0.2}}"
    settings = ("corpus=terms-rehearsal", "data_use=credentialed", f"clean.terminology={index}")
    words = [word for setting in settings for word in ("--set", setting)]

    [terms] = site.submit(RECIPES / "terminology_umls.yaml", "--rehearse")
    after = ("--after", record(terms).id)
    [corpus] = site.submit(RECIPES / "prepare_pile_pubmed.yaml", "--rehearse", *words, *after)
    for run in (terms, corpus):
        site.wait_until_finished(run)

    made = read_terminology_manifest(roots / "models" / "disease-terms-rehearsal")
    manifest = read_manifest(roots / "corpora" / "terms-rehearsal")
    assert (made.data_use, manifest.data_use) == ("credentialed", "credentialed")
    assert stat.S_IMODE((roots / "models" / "disease-terms-rehearsal").stat().st_mode) == 0o700
    assert manifest.terminology is not None
    assert manifest.terminology.fingerprint == made.fingerprint
    assert {"masked", "normalised", "synonym"} <= manifest.counts.terminology.keys()
    site.launcher("corpus", "verify", "terms-rehearsal")


STEPS = ("schedule.length=4 steps", "batch.global_batch=4 sequences", "checkpoint.interval=2 steps")
DECISIONS = (
    "{type: generate, name: pubmedqa, files: ./assets/pubmedqa_60.json.gz, format: pubmedqa, prompt: sft, chat: "
    "{template: alpaca}, decoding: {max_new_tokens: 1}, answer: {forced: 'Final Decision: '}}"
)
"""The decision that is most likely: a model this small writes none."""
ALONE = ("resources.nodes=1", "resources.gpus_per_node=1")


def test_a_model_with_terminology_is_compared_with_one_without(small_cluster: DevCluster) -> None:
    site = Site(small_cluster)

    def submit(name: str, *settings: str, after: RunDir | None = None) -> RunDir:
        words = [word for setting in (*ALONE, *settings) for word in ("--set", setting)]
        waits = ("--after", record(after).id) if after else ()
        [run] = site.submit(RECIPES / f"{name}.yaml", "--rehearse", *words, *waits)
        return run

    terms = submit("terminology_umls", "output=disease-terms-rehearsal", "resources.gpus_per_node=0")
    plain = submit("pubmedqa_qlora", *STEPS)
    changed = submit("pubmedqa_terms_qlora", *STEPS, after=terms)
    adapter = "model.adapters=[{path: pubmedqa-qlora-rehearsal, trained_on: ./assets/stories260k}]"
    evaluations = [
        submit("pubmedqa_eval", f"tasks=[{DECISIONS}]", adapter, after=plain),
        submit("pubmedqa_terms_eval", f"tasks=[{DECISIONS}]", after=changed),
    ]
    for run in (terms, plain, changed, *evaluations):
        site.wait_until_finished(run)

    tallies = [json.loads((run.examples / "pubmedqa" / "source.json").read_text())["tally"] for run in (plain, changed)]
    assert tallies[0]["strata"] == tallies[1]["strata"]
    assert {value: its["validation"] for value, its in tallies[0]["strata"].items()} == {"maybe": 0, "no": 2, "yes": 4}
    assert tallies[0]["terminology"] == {}
    assert {"normalised", "synonym"} <= tallies[1]["terminology"].keys()
    found = json.loads(site.launcher("compare", *(str(run.root) for run in evaluations), "--json"))
    assert [row["score"]["n"] for row in found["rows"]] == [60, 60]
    assert found["rows"][1]["difference"]["standard_error"] is not None
    assert found["notes"][-1] == "credentialed: `pubmedqa-terms-eval-rehearsal`"
