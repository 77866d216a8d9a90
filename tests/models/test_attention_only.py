"""`only: attention` keeps what an adapter adds to the projections of attention, their biases included."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from jobs.models.adapters.build import adapted
from jobs.models.adapters.save import write_adapter
from jobs.models.merge.peft_merge import attach, load_in_fp32, merge
from jobs.train.adapter_checkpoint import gather_adapter
from launcher.artifacts.adapter_folder import read_adapter
from launcher.recipe.sections.adapter import Adapter

R, ALPHA = 2, 8
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64, bos_token_id=1, eos_token_id=2))


def qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2))


def phi() -> PreTrainedModel:
    """With norms of queries and keys, which are no projections."""
    return PhiForCausalLM(PhiConfig(**SIZES, qk_layernorm=True, pad_token_id=0, bos_token_id=1, eos_token_id=2))


def written(folder: Path, base: PreTrainedModel, **section: Any) -> dict[str, Tensor]:
    """Save a model and an adapter that says something; return the tensors of the adapter by the base's names."""
    base.save_pretrained(folder / "base")
    settings: Adapter = TypeAdapter(Adapter).validate_json(
        json.dumps({"method": "lora", "r": R, "alpha": ALPHA, **section})
    )
    model = adapted(base, settings, 0, "CAUSAL_LM", 100)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    write_adapter(model, gather_adapter(model), "base", folder / "adapter")
    saved = load_file(folder / "adapter" / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model.").replace(".base_layer", ""): one for name, one in saved.items()}


def with_attention(weights: dict[str, Tensor], adapter: dict[str, Tensor], is_transposed: bool) -> dict[str, Tensor]:
    """Add by hand what an adapter has for attention: W + alpha / r B A, and its biases."""
    found = dict(weights)
    for name, tensor in adapter.items():
        if not (".attn." in name or ".self_attn." in name) or "layernorm" in name:
            continue
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            update = ALPHA / R * adapter[f"{layer}.lora_B.weight"] @ tensor
            found[f"{layer}.weight"] = weights[f"{layer}.weight"] + (update.T if is_transposed else update)
        elif name.endswith(".bias"):
            found[name] = tensor
    return found


@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
@pytest.mark.parametrize(
    ("make", "targets"),
    [(gpt2, "all-linear"), (gpt2, ["c_attn"]), (qwen2, ["q_proj", "up_proj"]), (phi, "all-linear")],
    ids=["gpt2", "gpt2 in part", "qwen2 in part", "phi"],
)
def test_biases_of_attention_are_merged_and_no_others(tmp_path: Path, make: Any, targets: Any, bias: str) -> None:
    torch.manual_seed(0)
    base = make()
    weights = {name: one.clone() for name, one in base.state_dict().items()}
    adapter = written(tmp_path, base, bias=bias, targets=targets)
    expected = with_attention(weights, adapter, make is gpt2)
    folder = read_adapter(tmp_path / "adapter")

    found = merge(attach(load_in_fp32(tmp_path / "base", torch.device("cpu")), folder, True), "adapter").state_dict()

    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5, msg=name)
    changed = {name.rpartition(".")[2] for name in weights if not torch.equal(found[name], weights[name])}
    assert changed == ({"weight"} if bias == "none" else {"weight", "bias"})
