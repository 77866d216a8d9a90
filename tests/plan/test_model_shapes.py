"""Sizes read from config.json, and what adapters train, against what transformers and peft build."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from jobs.models.adapters.build import adapted, declared_trainable
from launcher.plan.adapters import trainable_parameters
from launcher.plan.model_shape import read_shape
from launcher.recipe.sections.adapter import IA3, OFT, AdaLora, Adapter, Lora, PrefixTuning
from launcher.recipe.sections.molora import MoLora

KINDS = ("gemma", "gemma2", "llama", "mistral", "phi3", "qwen2", "qwen3")
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "pad_token_id": 0,
}
FUSED: dict[str, Adapter] = {
    "all-linear": Lora(method="lora", r=4),
    "queries, keys and values": Lora(method="lora", r=4, targets=("qkv_proj",)),
    "dora": Lora(method="lora", r=4, targets=("gate_up_proj", "o_proj"), dora=True),
    "adalora": AdaLora(method="adalora", init_r=4, target_r=2),
    "ia3": IA3(method="ia3", targets=("qkv_proj", "down_proj"), feedforward=("down_proj",)),
    "oft": OFT(method="oft", block_size=8),
    "prefix": PrefixTuning(method="prefix", virtual_tokens=3),
    "molora": MoLora(
        method="molora", r=2, attention_targets=("qkv_proj", "o_proj"), ffn_targets=("gate_up_proj", "down_proj")
    ),
}


def build(config: dict[str, Any]) -> Any:
    """Build a model without memory."""
    sizes = {key: value for key, value in config.items() if key != "model_type"}
    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(AutoConfig.for_model(config["model_type"], **sizes))


@pytest.mark.parametrize(
    "said",
    [
        {},  # as a config.json that says no more than it must
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": False},
        {"attention_bias": True},
        {"num_key_value_heads": 2, "head_dim": 12},
    ],
    ids=lambda said: " ".join(said) or "nothing",
)
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_the_model_that_transformers_builds(kind: str, said: dict[str, Any]) -> None:
    config = SIZES | {"model_type": kind} | said
    shape, model = read_shape(config), build(config)
    assert shape is not None

    assert shape.parameters == sum(one.numel() for one in model.parameters())
    assert shape.is_tied == model.config.tie_word_embeddings
    layer = model.model.layers[0]
    assert shape.layer_parameters == sum(one.numel() for one in layer.parameters())
    names = {name.rpartition(".")[2] for name, one in layer.named_modules() if isinstance(one, torch.nn.Linear)}
    assert shape.is_fused == ("qkv_proj" in names)


@pytest.mark.parametrize("method", FUSED)
def test_adapters_of_fused_matrices_train_as_many_parameters_as_peft_says(method: str) -> None:
    config = SIZES | {"model_type": "phi3", "num_key_value_heads": 2}
    shape, section = read_shape(config), FUSED[method]
    assert shape is not None

    model = adapted(build(config), section, 1, "CAUSAL_LM", steps=20)

    names = declared_trainable(model)
    assert trainable_parameters(section, shape) == sum(
        one.numel() for name, one in model.named_parameters() if name in names
    )


def test_matrices_that_a_fused_model_does_not_have_are_not_counted() -> None:
    phi = read_shape(SIZES | {"model_type": "phi3"})
    assert phi is not None

    assert trainable_parameters(Lora(method="lora", targets=("q_proj",)), phi) is None
