"""Rehearsals that no other test here submits, all queued at once, each behind what makes what it reads.

With fewer steps and one rank: what is tried is each recipe's own model, data and exports, and that they fit together.
Of recipes that differ in nothing but their data `make test` has one; tests/kinds/test_rehearsals.py trains the others
without Slurm.
"""

import json
import stat
from collections.abc import Iterator

import pytest
from _pytest.mark.structures import ParameterSet

from launcher.artifacts.corpus_manifest import read_manifest
from launcher.devcluster import DevCluster
from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir
from tests.slurm.site import (
    ALONE,
    FEW_STEPS,
    RECIPES,
    SMALL,
    Site,
    joined_losses,
    manifest,
    record,
    recorded_losses,
)

pytestmark = pytest.mark.slurm

QUESTIONS = ("biomed_llama_medqa", "biomed_llama_medmcqa", "biomed_llama_pubmedqa", "biomed_llama_instruct")
PAIRS = ("medicalgpt_reward", "medicalgpt_dpo")
BASELINES = tuple(f"clinical_baseline_{task}" for task in ("mor", "los", "pmv", "diag", "proc"))
EXPORTS = ("export_onnx", "export_4bit")
REINFORCED = ("medicalgpt_ppo", "medicalgpt_rloo", "medicalgpt_grpo")
REPEATED = (
    *("biomed_llama_medmcqa", "biomed_llama_pubmedqa", "medicalgpt_reward", "medicalgpt_rloo"),
    *(f"clinical_baseline_{task}" for task in ("los", "pmv", "proc")),
)
"""For `make long`: what another one goes through as well; test_alignment.py and test_outcomes.py submit two of them."""
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
    "medicalgpt_merge_sft",
    "classify",
)
MEDCARE_ITEMS = RECIPES / "assets" / "medcare_layout" / "MedQA.json"


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


def each(names: tuple[str, ...]) -> list[ParameterSet]:
    return [pytest.param(name, marks=[pytest.mark.long] if name in REPEATED else []) for name in names]


