"""Adapters trained for real: processes, gloo, FSDP2 and DeepSpeed on CPUs, a real 260k-parameter Llama."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from jobs.models.adapters.build import adapted
from jobs.train.adapter_checkpoint import load_adapter_state
from launcher.recipe import CptRecipe
from launcher.run.paths import FINISHED, NEVER_RESTART, RunDir, published_steps
from tests.support.training_runs import ASSETS, losses, make_run, preempted_once, train

pytestmark = pytest.mark.slow

STORIES = ASSETS / "stories260k"
LORA = {"method": "lora", "r": 8, "dropout": 0.1}
STEPS = 12
NEEDS_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
NEEDS_BITSANDBYTES = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def adapter_run(folder: Path, strategy: str = "ddp", adapter: dict[str, Any] | None = None, **changes: Any) -> RunDir:
    sections = {
        "adapter": adapter or LORA,
        "parallel": {"strategy": strategy},
        "schedule": {"length": f"{STEPS} steps", "warmup": "2 steps"},
        "batch": {"micro_batch": 1 if strategy == "hybrid_shard" else 2},
    }
    return make_run(folder, **sections | changes)


def exported(run: RunDir) -> dict[str, torch.Tensor]:
    return load_file(run.outputs / "model" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.mark.parametrize(
    ("strategy", "ranks", "nodes"),
    [
        ("ddp", 2, 1),
        ("full_shard", 2, 1),
        ("hybrid_shard", 4, 2),
        pytest.param("zero2", 2, 1, marks=NEEDS_DEEPSPEED),
        pytest.param("zero3", 2, 1, marks=NEEDS_DEEPSPEED),
    ],
)
def test_an_interrupted_adapter_has_the_losses_of_an_uninterrupted_one_to_the_last_bit(
    folder: Path, strategy: str, ranks: int, nodes: int
) -> None:
    uninterrupted, run = adapter_run(folder, strategy), adapter_run(folder, strategy)
    assert train(uninterrupted, ranks, nodes).exit_codes == [FINISHED] * ranks

    preempted_once(run, ranks, nodes)

    assert losses(run) == losses(uninterrupted)
    assert losses(run)[STEPS] < losses(run)[1] - 1
    assert all(torch.equal(tensor, exported(uninterrupted)[name]) for name, tensor in exported(run).items())


@pytest.fixture(scope="module")
def trained(folder: Path) -> RunDir:
    """A finished run of one process."""
    run = adapter_run(folder, checkpoint={"interval": "5 steps"})
    assert train(run).exit_codes == [FINISHED]
    return run


def test_plain_peft_loads_the_export_and_says_the_same(trained: RunDir) -> None:
    recipe = CptRecipe.model_validate_json(trained.recipe.read_text())
    assert recipe.adapter is not None
    ids = torch.arange(48).reshape(2, 24) + 3
    ours = adapted(AutoModelForCausalLM.from_pretrained(STORIES), recipe.adapter, recipe.seed, "CAUSAL_LM", STEPS)
    load_adapter_state(ours, trained.checkpoint(STEPS))
    base = AutoModelForCausalLM.from_pretrained(STORIES)
    unadapted = base(input_ids=ids).logits

    plain = PeftModel.from_pretrained(base, trained.outputs / "model")

    assert torch.equal(plain.eval()(input_ids=ids).logits, ours.eval()(input_ids=ids).logits)
    assert not torch.allclose(plain(input_ids=ids).logits, unadapted, atol=0.1)


def test_recomputed_layers_are_exported_by_the_names_that_plain_peft_knows(folder: Path) -> None:
    model = {"path": "stories260k", "activation_checkpointing": "full"}
    run = adapter_run(folder, "full_shard", model=model, schedule={"length": "3 steps", "warmup": "0 steps"})
    assert train(run, ranks=2).exit_codes == [FINISHED] * 2

    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(STORIES), run.outputs / "model")

    trained = {name: one for name, one in plain.state_dict().items() if ".lora_" in name}
    assert {name.replace(".default.", "."): one.tolist() for name, one in trained.items()} == {
        name: one.tolist() for name, one in exported(run).items()
    }


def test_the_export_is_an_adapter_and_names_its_base_and_its_data(trained: RunDir) -> None:
    export = trained.outputs / "model"
    config, manifest = (json.loads((export / name).read_text()) for name in ("adapter_config.json", "manifest.json"))

    assert (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", "stories260k")
    assert (manifest["base_model"], manifest["data_use"], manifest["steps"]) == ("stories260k", "open", STEPS)
    assert not list(export.glob("model*.safetensors"))
    assert (export / "tokenizer.json").is_file()
    assert all(str(ASSETS) not in path.read_text() for path in export.glob("*.json"))


def test_a_checkpoint_holds_the_adapter_and_nothing_of_the_base(trained: RunDir) -> None:
    saved = load_file(trained.checkpoint(STEPS) / "adapter.safetensors")

    assert {name.split(".")[-3] for name in saved} == {"lora_A", "lora_B"}
    assert not (trained.checkpoint(STEPS) / "model.safetensors").exists()


def test_a_checkpoint_without_its_adapter_is_passed_over(folder: Path, trained: RunDir) -> None:
    run = RunDir(folder / "run-of-a-lost-adapter")
    shutil.copytree(trained.root, run.root)
    shutil.rmtree(run.outputs)
    run.ledger.unlink()
    for step in (10, STEPS):
        (run.checkpoint(step) / "adapter.safetensors").unlink()

    attempt = train(run, attempt=1)

    assert attempt.exit_codes == [FINISHED]
    assert "resumes from step 5" in attempt.log()
    assert losses(run) == losses(trained)


@pytest.mark.parametrize(
    "adapter",
    [
        {"method": "adalora", "init_r": 6, "target_r": 2, "tinit": "2 steps", "tfinal": "3 steps"},
        {"method": "p_tuning", "hidden": 16},
        {"method": "lora", "init": "pissa"},
    ],
    ids=lambda adapter: adapter["method"],
)
def test_what_peft_leaves_out_of_its_files_is_resumed_as_well(folder: Path, adapter: dict[str, Any]) -> None:
    """AdaLoRA's memory of what matters, the network behind a prompt, the base that PiSSA changed."""
    changes = {"checkpoint": {"interval": "5 steps", "keep": 4}, "data": {"packing": "truncate"}}
    run = adapter_run(folder, adapter=adapter, **changes)
    assert train(run).exit_codes == [FINISHED]
    before, weights = losses(run), exported(run)
    shutil.rmtree(run.outputs)
    run.ledger.unlink()
    for step in [step for step in published_steps(run) if step > 5]:
        shutil.rmtree(run.checkpoint(step))

    attempt = train(run, attempt=1)

    assert attempt.exit_codes == [FINISHED]
    assert attempt.steps()[0] == 6
    assert losses(run) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in exported(run).items())


@NEEDS_BITSANDBYTES
@pytest.mark.parametrize("strategy", ["full_shard", pytest.param("zero3", marks=NEEDS_DEEPSPEED)])
def test_4_bit_weights_are_sharded_and_learn(folder: Path, strategy: str) -> None:
    model = {"path": "stories260k", "quantization": {"bits": 4}}
    run = adapter_run(folder, strategy, model=model, precision={"dtype": "bf16"})

    assert train(run, ranks=2).exit_codes == [FINISHED] * 2

    assert losses(run)[STEPS] < losses(run)[1] - 1
    assert exported(run)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("zero3", marks=NEEDS_DEEPSPEED)])
def test_a_misspelt_target_ends_the_run_for_good_before_a_step(folder: Path, strategy: str) -> None:
    run = adapter_run(folder, strategy, LORA | {"targets": ["q_proj", "vproj"]})

    attempt = train(run, ranks=2)

    assert attempt.failure == NEVER_RESTART
    assert "adapter.targets: the model has no module `vproj`; there are `v_proj` (5 modules), " in attempt.log()
    assert not run.metrics.exists()
    assert not run.outputs.exists() or not [*run.outputs.iterdir()]
