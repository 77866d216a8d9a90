"""kind: reward for real: ranks, gloo, FSDP2 and DeepSpeed on CPUs, a real small Llama, pairs that differ in a word."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from jobs.data.chat.render import Example
from jobs.data.chat.tokenised_source import finished_source
from jobs.data.preferences.store import open_pairs
from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED, NEVER_RESTART, RunDir
from tests.support.preference_runs import make_preference_run, preempted_after, write_pairs
from tests.support.training_runs import losses, start, train

pytestmark = pytest.mark.slow

STEPS = 5
EACH_STEP = {"interval": "1 steps", "keep": 9}
LORA = {"method": "lora", "r": 2, "targets": ["q_proj", "v_proj"]}
WITH_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")


def make_run(folder: Path, **changes: Any) -> RunDir:
    schedule = {"length": f"{STEPS} steps", "warmup": "1 steps"} | changes.pop("schedule", {})
    return make_preference_run(folder, "reward", schedule=schedule, **changes)


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    return load_file(run.outputs / "model" / "model.safetensors")


def held_out_scores(run: RunDir) -> dict[str, Any]:
    split = json.loads((run.outputs / "scores.json").read_text())["splits"]["validation"]
    return {name: score["value"] for name, score in split["scores"].items()} | {"pairs": split["pairs"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pairs: two epochs are 5 steps."""
    folder = tmp_path_factory.mktemp("reward")
    write_pairs(folder, 12)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> RunDir:
    """Two ranks, saved at each of two epochs' steps."""
    run = make_run(folder, checkpoint=EACH_STEP, center=0.01)
    attempt = train(run, ranks=2)
    assert attempt.exit_codes == [FINISHED] * 2, attempt.log()
    return run


