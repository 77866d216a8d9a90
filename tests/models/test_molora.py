"""MoLoRA: forward and gradients against loops over tokens and experts, and what peft loads of it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from jobs.models.adapters.auxiliary_loss import auxiliary_losses
from jobs.models.adapters.build import adapted, declared_trainable
from jobs.models.adapters.custom_lora import CustomLoraLinear
from jobs.models.adapters.molora import MixtureOfExperts, MoLoraConfig, balance_loss
from jobs.models.adapters.save import write_adapter
from jobs.models.build import build_causal_lm
from jobs.models.merge.peft_merge import attach, merge
from jobs.train.adapter_checkpoint import gather_adapter
from jobs.train.throughput import count_parameters
from launcher.artifacts.adapter_folder import read_adapter
from launcher.errors import LauncherError
from launcher.plan.adapters import trainable_parameters
from launcher.plan.model_shape import read_shape
from launcher.recipe import CptRecipe
from launcher.recipe.sections.adapter import strategy_limit
from tests.models.test_adapters import SMALL, STORIES, adapter, on_meta, on_stories
from tests.plan.test_published_counts import QWEN_7B
from tests.support.recipe_files import RECIPE, faults
from tests.support.training_runs import cpt_recipe

Array = NDArray[np.float64]
TOKENS, INPUTS, OUTPUTS = 11, 6, 5


def config(**fields: Any) -> MoLoraConfig:
    return MoLoraConfig(**{"r": 3, "lora_alpha": 7, "experts": 4, "top_k": 2, "shared_experts": 2} | fields)


def mixture(settings: MoLoraConfig, seed: int = 0) -> MixtureOfExperts:
    """One whose B are not zero, in float64."""
    torch.manual_seed(seed)
    made = MixtureOfExperts(INPUTS, OUTPUTS, settings).double()
    for name, parameter in made.named_parameters():
        if name.endswith("B"):
            nn.init.normal_(parameter)
    return made


def by_expert(made: MixtureOfExperts, settings: MoLoraConfig) -> dict[str, Array]:
    """Its weights, those of the experts one by one."""
    found = {name: parameter.detach().numpy().copy() for name, parameter in made.named_parameters()}
    return split(found, settings)


def split(tensors: dict[str, Array], settings: MoLoraConfig) -> dict[str, Array]:
    experts, r = settings.experts, settings.r
    a, b = tensors["routed_A"], tensors["routed_B"]
    return tensors | {
        "routed_A": a.reshape(experts, r, a.shape[1]),
        "routed_B": b.reshape(b.shape[0], experts, r).transpose(1, 0, 2),
    }


def tokens(seed: int = 1) -> torch.Tensor:
    return torch.randn(TOKENS, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@dataclass
class Reference:
    """The published formula, one token and one expert at a time, and its derivative by hand."""

    weights: dict[str, Array]
    settings: MoLoraConfig

    @property
    def scale(self) -> float:
        r = self.settings.r
        return self.settings.lora_alpha / (math.sqrt(r) if self.settings.use_rslora else r)

    def probabilities(self, x: Array) -> Array:
        logits = self.weights["router.weight"] @ x + self.weights["router.bias"]
        powers = np.exp(logits - logits.max())
        return powers / powers.sum()

    def chosen(self, x: Array) -> list[int]:
        return sorted(np.argsort(-self.probabilities(x))[: self.settings.top_k].tolist())

    def forward(self, x: Array) -> Array:
        p, chosen = self.probabilities(x), self.chosen(x)
        y = np.zeros(OUTPUTS)
        for e in chosen:
            y += p[e] / p[chosen].sum() * self.weights["routed_B"][e] @ (self.weights["routed_A"][e] @ x)
        if self.settings.shared_experts:
            y += self.weights["shared_B"] @ (self.weights["shared_A"] @ x)
        return self.scale * y

    def gradients(self, xs: Array, upstream: Array) -> dict[str, Array]:
        """Gradients of sum of upstream * y, with regard to weights and inputs."""
        w = self.weights
        found = {name: np.zeros_like(weight) for name, weight in w.items()} | {"x": np.zeros_like(xs)}
        for t, (x, up) in enumerate(zip(xs, self.scale * upstream, strict=True)):
            p, chosen = self.probabilities(x), self.chosen(x)
            total = p[chosen].sum()
            of_gate = np.zeros(self.settings.experts)
            for e in chosen:
                a, b, gate = w["routed_A"][e], w["routed_B"][e], p[e] / total
                found["routed_B"][e] += gate * np.outer(up, a @ x)
                found["routed_A"][e] += gate * np.outer(b.T @ up, x)
                found["x"][t] += gate * (a.T @ (b.T @ up))
                of_gate[e] = up @ (b @ (a @ x))
            for e in chosen:  # p_e / total is a softmax over the chosen, so its derivative is that of a softmax
                gate = p[e] / total
                mean = sum(p[other] / total * of_gate[other] for other in chosen)
                of_logit = gate * (of_gate[e] - mean)
                found["router.weight"][e] += of_logit * x
                found["router.bias"][e] += of_logit
                found["x"][t] += of_logit * w["router.weight"][e]
            if self.settings.shared_experts:
                a, b = w["shared_A"], w["shared_B"]
                found["shared_B"] += np.outer(up, a @ x)
                found["shared_A"] += np.outer(b.T @ up, x)
                found["x"][t] += a.T @ (b.T @ up)
        return found


def reference(made: MixtureOfExperts, settings: MoLoraConfig) -> Reference:
    return Reference(by_expert(made, settings), settings)


@pytest.mark.parametrize(
    "fields",
    [{}, {"use_rslora": True}, {"top_k": 1}, {"top_k": 3}, {"top_k": 4}, {"shared_experts": 0}, {"experts": 23}],
    ids=str,
)
def test_a_mixture_is_the_published_formula(fields: dict[str, Any]) -> None:
    """With 23 experts for 11 tokens, some get none."""
    settings = config(**fields)
    made, x = mixture(settings), tokens().requires_grad_()
    upstream = torch.randn(TOKENS, OUTPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    slow = reference(made, settings)

    y = made(x)
    (y * upstream).sum().backward()

    np.testing.assert_allclose(y.detach(), [slow.forward(token) for token in x.detach().numpy()], atol=1e-6)
    expected = slow.gradients(x.detach().numpy(), upstream.numpy())
    np.testing.assert_allclose(x.grad, expected.pop("x"), atol=1e-5)
    found = split({name: parameter.grad.numpy() for name, parameter in made.named_parameters()}, settings)
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, expected[name], atol=1e-5, err_msg=name)


def test_sparse_evaluation_equals_dense_evaluation() -> None:
    settings = config(shared_experts=0, lora_alpha=3)
    made, x = mixture(settings), tokens()
    gates, chosen = torch.rand(TOKENS, 4, dtype=torch.float64).topk(2)
    w = by_expert(made, settings)

    every = torch.from_numpy(np.einsum("eor,eri,ti->teo", w["routed_B"], w["routed_A"], x.numpy()))
    dense = (every.gather(1, chosen.unsqueeze(-1).expand(-1, -1, OUTPUTS)) * gates.unsqueeze(-1)).sum(1)

    torch.testing.assert_close(made.combine(x, chosen, gates), dense)


def test_experts_without_tokens_have_gradients_of_zeros() -> None:
    settings = config(shared_experts=0)
    made = mixture(settings)

    made.combine(tokens(), torch.tensor([[0, 2]] * TOKENS), torch.ones(TOKENS, 2, dtype=torch.float64)).sum().backward()

    found = split({name: one.grad.numpy() for name, one in made.named_parameters() if one.grad is not None}, settings)
    for name in ("routed_A", "routed_B"):
        assert [bool(part.any()) for part in found[name]] == [True, False, True, False]


def test_no_intermediate_result_has_the_outputs_of_all_experts() -> None:
    """Kept for the backward pass is what the layer is given, and ranks of experts; not tokens x experts x outputs."""
    wide = MixtureOfExperts(8, 1000, config(experts=50, r=1, shared_experts=1))
    kept: list[int] = []

    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()) or one, lambda one: one):
        wide(torch.randn(TOKENS, 8))

    assert max(kept) <= 1000 * 51


def test_a_mixture_starts_as_nothing_with_factors_as_loras_are_drawn() -> None:
    made = MixtureOfExperts(400, 300, config(r=8, experts=4))

    update = made(torch.randn(7, 400))

    assert update.count_nonzero() == 0
    for factor in (made.routed_A, made.shared_A):
        assert factor.abs().max().item() == pytest.approx(1 / math.sqrt(400), rel=0.01)
        assert factor.std().item() == pytest.approx(1 / math.sqrt(3 * 400), rel=0.05)


def test_the_balance_loss_is_that_of_switch_transformers() -> None:
    probabilities = torch.randn(TOKENS, 4, dtype=torch.float64).softmax(-1).requires_grad_()
    chosen = probabilities.topk(2).indices

    loss = balance_loss(probabilities, chosen)
    loss.backward()

    f = [sum(e in row for row in chosen.tolist()) / (2 * TOKENS) for e in range(4)]
    p = [sum(row[e] for row in probabilities.tolist()) / TOKENS for e in range(4)]
    assert loss.item() == pytest.approx(4 * sum(a * b for a, b in zip(f, p, strict=True)))
    np.testing.assert_allclose(probabilities.grad, [[4 * share / TOKENS for share in f]] * TOKENS)
    uniform = torch.full((8, 4), 0.25)
    assert balance_loss(uniform, torch.arange(16).reshape(8, 2) % 4).item() == 1
    assert balance_loss(torch.eye(4)[[0] * 8], torch.zeros(8, 1, dtype=torch.long)).item() == 4


MOLORA = {"method": "molora", "r": 4, "dropout": 0.0}
IDS = torch.arange(48).reshape(2, 24) + 3


def trained(**fields: Any) -> PreTrainedModel:
    """A model with an adapter that says something."""
    model = on_stories(adapter(**MOLORA | fields))
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ("lora_B" in name or name.endswith("_B")):
            nn.init.normal_(parameter, std=0.05)
    return model


def test_attention_gets_ordinary_lora_and_feed_forward_layers_get_mixtures() -> None:
    model = trained()

    kinds = {name.rpartition(".")[2]: type(module).__name__ for name, module in model.named_modules()}

    assert {kinds[name] for name in ("gate_proj", "up_proj", "down_proj")} == {"CustomLoraLinear"}
    assert {kinds[name] for name in ("q_proj", "k_proj", "v_proj", "o_proj")} == {"Linear"}
    assert declared_trainable(model) == {name for name, one in model.named_parameters() if one.requires_grad}
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}


def gradients_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_activations_have_equal_gradients(dtype: torch.dtype) -> None:
    """If a recomputed layer took other routes, its tensors would have other shapes, and torch would say so."""
    model = trained(balance=0.5).train()

    def train() -> tuple[dict[str, torch.Tensor], float]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        return gradients_of(model), auxiliary_losses(model).take()

    kept = train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    recomputed = train()

    assert kept[0].keys() == declared_trainable(model)
    assert recomputed[1] == kept[1] > 0
    assert all(torch.equal(gradient, kept[0][name]) for name, gradient in recomputed[0].items())


def test_the_balance_loss_counts_as_often_as_the_loss_and_does_not_show_in_it() -> None:
    """Twice: for two times the loss, and once more each time it is divided or scaled."""
    plain, balanced = trained().train(), trained(balance=0.5).train()
    plain(input_ids=IDS, labels=IDS).loss.backward()
    without = gradients_of(plain)
    auxiliary = auxiliary_losses(balanced)

    def gradient(share: float, scale: float) -> torch.Tensor:
        balanced.zero_grad()
        loss = auxiliary.mark(balanced(input_ids=IDS, labels=IDS).loss, share)
        (scale * loss).backward()
        return {name: one / scale - without[name] for name, one in gradients_of(balanced).items()}

    once, half = gradient(1.0, 1.0), gradient(0.5, 8.0)
    routers = [name for name in once if "router.weight" in name]

    assert auxiliary_losses(plain).take() is None
    assert all(once[name].abs().max() > 1e-4 for name in routers)
    for name in once:
        rounding = 1e-5 * float(without[name].abs().max())  # it differs among processors
        torch.testing.assert_close(half[name], once[name] / 2, atol=rounding, rtol=1e-3)


def test_evaluation_adds_nothing() -> None:
    model = trained(balance=0.5).train()

    with torch.no_grad():
        model(input_ids=IDS)
    model.eval()(input_ids=IDS, labels=IDS).loss.backward()

    assert auxiliary_losses(model).take() is None


@pytest.fixture
def export(tmp_path: Path) -> tuple[PreTrainedModel, Path]:
    model = trained()
    write_adapter(model, gather_adapter(model), "org/base", tmp_path / "model")
    return model, tmp_path / "model"


def base_model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(STORIES)


def test_an_export_loads_again(export: tuple[PreTrainedModel, Path]) -> None:
    model, folder = export

    again = PeftModel.from_pretrained(base_model(), folder)

    assert torch.equal(again(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)


def test_the_attention_part_is_an_ordinary_adapter_of_peft(export: tuple[PreTrainedModel, Path]) -> None:
    model, folder = export
    for module in model.modules():
        if isinstance(module, CustomLoraLinear):
            module.enable_adapters(False)

    plain = PeftModel.from_pretrained(base_model(), folder / "attention")

    assert json.loads((folder / "attention" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "MOLORA"
    assert not [name for name in load_file(folder / "attention" / "adapter_model.safetensors") if "mlp" in name]
    assert torch.equal(plain(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)
    assert not torch.allclose(plain(input_ids=IDS).logits, base_model()(input_ids=IDS).logits, atol=0.1)


@pytest.mark.parametrize("part", [".", "attention"])
def test_attention_is_merged_and_the_experts_are_left_behind(export: tuple[PreTrainedModel, Path], part: str) -> None:
    _, folder = export
    plain = PeftModel.from_pretrained(base_model(), folder / "attention")

    merged = merge(attach(base_model(), read_adapter(folder / part), only_attention=True), "molora")

    torch.testing.assert_close(merged(input_ids=IDS).logits, plain(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)


def test_experts_are_not_merged(export: tuple[PreTrainedModel, Path]) -> None:
    _, folder = export

    read_adapter(folder).require_mergeable("attention")
    read_adapter(folder / "attention").require_mergeable()
    with pytest.raises(LauncherError, match=r"chosen by the input and cannot be merged; write `only: attention`"):
        read_adapter(folder).require_mergeable()
    with pytest.raises(LauncherError, match="cannot be merged"):
        merge(PeftModel.from_pretrained(base_model(), folder), "molora")


def test_the_published_configuration_trains_254_million_parameters() -> None:
    """Attention: 32 layers of 4 x 16 x 8,192. Feed-forward: (8 + 2) x 16 x 15,104 and a router, three times."""
    model = on_meta(QWEN_7B, adapter(method="molora"))

    attention, experts = 4 * 16 * 8192, 3 * 10 * 16 * (4096 + 11008)
    routers = 2 * (4096 * 8 + 8) + 11008 * 8 + 8
    assert count_parameters(model)[0] == 32 * (attention + experts + routers) == 253_690_624


@pytest.mark.parametrize("fields", [{}, {"experts": 5, "shared_experts": 0}, {"ffn_targets": ["up_proj"]}], ids=str)
def test_the_plan_counts_what_is_built(fields: dict[str, Any]) -> None:
    shape, section = read_shape(SMALL.to_dict()), adapter(method="molora", **fields)
    assert shape is not None

    assert trainable_parameters(section, shape) == count_parameters(on_meta(SMALL, section))[0]


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("{method: molora, experts: 4, top_k: 5}", "adapter.top_k: 5 is more than `experts` (4); write less"),
        ("{method: molora, top_k: 1}", "adapter.top_k: the weight of 1 expert is always 1, so the router learns"),
        ("{method: molora, ffn_targets: [q_proj]}", "adapter.ffn_targets: `q_proj` is also one of `attention_targets`"),
        ("{method: molora, experts: 1}", "adapter.experts: `1` is not valid here; write a number of at least 2"),
    ],
)
def test_what_a_mixture_cannot_be_is_explained(tmp_path: Path, section: str, told: str) -> None:
    (found,) = faults(tmp_path, RECIPE + f"adapter: {section}\n")

    assert told in found


def test_experts_learn_beside_4_bit_weights() -> None:
    pytest.importorskip("bitsandbytes")
    changes = {"model": {"path": "stories260k", "quantization": {}}, "adapter": MOLORA}
    recipe = CptRecipe.model_validate_json(json.dumps(cpt_recipe(**changes)))
    base = build_causal_lm(recipe.model, STORIES, 1, torch.bfloat16)
    assert recipe.adapter is not None
    model = adapted(base, recipe.adapter, 1, "CAUSAL_LM", steps=20).train()

    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()

    gradients = gradients_of(model)
    assert gradients.keys() == declared_trainable(model)
    assert all(gradients[name].count_nonzero() for name in gradients if name.endswith("_B"))
    assert type(model.base_model.model.model.layers[0].mlp.up_proj.base_layer).__name__ == "Linear4bit"


def test_layers_that_are_not_linear_are_named() -> None:
    with pytest.raises(LauncherError, match=r"cannot build `molora` on this model .*LlamaMLP is not a linear layer"):
        on_meta(SMALL, adapter(method="molora", ffn_targets=["mlp"]))


def test_a_mixture_works_with_every_strategy() -> None:
    strategies = ("ddp", "full_shard", "hybrid_shard", "zero2", "zero3")

    assert [strategy_limit(adapter(method="molora"), strategy) for strategy in strategies] == [None] * 5
