"""KTO and ORPO for real: ranks, gloo and FSDP2 on CPUs, a real small Llama, answers that differ in a word."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED, RunDir
from tests.support.preference_runs import make_preference_run, preempted_after, separable_pairs, write_pairs
from tests.support.training_runs import losses, train

pytestmark = pytest.mark.slow

STEPS = 5
EACH_STEP = {"interval": "1 steps", "keep": 9}
MOVING = {"sync": {"steps": 2, "share": 0.5}}
CASES: dict[str, dict[str, Any]] = {"kto": {"loss": "kto", "reference": MOVING}, "orpo": {"loss": "orpo"}}
SINGLE = [{"name": "answers", "files": "answers.jsonl", "format": "unpaired"}]


def make_run(folder: Path, **changes: Any) -> RunDir:
    schedule = {"length": f"{STEPS} steps", "warmup": "1 steps"} | changes.pop("schedule", {})
    return make_preference_run(folder, "dpo", schedule=schedule, **changes)


def finished(folder: Path, ranks: int = 1, **changes: Any) -> RunDir:
    run = make_run(folder, **changes)
    attempt = train(run, ranks)
    assert attempt.exit_codes == [FINISHED] * ranks, attempt.log()
    return run


def write_answers(folder: Path, count: int) -> None:
    """Write the answers of separable pairs without their partners: two of three are the preferred ones."""
    records = [
        {"prompt": pair["question"], "completion": pair[f"response_{side}"], "label": side == "chosen"}
        for number, pair in enumerate(separable_pairs(count))
        for side in ["chosen" if number % 3 else "rejected"]
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    return load_file(run.outputs / "model" / "model.safetensors")


def held_out(run: RunDir) -> dict[str, Any]:
    split = json.loads((run.outputs / "scores.json").read_text())["splits"]["validation"]
    return {name: score["value"] for name, score in split["scores"].items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pairs: two epochs are 5 steps."""
    folder = tmp_path_factory.mktemp("single")
    write_pairs(folder, 12)
    return folder


@pytest.mark.parametrize("loss", ["kto", pytest.param("orpo", marks=pytest.mark.long)])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(folder: Path, loss: str) -> None:
    whole = finished(folder, ranks=2, checkpoint=EACH_STEP, **CASES[loss])
    run = preempted_after(whole, 3, folder / f"{loss}-resumed")

    last = train(run, ranks=2, attempt=1)

    assert last.exit_codes == [FINISHED] * 2, last.log()
    assert last.steps() == [4, 5]
    assert losses(run) == losses(whole)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(run).items())


@pytest.mark.long
@pytest.mark.parametrize("loss", CASES)
def test_neither_the_micro_batch_nor_the_strategy_changes_a_loss(folder: Path, loss: str) -> None:
    runs = [
        finished(folder, ranks, batch={"micro_batch": size}, parallel={"strategy": strategy}, **CASES[loss])
        for ranks, size, strategy in ((1, 4, "ddp"), (2, 1, "full_shard"))
    ]

    whole, parts = map(losses, runs)
    assert parts == pytest.approx(whole, abs=1e-4)
    assert len(set(whole.values())) >= STEPS - 1, "the learning rate of the first step is 0"


@pytest.mark.parametrize("loss", ["orpo", pytest.param("kto", marks=pytest.mark.long)])
def test_the_margin_of_held_out_pairs_grows(tmp_path: Path, loss: str) -> None:
    write_pairs(tmp_path, 50)

    run = finished(tmp_path, data={"validation": 0.5}, schedule={"length": "8 steps"}, loss=loss, beta=0.5)

    first, *_, last = read_json_lines(run.evaluations)
    assert last["margin"] > first["margin"] + 0.2
    assert held_out(run)["accuracy"] >= 0.9


def test_answers_without_partners_teach_what_to_say(tmp_path: Path) -> None:
    write_answers(tmp_path, 90)
    settings = {"undesirable_weight": 2.0, "data": {"sources": SINGLE, "validation": 0.4}}
    sizes = {"global_batch": "12 sequences", "micro_batch": 4}

    run = finished(tmp_path, batch=sizes, schedule={"length": "8 steps"}, loss="kto", beta=0.5, **settings)

    first, *_, last = read_json_lines(run.evaluations)
    assert first["margin"] == 0 and last["margin"] > 0.2
    assert held_out(run)["auroc"] >= 0.9
    assert read_json_lines(run.metrics)[-1]["kl"] >= 0
