"""Rehearsals that no other test here submits, all queued at once, each behind what makes what it reads.

With fewer steps and one rank: what is tried is each recipe's own model, data and exports, and that they fit together.
"""

import json
import math
import stat
from collections.abc import Iterator

import pytest

from launcher.corpus import read_manifest
from launcher.devcluster import DevCluster
from launcher.ledger import read_json_lines
from launcher.paths import RunDir
from tests.slurm.site import RECIPES, Site, joined_losses, manifest, record

pytestmark = pytest.mark.slurm

QUESTIONS = ("biomed_llama_medqa", "biomed_llama_medmcqa", "biomed_llama_pubmedqa", "biomed_llama_instruct")
BASELINES = tuple(f"clinical_baseline_{task}" for task in ("mor", "los", "pmv", "diag", "proc"))
SOURCES = {
    "prepare_medline": ("medline-rehearsal", "open", 120, {"train": 114, "validation": 5}, {"deleted": 1}),
    "prepare_pmc": ("pmc-rehearsal", "open", 2, {"train": 2, "validation": 0}, {}),
    "prepare_mimic_iii": (
        *("mimic-iii-rehearsal", "credentialed", 240),
        *({"train": 151, "validation": 11}, {"error": 6, "too_short": 72}),
    ),
    "prepare_pubmed_and_mimic": (
        *("mimic-rehearsal", "credentialed", 307),
        *({"train": 212, "validation": 17}, {"error": 6, "too_short": 72}),
    ),
}
"""By recipe: its corpus, data use, records, documents, and what was dropped why."""
CHAIN = (
    "medicalgpt_vocabulary",
    "prepare_medicalgpt",
    "medicalgpt_pt",
    "medicalgpt_merge",
    "medicalgpt_sft",
    "merge of the sft",
    "classify",
)
STEPS = 4
ALONE = ("resources.nodes=1", "resources.gpus_per_node=1")
SMALL = (
    *ALONE,
    *("batch.global_batch=4 sequences", f"schedule.length={STEPS} steps", "checkpoint.interval=2 steps"),
)


