"""Orthogonal adapters: forward, gradients and penalties against loops over entries; start and export."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from jobs.models.adapters.auxiliary_loss import auxiliary_losses
from jobs.models.adapters.build import declared_trainable
from jobs.models.adapters.custom_lora import CustomLoraLinear
from jobs.models.adapters.orthogonal import OrthogonalConfig, Pair, register
from jobs.models.adapters.save import write_adapter
from jobs.models.merge.peft_merge import attach, merge
from jobs.train.adapter_checkpoint import gather_adapter
from jobs.train.throughput import count_parameters
from launcher.artifacts.adapter_folder import read_adapter
from launcher.errors import LauncherError
from launcher.plan.adapters import trainable_parameters
from launcher.plan.model_shape import read_shape
from launcher.recipe.sections.adapter import strategy_limit
from tests.models.test_adapters import STORIES, adapter, on_stories
from tests.plan.test_published_counts import QWEN_7B

pytestmark = pytest.mark.slow

Array = NDArray[np.float64]
TOKENS, INPUTS, OUTPUTS = 7, 6, 5
IDS = torch.arange(48).reshape(2, 24) + 3
MOLORA = {"method": "molora", "r": 3, "alpha": 12, "shared_experts": 2}
FFN = ["gate_proj", "up_proj", "down_proj"]


def pair(**fields: Any) -> Pair:
    """One of which no factor is zero, in float64."""
    torch.manual_seed(0)
    settings = {"r": 2, "lora_alpha": 7, "base_r": 3, "base_scale": 0.5, "lambda1": 0.3} | fields
    made = Pair(INPUTS, OUTPUTS, OrthogonalConfig(**settings)).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def factors(made: Pair) -> dict[str, Array]:
    return {name: parameter.detach().numpy().copy() for name, parameter in made.named_parameters()}


def slow_penalty(w: dict[str, Array], lambda1: float, lambda2: float) -> float:
    """Entry by entry."""
    overlap = sum(
        abs(sum(w["base_A"][i, k] * w["new_A"][j, k] for k in range(w["new_A"].shape[1])))
        for i in range(len(w["base_A"]))
        for j in range(len(w["new_A"]))
    )
    size = sum(math.sqrt(sum(entry**2 for entry in w[name].flat)) for name in ("new_A", "new_B"))
    return float(lambda1 * overlap + lambda2 * size)


def slow_penalty_gradients(w: dict[str, Array], lambda1: float, lambda2: float) -> dict[str, Array]:
    """By hand: each entry of A_b A_o^T pulls the two rows that made it."""
    found = {name: np.zeros_like(weight) for name, weight in w.items()}
    for i, base in enumerate(w["base_A"]):
        for j, new in enumerate(w["new_A"]):
            sign = np.sign(base @ new)
            found["base_A"][i] += lambda1 * sign * new
            found["new_A"][j] += lambda1 * sign * base
    for name in ("new_A", "new_B"):
        if norm := np.sqrt((w[name] ** 2).sum()):
            found[name] += lambda2 * w[name] / norm
    return found


@pytest.mark.parametrize(("lambda1", "lambda2"), [(0.3, 0.0), (0.0, 0.7), (0.3, 0.7), (0.0, 0.0)])
def test_a_pair_is_the_published_formula(lambda1: float, lambda2: float) -> None:
    made = pair(lambda1=lambda1, lambda2=lambda2)
    w, generator = factors(made), torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, INPUTS, dtype=torch.float64, generator=generator).requires_grad_()
    upstream = torch.randn(TOKENS, OUTPUTS, dtype=torch.float64, generator=generator)

    y = made(x)
    (y * upstream).sum().backward()

    scales = {"base": 0.5, "new": 7 / 2}
    expected = slow_penalty_gradients(w, lambda1, lambda2) | {"x": np.zeros((TOKENS, INPUTS))}
    for t, token in enumerate(x.detach().numpy()):
        said = sum(s * w[f"{one}_B"] @ (w[f"{one}_A"] @ token) for one, s in scales.items())
        np.testing.assert_allclose(y[t].detach(), said)
        for one, s in scales.items():
            up = s * upstream[t].numpy()
            expected[f"{one}_B"] += np.outer(up, w[f"{one}_A"] @ token)
            expected[f"{one}_A"] += np.outer(w[f"{one}_B"].T @ up, token)
            expected["x"][t] += w[f"{one}_A"].T @ (w[f"{one}_B"].T @ up)
    np.testing.assert_allclose(x.grad, expected["x"])
    for name, parameter in made.named_parameters():
        np.testing.assert_allclose(parameter.grad, expected[name], atol=1e-5, err_msg=name)
    assert made.auxiliary.take() == (pytest.approx(slow_penalty(w, lambda1, lambda2)) if lambda1 or lambda2 else None)


def test_a_new_adapter_of_size_zero_has_a_gradient() -> None:
    made = pair(lambda1=0.0, lambda2=1.0)
    nn.init.zeros_(made.new_B)

    made(torch.ones(1, INPUTS, dtype=torch.float64)).sum().backward()

    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in made.parameters())


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Path]:
    """Make an adapter to start from."""

    def make(**fields: Any) -> Path:
        model = on_stories(adapter(**(fields if "method" in fields else MOLORA | fields)))
        torch.manual_seed(5)
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.05)
        folder = tmp_path / f"start-{len(list(tmp_path.glob('start-*')))}"
        write_adapter(model, gather_adapter(model), "org/base", folder)
        return folder

    return make


def orthogonal(folder: Path, **fields: Any) -> PreTrainedModel:
    section = {"method": "orthogonal", "start_from": "./x", "base_r": 6, "r": 4, "alpha": 8, **fields}
    return on_stories(adapter(**section).model_copy(update={"start_from": str(folder)}))


def test_the_base_adapter_is_the_shared_experts_of_a_mixture(start: Callable[..., Path]) -> None:
    folder = start()
    mixture = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(STORIES), folder)
    for name, parameter in mixture.named_parameters():
        if "routed_B" in name or "lora_B" in name:  # leave nothing but the shared experts
            nn.init.zeros_(parameter)

    model = orthogonal(folder)

    torch.testing.assert_close(model(input_ids=IDS).logits, mixture(input_ids=IDS).logits)
    saved = load_file(folder / "adapter_model.safetensors")
    layer = "base_model.model.model.layers.1.mlp.up_proj"
    assert torch.equal(model.get_submodule(layer).lora_update["default"].base_A, saved[f"{layer}.lora_update.shared_A"])


def test_the_base_adapter_can_be_lora(start: Callable[..., Path]) -> None:
    folder = start(method="lora", r=6, alpha=9, targets=FFN)

    model = orthogonal(folder)

    lora = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(STORIES), folder)
    torch.testing.assert_close(model(input_ids=IDS).logits, lora(input_ids=IDS).logits)


@pytest.mark.parametrize(
    ("made", "fields", "told"),
    [
        ({}, {"base_r": None}, r"adapter.base_r: the base adapter from `start-0` has rank 6, not 4; write `6`"),
        ({"shared_experts": 0}, {}, r"`start-0` is neither a `molora` adapter with shared experts nor a LoRA"),
        (
            {},
            {"targets": ["q_proj"]},
            r"`start-0` has no `base_model.model.model.layers.0.self_attn.q_proj.",
        ),
    ],
)
def test_what_cannot_be_started_from_is_refused(
    start: Callable[..., Path], made: dict[str, Any], fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(LauncherError, match=told):
        orthogonal(start(**made), **fields)


@pytest.mark.parametrize("trains", [True, False])
def test_the_base_adapter_trains_or_does_not(start: Callable[..., Path], trains: bool) -> None:
    model = orthogonal(start(), base_trains=trains, lambda1=1.0).train()

    model(input_ids=IDS, labels=IDS).loss.backward()

    moved = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.count_nonzero()}
    kinds = {name.rpartition(".")[2] for name in declared_trainable(model)}
    assert kinds == {"new_A", "new_B"} | ({"base_A", "base_B"} if trains else set())
    assert moved == declared_trainable(model)  # new_A, too, though new_B is zero: the penalty's gradient
    assert {one.dtype for name, one in model.named_parameters() if "lora_update" in name} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_penalty_of_a_model_is_the_sum_over_its_layers(start: Callable[..., Path], dtype: torch.dtype) -> None:
    """Also with recomputed activations, in which each layer computes twice, and in 16 bits."""
    folder = start()
    plain, penalised = orthogonal(folder, lambda1=0.0).train(), orthogonal(folder, lambda1=0.5, lambda2=0.1).train()
    penalised.activation_checkpointing_enable({"use_reentrant": False})
    losses = []
    for model in (plain, penalised):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses.append(model(input_ids=IDS, labels=IDS).loss)
        losses[-1].backward()

    pairs = {name: module.lora_update["default"] for name, module in penalised.named_modules() if is_beside(module)}
    weights = {name: factors(one) for name, one in pairs.items()}

    assert len(pairs) == 3 * 5
    assert torch.equal(losses[0], losses[1])
    expected = sum(slow_penalty(w, 0.5, 0.1) for w in weights.values())
    assert auxiliary_losses(penalised).take() == pytest.approx(expected, rel=1e-5)
    for name, w in weights.items():
        before = dict(plain.get_submodule(name).lora_update["default"].named_parameters())
        for part, gradient in slow_penalty_gradients(w, 0.5, 0.1).items():
            added = getattr(pairs[name], part).grad - before[part].grad
            np.testing.assert_allclose(added, gradient, atol=1e-4, err_msg=f"{name}.{part}")


def is_beside(module: nn.Module) -> bool:
    return isinstance(module, CustomLoraLinear)


def test_the_export_is_one_lora_that_says_the_same(start: Callable[..., Path], tmp_path: Path) -> None:
    model = orthogonal(start(), base_trains=False)
    for name, parameter in model.named_parameters():
        if name.endswith("new_B"):
            nn.init.normal_(parameter, std=0.05)
    write_adapter(model, gather_adapter(model), "org/base", tmp_path / "export")
    base = AutoModelForCausalLM.from_pretrained(STORIES)
    unadapted = base(input_ids=IDS).logits

    plain = PeftModel.from_pretrained(base, tmp_path / "export")

    config = json.loads((tmp_path / "export" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 10, 10)
    assert config["base_model_name_or_path"] == "org/base"
    torch.testing.assert_close(plain(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain(input_ids=IDS).logits, unadapted, atol=0.1)


def test_the_export_is_merged_and_started_from_as_any_lora(start: Callable[..., Path], tmp_path: Path) -> None:
    model = orthogonal(start())
    for name, parameter in model.named_parameters():
        if name.endswith("new_B"):
            nn.init.normal_(parameter, std=0.05)
    write_adapter(model, gather_adapter(model), "org/base", tmp_path / "export")
    folder = read_adapter(tmp_path / "export")

    folder.require_mergeable()
    merged = merge(attach(AutoModelForCausalLM.from_pretrained(STORIES), folder, only_attention=False), "pair")
    third = orthogonal(tmp_path / "export", base_r=10)

    layer = "base_model.model.model.layers.1.mlp.down_proj"
    w = factors(model.get_submodule(layer).lora_update["default"])
    w0 = model.get_submodule(layer).base_layer.weight.numpy()
    expected = w0 + 4 * w["base_B"] @ w["base_A"] + 2 * w["new_B"] @ w["new_A"]  # 12 / 3 and 8 / 4
    np.testing.assert_allclose(merged.model.layers[1].mlp.down_proj.weight.detach(), expected, atol=1e-6)
    torch.testing.assert_close(
        third.eval()(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("trains", [True, False])
def test_the_published_configuration_trains_93_million_parameters(trains: bool) -> None:
    """Two adapters of rank 32 on three projections of 32 layers, of which one may be frozen."""
    section = adapter(method="orthogonal", start_from="stage1", base_trains=trains)
    shape = read_shape(QWEN_7B.to_dict())
    config = OrthogonalConfig(task_type="CAUSAL_LM", r=32, base_r=32, base_trains=trains, target_modules=FFN)
    register()
    with torch.device("meta"):
        model = get_peft_model(AutoModelForCausalLM.from_config(QWEN_7B), config)

    declared = [one for name, one in model.named_parameters() if name in declared_trainable(model)]

    one = 32 * 3 * 32 * (4096 + 11008)
    assert shape is not None
    assert sum(parameter.numel() for parameter in declared) == trainable_parameters(section, shape)
    assert trainable_parameters(section, shape) == (2 if trains else 1) * one == (92_798_976 if trains else 46_399_488)


def test_the_plan_counts_what_is_built(start: Callable[..., Path]) -> None:
    model = orthogonal(start())
    shape = read_shape(model.config.to_dict())
    assert shape is not None
    section = adapter(method="orthogonal", start_from="x", base_r=6, r=4)

    assert trainable_parameters(section, shape) == count_parameters(model)[0]


def test_a_pair_works_with_every_strategy() -> None:
    section = adapter(method="orthogonal", start_from="x")

    assert not [one for one in ("ddp", "full_shard", "hybrid_shard", "zero2", "zero3") if strategy_limit(section, one)]