@pytest.fixture(scope="module")
def queue(request: pytest.FixtureRequest, devcluster: DevCluster) -> Iterator[Queue]:
    """All of it, queued; but only those of the repeated ones that are asked for."""
    asked = [item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")]

    def wanted(*names: str) -> list[str]:
        return [name for name in names if name not in REPEATED or name in asked]

    queue = Queue(Site(devcluster))
    _submit_chain(queue)
    for source in SOURCES:
        queue.submit(source)
    queue.submit("clinical_llama_cpt", settings=ALONE, after=("prepare_pubmed_and_mimic",))
    queue.submit(*wanted(*QUESTIONS), "pubmedqa_qlora", settings=SMALL)
    queue.submit("generate_medcare", settings=("array_size=3", *ALONE))
    queue.submit("medcare_eval", "pubmedqa_eval", settings=ALONE)
    for export in EXPORTS:
        queue.submit(export)
    queue.submit(*wanted(*PAIRS), settings=SMALL)
    queue.submit(*wanted(*BASELINES), settings=SMALL)
    queue.submit(*wanted(*REINFORCED), settings=SMALL)
    yield queue


def _submit_chain(queue: Queue) -> None:
    """From text to a classifier: vocabulary, corpus, pretraining, merge, fine-tuning, merge, head."""
    queue.submit("medicalgpt_vocabulary")
    queue.submit("prepare_medicalgpt", after=("medicalgpt_vocabulary",))
    queue.submit("medicalgpt_pt", settings=SMALL, after=("medicalgpt_vocabulary", "prepare_medicalgpt"))
    queue.submit("medicalgpt_merge", after=("medicalgpt_pt",))
    tuned = (*SMALL, "model.path=medicalgpt-rehearsal")
    queue.submit("medicalgpt_sft", settings=tuned, after=("medicalgpt_merge",))
    base = ("base_model=medicalgpt-rehearsal",)
    queue.submit("medicalgpt_merge_sft", settings=base, after=("medicalgpt_merge", "medicalgpt_sft"))
    head = (*SMALL, "model.path=medicalgpt-sft-merged-rehearsal", "model.init=pretrained")
    queue.submit("clinical_baseline_mor", settings=head, after=(CHAIN[5],), name=CHAIN[6])


@pytest.mark.parametrize("name", each((*QUESTIONS, "pubmedqa_qlora")))
def test_a_rehearsal_on_questions_trains_and_exports(queue: Queue, name: str) -> None:
    [run] = queue.runs[name]

    _assert_trained(queue.site, run, name.replace("_", "-"))


def test_a_generation_in_three_array_elements_writes_all_texts(queue: Queue) -> None:
    [run] = queue.runs["generate_medcare"]
    queue.site.wait_until_finished(run)

    lines = read_json_lines(run.outputs / "generations.jsonl")
    assert [line["id"] for line in lines] == [item["id"] for item in json.loads(MEDCARE_ITEMS.read_text())]
    assert all(line["tokens"] <= 16 for line in lines)


@pytest.mark.parametrize(
    ("name", "notes"),
    [("medcare_eval", ["left out, since its files are not there: CMB"]), ("pubmedqa_eval", [])],
)
def test_a_rehearsal_of_an_evaluation_is_scored(queue: Queue, name: str, notes: list[str]) -> None:
    [run] = queue.runs[name]
    queue.site.wait_until_finished(run)

    scores = json.loads((run.outputs / "scores.json").read_text())
    assert scores["notes"] == notes
    items = {"medcare_eval": {"MedQA": 12, "CBLUE": 16, "CCTE": 3}, "pubmedqa_eval": {"pubmedqa": 60}}[name]
    assert {task: its["n"] for task, its in scores["tasks"].items()} == items
    assert all(0 <= its["scores"][its["headline"]]["value"] <= 1 for its in scores["tasks"].values())


@pytest.mark.parametrize("name", EXPORTS)
def test_a_rehearsal_of_an_export_is_published_and_close_to_the_original(queue: Queue, name: str) -> None:
    [run] = queue.runs[name]
    queue.site.wait_until_finished(run)

    said = json.loads(run.export_report.read_text())
    assert said["verification"]["largest"] <= said["verification"]["limits"]["difference"]
    folder = queue.site.cluster.layout.folder / "models" / f"{name.replace('_', '-')}-rehearsal"
    files = {"export_onnx": ("prefill.onnx", "decode.onnx"), "export_4bit": ("model.safetensors",)}[name]
    assert manifest(folder)["run"] == record(run).id
    assert all((folder / file).stat().st_size for file in files)


@pytest.mark.parametrize("name", each(REINFORCED))
def test_a_rehearsal_of_reinforcement_learning_trains_and_exports(queue: Queue, name: str) -> None:
    [run] = queue.runs[name]

    _assert_trained(queue.site, run, None)  # what is sampled depends on the last digits, and so on the machine

    assert all("reward" in row for row in read_json_lines(run.metrics)[::2])
    assert {"prompt", "completion", "reward"} <= read_json_lines(run.samples)[0].keys()


@pytest.mark.parametrize("name", each(PAIRS))
def test_a_rehearsal_on_pairs_trains_and_is_scored(queue: Queue, name: str) -> None:
    [run] = queue.runs[name]

    _assert_trained(queue.site, run, name.replace("_", "-"))

    split = json.loads((run.outputs / "scores.json").read_text())["splits"]["validation"]
    assert split["pairs"] > 0 and set(split["scores"]) == {"accuracy", "margin", "log_loss", "calibration_error"}


@pytest.mark.parametrize("name", each(BASELINES))
def test_a_rehearsal_of_an_encoder_trains_and_is_scored(queue: Queue, name: str) -> None:
    [run] = queue.runs[name]

    _assert_trained(queue.site, run, name.replace("_", "-"))

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

    _assert_trained(queue.site, run, "clinical-llama-cpt", steps=20)

    rows = read_json_lines(run.metrics)
    assert rows[-1]["loss"] < rows[0]["loss"]
    said = manifest(run.outputs / "model")
    assert (said["corpora"], said["data_use"]) == (["medline-rehearsal", "mimic-rehearsal"], "credentialed")
    assert stat.S_IMODE(run.root.stat().st_mode) == 0o700


def test_a_chain_from_text_to_a_classifier_is_queued_at_once(queue: Queue) -> None:
    runs = {name: queue.runs[name][0] for name in CHAIN}

    for name in ("medicalgpt_vocabulary", "prepare_medicalgpt", "medicalgpt_merge", "medicalgpt_merge_sft"):
        queue.site.wait_until_finished(runs[name])
    for name in ("medicalgpt_pt", "medicalgpt_sft", "classify"):
        _assert_trained(queue.site, runs[name], name.replace("_", "-"))

    bases = {name: manifest(runs[name].outputs / "model")["base_model"] for name in ("medicalgpt_sft", "classify")}
    assert bases == {"medicalgpt_sft": "medicalgpt-rehearsal", "classify": "medicalgpt-sft-merged-rehearsal"}
    models = queue.site.cluster.layout.folder / "models"
    merged = ("medicalgpt-rehearsal", "medicalgpt-sft-merged-rehearsal")
    configs = [json.loads((models / name / "config.json").read_text()) for name in merged]
    assert configs[0]["vocab_size"] == configs[1]["vocab_size"] > 512  # of the model that all began with


def _assert_trained(site: Site, run: RunDir, name: str | None, steps: int = FEW_STEPS) -> None:
    """All steps, an export that says whose it is, and the losses that were recorded under a name, if there is one."""
    site.wait_until_finished(run)
    losses = joined_losses(run)
    assert sorted(losses) == [row["step"] for row in read_json_lines(run.metrics)] == list(range(1, steps + 1))
    assert name is None or list(losses.values()) == recorded_losses(name)
    assert manifest(run.outputs / "model")["run"] == record(run).id
