"""kind: rl for real: processes, gloo, sharding and DeepSpeed on CPUs, real questions, a real small Llama."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED, NEVER_RESTART, RunDir
from tests.support.rl_runs import TOKEN, make_rl, told
from tests.support.training_runs import ASSETS, stop_at, train

pytestmark = pytest.mark.slow

RLOO = {"name": "rloo", "generations": 4, "kl_weight": 0.001}
GRPO = {"name": "grpo", "generations": 4}
PPO = {"name": "ppo", "iterations": 2, "kl_weight": 0.0, "kl_control": "fixed"}
CALM_PPO = PPO | {"whiten": False}
"""Whitened advantages are as large when nearly all rewards are equal as when they differ. Of 8 tokens PPO then learns 6
or 7 from some seeds, and is so sure of the others that it tries no more."""
STEPS = {"rloo": (14, 3e-3), "grpo": (14, 3e-3), "ppo": (60, 1e-3)}
"""Steps within which the token is learned, and the learning rate. With 3e-3 PPO is too soon sure of other tokens."""


def learn(folder: Path, algorithm: dict[str, Any], **changes: Any) -> RunDir:
    steps, rate = STEPS[algorithm["name"]]
    sizes: dict[str, Any] = {
        "batch": {"global_batch": "32 sequences", "micro_batch": 32},
        "schedule": {"length": f"{steps} steps", "shape": "constant"},
        "generation": {"max_new_tokens": 8},
        "optim": {"lr": rate},
    }
    run = make_rl(folder, algorithm, **{**sizes, **changes})
    attempt = train(run)
    assert attempt.exit_codes == [FINISHED], attempt.log()
    return run


def rewards(run: RunDir) -> list[float]:
    return [reward for (reward,) in told(run, "reward").values() if reward is not None]


def kls(run: RunDir) -> list[float]:
    return [kl for (kl,) in told(run, "kl").values() if kl is not None]


@pytest.mark.parametrize("algorithm", [RLOO, GRPO, CALM_PPO], ids=lambda one: one["name"])
def test_a_token_that_is_rewarded_is_learned(tmp_path: Path, algorithm: dict[str, Any]) -> None:
    run = learn(tmp_path, algorithm)

    assert rewards(run)[0] < 0.1, "chance"
    assert rewards(run)[-1] > 0.5, "of 256 tokens"
    says = said_by(run.outputs / "model")
    assert says.count(TOKEN) > 0.5 * len(says)
    assert {"value_head.weight", "value_head.bias"}.isdisjoint(load_file(run.outputs / "model" / "model.safetensors"))


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("algorithm", [RLOO, GRPO, CALM_PPO], ids=lambda one: one["name"])
def test_a_token_is_learned_from_any_seed(tmp_path: Path, algorithm: dict[str, Any], seed: int) -> None:
    assert rewards(learn(tmp_path, algorithm, seed=seed))[-1] >= 0.9


def said_by(export: Path) -> list[str]:
    """Tokens that an exported model says to a question."""
    tokenizer, model = AutoTokenizer.from_pretrained(export), AutoModelForCausalLM.from_pretrained(export)
    messages = [{"role": "user", "content": "What is asthma?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    torch.manual_seed(0)
    output = model.generate(**prompt, max_new_tokens=4, do_sample=True, num_return_sequences=8, pad_token_id=0)
    return [
        token for row in output[:, prompt["input_ids"].shape[1] :] for token in tokenizer.convert_ids_to_tokens(row)
    ]


@pytest.mark.parametrize(
    "algorithm",
    [RLOO | {"kl_weight": 20.0}, GRPO | {"kl_weight": 20.0}, PPO | {"kl_weight": 1.0}],
    ids=lambda one: one["name"],
)
def test_a_heavy_kl_keeps_the_policy_at_its_reference(tmp_path: Path, algorithm: dict[str, Any]) -> None:
    run = learn(tmp_path, algorithm, schedule={"length": "8 steps", "shape": "constant"}, optim={"lr": 1e-3})

    assert rewards(run)[-1] < 0.2
    assert abs(kls(run)[-1]) < 4.0, kls(run)


SHORT = {"schedule": {"length": "3 steps"}}
VOWELS = [{"type": "format", "pattern": ".*[aeiou]"}]
"""About half of the completions end so."""


def finished(folder: Path, algorithm: dict[str, Any], ranks: int = 2, **changes: Any) -> RunDir:
    run = make_rl(folder, algorithm, **{**SHORT, **changes})
    attempt = train(run, ranks)
    assert attempt.exit_codes == [FINISHED] * ranks, attempt.log()
    return run


def test_the_kl_is_told_of_whole_completions_where_they_are_sampled(tmp_path: Path) -> None:
    algorithm = GRPO | {"iterations": 2, "kl_weight": 0.1}
    run = finished(tmp_path, algorithm, ranks=1, schedule={"length": "4 steps"}, batch={"micro_batch": 8})

    found = told(run, "kl", "completion_tokens", "entropy")
    assert all(entropy is not None for _, _, entropy in found.values())
    sampled = [step for step, (_, tokens, _) in found.items() if tokens is not None]
    assert sampled == [1, 3]
    assert [step for step, (kl, _, _) in found.items() if kl is not None] == sampled


@pytest.fixture(scope="module")
def by_ddp() -> dict[str, RunDir]:
    """Runs of plain data parallelism, by algorithm and whether an adapter is trained; made when they are asked for."""
    return {}


@pytest.mark.parametrize(
    ("name", "is_adapted"),
    [
        ("rloo", True),
        ("ppo", False),
        pytest.param("rloo", False, marks=pytest.mark.long),
        pytest.param("ppo", True, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("strategy", ["full_shard", "zero2", "zero3"])
def test_a_strategy_trains_as_ddp(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    by_ddp: dict[str, RunDir],
    name: str,
    strategy: str,
    is_adapted: bool,
) -> None:
    if strategy.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    algorithm = {"rloo": RLOO | {"kl_weight": 0.05}, "ppo": PPO | {"kl_weight": 0.1}}[name]
    adapter = {"method": "lora", "r": 2} if is_adapted else None

    def trained(folder: Path, strategy: str) -> RunDir:
        return finished(folder, algorithm, parallel={"strategy": strategy}, adapter=adapter, rewards=VOWELS)

    key = f"{name}, adapted: {is_adapted}"
    if key not in by_ddp:
        by_ddp[key] = trained(tmp_path_factory.mktemp("ddp"), "ddp")
    plain, sharded = by_ddp[key], trained(tmp_path, strategy)

    for what in ("loss", "reward", "kl", "grad_norm", "completion_tokens"):
        expected, found = (
            {step: value for step, (value,) in told(run, what).items() if value is not None} for run in (plain, sharded)
        )
        assert found == pytest.approx(expected, abs=1e-4, rel=1e-3), what
    ours, theirs = weights(sharded), weights(plain)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-3) for key in theirs)


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    """What a run exported."""
    [file] = (run.outputs / "model").glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("algorithm", [RLOO, GRPO, PPO], ids=lambda one: one["name"])
def test_every_tensor_of_an_adapter_is_trained_and_exported(tmp_path: Path, algorithm: dict[str, Any]) -> None:
    lora = {"method": "lora", "r": 2}
    rewarded = [{"type": "token", "token": TOKEN}, {"type": "format", "pattern": ".*e", "weight": 0.5}]

    run = finished(tmp_path, algorithm, ranks=1, adapter=lora, rewards=rewarded, batch={"micro_batch": 8})

    found = weights(run)
    assert len(found) == 2 * 7 * 5, "A and B of all linear layers, and nothing of a reference or a value head"
    assert all(found[name].abs().sum() > 0 for name in found)
    assert PeftConfig.from_pretrained(str(run.outputs / "model")).peft_type == "LORA"
    rows = told(run, "reward", "reward/token", "reward/format")
    total, token, form = rows[1]
    assert total == pytest.approx(token + 0.5 * form, abs=1e-6)


def test_a_policy_that_has_gone_mute_is_noticed(tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    shutil.copytree(ASSETS / "stories260k", mute)
    (mute / "generation_config.json").write_text(json.dumps({"eos_token_id": [*range(512)]}))

    run = make_rl(tmp_path, PPO, model={"path": "./mute"}, end={"empty": 2}, rewards=[{"type": "length"}])
    attempt = train(run)

    assert attempt.exit_codes == [NEVER_RESTART]
    assert "end.empty: at step 3 100% of the completions were empty" in attempt.log()


@pytest.mark.parametrize("algorithm", [RLOO, PPO | {"iterations": 1}], ids=lambda one: one["name"])
def test_rewards_that_teach_nothing_end_the_training(tmp_path: Path, algorithm: dict[str, Any]) -> None:
    never = [{"type": "format", "pattern": "never"}]
    run = make_rl(tmp_path, algorithm, rewards=never, end={"equal_rewards": 2}, batch={"micro_batch": 8})

    attempt = train(run)

    assert attempt.exit_codes == [NEVER_RESTART]
    assert "end.equal_rewards: at step 2 all completions" in attempt.log()
    assert not (run.outputs / "model").exists()


def test_a_model_rewards_what_it_prefers(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories260k")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    torch.manual_seed(0)
    judge = AutoModelForSequenceClassification.from_pretrained(
        ASSETS / "stories260k", num_labels=1, dtype=torch.float32, pad_token_id=2
    )
    for part in (judge, tokenizer):
        part.save_pretrained(tmp_path / "judge")
    rewarded = [{"type": "model", "path": "./judge", "weight": 2.0}, {"type": "length", "at_least": 8}]

    run = finished(tmp_path, PPO, rewards=rewarded)

    total, judged, length = told(run, "reward", "reward/model", "reward/length")[1]
    assert total == pytest.approx(2 * judged + length, abs=1e-5) and judged != 0


@pytest.mark.parametrize("algorithm", [PPO, pytest.param(RLOO, marks=pytest.mark.long)], ids=lambda one: one["name"])
def test_held_out_prompts_are_evaluated_and_training_is_as_without(tmp_path: Path, algorithm: dict[str, Any]) -> None:
    often, seldom = (
        finished(
            tmp_path,
            algorithm,
            schedule={"length": "4 steps"},
            optim={"lr": 5e-3},
            rewards=[{"type": "token", "token": TOKEN}, {"type": "length", "at_least": 8, "weight": 0.5}],
            evaluation={"interval": f"{steps} steps"},
            data={"validation": 0.3},
        )
        for steps in (2, 100)
    )

    found = read_json_lines(often.evaluations)
    assert [row["step"] for row in found] == [0, 2, 4]
    for row in found:
        assert row["reward"] == pytest.approx(row["reward/token"] + 0.5 * row["reward/length"])
        assert 0 <= row["reward/token"] <= 1 and 0 < row["completion_tokens"] <= 8
    assert found[0]["reward"] != found[2]["reward"]
    ends = read_json_lines(seldom.evaluations)
    assert [row["step"] for row in ends] == [0, 4]
    assert [row["reward"] for row in ends] == [found[0]["reward"], found[2]["reward"]]
    names = ("loss", "reward", "kl", "grad_norm")
    assert told(often, *names) == told(seldom, *names)


def test_completions_are_kept_to_look_at(tmp_path: Path) -> None:
    run = finished(tmp_path, RLOO, schedule={"length": "4 steps"}, samples={"interval": 2, "count": 3})

    kept = read_json_lines(run.samples)
    assert [row["step"] for row in kept] == [0] * 3 + [2] * 3
    assert all(row["prompt"] and set(row["rewards"]) == {"token"} for row in kept)


def test_computing_in_16_bits_trains(tmp_path: Path) -> None:
    run = finished(tmp_path, PPO, precision={"dtype": "bf16"}, adapter={"method": "lora", "r": 2})

    assert abs(kls(run)[0]) < 0.5, "policy and reference are the same at first"


def test_a_preempted_run_goes_on_with_its_rollout(tmp_path: Path) -> None:
    algorithm = PPO | {"iterations": 4}
    whole = finished(tmp_path, algorithm, schedule={"length": "6 steps"})
    parts = make_rl(tmp_path, algorithm, schedule={"length": "6 steps"})

    stop_at(parts, 2, ranks=2)
    last = train(parts, ranks=2, attempt=1)

    assert last.exit_codes == [FINISHED] * 2
    names = ("loss", "reward", "kl", "grad_norm", "value_loss", "kl_weight")
    assert told(parts, *names) == told(whole, *names)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(parts).items())
