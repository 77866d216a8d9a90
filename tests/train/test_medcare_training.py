"""MedCare's adapters trained for real: processes, gloo, FSDP2 and DeepSpeed on CPUs, a real 260k-parameter Llama."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _pytest.mark.structures import ParameterSet
from safetensors.torch import load_file

from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED, RunDir
from tests.support.training_runs import losses, make_run, preempted_once, start, train

pytestmark = pytest.mark.slow

MOLORA = {"method": "molora", "r": 4, "alpha": 8, "dropout": 0.1, "experts": 5, "balance": 0.01}
STEPS = 12
NEEDS_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
STRATEGIES = [
    ("ddp", 2, 1),
    ("full_shard", 2, 1),
    ("hybrid_shard", 4, 2),
    pytest.param("zero2", 2, 1, marks=NEEDS_DEEPSPEED),
    pytest.param("zero3", 2, 1, marks=NEEDS_DEEPSPEED),
]


def only(strategy: str) -> list[ParameterSet]:
    """All strategies, of which `make test` has one: for the mixture and the pair another one."""
    sets = [one if isinstance(one, ParameterSet) else pytest.param(*one) for one in STRATEGIES]
    return [
        one if one.values[0] == strategy else pytest.param(*one.values, marks=[*one.marks, pytest.mark.long])
        for one in sets
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("medcare")


def adapter_run(folder: Path, strategy: str, adapter: dict[str, Any], **changes: Any) -> RunDir:
    """Five experts for two or four ranks: they do not come out even."""
    sections = {
        "adapter": adapter,
        "parallel": {"strategy": strategy},
        "schedule": {"length": f"{STEPS} steps", "warmup": "2 steps"},
        "batch": {"micro_batch": 1 if strategy == "hybrid_shard" else 2},
        "precision": {"dtype": "bf16"},
        "model": {"path": "stories260k", "activation_checkpointing": "full"},
    }
    return make_run(folder, **sections | changes)


def exported(run: RunDir, part: str = ".") -> dict[str, torch.Tensor]:
    return load_file(run.outputs / "model" / part / "adapter_model.safetensors")


@pytest.mark.parametrize(("strategy", "ranks", "nodes"), only("full_shard"))
def test_an_interrupted_mixture_has_the_losses_of_an_uninterrupted_one_to_the_last_bit(
    folder: Path, strategy: str, ranks: int, nodes: int
) -> None:
    uninterrupted, run = adapter_run(folder, strategy, MOLORA), adapter_run(folder, strategy, MOLORA)

    assert train(uninterrupted, ranks, nodes).exit_codes == [FINISHED] * ranks
    preempted_once(run, ranks, nodes)

    assert losses(run) == losses(uninterrupted)
    assert auxiliary(run) == auxiliary(uninterrupted)
    assert all(value > 0.99 * 15 * MOLORA["balance"] for value in auxiliary(run).values())  # of 15 routers
    assert losses(run)[STEPS] < losses(run)[1] - 1
    assert all(torch.equal(tensor, exported(uninterrupted)[name]) for name, tensor in exported(run).items())
    assert exported(run, "attention").keys() == {name for name in exported(run) if "self_attn" in name}
    assert json.loads((run.outputs / "model" / "manifest.json").read_text())["data_use"] == "open"


@pytest.fixture(scope="module")
def stage1(folder: Path) -> str:
    """A mixture of LoRAs that was trained, as recipes name it."""
    run = adapter_run(folder, "ddp", MOLORA)
    assert train(run).exit_codes == [FINISHED]
    return f"./{run.root.name}/outputs/model"


ORTHOGONAL = {"method": "orthogonal", "base_r": 8, "r": 6, "alpha": 12, "dropout": 0.1, "lambda1": 0.01}


@pytest.mark.parametrize(("strategy", "ranks", "nodes"), only("zero3"))
def test_an_interrupted_pair_has_the_losses_of_an_uninterrupted_one_to_the_last_bit(
    folder: Path, stage1: str, strategy: str, ranks: int, nodes: int
) -> None:
    adapter = {**ORTHOGONAL, "start_from": stage1, "base_trains": strategy not in ("hybrid_shard", "zero3")}
    uninterrupted, run = adapter_run(folder, strategy, adapter), adapter_run(folder, strategy, adapter)

    assert train(uninterrupted, ranks, nodes).exit_codes == [FINISHED] * ranks
    preempted_once(run, ranks, nodes)

    assert losses(run) == losses(uninterrupted)
    assert auxiliary(run) == auxiliary(uninterrupted)
    assert auxiliary(run)[STEPS] < 0.9 * auxiliary(run)[1]
    assert all(torch.equal(tensor, exported(uninterrupted)[name]) for name, tensor in exported(run).items())
    manifest = json.loads((run.outputs / "model" / "manifest.json").read_text())
    assert (manifest["started_from"], manifest["corpora"]) == (stage1, ["words"])
    if not adapter["base_trains"]:
        assert_base_is_as_it_was(folder / stage1, exported(run))


def assert_base_is_as_it_was(start: Path, fused: dict[str, torch.Tensor]) -> None:
    saved = load_file(start / "adapter_model.safetensors")
    layer = "base_model.model.model.layers.2.mlp.down_proj"
    a, b = (saved[f"{layer}.lora_update.shared_{part}"] for part in "AB")
    torch.testing.assert_close(fused[f"{layer}.lora_A.weight"][:8], a, rtol=2**-8, atol=0)  # DeepSpeed rounds to bf16
    torch.testing.assert_close(fused[f"{layer}.lora_B.weight"][:, :8], 2 * b, rtol=2**-8, atol=0)


def auxiliary(run: RunDir) -> dict[int, float]:
    """What layers added to the loss of each step."""
    return {row["step"]: row["auxiliary_loss"] for row in read_json_lines(run.metrics)}


MOMENTS = """
import sys
import torch
from safetensors.torch import save_file
from transformers import TrainerCallback
import jobs.__main__ as task
from jobs.train import run as training
from jobs.train.adapter_checkpoint import gather_adapter

