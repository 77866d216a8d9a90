"""kind: dpo for real: processes, gloo, FSDP2 and DeepSpeed on CPUs, a real small Llama, pairs that differ in a word."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from launcher.run.ledger import read_json_lines
from launcher.run.paths import CONTINUE, FINISHED, NEVER_RESTART, RunDir
from tests.support.preference_runs import make_preference_run, preempted_after, write_pairs
from tests.support.training_runs import ASSETS, losses, start, train

pytestmark = pytest.mark.slow

STEPS = 5
MOVING = {"sync": {"steps": 2, "share": 0.5}}
EACH_STEP = {"interval": "1 steps", "keep": 9}
WITH_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")


def make_run(folder: Path, **changes: Any) -> RunDir:
    schedule = {"length": f"{STEPS} steps", "warmup": "1 steps"} | changes.pop("schedule", {})
    return make_preference_run(folder, "dpo", schedule=schedule, **changes)


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    return load_file(run.outputs / "model" / "model.safetensors")


def reference_at(run: RunDir, step: int) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoint(step) / "reference.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pairs: two epochs are 5 steps."""
    folder = tmp_path_factory.mktemp("dpo")
    write_pairs(folder, 12)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> RunDir:
    """Two ranks, with a reference that moves, saved at each of two epochs' steps."""
    run = make_run(folder, reference=MOVING, checkpoint=EACH_STEP)
    attempt = train(run, ranks=2)
    assert attempt.exit_codes == [FINISHED] * 2, attempt.log()
    return run


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_run_resumed_from_any_step_is_the_uninterrupted_one_to_the_last_bit(
    uninterrupted: RunDir, tmp_path: Path, step: int
) -> None:
    run = preempted_after(uninterrupted, step, uninterrupted.root.parent / f"resumed-{step}")

    last = train(run, ranks=2, attempt=1)

    assert last.exit_codes == [FINISHED] * 2, last.log()
    assert last.steps() == [*range(step + 1, STEPS + 1)]
    assert losses(run) == losses(uninterrupted)
    assert same(weights(run), weights(uninterrupted))
    assert same(reference_at(run, STEPS), reference_at(uninterrupted, STEPS))
    assert not same(reference_at(run, STEPS), reference_at(uninterrupted, 1)), "it moves"


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_reference_moves_by_its_share(uninterrupted: RunDir) -> None:
    before, at, after = (reference_at(uninterrupted, step) for step in (1, 2, 3))
    trained = load_file(uninterrupted.checkpoint(2) / "model.safetensors")

    assert same(at, after)
    assert trained.keys() <= at.keys()
    for name, tensor in trained.items():
        torch.testing.assert_close(at[name], 0.5 * before[name] + 0.5 * tensor)
        assert not torch.equal(at[name], before[name])


def test_held_out_pairs_are_told_apart_and_the_margin_grows(tmp_path: Path) -> None:
    write_pairs(tmp_path, 50)
    run = make_run(tmp_path, data={"validation": 0.5}, schedule={"length": "6 steps"})

    attempt = train(run)

    assert attempt.exit_codes == [FINISHED], attempt.log()
    first, *_, last = read_json_lines(run.evaluations)
    assert (first["step"], first["margin"]) == (0, 0.0)
    assert last["margin"] > 0.5
    content = json.loads((run.outputs / "scores.json").read_text())
    split = content["splits"]["validation"]
    assert content["data_use"] == "open"
    assert split["pairs"] >= 18
    assert split["scores"]["accuracy"]["value"] >= 0.9
    assert split["scores"]["margin"]["value"] == pytest.approx(last["margin"], rel=1e-5)
    assert split["scores"]["margin"]["low"] > 0
    row = read_json_lines(run.metrics)[-1]
    assert row["rewards/margins"] > 0 and "num_tokens" not in row
    export = run.outputs / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(export), AutoModelForCausalLM.from_pretrained(export)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "7: the cat?"}], return_tensors="pt")["input_ids"]
    said = tokenizer.decode(model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0])
    assert "sad" not in said


LORA = {"method": "lora", "r": 2, "targets": ["q_proj", "v_proj"]}


def test_an_adapter_switched_off_is_the_model_before_training(folder: Path) -> None:
    """The same numbers as with what a pass over the pairs found before the first step, saved and read again."""
    off = make_run(folder, adapter=LORA, optim={"lr": 1e-2})
    kept = make_run(folder, adapter=LORA, optim={"lr": 1e-2}, reference={"precompute": True})

    attempts = [train(run, ranks=2) for run in (off, kept)]

    assert [attempt.exit_codes for attempt in attempts] == [[FINISHED] * 2] * 2, attempts[1].log()
    assert losses(kept) == pytest.approx(losses(off), abs=1e-5)
    assert losses(off)[1] == pytest.approx(0.693147, abs=1e-5)
    assert losses(off)[STEPS] < 0.6
    adapter = load_file(off.outputs / "model" / "adapter_model.safetensors")
    assert all(bool(tensor.abs().sum() > 0) for tensor in adapter.values()), "each part has had a gradient"
    (block,) = (kept.examples / "reference").iterdir()
    assert load_file(block)["log_probs"].shape == (12, 2)