@pytest.mark.parametrize("step", [1, 4])
def test_a_run_resumed_from_any_step_is_the_uninterrupted_one_to_the_last_bit(
    folder: Path, uninterrupted: RunDir, step: int
) -> None:
    run = preempted_after(uninterrupted, step, folder / f"resumed-{step}")

    last = train(run, ranks=2, attempt=1)

    assert last.exit_codes == [FINISHED] * 2, last.log()
    assert last.steps() == [*range(step + 1, STEPS + 1)]
    assert losses(run) == losses(uninterrupted)
    assert all(torch.equal(tensor, weights(uninterrupted)[name]) for name, tensor in weights(run).items())
    assert held_out_scores(run) == held_out_scores(uninterrupted)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run on pairs of which half are held out."""
    folder = tmp_path_factory.mktemp("taught")
    write_pairs(folder, 50)
    run = make_run(folder, data={"validation": 0.5}, schedule={"length": "8 steps"}, optim={"lr": 2e-3})
    attempt = train(run)
    assert attempt.exit_codes == [FINISHED], attempt.log()
    return run


def test_held_out_pairs_are_told_apart(taught: RunDir) -> None:
    scores = held_out_scores(taught)

    assert scores["pairs"] >= 18
    assert scores["accuracy"] >= 0.9
    assert scores["margin"] > 0.5
    assert scores["log_loss"] < 0.5
    assert read_json_lines(taught.metrics)[-1]["accuracy"] > 0.5


def test_the_export_rewards_in_plain_transformers_as_it_was_scored(taught: RunDir) -> None:
    export = taught.outputs / "model"
    model = AutoModelForSequenceClassification.from_pretrained(export).eval()
    tokenizer = AutoTokenizer.from_pretrained(export)
    rows = parquet.read_table(taught.outputs / "predictions" / "validation.parquet").to_pylist()
    source = finished_source(taught.examples, "pairs")
    assert source is not None
    (pairs,) = open_pairs(taught.examples, [source], "validation")

    def reward(side: Example) -> float:
        return float(model(torch.from_numpy(side.ids.astype(np.int64))[None]).logits)

    with torch.no_grad():
        found = [[reward(one.chosen), reward(one.rejected)] for one in map(pairs.read, range(len(pairs)))]
        chat = [{"role": "user", "content": "7: the cat?"}]
        said = [[*chat, {"role": "assistant", "content": f"The cat was very {how}."}] for how in ("happy", "sad")]
        batch = tokenizer.apply_chat_template(said, padding=True, return_tensors="pt", return_dict=True)
        happy, sad = model(**batch).logits.squeeze(-1).tolist()

    assert model.config.num_labels == 1
    assert found == [[pytest.approx(row[side], abs=1e-4) for side in ("chosen", "rejected")] for row in rows]
    assert happy > sad
    manifest = json.loads((export / "manifest.json").read_text())
    best = json.loads((taught.outputs / "scores.json").read_text())["best_step"]
    assert (manifest["kind"], manifest["corpora"], manifest["steps"]) == ("reward", ["pairs"], best)


def test_the_best_checkpoint_is_the_result(folder: Path) -> None:
    """With a learning rate that is too high the last step is not the best."""
    evaluation = {"metric": "log_loss", "interval": "1 steps"}
    run = make_run(folder, optim={"lr": 3e-2}, schedule={"warmup": "3 steps"}, evaluation=evaluation)

    assert train(run).exit_codes == [FINISHED]

    told = {row["step"]: row["log_loss"] for row in read_json_lines(run.evaluations)}
    best = min(told, key=lambda step: (told[step], step))
    scores = json.loads((run.outputs / "scores.json").read_text())
    assert (scores["metric"], scores["best_step"], scores["data_use"]) == ("log_loss", best, "open")
    assert held_out_scores(run)["log_loss"] == pytest.approx(told[best], rel=1e-5)


WITHOUT_MARGIN = """
import runpy
from jobs.kinds import reward
score = reward.score_pairs
reward.score_pairs = lambda found: {name: value for name, value in score(found).items() if name != "margin"}
runpy.run_module("jobs", run_name="__main__", alter_sys=True)
"""


def test_if_no_evaluation_gives_a_number_the_last_step_is_the_result(folder: Path) -> None:
    """Scores of pairs leave out what is not a number."""
    run = make_run(folder, evaluation={"metric": "margin", "interval": "2 steps"})

    attempt = start(run, 1, program=("-c", WITHOUT_MARGIN))
    attempt.wait()

    assert attempt.exit_codes == [FINISHED], attempt.log()
    manifest = json.loads((run.outputs / "model" / "manifest.json").read_text())
    assert json.loads((run.outputs / "scores.json").read_text())["best_step"] is None
    assert f"the model is that of the last step, {manifest['steps']};" in attempt.log()
    assert "step 2: `margin` is not a number" in attempt.log()


def test_an_adapter_and_its_head_both_learn(folder: Path) -> None:
    """Published code leaves adapters of an earlier run frozen, and nothing says so."""
    run = make_run(folder, adapter=LORA, optim={"lr": 1e-2})

    attempt = train(run, ranks=2)

    assert attempt.exit_codes == [FINISHED] * 2, attempt.log()
    adapter = load_file(run.outputs / "model" / "adapter_model.safetensors")
    learned = {name: float(tensor.abs().sum()) for name, tensor in adapter.items() if "lora_B" in name}
    assert len(learned) == 10 and min(learned.values()) > 0
    assert any("score" in name for name in adapter)
    assert losses(run)[STEPS] < losses(run)[1]


def test_a_margin_of_each_record_is_part_of_the_loss(folder: Path) -> None:
    records = [json.loads(line) | {"gap": 3.0} for line in (folder / "pairs.jsonl").read_text().splitlines()]
    (folder / "gaps.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    sources = [{"name": "pairs", "files": "gaps.jsonl", "format": "question"}]
    changes: Any = {"schedule": {"length": "2 steps", "warmup": "0 steps"}}
    plain = make_run(folder, data={"sources": sources}, **changes)
    apart = make_run(folder, data={"sources": [sources[0] | {"margin": "gap"}]}, **changes)

    assert [train(run).exit_codes for run in (plain, apart)] == [[FINISHED]] * 2

    assert losses(apart)[1] > losses(plain)[1] + 1.5


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param("full_shard", marks=pytest.mark.long),
        pytest.param("zero2", marks=[pytest.mark.long, WITH_DEEPSPEED]),
        pytest.param("zero3", marks=[pytest.mark.long, WITH_DEEPSPEED]),
        pytest.param("hybrid_shard", marks=pytest.mark.long),
    ],
)
def test_every_strategy_trains_and_resumes_as_ddp(folder: Path, uninterrupted: RunDir, strategy: str) -> None:
    ranks, nodes = (4, 2) if strategy == "hybrid_shard" else (2, 1)
    run = make_run(folder, checkpoint=EACH_STEP, center=0.01, parallel={"strategy": strategy})
    attempt = train(run, ranks, nodes)
    assert attempt.exit_codes == [FINISHED] * ranks, attempt.log()
    resumed = preempted_after(run, 3, folder / f"resumed-{strategy}")

    last = train(resumed, ranks, nodes, attempt=1)

    assert last.exit_codes == [FINISHED] * ranks, last.log()
    assert losses(run) == pytest.approx(losses(uninterrupted), abs=1e-4)
    assert losses(resumed) == losses(run)


def test_pairs_that_leave_none_to_hold_out_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, 2)
    run = make_run(tmp_path, data={"validation": 1e-9}, schedule={"length": "1 epoch"})

    attempt = train(run, ranks=2)

    assert attempt.failure == NEVER_RESTART
    assert "data.validation: no pair was held out to choose the best checkpoint" in attempt.log()