class Moments(TrainerCallback):
    def on_train_begin(self, args, state, control, model, **others):
        self.save(model, "before", gather_adapter(model))

    def on_step_end(self, args, state, control, model, optimizer, **others):
        self.save(model, "moments", {name: self.moment(optimizer, one) for name, one in model.named_parameters()
                                     if one.requires_grad})

    def moment(self, optimizer, parameter):
        if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
            from deepspeed.utils import safe_get_full_optimizer_state
            return safe_get_full_optimizer_state(parameter, "exp_avg").clone()
        moment = optimizer.state[parameter]["exp_avg"]
        return moment.full_tensor() if hasattr(moment, "full_tensor") else moment

    def save(self, model, what, tensors):
        if torch.distributed.get_rank() == 0:
            save_file({name: one.contiguous() for name, one in tensors.items()}, f"{sys.argv[1]}/{what}")

callbacks = training.adapter_callbacks
training.adapter_callbacks = lambda model: [*callbacks(model), Moments()]
sys.exit(task.main())
"""
"""Saves what the optimizer made of the gradients of the first step: a tenth of them."""


@pytest.mark.parametrize(("strategy", "ranks", "nodes"), STRATEGIES)
def test_the_penaltys_gradient_reaches_the_optimizer_once_a_step(
    folder: Path, stage1: str, strategy: str, ranks: int, nodes: int
) -> None:
    """Whatever the ranks and the micro batches, of which there are several, and if activations are recomputed."""
    found = []
    for lambda1 in (0.0, 0.5):
        run = adapter_run(
            folder,
            strategy,
            {**ORTHOGONAL, "dropout": 0.0, "start_from": stage1, "lambda1": lambda1},
            model={
                "path": "stories260k",
                "activation_checkpointing": "full" if strategy in ("full_shard", "zero3") else "none",
            },
            precision={"dtype": "fp32"},
            optim={"lr": 1e-3, "betas": [0.9, 0.95], "clip_norm": None},
            schedule={"length": "1 steps", "warmup": "0 steps"},
        )
        assert start(run, ranks, nodes, program=("-c", MOMENTS)).wait() == [FINISHED] * ranks
        found.append(({name: one.numpy() / 0.1 for name, one in load_file(run.root / "moments").items()}, run))

    (plain, _), (penalised, run) = found
    before = {name: one.numpy() for name, one in load_file(run.root / "before").items()}
    layers = [name.removesuffix(".base_A") for name in before if name.endswith(".base_A")]
    assert len(layers) == 15
    for layer in layers:
        base, new = before[f"{layer}.base_A"], before[f"{layer}.new_A"]
        signs = np.sign(base @ new.T)
        for part, expected in (("base_A", signs @ new), ("new_A", signs.T @ base)):
            added = penalised[f"{layer}.{part}"] - plain[f"{layer}.{part}"]
            np.testing.assert_allclose(added, 0.5 * expected, atol=2e-4, err_msg=f"{layer}.{part}")
            assert np.abs(expected).max() > 0.05
        for part in ("base_B", "new_B"):
            np.testing.assert_allclose(penalised[f"{layer}.{part}"], plain[f"{layer}.{part}"], atol=2e-4)
    total = 0.5 * sum(np.abs(before[f"{one}.base_A"] @ before[f"{one}.new_A"].T).sum() for one in layers)
    (row,) = read_json_lines(run.metrics)
    assert row["auxiliary_loss"] == pytest.approx(total, rel=1e-4)