@pytest.fixture(scope="module")
def earlier(folder: Path) -> str:
    """An adapter that changes what the model says, as recipes name it."""
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k")
    lora = get_peft_model(model, LoraConfig(r=4, target_modules=["up_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    lora.save_pretrained(folder / "earlier")
    return "./earlier"


@pytest.mark.parametrize(
    ("loss", "ranks", "sharing", "first_loss"),
    [
        ("sigmoid", 1, "ddp", 0.693147),
        ("kto", 1, "ddp", 0.5),
        pytest.param("sigmoid", 2, "full_shard", 0.693147, marks=pytest.mark.long),
        pytest.param("sigmoid", 2, "zero3", 0.693147, marks=[pytest.mark.long, WITH_DEEPSPEED]),
    ],
)
def test_a_pair_of_adapters_is_compared_with_the_model_that_has_the_first_one(
    folder: Path, earlier: str, loss: str, ranks: int, sharing: str, first_loss: float
) -> None:
    """Without it, the first loss would be that of an adapter that has learned something already."""
    pair = {"method": "orthogonal", "start_from": earlier, "base_r": 4, "base_trains": False, "targets": ["up_proj"]}
    run = make_run(folder, loss=loss, adapter=pair, parallel={"strategy": sharing}, optim={"lr": 1e-2})

    attempt = train(run, ranks)

    assert attempt.exit_codes == [FINISHED] * ranks, attempt.log()
    assert losses(run)[1] == pytest.approx(first_loss, abs=1e-5)
    assert read_json_lines(run.evaluations)[0]["margin"] == 0
    assert losses(run)[STEPS] < first_loss - 0.01


def test_what_was_computed_beforehand_is_kept_for_the_next_attempt(folder: Path) -> None:
    whole = make_run(folder, reference={"precompute": True}, checkpoint=EACH_STEP)
    attempt = train(whole)
    assert attempt.exit_codes == [FINISHED], attempt.log()
    run = preempted_after(whole, 2, folder / "kept")

    last = train(run, attempt=1)

    assert last.exit_codes == [FINISHED], last.log()
    assert "blocks" in attempt.log() and "blocks" not in last.log()
    assert losses(run) == losses(whole)


def test_another_model_can_be_the_reference(folder: Path) -> None:
    same_model = make_run(folder, adapter=LORA, reference={"model": "stories260k"}, schedule={"length": "2 steps"})
    off = make_run(folder, adapter=LORA, schedule={"length": "2 steps"})

    attempts = [train(run) for run in (same_model, off)]

    assert [attempt.exit_codes for attempt in attempts] == [[FINISHED]] * 2, attempts[0].log()
    assert losses(same_model) == pytest.approx(losses(off), abs=1e-6)


@pytest.mark.parametrize(
    "strategy",
    [
        "full_shard",
        pytest.param("zero2", marks=[pytest.mark.long, WITH_DEEPSPEED]),
        pytest.param("zero3", marks=[pytest.mark.long, WITH_DEEPSPEED]),
        pytest.param("hybrid_shard", marks=pytest.mark.long),
    ],
)
def test_every_strategy_trains_and_resumes_as_ddp(folder: Path, uninterrupted: RunDir, strategy: str) -> None:
    ranks, nodes = (4, 2) if strategy == "hybrid_shard" else (2, 1)
    run = make_run(folder, reference=MOVING, checkpoint=EACH_STEP, parallel={"strategy": strategy})
    attempt = train(run, ranks, nodes)
    assert attempt.exit_codes == [FINISHED] * ranks, attempt.log()
    resumed = preempted_after(run, 3, folder / f"resumed-{strategy}")

    last = train(resumed, ranks, nodes, attempt=1)

    assert last.exit_codes == [FINISHED] * ranks, last.log()
    assert losses(run) == pytest.approx(losses(uninterrupted), abs=1e-4)
    assert losses(resumed) == losses(run)
    assert same(reference_at(resumed, STEPS), reference_at(run, STEPS))


def test_an_adapter_on_the_output_embedding_is_refused_before_it_trains_nothing(folder: Path) -> None:
    run = make_run(folder, adapter=LORA | {"targets": ["q_proj", "lm_head"]})

    attempt = train(run)

    assert attempt.exit_codes == [NEVER_RESTART]
    assert "adapter.targets: log-probabilities are computed from the frozen weights" in attempt.log()


def test_a_stop_while_the_reference_is_computed_ends_the_attempt(folder: Path) -> None:
    run = make_run(folder, reference={"precompute": True})
    preamble = """
import sys
import jobs.__main__ as task
from jobs.train import precomputed
computed = precomputed.PrecomputedLogProbs._computed
def stopped(self, *arguments):
    precomputed.STOP.signal = "SIGTERM"
    return computed(self, *arguments)
precomputed.PrecomputedLogProbs._computed = stopped
sys.exit(task.main())
"""
    attempt = start(run, program=("-c", preamble))

    assert attempt.wait() == [CONTINUE], attempt.log()
    assert not run.metrics.exists() or not losses(run)