class Queue:
    """Everything that was submitted, by the recipe's file name or by what it does in the chain."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.runs: dict[str, list[RunDir]] = {}

    def submit(self, *files: str, settings: tuple[str, ...] = (), after: tuple[str, ...] = (), name: str = "") -> None:
        """Submit rehearsals, several as an array; `after` what was submitted by those names."""
        waits = [word for one in after for run in self.runs[one] for word in ("--after", record(run).id)]
        words = [word for setting in settings for word in ("--set", setting)]
        runs = self.site.submit(*(RECIPES / f"{file}.yaml" for file in files), "--rehearse", *words, *waits)
        if len(files) == 1:
            self.runs[name or files[0]] = runs
        else:
            self.runs |= {file: [run] for file, run in zip(files, runs, strict=True)}


@pytest.fixture(scope="module")
def queue(devcluster: DevCluster) -> Iterator[Queue]:
    """All of it, queued."""
    queue = Queue(Site(devcluster))
    _submit_chain(queue)
    for source in SOURCES:
        queue.submit(source)
    queue.submit("clinical_llama_cpt", settings=ALONE, after=("prepare_pubmed_and_mimic",))
    queue.submit(*QUESTIONS, "pubmedqa_qlora", settings=SMALL)
    queue.submit(*BASELINES, settings=SMALL)
    yield queue


def _submit_chain(queue: Queue) -> None:
    """From text to a classifier: vocabulary, corpus, pretraining, merge, fine-tuning, merge, head."""
    queue.submit("medicalgpt_vocabulary")
    queue.submit("prepare_medicalgpt", after=("medicalgpt_vocabulary",))
    queue.submit("medicalgpt_pt", settings=SMALL, after=("medicalgpt_vocabulary", "prepare_medicalgpt"))
    queue.submit("medicalgpt_merge", after=("medicalgpt_pt",))
    tuned = (*SMALL, "model.path=medicalgpt-rehearsal", "output=medicalgpt-sft-rehearsal")
    queue.submit("medicalgpt_sft", settings=tuned, after=("medicalgpt_merge",))
    parts = ("base_model=medicalgpt-rehearsal", "adapters=[{path: medicalgpt-sft-rehearsal}]", "output=chat-rehearsal")
    queue.submit("medicalgpt_merge", settings=parts, after=("medicalgpt_merge", "medicalgpt_sft"), name=CHAIN[5])
    head = (*SMALL, "model.path=chat-rehearsal", "model.init=pretrained")
    queue.submit("clinical_baseline_mor", settings=head, after=(CHAIN[5],), name=CHAIN[6])


@pytest.mark.parametrize("name", [*QUESTIONS, "pubmedqa_qlora"])
def test_a_rehearsal_on_questions_trains_and_exports(queue: Queue, name: str) -> None:
    [run] = queue.runs[name]

    _assert_trained(queue.site, run)


@pytest.mark.parametrize("name", BASELINES)
def test_a_rehearsal_of_an_encoder_trains_and_is_scored(queue: Queue, name: str) -> None:
    [run] = queue.runs[name]

    _assert_trained(queue.site, run)

    assert json.loads((run.outputs / "scores.json").read_text())["splits"]["test"]


@pytest.mark.parametrize("name", SOURCES)
def test_a_rehearsal_of_prepare_makes_its_corpus(queue: Queue, name: str) -> None:
    corpus, *expected = SOURCES[name]
    for run in queue.runs[name]:
        queue.site.wait_until_finished(run)

    queue.site.launcher("corpus", "verify", corpus)
    folder = queue.site.cluster.layout.folder / "corpora" / corpus
    made = read_manifest(folder)
    counts = made.counts
    assert [made.data_use, counts.records, counts.documents, counts.dropped] == expected
    assert counts.bad_records == 0
    is_closed = stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert is_closed == (made.data_use == "credentialed")


def test_the_curriculum_is_trained_on_what_was_prepared_before(queue: Queue) -> None:
    [run] = queue.runs["clinical_llama_cpt"]

    _assert_trained(queue.site, run, steps=20)

    rows = read_json_lines(run.metrics)
    assert rows[-1]["loss"] < rows[0]["loss"]
    said = manifest(run.outputs / "model")
    assert (said["corpora"], said["data_use"]) == (["medline-rehearsal", "mimic-rehearsal"], "credentialed")
    assert stat.S_IMODE(run.root.stat().st_mode) == 0o700


def test_a_chain_from_text_to_a_classifier_is_queued_at_once(queue: Queue) -> None:
    runs = {name: queue.runs[name][0] for name in CHAIN}

    for name in ("medicalgpt_vocabulary", "prepare_medicalgpt", "medicalgpt_merge", "merge of the sft"):
        queue.site.wait_until_finished(runs[name])
    for name in ("medicalgpt_pt", "medicalgpt_sft", "classify"):
        _assert_trained(queue.site, runs[name])

    bases = {name: manifest(runs[name].outputs / "model")["base_model"] for name in ("medicalgpt_sft", "classify")}
    assert bases == {"medicalgpt_sft": "medicalgpt-rehearsal", "classify": "chat-rehearsal"}
    models = queue.site.cluster.layout.folder / "models"
    configs = [
        json.loads((models / name / "config.json").read_text()) for name in ("medicalgpt-rehearsal", "chat-rehearsal")
    ]
    assert configs[0]["vocab_size"] == configs[1]["vocab_size"] > 512  # of the model that all began with


def _assert_trained(site: Site, run: RunDir, steps: int = STEPS) -> None:
    """All steps, each with a loss, and an export that says whose it is."""
    site.wait_until_finished(run)
    losses = joined_losses(run)
    assert sorted(losses) == [row["step"] for row in read_json_lines(run.metrics)] == list(range(1, steps + 1))
    assert all(math.isfinite(loss) for loss in losses.values())
    assert manifest(run.outputs / "model")["run"] == record(run).id
